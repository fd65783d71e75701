"""Sends a batch of store paths to a cache, and tells what became of each.

The cache's key is read anew for every batch, so a rotated one is noticed. Every end is a value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from reconciler.binary_cache.nars import LocalNars
from reconciler.binary_cache.order import reference_levels
from reconciler.binary_cache.push import push_batch
from reconciler.errors import CacheError, NixError
from reconciler.model import Cache, PathInfo, StorePath
from reconciler.outcomes import Pushed
from reconciler.store import Store


async def push(
    cache: Cache,
    paths: Collection[StorePath],
    store: Store,
    *,
    replace: Collection[StorePath] = (),
) -> Pushed:
    """Push those of the paths that the store still has; those to `replace` even if the cache has
    something of them.
    """
    folder = Path(next(iter(paths))).parent
    try:
        report = await push_batch(
            cache,
            paths,
            store_dir=str(folder),
            path_info=store.path_info,
            nars=LocalNars(folder),
            elsewhere=await _references_elsewhere(cache, paths, store),
            replace=replace,
        )
    except (CacheError, NixError) as error:
        return Pushed(
            cache=cache.name,
            failed=dict.fromkeys(paths, str(error)),
            unusable=str(error),
        )
    return Pushed(
        cache=cache.name,
        sent=report.sent,
        gone=report.gone,
        waiting=report.waiting,
        failed=report.failed,
    )


async def _references_elsewhere(
    cache: Cache, paths: Iterable[StorePath], store: Store
) -> list[StorePath]:
    """References of the paths that readers of the cache get from its upstreams."""
    if not cache.upstreams:
        return []
    infos = [await store.path_info(path) for path in paths]
    references = {path for info in infos if info is not None for path in info.references}
    return await from_upstreams(cache, references, store)


async def from_upstreams(cache: Cache, paths: Iterable[StorePath], store: Store) -> list[StorePath]:
    """Those of the paths that readers of the cache get from its upstreams."""
    if not cache.upstreams:
        return []
    known = [await store.path_info(path) for path in paths]
    return [info.path for info in known if info is not None and is_upstream(cache, info)]


def is_upstream(cache: Cache, info: PathInfo) -> bool:
    """Whether one of the cache's upstreams signed a path: then it is there, and not pushed."""
    keys = {each.public_key.split(":")[0] for each in cache.upstreams if each.public_key}
    return any(signature.split(":")[0] in keys for signature in info.signatures)


def order(cache: Cache, closure: Mapping[StorePath, PathInfo]) -> list[StorePath]:
    """What of a closure belongs in a cache, references first.

    What is excluded does not, nor does what refers to it: readers would miss a part of it. What an
    upstream has they get from there.
    """
    out: set[StorePath] = set()
    ordered: list[StorePath] = []
    for level in reference_levels(closure.values()):
        for info in level:
            if is_upstream(cache, info):
                continue
            if excluded(cache, info.path) or not out.isdisjoint(info.references):
                out.add(info.path)
            else:
                ordered.append(info.path)
    return ordered


def excluded(cache: Cache, path: StorePath) -> bool:
    """Whether a path is not to go to a cache for its name."""
    name = path.rpartition("/")[2].partition("-")[2]
    return any(fnmatchcase(name, pattern) for pattern in cache.exclude)
