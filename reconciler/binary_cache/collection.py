"""Deleting from a cache what nothing needs, in an order in which readers never see half a thing.

What refers to something goes before it, a narinfo before its NAR; a NAR that another narinfo names
as well stays, and one that none names goes when it is old. All narinfo files are read first: what
others pushed, and what that refers to, stays.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from msgspec import Struct

from reconciler.binary_cache.interface import ObjectStore
from reconciler.binary_cache.narinfo import hash_of, hash_part, parse
from reconciler.binary_cache.verification import PARALLEL_READS, each_of
from reconciler.errors import CacheError
from reconciler.model import StorePath

_BATCH = 1000
_ALWAYS_THERE = "nix-cache-info"
ABANDONED_AGE = 86400.0
"""Seconds after which a NAR that no narinfo names, or that never came to its end, is taken for
abandoned."""


class Entry(Struct, frozen=True):
    """What a narinfo says that decides whether it stays."""

    url: str
    references: tuple[str, ...]
    """Hash parts, its own left out."""


async def unneeded(
    store: ObjectStore, *, ours: Collection[StorePath], wanted: Collection[StorePath]
) -> frozenset[StorePath]:
    """Those of `ours` that neither a wanted path nor anything else in the cache needs."""
    entries = await _entries(store)
    return frozenset(_unneeded(entries, ours, {hash_part(path) for path in wanted}))


async def delete(
    store: ObjectStore, paths: Collection[StorePath], *, keep: Collection[StorePath]
) -> frozenset[StorePath]:
    """Delete those of the paths that nothing else in the cache needs, `keep` least of all; what is
    gone now.

    CacheError where not all could be deleted: what is left is deleted by the next call.
    """
    entries = await _entries(store)
    free = _unneeded(entries, paths, {hash_part(path) for path in keep})
    doomed = {hash_part(path) for path in free} & entries.keys()
    for level in _referrers_first(entries, doomed):
        await _remove(store, [f"{digits}.narinfo" for digits in level])
    used = {entry.url for digits, entry in entries.items() if digits not in doomed}
    await _remove(store, {entries[digits].url for digits in doomed} - used)
    await _remove(store, await _abandoned(store, used))
    return frozenset(free)


async def give_up_unfinished(store: ObjectStore) -> None:
    """Have objects forgotten whose writing began long ago and never ended: they may be paid for."""
    if store.for_sources is not None:
        with contextlib.suppress(CacheError):  # not every key is allowed to; rules of S3 do it too
            await store.for_sources.give_up(before=time.time() - ABANDONED_AGE)


async def _abandoned(store: ObjectStore, used: Collection[str]) -> list[str]:
    """NARs that no narinfo names, left by a push or a deletion that was cut off: those of a push
    that is under way are younger.
    """
    nars = await store.names("nar/") or {}
    oldest = time.time() - ABANDONED_AGE
    return [name for name, written in nars.items() if name not in used and written < oldest]


async def _entries(store: ObjectStore) -> Mapping[str, Entry]:
    names = await store.names("")
    if names is None:
        raise CacheError(
            "nothing can be deleted from a cache that does not list what it has: let its server "
            "answer WebDAV's PROPFIND, or set gc to false"
        )
    if _ALWAYS_THERE not in names:
        raise CacheError(
            f"the cache's list lacks {_ALWAYS_THERE}, which is there: nothing is deleted by such a"
            " list"
        )
    found: dict[str, Entry] = {}
    listed = sorted(digits for name in names if (digits := hash_of(name)) is not None)
    for start in range(0, len(listed), _BATCH):
        some = listed[start : start + _BATCH]
        texts = await each_of((store.read(f"{digits}.narinfo") for digits in some), PARALLEL_READS)
        for digits, text in zip(some, texts, strict=True):
            if text is not None and (entry := _entry(digits, text)) is not None:
                found[digits] = entry
    return found


def _entry(digits: str, text: bytes) -> Entry | None:
    """None for what nobody could read: it keeps nothing."""
    try:
        info = parse(text.decode())
    except (CacheError, UnicodeDecodeError):
        return None
    references = {hash_part(path) for path in info.references} - {digits}
    return Entry(info.url, tuple(references))


def _unneeded(
    entries: Mapping[str, Entry], ours: Collection[StorePath], wanted: Collection[str]
) -> list[StorePath]:
    own = {hash_part(path) for path in ours}
    todo = [*wanted, *(digits for digits in entries if digits not in own)]
    needed: set[str] = set()
    while todo:
        digits = todo.pop()
        if digits not in needed:
            needed.add(digits)
            if digits in entries:
                todo.extend(entries[digits].references)
    return [path for path in ours if hash_part(path) not in needed]


def _referrers_first(
    entries: Mapping[str, Entry], doomed: Collection[str]
) -> Iterable[Collection[str]]:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for digits in doomed:
        sorter.add(digits)
        for reference in entries[digits].references:
            if reference in doomed:
                sorter.add(reference, digits)
    try:
        sorter.prepare()
    except CycleError:  # no Nix makes such; then no order is the right one
        return [doomed]
    levels = []
    while sorter.is_active():
        ready = sorter.get_ready()
        levels.append(ready)
        sorter.done(*ready)
    return levels


async def _remove(store: ObjectStore, names: Collection[str]) -> None:
    for reason in (await store.delete(names)).values():
        raise CacheError(reason)
