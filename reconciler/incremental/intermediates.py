"""Intermediates into the store, named by their content alone: then they are a base.

Nothing but its hash has to be trusted of a base, and nothing keeps it alive but our own roots: it
has no deriver, and for Nix it refers to nothing, whatever it mentions. What is unfit to be one is
refused with the reason, which is no fault of the build that left it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from msgspec import Struct

from reconciler.binary_cache.nars import GoneError, LocalNars
from reconciler.incremental.mentions import unaccounted
from reconciler.model import PathInfo, StorePath
from reconciler.nix.basic_derivation import BasicDerivation
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import OPEN_TIMEOUT
from reconciler.nix.protocol import ClientOptions
from reconciler.nix.store_path import by_content, digest_of, sri
from reconciler.quantities import format_size
from reconciler.store import Store


class Kept(Struct, frozen=True, kw_only=True):
    """A base in the store; protected until the store's `release_protected`."""

    name: str
    path: StorePath
    nar_hash: str
    """As Nix's fixed-output derivations take it: `sha256-…`."""
    size: int
    """Of the NAR, in bytes."""


class Refused(Struct, frozen=True, kw_only=True):
    """Intermediates that cannot be a base."""

    reason: str


async def add_base(
    store: Store,
    intermediates: StorePath,
    *,
    derivation: BasicDerivation,
    name: str,
    max_size: int,
) -> Kept | Refused:
    """Make a base called `name` of the intermediates that the build of a derivation left.

    The store is given their files as a stream, over a connection of its own: it may take long.
    NixError where the store cannot be asked, or does not take them.
    """
    info = await store.path_info(intermediates)
    if info is None:
        return Refused(reason=f"its intermediates, {intermediates}, are not in the store")
    barred = await asyncio.to_thread(unaccounted, derivation, info.references)
    unfit = _unfit(info, barred, max_size=max_size)
    if unfit is not None:
        return Refused(reason=unfit)
    store_dir = str(PurePosixPath(intermediates).parent)
    digest = digest_of(info.nar_hash)
    path = by_content(store_dir, name, digest)
    # Before it is there: between adding and protecting it could be collected.
    await store.protect([path])
    if path not in await store.valid([path]):
        try:
            added = await _add(store, intermediates, name)
        except GoneError as error:
            return Refused(reason=f"its intermediates were lost: {error}")
        if added.path != path:
            return Refused(
                reason=f"its intermediates, {intermediates}, are not what was built: their NAR has"
                f" the hash {added.nar_hash}, and the store says {info.nar_hash}"
            )
    return Kept(name=name, path=path, nar_hash=sri(digest), size=info.nar_size)


def _unfit(info: PathInfo, barred: Collection[StorePath], *, max_size: int) -> str | None:
    if barred:
        others = [each for each in barred if each != info.path]
        return (
            f"its intermediates refer to {_few(others or barred)}, and a base may refer to nothing"
            " but what its builds need in any case, the source left out: have the build leave out"
            " what does, or write no such path into it (the library's stablePrefix keeps $out out)"
        )
    if info.nar_size > max_size:
        return (
            f"its intermediates have {format_size(info.nar_size)}, more than retention.maxSize"
            f" allows ({format_size(max_size)})"
        )
    return None


def _few(paths: Iterable[StorePath]) -> str:
    first, *more = sorted(paths)
    return f"{first} and {len(more)} more" if more else first


async def _add(store: Store, intermediates: StorePath, name: str) -> PathInfo:
    nars = LocalNars(Path(intermediates).parent)
    connection = await Connection.open(
        store.endpoint, options=ClientOptions(), patience=OPEN_TIMEOUT
    )
    async with connection, contextlib.aclosing(nars.stream(intermediates)) as nar:
        return await connection.add_nar(name, nar)
