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

from msgspec import Struct

from reconciler import config, notify, reconcile
from reconciler.build import log as build_log
from reconciler.config import ConfigError
from reconciler.database import Database, StateLock, observe, open_writer, pushed, recovery
from reconciler.errors import StateError
from reconciler.model import Desired, JobsetName, PathSource
from reconciler.nix import settings as nix_settings
from reconciler.notify import ServiceManager
from reconciler.places import Places
from reconciler.reconcile import Tick, reload
from reconciler.reconcile.activity import activity
from reconciler.reconcile.farm import Farm
from reconciler.reconcile.opening import open_farm, open_store
from reconciler.status import counted
from reconciler.store import Store

if TYPE_CHECKING:
    from reconciler.watch import Watcher

Observer = Callable[[Database, float], None]
"""Is shown the database after every tick; reads only."""

DOCUMENT_CHECK = 30.0
"""Seconds between looks at the document although no watch reported a change, and at the secrets,
which are not watched."""
CONFIG_KEY = ""
"""The watch key of the document; a jobset's source has the jobset's name, never empty."""
WAKE_SOCKET = "wake"
SIGNS_OF_LIFE = 3
"""In the time after which the service manager takes us for hung; it advises two or more."""
ONCE_FAILURES = 3
"""`run --once` gives a path or a builder up after so many failures; the daemon never does."""
ONCE_PATIENCE = 60.0
"""Seconds for which `run --once` leaves a cache alone whose server asks for a pause: as long as one
request waits. After more it ends, with what is left to push open."""


def run(
    *,
    config: Path,
    state_dir: Path,
    environment: Mapping[str, str],
    once: bool,
    observe: Observer,
    stop_after: float = 0.0,
) -> bool:
    """Reconcile until told to stop, or (`once`) until nothing is left that could go on.

    Told to stop, what is being built or pushed has `stop_after` seconds to end. Gives whether it
    got there. ReconcilerError for what keeps it from starting.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"cannot make the state directory {state_dir}: {error.strerror}. "
            "Name another one with --state-dir."
        ) from error
    manager = ServiceManager() if once else ServiceManager.of(environment)
    passed_on = {n: value for n, value in environment.items() if n not in notify.VARIABLES}
    places = Places(state_dir=state_dir, environment=passed_on)
    ways = _Ways(once=once, stop_after=stop_after, observe=observe, manager=manager)
    with StateLock(state_dir):
        places.clear()
        return asyncio.run(_run(config, places, ways))


class _Ways(Struct, frozen=True, kw_only=True):
    """How it runs, and whom it tells."""

    once: bool
    stop_after: float
    observe: Observer
    manager: ServiceManager


async def _run(config_path: Path, places: Places, ways: _Ways) -> bool:
    """Have Nix start up while the state and the document are read, then loop."""
    store = open_store(places)
    nix = asyncio.create_task(nix_settings.read(places.environment))
    connection = asyncio.create_task(store.connection())
    document = asyncio.create_task(asyncio.to_thread(_read, config_path))
    try:
        await _let_start()
        database = open_writer(places.state_dir, now=time.time())
        try:
            loop = _Loop(config_path, places, database, store, ways)
            return await loop.run(nix, await document)
        finally:
            database.close()
    finally:
        # Not cancelled: asyncio complains of a child that is stopped while it starts.
        await asyncio.gather(nix, connection, document, return_exceptions=True)
        await store.close()


class _Document(Struct, frozen=True, kw_only=True):
    """The document as it was found at the start."""

    digest: bytes
    desired: Desired | ConfigError


def _read(path: Path) -> _Document:
    digest = _digest(path)
    try:
        return _Document(digest=digest, desired=config.load(path))
    except ConfigError as error:
        return _Document(digest=digest, desired=error)


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
        ways: _Ways,
    ) -> None:
        self._config_path = config_path
        self._places = places
        self._database = database
        self._store = store
        self._ways = ways
        self._once = ways.once
        self._manager = ways.manager
        self._wake = asyncio.Event()
        self._stop_asked = 0
        """How often it was told to stop."""
        self._reload_asked = False
        self._announced = False
        """The manager was told that what was started or reloaded is done."""
        self._secrets_at = 0.0
        """When to look at the secrets again."""
        self._document = b""
        self._changed: set[str] = set()

    async def run(self, nix: Awaitable[nix_settings.Settings], document: _Document) -> bool:
        """Start, tick until the end, stop; gives whether `--once` converged."""
        desired, problem = self._first(document)
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
        if not self._once:  # which ends with its terminal
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._ask_reload)
        watcher = None if self._once else self._watcher()
        listener = _listen(self._places.state_dir / WAKE_SOCKET, self._wake.set)
        try:
            await reconcile.start(farm, now=time.time())
            reload.look_at_secrets(farm)
            if self._once:  # somebody waits for it, and may have mended what failed before
                farm.try_builders(now=time.time())
                pushed.wait_no_longer(self._database)
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
        while not self._stop_asked:
            self._wake.clear()
            now = time.time()
            self._database.check_in_place()
            if not self._once:
                self._notice_changes(farm, watcher, now=now)
            tick = reconcile.tick(farm, now=now)
            await asyncio.sleep(0)  # what was started gets going before anybody is told of it
            farm.executor.raise_crash()
            self._tell(farm, tick, now=now)
            if not farm.executor.busy:
                if tick.plan.actions:
                    continue  # what they changed at once may call for more
                if self._once and not reconcile.can_go_on(
                    farm, tick, now=now, failures=ONCE_FAILURES, patience=ONCE_PATIENCE
                ):
                    return True
                await farm.executor.rest()
                await farm.store.release_protected()
            await self._sleep(tick.plan.wake_at)
        await self._wind_down(farm)
        return not self._once

    def _tell(self, farm: Farm, tick: Tick, *, now: float) -> None:
        """Tell everybody of a tick."""
        self._ways.observe(self._database, now)
        self._manager.alive()
        self._manager.status(activity(farm, tick))
        if not self._announced:
            self._manager.ready()
            self._announced = True

    async def _sleep(self, until: float | None) -> None:
        """Wait for a wake-up, or until it is time to look again by ourselves."""
        await self._rest(
            DOCUMENT_CHECK if until is None else min(DOCUMENT_CHECK, until - time.time())
        )

    async def _rest(self, seconds: float) -> None:
        """Wait for a wake-up, for so long at most, or until it is time for a sign of life."""
        if self._manager.watchdog is not None:
            seconds = min(seconds, self._manager.watchdog / SIGNS_OF_LIFE)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), max(0.0, seconds))

    # --- Signals ---------------------------------------------------------------------------

    def _ask_reload(self) -> None:
        self._reload_asked = True
        self._wake.set()

    def _stop(self) -> None:
        self._manager.stopping()
        self._stop_asked += 1
        self._wake.set()

    async def _wind_down(self, farm: Farm) -> None:
        """Let what is being built, and pushed, come to its end, within bounds; begin nothing.

        All else loses little by being cut off, and is taken up by the next start. So are builds
        that take too long, or all when a second signal comes: their work is lost.
        """
        end = time.monotonic() + self._ways.stop_after
        for jobset in farm.desired.jobsets:
            farm.executor.stop_evaluation(jobset)
        while self._stop_asked == 1 and time.monotonic() < end and (told := _under_way(farm)):
            self._manager.alive()
            self._manager.status(f"stopping: {told} may still end")
            await self._rest(end - time.monotonic())
            self._wake.clear()
            now = time.time()
            reconcile.record_ends(farm, now=now)
            farm.executor.raise_crash()
            self._ways.observe(self._database, now)

    # --- The document and watched sources --------------------------------------------------

    def _first(self, document: _Document) -> tuple[Desired, str | None]:
        """The document, or (the daemon only) the last good one with what is wrong with this."""
        self._document = document.digest
        if isinstance(document.desired, Desired):
            return document.desired, None
        in_force = observe.document_in_force(self._database)
        if self._once or in_force is None:
            raise document.desired
        parsed = config.parse(in_force[1].encode(), name="the document in force")
        return parsed, str(document.desired)

    def _notice_changes(self, farm: Farm, watcher: Watcher | None, *, now: float) -> None:
        digest = _digest(self._config_path)
        if self._reload_asked or digest != self._document:
            self._document = digest
            self._reload(farm, now=now)
            self._changed.add(CONFIG_KEY)
        elif now >= self._secrets_at:
            reload.look_at_secrets(farm)
            self._secrets_at = now + DOCUMENT_CHECK
        if self._changed and watcher is not None:
            self._watch(watcher, farm)
        for key in [*self._changed]:
            self._changed.discard(key)
            if key != CONFIG_KEY and key in farm.desired.jobsets:
                farm.trigger(JobsetName(key), cause="its folder changed", force=False)

    def _reload(self, farm: Farm, *, now: float) -> None:
        """Take up the document; what was asked for is told to be done after the next tick."""
        if self._announced:
            self._manager.reloading()
            self._announced = False
        reload.take_up(farm, self._config_path, now=now)
        reload.look_at_secrets(farm)
        if self._reload_asked:
            self._reload_asked = False
            reload.try_again(farm)

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


def _under_way(farm: Farm) -> str:
    """What would be lost, or begun again, if it were cut off now; in words."""
    caches = len(farm.pushing | farm.accompanying)
    told = [counted(len(farm.running), "build")] if farm.running else []
    told += [f"pushes to {counted(caches, 'cache')}"] if caches else []
    return " and ".join(told)


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
