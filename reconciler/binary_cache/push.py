"""One batch of paths into one declared cache, from opening it to the report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

from msgspec import structs

from reconciler.binary_cache import open_cache
from reconciler.binary_cache.interface import PushReport
from reconciler.binary_cache.lines import Lines
from reconciler.binary_cache.nars import Nars
from reconciler.binary_cache.traffic import Traffic
from reconciler.errors import ConnectionLostError, NixError
from reconciler.model import Cache, PathInfo, StorePath

MAX_REFUSALS = 8
"""Paths, or derivations, of which the store may refuse to tell, each at the cost of some questions,
before that is taken for the store's fault."""

T = TypeVar("T")
PathInfosOf = Callable[[Sequence[StorePath]], Awaitable[Mapping[StorePath, PathInfo]]]


async def push_batch(
    cache: Cache,
    paths: Collection[StorePath],
    *,
    store_dir: str,
    path_infos: PathInfosOf,
    nars: Nars,
    elsewhere: Collection[StorePath] = (),
    replace: Collection[StorePath] = (),
    further: Collection[StorePath] = (),
    traffic: Traffic | None = None,
    lines: Lines | None = None,
) -> PushReport:
    """Push paths; `path_infos` asks the store, and leaves out what is gone. Those to `replace` are
    sent although something is there; of `further` ones it is only asked.

    Raises CacheError where the cache as a whole cannot be used, NixError where the store cannot be
    asked.
    """
    async with open_cache(cache, store_dir=store_dir, traffic=traffic, lines=lines) as opened:
        absent = await opened.missing({*paths, *further})
        missing = absent.intersection(paths) | set(replace)
        infos, refused = await described(path_infos, tuple(missing))
        gone = missing - infos.keys() - refused.keys()
        report = await opened.push(
            [*infos.values()], nars, elsewhere=elsewhere, replace=replace, absent=absent
        )
    there = dict.fromkeys(set(paths) - missing, 0)
    return structs.replace(
        report,
        sent={**there, **report.sent},
        found=tuple(path for path in further if path not in absent),
        gone=(*gone, *report.gone),
        failed={**refused, **report.failed},
    )


async def described(
    path_infos: PathInfosOf, paths: Sequence[StorePath]
) -> tuple[Mapping[StorePath, PathInfo], Mapping[StorePath, str]]:
    """What the store says of paths; and of those that it refuses to describe (Nix does where its
    database has nonsense of one), why. NixError where that is no matter of a few of them.
    """
    infos, refused = await told_apart(path_infos, paths)
    for error in refused.values():
        if isinstance(error, ConnectionLostError) or len(refused) > MAX_REFUSALS:
            raise error
    return infos, {path: str(error) for path, error in refused.items()}


async def told_apart(
    ask: Callable[[Sequence[T]], Awaitable[Mapping[StorePath, PathInfo]]], asked: Sequence[T]
) -> tuple[dict[StorePath, PathInfo], dict[T, NixError]]:
    """What the store tells when asked of many at once, and of which it does not, with the fault:
    one that it refuses keeps nothing else back, unless too many are or the connection is lost.
    """
    infos: dict[StorePath, PathInfo] = {}
    refused: dict[T, NixError] = {}
    todo = [asked]
    while todo:
        some = todo.pop()
        try:
            infos |= await ask(some)
        except NixError as error:
            lost = isinstance(error, ConnectionLostError) or len(refused) >= MAX_REFUSALS
            if len(some) > 1 and not lost:
                todo += [some[: len(some) // 2], some[len(some) // 2 :]]
            else:
                refused |= dict.fromkeys(some, error)
    return infos, refused
