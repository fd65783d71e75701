"""The live work: what is to be built, who wants it, and what is known of each derivation.

Derived from the database and kept in step with it; the graph and the scheduler decide, this
keeps the names and the roots. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

from msgspec import Struct

from reconciler.graph import Graph, Node, Platform
from reconciler.model import BuildState, DrvPath, Jobset, JobsetName, Limits
from reconciler.resources import NOTHING, Needs, is_need, most, needs
from reconciler.scheduler import LAST, Demand, Scheduler

Bound = TypeVar("Bound", int, float)

DEFAULT_SECONDS = 1.0
"""Expected duration of a build as long as nothing is known of any."""


class WantedJob(Struct, frozen=True, kw_only=True):
    """A job of an evaluation in force."""

    jobset: JobsetName
    evaluation: int
    derivation: int
    timeout: float | None
    max_silent: float | None
    priority: int
    audit: bool = False
    """It is none, but the clean twin of one: nobody waits for it, and it goes nowhere."""


class LiveBuild(NamedTuple):
    """A build whose outputs do not exist. A tuple: there are hundreds of thousands of them."""

    id: int
    path: DrvPath
    name: str
    system: str
    features: tuple[str, ...]
    prefer_local: bool
    unsupported: str | None
    state: BuildState
    not_before: float
    failures: int
    bumped: bool
    inputs: tuple[int, ...]
    """Those of its inputs that do not exist either."""


def package_name(name: str) -> str:
    """A derivation's name without its version: up to the first dash before a non-letter.

    The rule is Nix's own (`builtins.parseDrvName`).
    """
    version = _VERSION.search(name)
    return name if version is None else name[: version.start()]


_VERSION = re.compile("-[^A-Za-z]")


def platform_of(system: str, features: Iterable[str], asked: Needs = NOTHING) -> Platform:
    """What a derivation asks of a builder, by its required features and by rules."""
    required = tuple(features)
    plain = frozenset(each for each in required if not is_need(each))
    return Platform(system, plain, most((needs(required), asked)))


class Work:
    """See the module's text."""

    def __init__(self, durations: Mapping[tuple[str, str], float]) -> None:
        self.graph = Graph()
        self.scheduler = Scheduler(self.graph)
        self.builds: dict[int, LiveBuild] = {}
        """As they joined: state and inputs are the graph's to know."""
        self.ids: dict[DrvPath, int] = {}
        self._durations = dict(durations)
        self._all_seconds = sum(self._durations.values())
        self._usual = self._mean()
        self._platforms: dict[tuple[str, tuple[str, ...], Needs], Platform] = {}
        self._needs: Mapping[int, Needs] = {}
        self._jobs: dict[int, list[WantedJob]] = {}
        self._bits: dict[JobsetName, int] = {}
        self._version = 0
        self._masks: dict[int, int] = {}
        self._unwanted: set[int] = set()
        self._masked_at: tuple[int, int] | None = None

    # --- Growing and shrinking -------------------------------------------------------------

    def join(
        self, builds: Iterable[LiveBuild], needed_by: Mapping[int, Collection[int]] | None = None
    ) -> None:
        """Add builds that are not in the graph yet.

        `needed_by` names, of those that existed once, who is in the graph and needs them.
        """
        batch = {build.id: build for build in builds if build.id not in self.graph}
        nodes = [
            Node(
                id=key,
                platform=self._platform(key, system, features, unsupported),
                inputs=inputs,
                state=state,
                weight=self.expected_seconds(name, system),
                prefer_local=prefer_local,
                not_before=not_before,
            )
            # Taken apart at once: a tuple's members are faster to get by place than by name.
            for (
                key, _, name, system, features, prefer_local, unsupported, state, not_before, _, _,
                inputs,
            ) in batch.values()
        ]  # fmt: skip
        if any((needed_by or {}).values()):
            self.graph.restore(nodes, needed_by or {})
        else:
            self.graph.add(nodes)
        self.builds.update(batch)
        self.ids.update({build.path: key for key, build in batch.items()})

    def _platform(
        self, derivation: int, system: str, features: tuple[str, ...], unsupported: str | None
    ) -> Platform:
        """What it asks of a builder; what no Nix of ours can build asks for what nobody has."""
        if unsupported is not None:
            features = (*features, unsupported)
        key = (system, features, self._needs.get(derivation, NOTHING))
        platform = self._platforms.get(key)
        if platform is None:
            platform = self._platforms[key] = platform_of(*key)
        return platform

    def need(self, asked: Mapping[int, Needs]) -> None:
        """Replace what builds take by rules of their jobsets, by derivation."""
        changed = [each for each in {*asked, *self._needs} if each in self.graph]
        self._needs = dict(asked)
        for each in changed:
            build = self.builds[each]
            platform = self._platform(each, build.system, build.features, build.unsupported)
            self.graph.ask(each, platform)

    def leave(self, derivations: Collection[int]) -> None:
        """Forget the names of builds that left the graph."""
        for derivation in derivations:
            build = self.builds.pop(derivation, None)
            if build is not None:
                del self.ids[build.path]

    def withdraw(self, derivations: Collection[int]) -> None:
        """Take builds that nothing needs out of the graph."""
        self.graph.remove(derivations)
        self.leave(derivations)

    def bump(self, derivations: Collection[int]) -> None:
        """Note that a person wants builds first; takes effect with the next `want`."""
        for each in derivations:
            self.builds[each] = self.builds[each]._replace(bumped=True)

    def end_bump(self, derivation: int) -> bool:
        """Note that a build has ended, and with it the hurry; whether there was any.

        Takes effect with the next `want`.
        """
        build = self.builds[derivation]
        self.builds[derivation] = build._replace(bumped=False)
        return build.bumped

    def failed_again(self, derivation: int) -> None:
        """Count an infrastructure failure."""
        build = self.builds[derivation]
        self.builds[derivation] = build._replace(failures=build.failures + 1)

    def forgive(self, derivations: Collection[int]) -> None:
        """Count infrastructure failures from nothing again."""
        for each in derivations:
            self.builds[each] = self.builds[each]._replace(failures=0)

    # --- Durations -------------------------------------------------------------------------

    def expected_seconds(self, name: str, system: str) -> float:
        """What past builds of its name say that a builder of speed 1 takes; with none, those of all
        names.

        It is their mean, not their median: that a long build is begun too late costs more than that
        a short one is begun too early.
        """
        return self._durations.get((package_name(name), system), self._usual)

    def learn(self, name: str, system: str, seconds: float) -> None:
        """Note what a builder of speed 1 would take, as `database.built.set_duration` does."""
        key = (package_name(name), system)
        known = self._durations.get(key)
        learnt = seconds if known is None else (known + seconds) / 2
        self._durations[key] = learnt
        self._all_seconds += learnt - (known or 0.0)
        self._usual = self._mean()

    def _mean(self) -> float:
        return self._all_seconds / len(self._durations) if self._durations else DEFAULT_SECONDS

    # --- Who wants what --------------------------------------------------------------------

    def want(self, jobs: Iterable[WantedJob], jobsets: Collection[Jobset]) -> None:
        """Replace the jobs in force. Those of `jobsets` are built; others only stay wanted."""
        self._jobs = {}
        self._bits = {}
        for job in jobs:
            self._jobs.setdefault(job.derivation, []).append(job)
            self._bits.setdefault(job.jobset, 1 << len(self._bits))
        shares = {jobset.name: jobset.shares for jobset in jobsets}
        self.scheduler.demand(
            (
                Demand(
                    jobset=job.jobset,
                    derivation=job.derivation,
                    priority=LAST if job.audit else job.priority,
                    requested=self._bumped(job.derivation),
                )
                for jobs_of_one in self._jobs.values()
                for job in jobs_of_one
                if job.jobset in shares
            ),
            shares,
            {each.name: each.branch_of for each in jobsets if each.branch_of is not None},
        )
        self._version += 1

    def _bumped(self, derivation: int) -> bool:
        build = self.builds.get(derivation)
        return build is not None and build.bumped

    def jobs(self, derivation: int) -> Collection[WantedJob]:
        """The jobs in force that a derivation is."""
        return self._jobs.get(derivation, ())

    def wanting(self, derivation: int) -> frozenset[JobsetName]:
        """The jobsets in force that need a derivation of the graph."""
        mask = self._wanted().get(derivation, 0)
        return frozenset(name for name, bit in self._bits.items() if mask & bit)

    def unwanted(self) -> frozenset[int]:
        """What is in the graph although no job in force needs it."""
        self._wanted()
        return frozenset(each for each in self._unwanted if each in self.graph)

    def _wanted(self) -> dict[int, int]:
        """Who wants what, as bits.

        Computed anew when nodes or jobs came or went, not when a build ended: what left the graph
        does no harm here.
        """
        now = (self.graph.shape, self._version)
        if self._masked_at != now:
            roots: dict[int, int] = {}
            for derivation, jobs in self._jobs.items():
                for job in jobs:
                    roots[derivation] = roots.get(derivation, 0) | self._bits[job.jobset]
            self._masks = self.graph.wanted(roots)
            self._unwanted = {n.id for n in self.graph.nodes if n.id not in self._masks}
            self._masked_at = now
        return self._masks

    def limits(self, derivation: int, jobsets: Mapping[JobsetName, Jobset]) -> Limits:
        """The largest limits of those that want it; a job's own go before its jobset's."""
        names = [name for name in self.wanting(derivation) if name in jobsets]
        limits = [jobsets[name].limits for name in names]
        own: dict[JobsetName, list[WantedJob]] = {}
        for job in self._jobs.get(derivation, ()):
            own.setdefault(job.jobset, []).append(job)
        timeouts: list[float | None] = []
        silences: list[float | None] = []
        for name, given in zip(names, limits, strict=True):
            jobs = own.get(name, ())
            timeouts += [job.timeout or given.timeout for job in jobs] or [given.timeout]
            silences += [job.max_silent or given.max_silent for job in jobs] or [given.max_silent]
        return Limits(
            timeout=_largest(timeouts),
            max_silent=_largest(silences),
            max_log=_largest([each.max_log for each in limits]),
            max_output=_largest([each.max_output for each in limits]),
        )


def _largest(bounds: list[Bound | None]) -> Bound | None:
    """The largest of the bounds, of which None is no bound at all."""
    given = [bound for bound in bounds if bound is not None]
    return max(given) if given and len(given) == len(bounds) else None
