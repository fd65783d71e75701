"""Asking a store of many paths at once, where it may refuse to tell of some.

Nix does that where its database has nonsense of a path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from reconciler.errors import ConnectionLostError, NixError
from reconciler.model import PathInfo, StorePath

MAX_REFUSALS = 8
"""Paths, or derivations, of which the store may refuse to tell, each at the cost of some questions,
before that is taken for the store's fault."""

T = TypeVar("T")
PathInfosOf = Callable[[Sequence[StorePath]], Awaitable[Mapping[StorePath, PathInfo]]]


async def described(
    path_infos: PathInfosOf, paths: Sequence[StorePath]
) -> tuple[Mapping[StorePath, PathInfo], Mapping[StorePath, str]]:
    """What the store says of paths; and of those that it refuses to describe, why.

    NixError where that is no matter of a few of them.
    """
    infos, refused = await told_apart(path_infos, paths)
    for error in refused.values():
        if isinstance(error, ConnectionLostError) or len(refused) > MAX_REFUSALS:
            raise error
    return infos, {path: str(error) for path, error in refused.items()}


async def told_apart(
    ask: Callable[[Sequence[T]], Awaitable[Mapping[StorePath, PathInfo]]],
    asked: Sequence[T],
    *,
    at_most: int = MAX_REFUSALS,
) -> tuple[dict[StorePath, PathInfo], dict[T, NixError]]:
    """What the store tells when asked of many at once, and of which it does not, with the fault:
    one that it refuses keeps nothing else back, unless `at_most` were or the connection is lost.
    """
    infos: dict[StorePath, PathInfo] = {}
    refused: dict[T, NixError] = {}
    todo = [asked]
    while todo:
        some = todo.pop()
        try:
            infos |= await ask(some)
        except NixError as error:
            lost = isinstance(error, ConnectionLostError) or len(refused) >= at_most
            if len(some) > 1 and not lost:
                todo += [some[: len(some) // 2], some[len(some) // 2 :]]
            else:
                refused |= dict.fromkeys(some, error)
    return infos, refused
