"""Finds out what of a cache nothing needs, and deletes it. Every end is a value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from reconciler.binary_cache import BinaryCache, Lines, Traffic, open_cache
from reconciler.errors import CacheError
from reconciler.model import Cache, StorePath
from reconciler.outcomes import Collected, Marked


async def mark(
    cache: Cache,
    ours: Collection[StorePath],
    wanted: Collection[StorePath],
    *,
    traffic: Traffic,
    lines: Lines,
) -> Marked:
    """Tell what of our paths neither the wanted ones nor others' need; and have done with what is
    left of pushes that were cut off.
    """
    try:
        async with open_cache(
            cache, store_dir=_store_dir(ours), traffic=traffic, lines=lines
        ) as opened:
            await opened.give_up_unfinished()
            await _have_all(opened, set(ours).intersection(wanted))
            unwanted = await opened.unneeded(ours=ours, wanted=wanted)
    except CacheError as error:
        return Marked(cache=cache.name, unusable=str(error))
    return Marked(cache=cache.name, seen=tuple(ours), unwanted=unwanted)


async def collect(
    cache: Cache,
    paths: Collection[StorePath],
    *,
    ours: Collection[StorePath],
    wanted: Collection[StorePath],
    beside: Mapping[str, Collection[StorePath]],
    traffic: Traffic,
    lines: Lines,
) -> Collected:
    """Delete those of our paths that were found to be unneeded, as far as that is still so; then
    what lies `beside` them, each with the paths that it belongs to, once all of those are gone.
    """
    try:
        async with open_cache(
            cache, store_dir=_store_dir(paths), traffic=traffic, lines=lines
        ) as opened:
            await _have_all(opened, set(ours).intersection(wanted))
            gone = await opened.delete(paths, keep=wanted)
            left = tuple(name for name, each in beside.items() if gone.issuperset(each))
            await opened.withdraw(left)
    except CacheError as error:
        return Collected(cache=cache.name, unusable=str(error))
    return Collected(cache=cache.name, gone=gone, kept=frozenset(paths) - gone, beside=left)


async def _have_all(opened: BinaryCache, paths: Collection[StorePath]) -> None:
    """CacheError where a path is not there: nobody could tell what it refers to."""
    for path in await opened.missing(paths):
        raise CacheError(f"{path} is not in the cache: nothing is deleted until it is again")


def _store_dir(paths: Collection[StorePath]) -> str:
    return str(Path(next(iter(paths))).parent)
