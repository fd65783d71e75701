"""Finds what belongs into a cache, sends it in batches, and tells what became of each path.

The cache's key is read anew for every batch, so a rotated one is noticed. Every end is a value.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

from reconciler.binary_cache import Lines, Traffic
from reconciler.binary_cache.nars import LocalNars
from reconciler.binary_cache.order import reference_levels
from reconciler.binary_cache.push import push_batch
from reconciler.binary_cache.refusals import described, told_apart
from reconciler.errors import CacheError, NixError
from reconciler.model import Cache, CacheName, PathInfo, PushRule, StorePath
from reconciler.outcomes import Closed, Pushed, Sending
from reconciler.store import Store
from reconciler.upstreams import Upstreams

TOLD_EVERY = 5.0
"""Seconds after which it is told how far a batch is."""


# --- What belongs there ------------------------------------------------------------------------


async def close_over(
    cache: Cache,
    rule: PushRule,
    outputs: Mapping[int, Collection[StorePath]],
    store: Store,
    upstreams: Upstreams,
) -> Closed:
    """Find what belongs to derivations in a cache by a rule: their outputs, or the outputs'
    closure.
    """
    infos, refused = await told_apart(
        lambda some: _closure(rule, {path for each in some for path in outputs[each]}, store),
        tuple(outputs),
    )
    unknown = {each: str(problem) for each, problem in refused.items()}
    closed = [each for each in outputs if each not in unknown]
    if rule.alone:
        wanted = dict.fromkeys(path for each in closed for path in outputs[each])
        paths = [path for path in wanted if not rule.excludes(path)]
    else:
        asked = [info for path, info in infos.items() if not rule.excludes(path)]
        paths = order([rule], infos, await elsewhere(cache, asked, upstreams))
    try:
        await store.protect(paths)
    except NixError as problem:
        unknown = dict.fromkeys(outputs, str(problem))
        return Closed(cache=cache.name, rule=rule, unknown=unknown)
    known = [infos[path] for path in paths if path in infos]
    return Closed(
        cache=cache.name,
        rule=rule,
        derivations=tuple(closed),
        paths=tuple(paths),
        unknown=unknown,
        sizes={info.path: info.nar_size for info in known},
        derivers={info.path: info.deriver for info in known if info.deriver is not None},
    )


async def _closure(
    rule: PushRule, paths: Collection[StorePath], store: Store
) -> dict[StorePath, PathInfo]:
    if rule.alone:
        return await store.path_infos(tuple(paths))
    return await store.closure(paths)


def order(
    rules: Collection[PushRule],
    closure: Mapping[StorePath, PathInfo],
    had: Collection[StorePath],
) -> list[StorePath]:
    """What of a closure belongs in a cache by any of the rules, references first.

    What is excluded does not, nor does what refers to it: readers would miss a part of it. What an
    upstream `had` they get from there.
    """
    out: set[StorePath] = set()
    ordered: list[StorePath] = []
    for level in reference_levels(closure.values()):
        for info in level:
            if info.path in had:
                continue
            excluded = all(rule.excludes(info.path) for rule in rules)
            if excluded or not out.isdisjoint(info.references):
                out.add(info.path)
            else:
                ordered.append(info.path)
    return ordered


async def elsewhere(
    cache: Cache, infos: Iterable[PathInfo], upstreams: Upstreams
) -> frozenset[StorePath]:
    """Those of the paths that readers of the cache get from its upstreams."""
    if not cache.upstreams:
        return frozenset()
    return await upstreams.having(cache, {info.path: info.signatures for info in infos})


# --- Sending -----------------------------------------------------------------------------------


async def push(
    cache: Cache,
    paths: Collection[StorePath],
    store: Store,
    *,
    upstreams: Upstreams,
    traffic: Traffic | None = None,
    replace: Collection[StorePath] = (),
    alone: Collection[StorePath] = (),
    further: Collection[StorePath] = (),
    lines: Lines | None = None,
) -> Pushed:
    """Push those of the paths that the store still has; those to `replace` even if the cache has
    something of them, those that go there `alone` even if it lacks what they refer to. Which
    `further` ones it has is found out in the same question. `traffic` counts what is sent; `lines`
    has connections for it, and for what follows.
    """
    folder = Path(next(iter(paths))).parent
    traffic = traffic or Traffic(cache.bandwidth)
    before = traffic.sent
    try:
        report = await push_batch(
            cache,
            paths,
            store_dir=str(folder),
            path_infos=store.path_infos,
            nars=LocalNars(folder),
            elsewhere=await _references_elsewhere(cache, paths, store, upstreams),
            replace=replace,
            alone=alone,
            further=further,
            traffic=traffic,
            lines=lines,
        )
    except (CacheError, NixError) as error:
        return Pushed(
            cache=cache.name,
            failed=dict.fromkeys(paths, str(error)),
            unusable=str(error),
            traffic=traffic.sent - before,
        )
    return Pushed(
        cache=cache.name,
        sent=report.sent,
        found=report.found,
        gone=report.gone,
        waiting=report.waiting,
        failed=report.failed,
        traffic=traffic.sent - before,
    )


async def telling(
    work: Coroutine[Any, Any, Pushed],
    cache: CacheName,
    traffic: Traffic,
    tell: Callable[[Sending], None],
) -> Pushed:
    """Do it, and tell now and then how far it is."""
    before = traffic.sent
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=TOLD_EVERY))[0]:
            tell(Sending(cache=cache, sent=traffic.sent - before))
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _references_elsewhere(
    cache: Cache, paths: Iterable[StorePath], store: Store, upstreams: Upstreams
) -> frozenset[StorePath]:
    """References of the paths that readers of the cache get from its upstreams."""
    if not cache.upstreams:
        return frozenset()
    infos, _ = await described(store.path_infos, tuple(paths))
    references = {path for info in infos.values() for path in info.references}
    return await from_upstreams(cache, references.difference(paths), store, upstreams)


async def from_upstreams(
    cache: Cache, paths: Iterable[StorePath], store: Store, upstreams: Upstreams
) -> frozenset[StorePath]:
    """Those of the paths that readers of the cache get from its upstreams, which need not be in the
    store.
    """
    if not cache.upstreams:
        return frozenset()
    asked = tuple(paths)
    known, _ = await described(store.path_infos, asked)
    return await upstreams.having(
        cache, {path: known[path].signatures if path in known else () for path in asked}
    )
