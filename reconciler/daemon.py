"""The loop: one process a state directory, woken by timers, files, requests and ended work.

Opens what a tick needs, decides when to tick, and closes it again. What a tick does is
`reconcile`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler import config, reconcile
from reconciler.build import log as build_log
from reconciler.config import ConfigError
from reconciler.database import Database, StateLock, observe, open_writer, recovery
from reconciler.errors import StateError
from reconciler.executor import Places
from reconciler.model import Desired, JobsetName, PathSource
from reconciler.nix import settings as nix_settings
from reconciler.reconcile.farm import Farm, calm_collector, open_farm, open_store
from reconciler.store import Store

if TYPE_CHECKING:
    from reconciler.watch import Watcher

Observer = Callable[[Database, float], None]
"""Is shown the database after every tick; reads only."""

DOCUMENT_CHECK = 30.0
"""Seconds between looks at the document although no watch reported a change."""
CONFIG_KEY = ""
"""The watch key of the document; a jobset's source has the jobset's name, never empty."""
WAKE_SOCKET = "wake"
ONCE_FAILURES = 3
"""`run --once` gives a path or a builder up after so many failures; the daemon never does."""


def run(
    *,
    config: Path,
    state_dir: Path,
    environment: Mapping[str, str],
    once: bool,
    observe: Observer,
) -> bool:
    """Reconcile until told to stop, or (`once`) until nothing is left that could go on.

    Gives whether it got there. ReconcilerError for what keeps it from starting.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"cannot make the state directory {state_dir}: {error.strerror}. "
            "Name another one with --state-dir."
        ) from error
    calm_collector()
    places = Places(state_dir=state_dir, environment=environment)
    with StateLock(state_dir):
        return asyncio.run(_run(config, places, observe=observe, once=once))


async def _run(config_path: Path, places: Places, *, observe: Observer, once: bool) -> bool:
    """Have Nix start up while the state and the document are read, then loop."""
    store = open_store(places)
    nix = asyncio.create_task(nix_settings.read(places.environment))
    connection = asyncio.create_task(store.connection())
    try:
        await _let_start()
        database = open_writer(places.state_dir, now=time.time())
        try:
            loop = _Loop(config_path, places, database, store, observe=observe, once=once)
            return await loop.run(nix)
        finally:
            database.close()
    finally:
        # Not cancelled: asyncio complains of a child that is stopped while it starts.
        await asyncio.gather(nix, connection, return_exceptions=True)
        await store.close()


async def _let_start() -> None:
    """Give tasks that were just made the turns in which they start their processes."""
    for _ in range(3):
        await asyncio.sleep(0)


class _Loop:
    """One run of the daemon."""

    def __init__(
        self,
        config_path: Path,
        places: Places,
        database: Database,
        store: Store,
        *,
        observe: Observer,
        once: bool,
    ) -> None:
        self._config_path = config_path
        self._places = places
        self._database = database
        self._store = store
        self._observe = observe
        self._once = once
        self._wake = asyncio.Event()
        self._stopping = False
        self._document = b""
        self._changed: set[str] = set()

    async def run(self, nix: Awaitable[nix_settings.Settings]) -> bool:
        """Start, tick until the end, stop; gives whether `--once` converged."""
        desired, problem = self._first_document()
        recovery.recover(self._database, now=time.time())
        build_log.compress_orphans(self._places.logs)
        farm = open_farm(
            self._database,
            desired,
            (await nix).systems,
            self._places,
            self._store,
            wake=self._wake.set,
        )
        if problem is not None:
            farm.fault("document", str(self._config_path), "invalid", problem)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._stop)
        watcher = None if self._once else self._watcher()
        listener = _listen(self._places.state_dir / WAKE_SOCKET, self._wake.set)
        try:
            await reconcile.start(farm, now=time.time())
            farm.hold_jobs()
            if watcher is not None:
                self._watch(watcher, farm)
            return await self._ticks(farm, watcher)
        finally:
            if watcher is not None:
                watcher.stop()
            await farm.executor.stop()
            listener.close()
            recovery.recover(self._database, now=time.time())

    # --- Ticking ---------------------------------------------------------------------------

    async def _ticks(self, farm: Farm, watcher: Watcher | None) -> bool:
        while not self._stopping:
            self._wake.clear()
            now = time.time()
            if not self._once:
                self._notice_changes(farm, watcher, now=now)
            tick = reconcile.tick(farm, now=now)
            await asyncio.sleep(0)  # what was started gets going before anybody is told of it
            farm.executor.raise_crash()
            self._observe(self._database, now)
            if not farm.executor.busy:
                if tick.plan.actions:
                    continue  # what they changed at once may call for more
                if self._once and not reconcile.can_go_on(
                    farm, tick, now=now, failures=ONCE_FAILURES
                ):
                    return True
                await farm.executor.rest()
                await farm.store.release_protected()
            await self._sleep(tick.plan.wake_at)
        return not self._once

    async def _sleep(self, until: float | None) -> None:
        """Wait for a wake-up, or until it is time to look again by ourselves."""
        patience = DOCUMENT_CHECK
        if until is not None:
            patience = min(patience, max(0.0, until - time.time()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), patience)

    def _stop(self) -> None:
        self._stopping = True
        self._wake.set()

    # --- The document and watched sources --------------------------------------------------

    def _first_document(self) -> tuple[Desired, str | None]:
        """The document, or (the daemon only) the last good one with what is wrong with this."""
        self._document = _digest(self._config_path)
        try:
            return config.load(self._config_path), None
        except ConfigError as error:
            in_force = observe.document_in_force(self._database)
            if self._once or in_force is None:
                raise
            return config.parse(in_force[1].encode(), name="the document in force"), str(error)

    def _notice_changes(self, farm: Farm, watcher: Watcher | None, *, now: float) -> None:
        digest = _digest(self._config_path)
        if digest != self._document:
            self._document = digest
            self._reload(farm, now=now)
            self._changed.add(CONFIG_KEY)
        if self._changed and watcher is not None:
            self._watch(watcher, farm)
        for key in [*self._changed]:
            self._changed.discard(key)
            if key != CONFIG_KEY and key in farm.desired.jobsets:
                farm.trigger(JobsetName(key), cause="its folder changed", force=False)

    def _reload(self, farm: Farm, *, now: float) -> None:
        try:
            desired = config.load(self._config_path)
        except ConfigError as error:
            farm.fault("document", str(self._config_path), "invalid", str(error))
            return
        farm.fault("document", str(self._config_path), "invalid", None)
        farm.adopt(desired, now=now)

    def _watch(self, watcher: Watcher, farm: Farm) -> None:
        wanted = [(CONFIG_KEY, self._config_path)]
        wanted += [
            (jobset.name, Path(jobset.source.path))
            for jobset in farm.desired.jobsets.values()
            if isinstance(jobset.source, PathSource)
        ]
        watcher.watch(wanted)

    def _watcher(self) -> Watcher:
        from reconciler.watch import Watcher  # noqa: PLC0415 - of no use to `--once`

        return Watcher(self._watched(asyncio.get_running_loop()))

    def _watched(self, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
        def changed(key: str) -> None:
            self._changed.add(key)
            loop.call_soon_threadsafe(self._wake.set)

        return changed


def _digest(path: Path) -> bytes:
    """Of the document's bytes: a swapped link changes no time stamp."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        return repr(error).encode()


def _listen(path: Path, wake: Callable[[], None]) -> socket.socket:
    """A datagram socket on which a request's maker says that there is something to do."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    listener.bind(str(path))

    def heard() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                listener.recv(64)
        wake()

    asyncio.get_running_loop().add_reader(listener, heard)
    return listener
