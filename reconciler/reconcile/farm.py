"""What the loop holds in memory: derived from the database, or about this process only.

Changes to it always follow the database: first what happened is recorded, then it is applied
here. Decides nothing, starts nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from enum import Enum, auto

from msgspec import Struct, field

from reconciler import branches, quarantine
from reconciler.branches import Head
from reconciler.database import (
    Database,
    asked,
    built,
    companions,
    declared,
    due,
    needs,
    observe,
    troubles,
)
from reconciler.database import branches as stored
from reconciler.executor import Executor
from reconciler.model import (
    AttemptResult,
    Builder,
    BuilderName,
    BuildState,
    CacheName,
    Desired,
    DrvPath,
    Jobset,
    JobsetName,
    PushScope,
)
from reconciler.plan import RunningBuild
from reconciler.quarantine import Trouble
from reconciler.reconcile.unqueued import Unqueued
from reconciler.scheduler import Slots
from reconciler.source import LockedSource
from reconciler.store import Store
from reconciler.transitions import Cause
from reconciler.work import LiveBuild, Work

FaultKey = tuple[str, str, str]
"""Kind of the object, its name, the reason."""
KEYLESS = "secret-missing"
"""The reason of a fault that keeps a builder or a cache from being used at all."""
UNASKED = "not-asked-for"
"""The reason of one that only tells why a builder is idle."""


class Progress(Struct):
    """What this process knows of a jobset beyond the database."""

    busy: bool = False
    polled_at: float | None = None
    locked: LockedSource | None = None
    triggered: str | None = None
    forced: str | None = None
    head: Head | None = None
    """Of a branch: where it stands."""
    heads: dict[str, Head] = field(default_factory=dict)
    """Of one that is declared for branches: all that are asked for, as they were listed last."""
    listed: bool = False
    """That could be done when it was tried last."""
    awaiting: dict[JobsetName, str] = field(default_factory=dict)
    """Branches that a person asked to evaluate, as soon as it is known where they stand."""


FIRST_PAUSE = 30.0
LONGEST_PAUSE = 3600.0
"""Seconds before something is tried again that failed once, or time and again."""


class Away(Struct):
    """Outputs that are to be fetched: what trying came to."""

    not_before: float = 0.0
    failures: int = 0
    error: str | None = None

    def put_off(self, *, now: float) -> None:
        """Wait longer after each failure."""
        self.not_before = now + min(FIRST_PAUSE * 2**self.failures, LONGEST_PAUSE)
        self.failures = min(self.failures + 1, 10)


class AuditStage(Enum):
    """How far this process is with an audit."""

    FINDING = auto()
    """What is to be built for it."""
    BUILDING = auto()
    COMPARING = auto()


class Farm(Struct):
    """See the module's text."""

    database: Database
    executor: Executor
    store: Store
    systems: frozenset[str]
    """What the local machine builds for."""
    desired: Desired
    work: Work
    progress: dict[JobsetName, Progress] = field(default_factory=dict)
    running: dict[int, RunningBuild] = field(default_factory=dict)
    """By derivation."""
    pushing: set[CacheName] = field(default_factory=set)
    asked: dict[CacheName, int] = field(default_factory=dict)
    """How far in the queue it was asked what a cache has already."""
    left_alone: dict[CacheName, float] = field(default_factory=dict)
    """Caches whose servers asked for a pause, and until when."""
    accompanying: set[CacheName] = field(default_factory=set)
    """Those to which logs and realisations are being sent."""
    inspecting: set[CacheName] = field(default_factory=set)
    inspected_at: dict[CacheName, float] = field(default_factory=dict)
    """When looking into caches was begun; of one that was seen the database knows."""
    collecting: set[CacheName] = field(default_factory=set)
    marked_at: dict[CacheName, float] = field(default_factory=dict)
    collected_at: dict[CacheName, float] = field(default_factory=dict)
    """When caches were last looked through for what nothing needs, and that was begun to be
    deleted; of what went well the database knows."""
    unqueued: Unqueued = field(default_factory=Unqueued)
    """Derivations whose outputs are to be put on caches' queues."""
    away: dict[int, Away] = field(default_factory=dict)
    """Jobs' derivations whose outputs exist, but only in substituters."""
    fetching: bool = False
    sharing: set[str] = field(default_factory=set)
    unshared: dict[str, Away] = field(default_factory=dict)
    """Artifact stores to which something is being sent, and those for which that failed."""
    share_due: bool = True
    """They may have to get or to lose something."""
    keeping: set[int] = field(default_factory=set)
    """Builds of which a base is being made, or could not be."""
    fallen: set[tuple[JobsetName, int]] = field(default_factory=set)
    """Builds from bases for whose failure something was done for a jobset."""
    auditing: dict[int, AuditStage] = field(default_factory=dict)
    discarding: dict[int, DrvPath] = field(default_factory=dict)
    """Builds whose wrong outputs are being deleted, and what is not built meanwhile."""
    retaking: frozenset[DrvPath] = frozenset()
    """Those of them that are looked at again after that."""
    undiscarded: Away = field(default_factory=Away)
    """What trying to delete them came to."""
    tidied: str | None = None
    """The document of which it was seen to what it has no use for."""
    held: frozenset[int] = frozenset()
    """Derivations whose outputs no cache is to get, as audits have it."""
    spoilt: frozenset[int] = frozenset()
    """Those of them whose outputs are to be deleted: they are neither rooted nor fetched."""
    cancelled: set[int] = field(default_factory=set)
    """Running builds that a person asked to stop."""
    sweep_due: bool = False
    """Evaluations were forgotten since builds were last swept."""
    troubles: dict[BuilderName, Trouble] = field(default_factory=dict)
    """Of builders that failed since they last built something."""
    faults: dict[FaultKey, str] = field(default_factory=dict)
    reported: Mapping[FaultKey, str] | None = None
    """The conditions that the database has; None: those of another process."""

    def progress_of(self, jobset: JobsetName) -> Progress:
        """What is known of a jobset; made when it is first asked for."""
        return self.progress.setdefault(jobset, Progress())

    def trigger(self, jobset: JobsetName, *, cause: str, force: bool) -> None:
        """Have a jobset's source looked at; `force`: and evaluated even if it is unchanged."""
        progress = self.progress_of(jobset)
        progress.triggered = cause
        if force:
            progress.forced = cause

    def incremental_jobsets(self) -> list[Jobset]:
        """The declared jobsets with incremental builds."""
        return [each for each in self.desired.jobsets.values() if each.incremental.enable]

    # --- Desired ---------------------------------------------------------------------------

    def adopt(self, desired: Desired, *, now: float) -> None:
        """Take a document as what is desired; one that is in force already changes nothing."""
        desired = branches.expanded(desired, stored.known(self.database))
        self._declared_for_branches(desired)
        for name, jobset in desired.jobsets.items():
            before = self.desired.jobsets.get(name)
            if before is not None and before.source != jobset.source:
                self.trigger(name, cause="another source is declared", force=False)
        for cache in desired.caches.values():
            before_it = self.desired.caches.get(cache.name)
            if before_it is not None and before_it.uri != cache.uri:
                self.left_alone.pop(cache.name, None)
        self.desired = desired
        self.executor.artifact_stores = desired.artifact_stores
        self.share_due = True
        due.everything(self.database)
        in_force = observe.document_in_force(self.database)
        if in_force is None or in_force[0] != desired.digest:
            old = {} if in_force is None else _builders(in_force[1])
            new = _builders(desired.document)
            for builder in [*self.troubles]:
                if old.get(builder) != new.get(builder):
                    self.builder_works(builder)  # perhaps: it is to be found out
            declared.adopt(self.database, desired, now=now)
        self.want()
        self.look_for_pushes()

    def _declared_for_branches(self, desired: Desired) -> None:
        """Have branches listed that are declared otherwise than before."""
        for name in desired.patterns.keys() & self.desired.jobsets.keys():
            self._declared_anew(name)
        for name in self.desired.patterns.keys() & desired.jobsets.keys():
            self._declared_anew(name)
        for name, jobset in desired.patterns.items():
            before = self.desired.patterns.get(name)
            if before is None or (before.source, before.branches) == (
                jobset.source,
                jobset.branches,
            ):
                continue
            self.trigger(name, cause="other branches are declared", force=False)
            if branches.repository(before.source) != branches.repository(jobset.source):
                self.progress_of(name).heads = {}
                for each in desired.jobsets.values():
                    if each.branch_of == name:
                        self.progress_of(each.name).head = None

    def _declared_anew(self, name: JobsetName) -> None:
        """Have looked at what is for branches now, or no longer; what was wrong was of another."""
        self.trigger(name, cause="it is declared otherwise", force=False)
        for key in [key for key in self.faults if key[:2] == ("jobset", name)]:
            del self.faults[key]

    def active_jobsets(self) -> list[Jobset]:
        """Those for which builds are started."""
        suspended = observe.suspended_jobsets(self.database)
        return [
            jobset
            for jobset in self.desired.jobsets.values()
            if jobset.enabled and jobset.name not in suspended
        ]

    def want(self) -> None:
        """Read again which jobs are in force."""
        rules = {name: jobset.resources for name, jobset in self.desired.jobsets.items()}
        self.work.need(needs.by_rule(self.database, rules))
        self.work.want(observe.wanted_jobs(self.database), self.active_jobsets())
        self._look_for_idle()

    def _look_for_idle(self) -> None:
        """Note which builders take nothing but what nothing asks for, once that is known."""
        served = [each.name for each in self.desired.jobsets.values() if each.enabled]
        for builder in self.desired.builders.values():
            wanted = builder.mandatory_features
            said = ("builder", builder.name, UNASKED) in self.faults
            idle = (
                bool(wanted)
                and (said or asked.are_evaluated(self.database, served))
                and not asked.features_asked_for(self.database, wanted)
            )
            self.fault("builder", builder.name, UNASKED, _unasked(wanted) if idle else None)

    def slots(self, *, now: float) -> tuple[Slots, ...]:
        """The builders as they are now."""
        taken = Counter(each.builder for each in self.running.values())
        amounts: dict[BuilderName, Counter[str]] = {}
        for each in self.running.values():
            for name, wanted in self.work.graph[each.derivation].platform.needs:
                amounts.setdefault(each.builder, Counter())[name] += wanted.count
        return tuple(
            self._slots(builder, taken[builder.name], amounts.get(builder.name, {}), now=now)
            for builder in self.desired.builders.values()
        )

    def _slots(
        self, builder: Builder, taken: int, amounts: Mapping[str, int], *, now: float
    ) -> Slots:
        trouble = self.troubles.get(builder.name)
        away = trouble is not None and trouble.quarantined and now < trouble.until
        no_key = self.faults.get(("builder", builder.name, KEYLESS))
        return Slots(
            builder=builder,
            systems=self.systems if builder.systems is None else frozenset(builder.systems),
            free=quarantine.free(trouble, slots=builder.max_jobs, taken=taken, now=now),
            unavailable=trouble.message if trouble is not None and away else no_key,
            until=trouble.until if trouble is not None and away else None,
            on_trial=trouble is not None and trouble.quarantined,
            taken=amounts,
        )

    def builder_failed(self, builder: BuilderName, result: AttemptResult, *, now: float) -> None:
        """Note that an attempt came to nothing for reasons of its builder."""
        trouble = quarantine.failed(
            self.troubles.get(builder),
            started_at=result.started_at,
            now=now,
            error=result.message,
            unfit=result.builder_unfit,
        )
        self._trouble(builder, trouble)
        troubles.remember(self.database, builder, trouble)

    def _trouble(self, builder: BuilderName, trouble: Trouble) -> None:
        self.troubles[builder] = trouble
        if trouble.quarantined:
            self.fault("builder", builder, "quarantined", trouble.message)

    def builder_works(self, builder: BuilderName) -> None:
        """Note that a builder brought an attempt to an end."""
        if self.troubles.pop(builder, None) is not None:
            self.fault("builder", builder, "quarantined", None)
            troubles.forget(self.database, builder)

    def recall_troubles(self, *, now: float) -> None:
        """Take over what builders went through before this began."""
        for builder, trouble in troubles.troubles(self.database).items():
            self._trouble(builder, quarantine.recalled(trouble, now=now))

    def try_builders(self, *, now: float) -> None:
        """Try those in quarantine without a pause, each by one build."""
        for builder, trouble in self.troubles.items():
            self._trouble(builder, quarantine.due(trouble, now=now))

    # --- Builds ----------------------------------------------------------------------------

    def join(self, derivations: Iterable[int], *, lost: Collection[int] = (), now: float) -> None:
        """Take builds into the graph, with all below that do not exist and are not there yet.

        What was withdrawn while an evaluation that wants it was being read is wanted again. Those
        that were `lost` existed once: what is in the graph may have to wait for them.
        """
        found: dict[int, LiveBuild] = {}
        asked = {each for each in derivations if each not in self.work.graph}
        while asked:
            for build in observe.live_builds(self.database, asked):
                found[build.id] = build
            asked = {
                needed
                for build in found.values()
                for needed in build.inputs
                if needed not in found and needed not in self.work.graph
            }
        withdrawn = [each for each in found.values() if each.state is BuildState.CANCELLED]
        built.set_build_states(
            self.database,
            [(each.id, each.state, BuildState.QUEUED) for each in withdrawn],
            cause=Cause.WANTED_AGAIN,
            now=now,
        )
        for each in withdrawn:
            found.update({b.id: b for b in observe.live_builds(self.database, [each.id])})
        needed_by = {
            needed: [each for each in dependants if each in self.work.graph]
            for needed, dependants in observe.dependants(
                self.database, [each for each in lost if each in found]
            ).items()
        }
        self.work.join(found.values(), needed_by)
        for derivation in found:
            self.away.pop(derivation, None)

    def settle(self, derivation: int, state: BuildState) -> None:
        """Apply a build's end to the graph, and what follows from it for caches."""
        jobsets = self.work.wanting(derivation)
        jobs = self.work.jobs(derivation)
        audit = bool(jobs) and all(job.audit for job in jobs)
        if derivation in self.work.graph:
            self.work.graph.settle(derivation, state)
            if self.work.end_bump(derivation) and not state.good:
                self.want()
        if state.good:
            self.work.leave([derivation])
            if not audit:
                self._queue(derivation, jobsets, {job.jobset for job in jobs if not job.audit})

    def hold_outputs(self, evaluation: int, derivations: Iterable[int]) -> None:
        """Root the outputs of an evaluation's jobs."""
        found = observe.outputs(self.database, {*derivations} - self.spoilt)
        paths = [path for each in found.values() for path in each.values()]
        if paths:
            self.executor.roots.hold(evaluation, paths)

    def hold_jobs(self) -> None:
        """Root the outputs of all jobs in force that exist, as far as they are not rooted yet."""
        jobs: dict[int, set[int]] = {}
        for job in observe.wanted_jobs(self.database):
            if job.derivation not in self.work.graph and job.derivation not in self.away:
                jobs.setdefault(job.evaluation, set()).add(job.derivation)
        for evaluation, derivations in jobs.items():
            self.hold_outputs(evaluation, derivations)

    def exhausted(self, derivation: int) -> bool:
        """Whether a build failed for reasons not its own as often as its jobsets allow."""
        allowed = [
            self.desired.jobsets[name].retry.attempts
            for name in self.work.wanting(derivation)
            if name in self.desired.jobsets
        ]
        return self.work.builds[derivation].failures >= max(allowed, default=1)

    def backoff(self, derivation: int) -> float:
        """Seconds to wait after an infrastructure failure: the most patient jobset decides."""
        given = [
            self.desired.jobsets[name].retry.backoff
            for name in self.work.wanting(derivation)
            if name in self.desired.jobsets
        ]
        return max(given, default=DEFAULT_BACKOFF)

    # --- Caches ----------------------------------------------------------------------------

    def declared(self, jobsets: Iterable[JobsetName]) -> list[Jobset]:
        """Those of the jobsets that are declared still."""
        return [self.desired.jobsets[name] for name in jobsets if name in self.desired.jobsets]

    def _queue(
        self, derivation: int, wanting: Iterable[JobsetName], jobs: Collection[JobsetName]
    ) -> None:
        """Note that what was built for jobsets belongs in their caches, where all does or where it
        is one of their jobs.
        """
        for jobset in self.declared(wanting):
            for cache, rule in jobset.caches.items():
                if jobset.name in jobs or rule.scope is PushScope.ALL:
                    self.unqueued.add(cache, rule, [derivation])

    def look_for_pushes(self) -> None:
        """Find everything that exists and belongs in a cache but is not on its queue."""
        self.unqueued.look(self.database, self.desired)
        for cache in self.desired.caches.values():
            if cache.logs:
                companions.queue_logs_of_pushed(self.database, cache.name)

    def left_alone_until(self, cache: CacheName, *, now: float) -> float | None:
        """The end of the pause that a cache's server asked for; None: there is none, or no more."""
        until = self.left_alone.get(cache, 0.0)
        return until if until > now else None

    # --- Faults ----------------------------------------------------------------------------

    def fault(self, kind: str, name: str, reason: str, message: str | None) -> None:
        """Note that something is wrong with an object, or (None) that it is no longer."""
        if message is None:
            self.faults.pop((kind, name, reason), None)
        else:
            self.faults[kind, name, reason] = message


def _unasked(features: Collection[str]) -> str:
    """In words."""
    all_of = "feature" if len(features) == 1 else "features, all of"
    return (
        f"nothing that is evaluated asks for its mandatory {all_of} {', '.join(features)}: it gets"
        " no work"
    )


def _builders(document: str) -> dict[BuilderName, object]:
    """How a document, as it is stored, declares each builder."""
    found: dict[BuilderName, object] = json.loads(document).get("builders", {})
    return found


DEFAULT_BACKOFF = 30.0
"""Seconds, for a build whose jobsets are all gone."""
