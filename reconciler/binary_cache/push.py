"""One batch of paths into one declared cache, from opening it to the report."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import structs

from reconciler.binary_cache import open_cache
from reconciler.binary_cache.interface import PushReport
from reconciler.binary_cache.lines import Lines
from reconciler.binary_cache.nars import Nars
from reconciler.binary_cache.refusals import PathInfosOf, described
from reconciler.binary_cache.traffic import Traffic
from reconciler.model import Cache, StorePath


async def push_batch(
    cache: Cache,
    paths: Collection[StorePath],
    *,
    store_dir: str,
    path_infos: PathInfosOf,
    nars: Nars,
    elsewhere: Collection[StorePath] = (),
    replace: Collection[StorePath] = (),
    alone: Collection[StorePath] = (),
    further: Collection[StorePath] = (),
    traffic: Traffic | None = None,
    lines: Lines | None = None,
) -> PushReport:
    """Push paths; `path_infos` asks the store, and leaves out what is gone. Those to `replace` are
    sent although something is there, those that go there `alone` although what they refer to is
    not; of `further` ones it is only asked.

    Raises CacheError where the cache as a whole cannot be used, NixError where the store cannot be
    asked.
    """
    async with open_cache(cache, store_dir=store_dir, traffic=traffic, lines=lines) as opened:
        absent = await opened.missing({*paths, *further})
        missing = absent.intersection(paths) | set(replace)
        infos, refused = await described(path_infos, tuple(missing))
        gone = missing - infos.keys() - refused.keys()
        report = await opened.push(
            [*infos.values()],
            nars,
            elsewhere=elsewhere,
            replace=replace,
            alone=alone,
            absent=absent,
        )
    there = dict.fromkeys(set(paths) - missing, 0)
    return structs.replace(
        report,
        sent={**there, **report.sent},
        found=tuple(path for path in further if path not in absent),
        gone=(*gone, *report.gone),
        failed={**refused, **report.failed},
    )
