"""What is done with caches in the background: into them, looking at them, out of them.

A part of the executor, which tells how a task is started and takes what comes of it. Each kind of
work is loaded when it is first done: with its cryptography that takes longer than evaluating a
small jobset.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.model import Cache, CacheName, PushRule, StorePath
from reconciler.outcomes import AskedToWait, Emptied, Outcome
from reconciler.states import InspectionScope
from reconciler.store import Store
from reconciler.upstreams import Upstreams

if TYPE_CHECKING:
    from reconciler.binary_cache.lines import Lines
    from reconciler.binary_cache.traffic import Traffic
    from reconciler.database.companions import Companion


PATIENCE = 30.0
"""Seconds within which a folder answers; what becomes of work on it tells the rest."""


class Caching:
    """See the module's text. Starting something never waits."""

    def __init__(
        self,
        *,
        store: Store,
        upstreams: Upstreams,
        logs: Path,
        store_dir: str,
        start: Callable[[Coroutine[Any, Any, None]], object],
        report: Callable[[Outcome], None],
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._logs = logs
        self._store_dir = store_dir
        self._start = start
        self._report = report
        self._traffic: dict[CacheName, Traffic] = {}
        self._kept: Lines | None = None

    async def rest(self) -> None:
        """Nothing is to be done: end idle connections."""
        if self._kept is not None:
            await self._kept.rest()

    def close_over(
        self, cache: Cache, rule: PushRule, outputs: Mapping[int, Collection[StorePath]]
    ) -> None:
        """Find what belongs to derivations in a cache by a rule."""
        self._start(self._close_over(cache, rule, outputs))

    async def _close_over(
        self, cache: Cache, rule: PushRule, outputs: Mapping[int, Collection[StorePath]]
    ) -> None:
        from reconciler import pushing  # noqa: PLC0415 - see above

        self._report(await pushing.close_over(cache, rule, outputs, self._store, self._upstreams))

    def push(
        self,
        cache: Cache,
        paths: Collection[StorePath],
        *,
        replace: Collection[StorePath],
        alone: Collection[StorePath],
        further: Collection[StorePath],
    ) -> None:
        """Send a batch to a cache, those to `replace` whatever it has of them, those that go there
        `alone` without what they refer to; and ask for some `further` paths.
        """
        self._start(self._push(cache, paths, replace, alone, further))

    async def _push(
        self,
        cache: Cache,
        paths: Collection[StorePath],
        replace: Collection[StorePath],
        alone: Collection[StorePath],
        further: Collection[StorePath],
    ) -> None:
        from reconciler import pushing  # noqa: PLC0415 - see above

        traffic = self._traffic_to(cache)
        work = pushing.push(
            cache,
            paths,
            self._store,
            upstreams=self._upstreams,
            traffic=traffic,
            replace=replace,
            alone=alone,
            further=further,
            lines=self._lines(),
        )
        self._tell(cache, await pushing.telling(work, cache.name, traffic, self._report))

    def accompany(self, cache: Cache, companions: Sequence[Companion]) -> None:
        """Send logs and realisations to a cache, beside its paths."""
        self._start(self._accompany(cache, companions))

    async def _accompany(self, cache: Cache, companions: Sequence[Companion]) -> None:
        from reconciler.companions import accompany  # noqa: PLC0415 - see above

        outcome = await accompany(
            cache,
            companions,
            logs=self._logs,
            store_dir=self._store_dir,
            traffic=self._traffic_to(cache),
            lines=self._lines(),
        )
        self._tell(cache, outcome)

    def _tell(self, cache: Cache, outcome: Outcome) -> None:
        """Report what came of work on a cache, and before it the pause that its server asks for."""
        until = self._traffic_to(cache).take_pause()
        if until > time.time():
            self._report(AskedToWait(cache=cache.name, until=until))
        self._report(outcome)

    def _traffic_to(self, cache: Cache) -> Traffic:
        """What counts and limits all that is sent to a cache, whoever sends it."""
        from reconciler.binary_cache.traffic import Traffic  # noqa: PLC0415 - see above

        traffic = self._traffic.setdefault(cache.name, Traffic())
        traffic.limit = cache.bandwidth
        return traffic

    def _lines(self) -> Lines:
        """Connections that one batch leaves to the next."""
        from reconciler.binary_cache.lines import MAX_AGE, Lines  # noqa: PLC0415 - see above

        if self._kept is None:
            self._kept = Lines(max_age=MAX_AGE)
        return self._kept

    def inspect(
        self,
        cache: Cache,
        scope: InspectionScope,
        paths: Collection[StorePath],
        *,
        alone: Collection[StorePath],
    ) -> None:
        """Look whether what was pushed to a cache is there, and what it refers to, unless it went
        there `alone`.
        """
        self._start(self._inspect(cache, scope, paths, alone))

    async def _inspect(
        self,
        cache: Cache,
        scope: InspectionScope,
        paths: Collection[StorePath],
        alone: Collection[StorePath],
    ) -> None:
        from reconciler import inspecting  # noqa: PLC0415 - see above

        outcome = await inspecting.inspect(
            cache,
            scope,
            paths,
            self._store,
            self._upstreams,
            alone=alone,
            traffic=self._traffic_to(cache),
            lines=self._lines(),
        )
        self._tell(cache, outcome)

    def look_for(self, cache: Cache) -> None:
        """Look whether a cache that is a folder has lost what every one has: it was emptied."""
        self._start(self._look_for(cache))

    async def _look_for(self, cache: Cache) -> None:
        if await _is_gone(Path(cache.uri.removeprefix("file://"), "nix-cache-info")):
            self._report(Emptied(cache=cache.name))

    def mark(
        self, cache: Cache, ours: Collection[StorePath], wanted: Collection[StorePath]
    ) -> None:
        """Find out what of our paths in a cache nothing needs."""
        self._start(self._mark(cache, ours, wanted))

    async def _mark(
        self, cache: Cache, ours: Collection[StorePath], wanted: Collection[StorePath]
    ) -> None:
        from reconciler import collecting  # noqa: PLC0415 - see above

        outcome = await collecting.mark(
            cache, ours, wanted, traffic=self._traffic_to(cache), lines=self._lines()
        )
        self._tell(cache, outcome)

    def collect(
        self,
        cache: Cache,
        paths: Collection[StorePath],
        *,
        ours: Collection[StorePath],
        wanted: Collection[StorePath],
        beside: Mapping[str, Collection[StorePath]],
    ) -> None:
        """Delete those of our paths in a cache that nothing needs, and what lies beside them."""
        self._start(self._collect(cache, paths, ours, wanted, beside))

    async def _collect(
        self,
        cache: Cache,
        paths: Collection[StorePath],
        ours: Collection[StorePath],
        wanted: Collection[StorePath],
        beside: Mapping[str, Collection[StorePath]],
    ) -> None:
        from reconciler import collecting  # noqa: PLC0415 - see above

        outcome = await collecting.collect(
            cache,
            paths,
            ours=ours,
            wanted=wanted,
            beside=beside,
            traffic=self._traffic_to(cache),
            lines=self._lines(),
        )
        self._tell(cache, outcome)


async def _is_gone(file: Path) -> bool:
    """Whether a file is not there; not, while its folder does not tell.

    In a thread that nobody waits for: on a server that is away, a look lasts until that is back,
    and an executor's threads would keep this process until then.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()

    def tell(gone: bool) -> None:  # noqa: FBT001 - asyncio passes it so
        if not answer.done():
            answer.set_result(gone)

    def look() -> None:
        try:
            gone = not file.exists()
        except OSError:
            gone = False
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, gone)

    threading.Thread(target=look, daemon=True).start()
    with contextlib.suppress(TimeoutError):
        return await asyncio.wait_for(answer, PATIENCE)
    return False
