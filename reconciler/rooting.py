"""What the store keeps for us from collection, seen to in the background.

A part of the executor, which tells how a task is started and takes what comes of it. Temporary
roots protect what was just made; permanent ones keep what evaluations in force made, and the bases
of incremental builds. Many are made at once: each time costs a question to the store.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any

from reconciler.errors import NixError
from reconciler.model import StorePath
from reconciler.outcomes import Faulted, Outcome
from reconciler.store import Store

PROTECT_AFTER = 5.0
"""Seconds. A connection that is lost takes what protects its outputs with it."""

HOLD_AFTER = 0.05
"""Seconds in which what else ends is rooted with the first."""

HOLD_PAUSES = (0.0, 1.0, 5.0, 30.0, 60.0)
"""Seconds before each try to root something, while the Nix daemon does not answer."""


class Rooting:
    """See the module's text. Starting something never waits."""

    def __init__(
        self,
        *,
        store: Store,
        start: Callable[[Coroutine[Any, Any, None]], object],
        report: Callable[[Outcome], None],
        under_way: Callable[[], bool],
    ) -> None:
        self._store = store
        self._start = start
        self._report = report
        self._under_way = under_way
        """Whether there is other work, which may bring more to be rooted."""
        self._faults: set[str] = set()
        self._made: set[StorePath] = set()
        """By builds, and to be protected when the timer ends."""
        self._protecting: asyncio.TimerHandle | None = None
        self._to_hold: dict[int, set[StorePath]] = {}
        """By evaluation, and to be rooted when the timer ends."""
        self._holding: asyncio.TimerHandle | None = None

    # --- Temporary roots -------------------------------------------------------------------

    def protect_soon(self, paths: Iterable[StorePath]) -> None:
        """Till then the connections protect them that made them, which are kept."""
        self._made.update(paths)
        if self._made and self._protecting is None:
            loop = asyncio.get_running_loop()
            self._protecting = loop.call_later(PROTECT_AFTER, self._protect_made)

    def _protect_made(self) -> None:
        made, self._made = self._made, set()
        self._protecting = None
        self._start(self.protect(made))

    async def protect(self, paths: Collection[StorePath]) -> None:
        """At once, until the store has nothing to protect any more or is closed."""
        with contextlib.suppress(NixError):  # it is made good when the store is reached again
            await self._store.protect(paths)

    async def give_up(self, paths: Collection[StorePath]) -> None:
        """Root these no more, and protect the others now: the connections that made them go."""
        for each in (self._made, *self._to_hold.values()):
            each.difference_update(paths)
        await self.protect(self._made)

    def rest(self) -> None:
        """Nothing is to be done: all that was made is rooted, or nobody wants it."""
        if self._protecting is not None:
            self._protecting.cancel()
            self._protecting = None
        self._made.clear()

    # --- Permanent ones --------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether something is still to be rooted."""
        return bool(self._to_hold)

    def hold(self, evaluation: int, paths: Iterable[StorePath]) -> None:
        """Make permanent roots for an evaluation, a moment later; see `hurry`."""
        self._to_hold.setdefault(evaluation, set()).update(paths)
        if self._holding is None:
            loop = asyncio.get_running_loop()
            pause = HOLD_AFTER if self._under_way() else 0.0
            self._holding = loop.call_later(pause, self.hurry)

    def hurry(self) -> None:
        """Wait for no more of what is to be rooted."""
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        to_hold, self._to_hold = self._to_hold, {}
        for evaluation, paths in to_hold.items():
            self._start(self._hold(evaluation, paths))

    async def _hold(self, evaluation: int, paths: Collection[StorePath]) -> None:
        """Meanwhile they are protected by temporary roots, so there is time to try again."""
        message = None
        for pause in HOLD_PAUSES:
            await asyncio.sleep(pause)
            try:
                await self._store.hold(evaluation, paths)
            except (NixError, OSError) as error:
                message = f"cannot root the outputs of evaluation {evaluation}: {error}"
            else:
                message = None
                break
        self._fault("cannot-root", message)

    def hold_bases(self, paths: Collection[StorePath]) -> None:
        """Have permanent roots of these bases, and of no others."""
        self._start(self._hold_bases(paths))

    async def _hold_bases(self, paths: Collection[StorePath]) -> None:
        message = None
        try:
            await self._store.hold_bases(paths)
        except (NixError, OSError) as error:
            message = f"cannot root the bases of incremental builds: {error}"
        self._fault("bases-free", message)

    def _fault(self, reason: str, message: str | None) -> None:
        """Say that something is wrong with the local store, or is right again: nothing wakes for
        what is as it was.
        """
        if message is not None or reason in self._faults:
            self._faults.add(reason)
            self._report(Faulted(kind="builder", name="local", reason=reason, message=message))
        if message is None:
            self._faults.discard(reason)
