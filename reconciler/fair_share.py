"""How much of the builders' time each jobset was given, against its shares.

Each jobset has a level, the slot-seconds it was given divided by its shares; the lowest level goes
first. What runs is charged as soon as it starts. Knows neither what is to be built nor who builds
it, and reads no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.model import JobsetName

CREDIT = 86_400.0
"""Slot-seconds that a jobset may be behind what is being served, at most: one that had to wait
for a lost builder is then preferred for so long, not for as long as it waited."""

Standing = tuple[float, int]
"""Of jobsets, the least goes first: level, and when it was last served."""


@dataclass(frozen=True, slots=True)
class _Running:
    weight: float
    started: float
    jobsets: tuple[JobsetName, ...]

    def charge(self, now: float) -> float:
        return max(self.weight, now - self.started) / len(self.jobsets)


class FairShare:
    """See the module's text."""

    def __init__(self) -> None:
        self._shares: dict[JobsetName, int] = {}
        self._levels: dict[JobsetName, float] = {}
        self._running: dict[int, _Running] = {}
        self._turns: dict[JobsetName, int] = {}
        self._served = 0.0  # the highest level at which a build was started
        self._recalled: dict[JobsetName, float] = {}  # until shares are declared

    def recall(self, usage: Mapping[JobsetName, float]) -> None:
        """Take over what jobsets were given before this began, in slot-seconds.

        Those that nothing is known of start with the neediest of the others, as newcomers do.
        """
        self._recalled = dict(usage)

    def declare(self, shares: Mapping[JobsetName, int]) -> None:
        """Replace the jobsets and their shares."""
        for name, share in shares.items():
            if share <= 0:
                raise ValueError(f"jobset {name} has {share} shares: at least 1 is needed")
        before = {
            name: self._recalled[name] / share
            for name, share in shares.items()
            if name in self._recalled
        }
        self._served = max(self._served, min(before.values(), default=0.0))
        known = {**before, **self._levels}
        self._shares, self._recalled = dict(shares), {}
        self._levels = {name: known.get(name, self._served) for name in shares}

    def levels(self, now: float) -> dict[JobsetName, float]:
        """Give the level of each declared jobset, with what runs."""
        levels = dict(self._levels)
        for running in self._running.values():
            for name in running.jobsets:
                if name in levels:
                    levels[name] += running.charge(now) / self._shares[name]
        return levels

    def standings(self, now: float) -> dict[JobsetName, Standing]:
        """Give the order of the declared jobsets."""
        return {name: (level, self._turns.get(name, 0)) for name, level in self.levels(now).items()}

    def anticipate(
        self, standings: dict[JobsetName, Standing], jobsets: Sequence[JobsetName], weight: float
    ) -> None:
        """Change standings as if a build of theirs had been started."""
        turn = 1 + max(last for _, last in standings.values())
        for name in jobsets:
            cost = weight / len(jobsets) / self._shares[name]
            standings[name] = (standings[name][0] + cost, turn)

    def start(
        self,
        build: int,
        jobsets: tuple[JobsetName, ...],
        *,
        weight: float,
        waiting: Iterable[JobsetName],
        now: float,
    ) -> None:
        """Charge the jobsets that want a build from now on; `waiting` have something to do."""
        levels = self.levels(now)
        if jobsets:
            self._served = max(self._served, min(levels[name] for name in jobsets))
            self._running[build] = _Running(weight, now, jobsets)
        turn = max(self._turns.values(), default=0) + 1
        self._turns.update(dict.fromkeys(jobsets, turn))
        self._forgive(levels, waiting)

    def end(self, build: int, *, now: float) -> None:
        """Charge what it took in the end."""
        running = self._running.pop(build, None)
        if running is not None:
            for name in running.jobsets:
                if name in self._levels:
                    # The clock may have been set back meanwhile.
                    took = max(0.0, now - running.started) / len(running.jobsets)
                    self._levels[name] += took / self._shares[name]

    def _forgive(self, levels: Mapping[JobsetName, float], waiting: Iterable[JobsetName]) -> None:
        """Let nobody save up: raise those with nothing to do to what is being served."""
        busy = {name for running in self._running.values() for name in running.jobsets}
        busy.update(waiting)
        for name, share in self._shares.items():
            floor = self._served - CREDIT / share if name in busy else self._served
            self._levels[name] += max(0.0, floor - levels[name])
