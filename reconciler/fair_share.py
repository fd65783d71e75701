"""How much of the builders' time each jobset was given, against its shares.

Each jobset has a level, the slot-seconds it was given divided by its shares; the lowest level goes
first. What runs is charged as soon as it starts. Branches share what their jobset has, and are
served in turn in the same way. Knows neither what is to be built nor who builds it, and reads no
clock.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from reconciler.model import JobsetName

CREDIT = 86_400.0
"""Slot-seconds that a jobset may be behind what is being served, at most: one that had to wait
for a lost builder is then preferred for so long, not for as long as it waited."""

Place = tuple[float, int]
"""Of jobsets, the least goes first: level, and when it was last served."""
Standing = tuple[Place, Place]
"""The place among all that are declared, and of a branch the one among its like."""


class _Running(Struct, frozen=True):
    weight: float
    started: float
    jobsets: tuple[JobsetName, ...]


class _Charges:
    """What the running builds cost: of each its weight, or what it took so far if that is more,
    shared out evenly among its jobsets.

    Kept as sums that grow with time, since on a large farm hundreds of builds run and this is
    asked for twice for each one that starts.
    """

    def __init__(self) -> None:
        self._running: dict[int, _Running] = {}
        self._builds: Counter[JobsetName] = Counter()
        self._start_over(0.0)

    def _start_over(self, now: float) -> None:
        self._since = self._latest = now
        self._fixed: defaultdict[JobsetName, float] = defaultdict(float)
        self._growing: defaultdict[JobsetName, float] = defaultdict(float)  # with each second
        self._due: list[tuple[float, int]] = []
        self._overdue: set[int] = set()
        for build, running in self._running.items():
            self._expect(build, running)

    def add(self, build: int, running: _Running) -> None:
        if not self._running:
            self._start_over(running.started)  # also without what rounding left in the sums
        self._running[build] = running
        self._builds.update(running.jobsets)
        self._expect(build, running)

    def pop(self, build: int) -> _Running | None:
        running = self._running.pop(build, None)
        if running is not None:
            self._builds.subtract(running.jobsets)
            if build in self._overdue:
                self._overdue.discard(build)
                self._change(running, fixed=running.started - self._since, growing=-1)
            else:
                self._change(running, fixed=-running.weight)
        return running

    def at(self, now: float) -> dict[JobsetName, float]:
        """Slot-seconds of each jobset of which something runs."""
        if now < self._latest:
            self._start_over(now)  # the clock was set back: what is overdue may be so no longer
        self._latest = now
        while self._due and self._due[0][0] <= now:
            when, build = heapq.heappop(self._due)
            running = self._running.get(build)
            if running is not None and running.started + running.weight == when:
                self._overdue.add(build)
                started = running.started - self._since
                self._change(running, fixed=-started - running.weight, growing=1)
        passed = now - self._since
        return {
            name: self._fixed[name] + self._growing[name] * passed
            for name, builds in self._builds.items()
            if builds
        }

    def _expect(self, build: int, running: _Running) -> None:
        self._change(running, fixed=running.weight)
        heapq.heappush(self._due, (running.started + running.weight, build))

    def _change(self, running: _Running, *, fixed: float, growing: int = 0) -> None:
        for name in running.jobsets:
            self._fixed[name] += fixed / len(running.jobsets)
            self._growing[name] += growing / len(running.jobsets)


class FairShare:
    """See the module's text."""

    def __init__(self) -> None:
        self._shares: dict[JobsetName, int] = {}
        self._levels: dict[JobsetName, float] = {}
        self._charges = _Charges()
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
        for name, seconds in self._charges.at(now).items():
            if name in levels:
                levels[name] += seconds / self._shares[name]
        return levels

    def places(self, now: float) -> dict[JobsetName, Place]:
        """Give the order of the declared jobsets."""
        return {name: (level, self._turns.get(name, 0)) for name, level in self.levels(now).items()}

    def anticipate(
        self, places: dict[JobsetName, Place], jobsets: Sequence[JobsetName], weight: float
    ) -> None:
        """Change places as if a build of theirs had been started."""
        turn = 1 + max(last for _, last in places.values())
        for name in jobsets:
            cost = weight / len(jobsets) / self._shares[name]
            places[name] = (places[name][0] + cost, turn)

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
            self._charges.add(build, _Running(weight, now, jobsets))
        turn = max(self._turns.values(), default=0) + 1
        self._turns.update(dict.fromkeys(jobsets, turn))
        self._forgive(levels, {*self._charges.at(now), *waiting})

    def end(self, build: int, *, now: float) -> None:
        """Charge what it took in the end."""
        running = self._charges.pop(build)
        if running is not None:
            for name in running.jobsets:
                if name in self._levels:
                    # The clock may have been set back meanwhile.
                    took = max(0.0, now - running.started) / len(running.jobsets)
                    self._levels[name] += took / self._shares[name]

    def _forgive(self, levels: Mapping[JobsetName, float], busy: Collection[JobsetName]) -> None:
        """Let nobody save up: raise those with nothing to do to what is being served."""
        for name, share in self._shares.items():
            floor = self._served - CREDIT / share if name in busy else self._served
            self._levels[name] += max(0.0, floor - levels[name])


ALONE: Place = (0.0, 0)
"""The place of a jobset that is no branch, among its like."""


class Standings:
    """Who goes first at one time; changes as builds are assigned."""

    def __init__(
        self,
        all_: dict[JobsetName, Place],
        within: Mapping[JobsetName, dict[JobsetName, Place]],
        groups: Mapping[JobsetName, JobsetName],
    ) -> None:
        self.all = all_
        self.within = within
        self._groups = groups

    def neediest(self, jobsets: Iterable[JobsetName]) -> Standing:
        """The standing of the one of them that goes first."""
        if not self._groups:  # asked for each heap at each assignment: much faster than below
            return min(map(self.all.__getitem__, jobsets)), ALONE
        return min(map(self._standing, jobsets))

    def _standing(self, jobset: JobsetName) -> Standing:
        group = self._groups.get(jobset)
        if group is None:
            return self.all[jobset], ALONE
        return self.all[group], self.within[group][jobset]


class SharedOut:
    """Fair share in two steps: between what is declared, then between the branches of one.

    So a project with many branches is given as much as one with a single one, and of its branches
    an idle one costs the others nothing. A build that several branches of one want is charged to
    it once.
    """

    def __init__(self) -> None:
        self._declared = FairShare()
        self._branches: dict[JobsetName, FairShare] = {}
        self._groups: Mapping[JobsetName, JobsetName] = {}
        self._recalled: Mapping[JobsetName, float] = {}

    def recall(self, usage: Mapping[JobsetName, float]) -> None:
        """Take over what jobsets, branches among them, were given before this began."""
        self._recalled = dict(usage)

    def declare(
        self, shares: Mapping[JobsetName, int], groups: Mapping[JobsetName, JobsetName]
    ) -> None:
        """Replace the jobsets and their shares; `groups` has for each branch its jobset."""
        self._groups = dict(groups)
        members: defaultdict[JobsetName, dict[JobsetName, int]] = defaultdict(dict)
        for name, group in groups.items():
            members[group][name] = shares[name]
        used: defaultdict[JobsetName, float] = defaultdict(float)
        for name, seconds in self._recalled.items():
            used[groups.get(name, name)] += seconds
        if used:
            self._declared.recall(used)
        self._declared.declare({groups.get(name, name): share for name, share in shares.items()})
        self._branches = {each: self._branches.get(each, FairShare()) for each in members}
        for group, inner in self._branches.items():
            if known := {n: s for n, s in self._recalled.items() if groups.get(n) == group}:
                inner.recall(known)
            inner.declare(members[group])
        self._recalled = {}

    def standings(self, now: float) -> Standings:
        """Give the order of all."""
        within = {group: inner.places(now) for group, inner in self._branches.items()}
        return Standings(self._declared.places(now), within, self._groups)

    def anticipate(
        self, standings: Standings, jobsets: Sequence[JobsetName], weight: float
    ) -> None:
        """Change standings as if a build of theirs had been started."""
        groups = self._members(jobsets)
        self._declared.anticipate(standings.all, [*groups], weight)
        for group, members in groups.items():
            if group in self._branches:
                self._branches[group].anticipate(standings.within[group], members, weight)

    def start(
        self,
        build: int,
        jobsets: Sequence[JobsetName],
        *,
        weight: float,
        waiting: Iterable[JobsetName],
        now: float,
    ) -> None:
        """Charge the jobsets that want a build from now on; `waiting` have something to do."""
        groups, busy = self._members(jobsets), self._members(waiting)
        self._declared.start(build, tuple(groups), weight=weight, waiting=busy, now=now)
        for group in groups:
            if group in self._branches:
                self._branches[group].start(
                    build,
                    tuple(groups[group]),
                    weight=weight,
                    waiting=busy.get(group, ()),
                    now=now,
                )

    def end(self, build: int, *, now: float) -> None:
        """Charge what it took in the end."""
        self._declared.end(build, now=now)
        for inner in self._branches.values():
            inner.end(build, now=now)

    def _members(self, jobsets: Iterable[JobsetName]) -> dict[JobsetName, list[JobsetName]]:
        """Jobsets by what is declared of them; one that is no branch stands for itself."""
        found: dict[JobsetName, list[JobsetName]] = {}
        for name in jobsets:
            found.setdefault(self._groups.get(name, name), []).append(name)
        return found
