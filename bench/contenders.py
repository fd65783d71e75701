"""Who says what is built next: the reconciler itself, first-come, and what `nix build` does."""

from __future__ import annotations

import heapq
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from bench.workloads import Workload
from reconciler.graph import Node, Platform
from reconciler.model import BuilderName, BuildState, Desired, DrvPath, JobsetName
from reconciler.scheduler import Assignment, Fleet, Slots
from reconciler.work import LiveBuild, WantedJob, Work

Free = Mapping[BuilderName, int]
"""How many more builds each builder takes now."""


class Contender(Protocol):
    """Told what exists, what has ended and which slots are free."""

    def arrive(self, jobset: JobsetName, derivations: Collection[int], *, now: float) -> None:
        """A jobset is wanted from now on, and with it derivations that are new."""

    def assign(self, free: Free, *, now: float) -> list[Assignment]:
        """What starts now."""

    def finished(self, derivation: int, *, now: float) -> None:
        """One has been built."""

    def wake_at(self, *, now: float) -> float | None:
        """When to ask again even if nothing happens until then."""


def slots_of(desired: Desired) -> list[Slots]:
    """The declared builders, all of whose slots are free."""
    return [
        Slots(builder=each, systems=frozenset(each.systems or ()), free=each.max_jobs)
        for each in desired.builders.values()
    ]


def _now_free(slots: Sequence[Slots], free: Free) -> list[Slots]:
    return [replace(each, free=free[each.builder.name]) for each in slots]


class Reconciler:
    """The graph, the scheduler and the work of the reconciler, driven as a tick drives them."""

    def __init__(self, workload: Workload, desired: Desired) -> None:
        self._workload = workload
        self._slots = slots_of(desired)
        self._jobsets = [*desired.jobsets.values()]
        self._jobs: list[WantedJob] = []
        self._work = Work(
            {
                (_name(workload, each), workload.platforms[each].system): expected
                for each, expected in enumerate(workload.expected)
                if expected is not None
            }
        )
        self.loading = 0.0
        """Processor seconds until what arrived is in the graph and ranked."""
        self.deciding = 0.0
        """Processor seconds for all that follows."""

    def arrive(self, jobset: JobsetName, derivations: Collection[int], *, now: float) -> None:
        batch = [_live(self._workload, each) for each in derivations]
        self._jobs += [
            WantedJob(
                jobset=jobset, evaluation=1, derivation=each, timeout=None, max_silent=None,
                priority=0,
            )
            for each in self._workload.jobs[jobset]
        ]  # fmt: skip
        began = time.process_time()
        self._work.join(batch)
        self._work.want(self._jobs, self._jobsets)
        self._work.scheduler.next_wake(now)
        self.loading += time.process_time() - began

    def assign(self, free: Free, *, now: float) -> list[Assignment]:
        began = time.process_time()
        assigned = self._work.scheduler.assignments(_now_free(self._slots, free), now=now)
        for each in assigned:
            self._work.graph.start(each.derivation)
            self._work.scheduler.started(each.derivation, each.builder, now=now)
        self.deciding += time.process_time() - began
        return assigned

    def finished(self, derivation: int, *, now: float) -> None:
        began = time.process_time()
        self._work.scheduler.finished(derivation, now=now)
        self._work.graph.settle(derivation, BuildState.SUCCEEDED)
        self._work.leave([derivation])
        self.deciding += time.process_time() - began

    def wake_at(self, *, now: float) -> float | None:
        return self._work.scheduler.next_wake(now)


def _name(workload: Workload, derivation: int) -> str:
    return f"p{workload.ranks[derivation]:07}"


def _live(workload: Workload, derivation: int) -> LiveBuild:
    name, platform = _name(workload, derivation), workload.platforms[derivation]
    return LiveBuild(
        id=derivation,
        path=DrvPath(f"{name}.drv"),
        name=name,
        system=platform.system,
        features=tuple(platform.features),
        prefer_local=False,
        unsupported=None,
        state=BuildState.QUEUED,
        not_before=0.0,
        failures=0,
        bumped=False,
        inputs=workload.inputs[derivation],
    )


class _Queue(ABC):
    """What is ready, in an order that is fixed when it becomes ready."""

    def __init__(self, workload: Workload, desired: Desired) -> None:
        self._slots = slots_of(desired)
        self._inputs, self._platforms = workload.inputs, workload.platforms
        self._unmet = [len(each) for each in workload.inputs]
        self._above: list[list[int]] = [[] for _ in workload.inputs]
        for derivation, inputs in enumerate(workload.inputs):
            for needed in inputs:
                self._above[needed].append(derivation)
        self._arrived: set[int] = set()
        self._ready: dict[Platform, list[tuple[int, int]]] = {}

    @abstractmethod
    def _order(self, derivation: int) -> int:
        """The least goes first."""

    @abstractmethod
    def assign(self, free: Free, *, now: float) -> list[Assignment]:
        """See Contender."""

    def arrive(self, jobset: JobsetName, derivations: Collection[int], *, now: float) -> None:
        del jobset, now
        self._arrived.update(derivations)
        for each in sorted(derivations):
            self._offer(each)

    def finished(self, derivation: int, *, now: float) -> None:
        del now
        for each in self._above[derivation]:
            self._unmet[each] -= 1
            self._offer(each)

    def wake_at(self, *, now: float) -> None:
        del now

    def _offer(self, derivation: int) -> None:
        if derivation in self._arrived and not self._unmet[derivation]:
            queue = self._ready.setdefault(self._platforms[derivation], [])
            heapq.heappush(queue, (self._order(derivation), derivation))

    def _take(self, choose: Callable[[Platform], BuilderName | None]) -> list[Assignment]:
        """Hand out in order what there is room for: what finds none holds back no other."""
        assigned = []
        open_for = {platform for platform, queue in self._ready.items() if queue}
        while open_for:
            platform = min(open_for, key=lambda each: self._ready[each][0])
            builder = choose(platform)
            if builder is not None:
                _, derivation = heapq.heappop(self._ready[platform])
                assigned.append(Assignment(derivation, builder))
            if builder is None or not self._ready[platform]:
                open_for.discard(platform)
        return assigned


class FirstCome(_Queue):
    """In the order in which they became ready, on the builders that the reconciler would take.

    What differs from the reconciler is the order alone.
    """

    def __init__(self, workload: Workload, desired: Desired) -> None:
        super().__init__(workload, desired)
        self._count = 0

    def _order(self, derivation: int) -> int:
        del derivation
        self._count += 1
        return self._count

    def assign(self, free: Free, *, now: float) -> list[Assignment]:
        del now
        fleet = Fleet(_now_free(self._slots, free), {})
        return self._take(lambda platform: fleet.choose(Node(id=-1, platform=platform)))


class NixBuild(_Queue):
    """`nix build`, with `--max-jobs` slots or with machines named by `--builders`.

    Modelled after its worker: goals that are awake are called in the order of their keys, which
    begin with the derivation's name, and those without a slot wait until a build ends (or, of
    later versions, are woken in no order at all): either way the order knows nothing of what
    comes after. A machine is chosen as the manual says of `builders`: "the fastest, taking load
    into account", which is the least number of running builds over the speed factor, and among
    equals the faster. Left out, in its favour: that what finds no machine asks again only every
    five seconds, that it holds all goals of a large graph in memory, and copying.
    """

    def __init__(self, workload: Workload, desired: Desired) -> None:
        super().__init__(workload, desired)
        self._ranks = workload.ranks
        fleet = Fleet(self._slots, {})
        self._fitting = {platform: fleet.fitting(platform) for platform in {*workload.platforms}}

    def _order(self, derivation: int) -> int:
        return self._ranks[derivation]

    def assign(self, free: Free, *, now: float) -> list[Assignment]:
        del now
        left = dict(free)

        def choose(platform: Platform) -> BuilderName | None:
            able = [each.builder for each in self._fitting[platform] if left[each.builder.name]]
            if not able:
                return None
            best = min(
                able,
                key=lambda each: (
                    (each.max_jobs - left[each.name]) / each.speed_factor,
                    -each.speed_factor,
                ),
            )
            left[best.name] -= 1
            return best.name

        return self._take(choose)
