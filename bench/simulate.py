"""Replays a graph with durations on declared builders by a clock of its own.

The contender says what starts; the simulator knows what each build takes, and refuses whatever
could not be: a build before its inputs or a second time, a slot that is taken, a builder that
does not fit.
"""

from __future__ import annotations

import heapq
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

from bench.contenders import Contender, slots_of
from bench.workloads import SYSTEM, Workload
from reconciler import config
from reconciler.graph import Platform
from reconciler.model import BuilderName, Desired, JobsetName
from reconciler.scheduler import Assignment, Fleet

Machines = Mapping[str, Mapping[str, object]]
"""Builders as the document declares them."""


class ImpossibleError(Exception):
    """What a contender wants cannot be."""


def declared(builders: Machines, shares: Mapping[JobsetName, int]) -> Desired:
    """A farm of remote builders, given as in the document, and jobsets with shares."""
    document = {
        "jobsets": {
            name: {"source": {"path": "/", "file": "default.nix"}, "shares": each}
            for name, each in shares.items()
        },
        "builders": {
            name: {"uri": f"ssh-ng://{name}", "systems": [SYSTEM], **each}
            for name, each in builders.items()
        },
    }
    return config.parse(json.dumps(document).encode(), name="bench")


@dataclass(frozen=True, slots=True)
class Build:
    """What happened to a derivation."""

    derivation: int
    builder: BuilderName
    start: float
    end: float


class Simulation:
    """One farm, one workload, one contender."""

    def __init__(
        self,
        workload: Workload,
        desired: Desired,
        contender: Contender,
        *,
        arrivals: Mapping[JobsetName, float] | None = None,
    ) -> None:
        """`arrivals` are the times at which jobsets come that are not there from the start."""
        self._workload, self._contender = workload, contender
        slots = slots_of(desired)
        self._speeds = {each.builder.name: each.builder.speed_factor for each in slots}
        self._free = {each.builder.name: each.free for each in slots}
        fleet = Fleet(slots, {})
        self._fitting = {
            platform: {each.builder.name for each in fleet.fitting(platform)}
            for platform in {*workload.platforms}
        }
        late = arrivals or {}
        self._arrivals = sorted(
            ((late.get(name, 0.0), name) for name in workload.jobs), reverse=True
        )
        self._arrived: set[int] = set()
        self._started: set[int] = set()
        self._done: set[int] = set()
        self._running: list[tuple[float, int, BuilderName]] = []

    def run(self) -> list[Build]:
        """Everything that was built, in the order of the starts."""
        builds: list[Build] = []
        now = 0.0
        while self._arrivals or self._running:
            events = [self._contender.wake_at(now=now)] if builds else []
            events += [self._arrivals[-1][0]] if self._arrivals else []
            events += [self._running[0][0]] if self._running else []
            now = min(each for each in events if each is not None)
            self._end(now)
            self._arrive(now)
            assigned = self._contender.assign(self._free, now=now)
            builds += [self._start(each, now) for each in assigned]
        if len(self._done) < len(self._arrived):
            missing = len(self._arrived) - len(self._done)
            raise ImpossibleError(f"{missing} derivations are never built")
        return builds

    def _arrive(self, now: float) -> None:
        while self._arrivals and self._arrivals[-1][0] <= now:
            _, jobset = self._arrivals.pop()
            new = set()
            todo = [*self._workload.jobs[jobset]]
            while todo:
                derivation = todo.pop()
                if derivation not in self._arrived:
                    self._arrived.add(derivation)
                    new.add(derivation)
                    todo += self._workload.inputs[derivation]
            self._contender.arrive(jobset, sorted(new), now=now)

    def _start(self, each: Assignment, now: float) -> Build:
        derivation, builder = each.derivation, each.builder
        if derivation in self._started or derivation not in self._arrived:
            raise ImpossibleError(f"{derivation} is not to be built")
        if not self._done.issuperset(self._workload.inputs[derivation]):
            raise ImpossibleError(f"{derivation} lacks inputs")
        if builder not in self._fitting[self._workload.platforms[derivation]]:
            raise ImpossibleError(f"{derivation} does not fit {builder}")
        if not self._free[builder]:
            raise ImpossibleError(f"{builder} has no free slot")
        self._started.add(derivation)
        self._free[builder] -= 1
        end = now + self._workload.seconds[derivation] / self._speeds[builder]
        heapq.heappush(self._running, (end, derivation, builder))
        return Build(derivation, builder, now, end)

    def _end(self, now: float) -> None:
        while self._running and self._running[0][0] <= now:
            _, derivation, builder = heapq.heappop(self._running)
            self._free[builder] += 1
            self._done.add(derivation)
            self._contender.finished(derivation, now=now)


# --- What it comes to ------------------------------------------------------------------------


def makespan(builds: Sequence[Build]) -> float:
    return max(each.end for each in builds)


@dataclass(frozen=True, slots=True)
class Bound:
    """Seconds that no order can beat."""

    plain: float
    """All work over all speed, or the longest path at the fastest, whichever is more."""
    sharp: float
    """Both together: what comes before some work at least, then that work over all speed, then
    what comes after it at least."""


def lower_bound(workload: Workload, desired: Desired) -> Bound:
    """By platforms as well: each set of them with all builders that fit one of the set."""
    fleet = Fleet(slots_of(desired), {})
    builders = {
        platform: {each.builder.name: each.builder for each in fleet.fitting(platform)}
        for platform in {*workload.platforms}
    }
    fastest = {
        platform: max(each.speed_factor for each in fitting.values())
        for platform, fitting in builders.items()
    }
    least = [
        seconds / fastest[platform]
        for seconds, platform in zip(workload.seconds, workload.platforms, strict=True)
    ]
    before, after = _heads(workload, least), _tails(workload, least)
    longest = max(map(sum, zip(before, least, after, strict=True)))
    plain, sharp = longest, longest
    for some in _subsets([*builders]):
        used = {name: each for platform in some for name, each in builders[platform].items()}
        speed = sum(each.max_jobs * each.speed_factor for each in used.values())
        members = [n for n, each in enumerate(workload.platforms) if each in some]
        work = [(before[each], after[each], workload.seconds[each] / speed) for each in members]
        plain = max(plain, sum(each for _, _, each in work))
        sharp = max(sharp, plain, _between(work))
    return Bound(plain, sharp)


def _subsets(platforms: Sequence[Platform]) -> Iterator[tuple[Platform, ...]]:
    sizes = range(1, len(platforms) + 1)
    return chain.from_iterable(combinations(platforms, size) for size in sizes)


def _heads(workload: Workload, least: Sequence[float]) -> list[float]:
    """How long after the beginning each can start at the earliest."""
    heads: list[float] = []
    for inputs in workload.inputs:
        heads.append(max((heads[each] + least[each] for each in inputs), default=0.0))
    return heads


def _tails(workload: Workload, least: Sequence[float]) -> list[float]:
    """How long before the end of all each must be done at the latest."""
    tails = [0.0] * len(workload)
    for derivation in reversed(range(len(workload))):
        for needed in workload.inputs[derivation]:
            tails[needed] = max(tails[needed], tails[derivation] + least[derivation])
    return tails


def _between(work: Sequence[tuple[float, float, float]]) -> float:
    """The most of: a head and a tail, and all work between that has neither shorter."""
    heads = _steps([head for head, _, _ in work])
    tails = _steps([tail for _, tail, _ in work])
    sums = [[0.0] * len(tails) for _ in heads]
    for head, tail, seconds in work:
        sums[bisect_right(heads, head) - 1][bisect_right(tails, tail) - 1] += seconds
    most = 0.0
    later = [0.0] * len(tails)  # by tail, of this head and all longer ones
    for head, row in reversed([*zip(heads, sums, strict=True)]):
        later = [sum(each) for each in zip(later, row, strict=True)]
        between = 0.0
        for tail, seconds in reversed([*zip(tails, later, strict=True)]):
            between += seconds
            if between:
                most = max(most, head + between + tail)
    return most


def _steps(values: Sequence[float], *, count: int = 100) -> list[float]:
    """Some of the values in order, the least and the greatest among them."""
    known = sorted(values)
    return sorted({known[n * (len(known) - 1) // count] for n in range(count + 1)})
