"""The difference between what is declared and what is so, as actions.

Pure: desired, observed and now in; actions, conditions and the next wake-up out. The daemon
carries the actions out, `reconciler plan` prints them. A converged state yields no action.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from reconciler.model import (
    BuilderName,
    CacheName,
    Desired,
    EvaluationState,
    Jobset,
    JobsetName,
    PushRule,
    StorePath,
)
from reconciler.quantities import time_of_day
from reconciler.scheduler import Assignment, Scheduler, Slots
from reconciler.upkeep import ASKED_TO_WAIT, Collect, Inspect, Mark, ObservedCache, upkeep

UNAVAILABLE_PAUSE = 60.0
"""Seconds until a source that could not be resolved is tried again, at the latest."""
FETCH_BATCH = 100
"""Derivations whose outputs are fetched in one go."""

# --- Observed ----------------------------------------------------------------------------------


class ObservedEvaluation(Struct, frozen=True, kw_only=True):
    """An evaluation, as stored."""

    id: int
    state: EvaluationState
    fingerprint: str
    locked: str
    error: str | None
    interrupted: bool
    """Cut off by a stop of the reconciler: no verdict on the source."""


class ObservedJobset(Struct, frozen=True, kw_only=True):
    """A jobset as the database and this process know it."""

    evaluations: tuple[ObservedEvaluation, ...] = ()
    """Newest first."""
    suspended: bool = False
    busy: bool = False
    """Its source is being resolved or evaluated just now."""
    polled_at: float | None = None
    """When this process resolved its source last, or failed to."""
    locked: Locked | None = None
    """What its source resolved to at that time; of one with branches, that they were listed."""
    unlisted: bool = False
    """It is a branch's, and nobody has seen yet where that stands."""
    triggered: str | None = None
    """Why it is to be polled at once: a request, a watched change."""
    forced: str | None = None
    """Why it is to be evaluated although nothing changed: a person asked."""


class Locked(Struct, frozen=True, kw_only=True):
    """A resolved source: what is shown, and what decides whether to evaluate again."""

    text: str
    fingerprint: str


class RunningBuild(Struct, frozen=True, kw_only=True):
    """A live attempt."""

    attempt: int
    derivation: int
    builder: BuilderName
    stopping: bool = False


class AwayOutputs(Struct, frozen=True, kw_only=True):
    """A job's outputs that exist, but not here: they are to be fetched, to be rooted and pushed."""

    derivation: int
    jobsets: tuple[JobsetName, ...]
    """Those that are served now and have the job."""
    not_before: float = 0.0
    failures: int = 0
    error: str | None = None
    """Why they could not be fetched so far."""


class Observed(Struct, frozen=True, kw_only=True):
    """Everything a tick looks at."""

    jobsets: Mapping[JobsetName, ObservedJobset]
    caches: Mapping[CacheName, ObservedCache]
    running: tuple[RunningBuild, ...]
    slots: tuple[Slots, ...]
    scheduler: Scheduler
    away: tuple[AwayOutputs, ...] = ()
    fetching: bool = False
    """A batch of them is on its way."""
    unwanted: frozenset[int] = frozenset()
    """Live derivations that no declared jobset wants any more."""
    rooted: frozenset[int] = frozenset()
    """Evaluations whose GC roots exist."""
    sweep_due: bool = False
    """Evaluations were forgotten since builds were last swept."""
    removed: tuple[JobsetName, ...] = ()
    """Jobsets in the database that are declared no longer but still hold something."""
    faults: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    """What effects reported as wrong: (kind, name, reason) to message."""
    retry_at: tuple[float, ...] = ()
    """When to look again at what failed and is no action."""

    @property
    def evaluating(self) -> bool:
        """Whether any jobset is being looked at or evaluated."""
        return any(jobset.busy for jobset in self.jobsets.values())


# --- Plan --------------------------------------------------------------------------------------


class Poll(Struct, frozen=True, kw_only=True):
    """Resolve a jobset's source."""

    jobset: JobsetName
    cause: str


class ListBranches(Struct, frozen=True, kw_only=True):
    """List the branches that a jobset is declared for."""

    jobset: JobsetName
    cause: str


class Evaluate(Struct, frozen=True, kw_only=True):
    """Evaluate what a jobset's source resolved to."""

    jobset: JobsetName
    locked: Locked
    cause: str


class Build(Struct, frozen=True, kw_only=True):
    """Start a build on a builder."""

    derivation: int
    builder: BuilderName


class Fetch(Struct, frozen=True, kw_only=True):
    """Fetch the outputs of derivations from substituters."""

    derivations: tuple[int, ...]


class StopBuild(Struct, frozen=True, kw_only=True):
    """Stop a running build that nothing needs."""

    attempt: int
    derivation: int


class Withdraw(Struct, frozen=True, kw_only=True):
    """Take queued builds that nothing needs off the queue."""

    derivations: tuple[int, ...]


class QueuePushes(Struct, frozen=True, kw_only=True):
    """Put the outputs of derivations, with what belongs to them, on a cache's queue."""

    cache: CacheName
    rule: PushRule
    derivations: tuple[int, ...]


class Push(Struct, frozen=True, kw_only=True):
    """Send a batch of paths to a cache, and ask for those behind it, which may be there."""

    cache: CacheName
    paths: tuple[StorePath, ...]
    further: tuple[StorePath, ...] = ()


class Accompany(Struct, frozen=True, kw_only=True):
    """Send logs and realisations to a cache, beside its paths."""

    cache: CacheName
    names: tuple[str, ...]


class Release(Struct, frozen=True, kw_only=True):
    """Remove an evaluation's GC roots."""

    evaluation: int


class Forget(Struct, frozen=True, kw_only=True):
    """Drop an evaluation beyond what its jobset keeps."""

    jobset: JobsetName
    evaluation: int


class Sweep(Struct, frozen=True, kw_only=True):
    """Drop the builds and logs that no kept evaluation needs."""


class Prune(Struct, frozen=True, kw_only=True):
    """A jobset is declared no longer: supersede what it has."""

    jobset: JobsetName


Action = (
    Poll
    | ListBranches
    | Evaluate
    | Build
    | Fetch
    | StopBuild
    | Withdraw
    | QueuePushes
    | Push
    | Accompany
    | Inspect
    | Mark
    | Collect
    | Release
    | Forget
    | Prune
    | Sweep
)


class Plan(Struct, frozen=True, kw_only=True):
    """What to do now, what is wrong, and when to look again."""

    actions: tuple[Action, ...]
    conditions: Mapping[tuple[str, str, str], str]
    """(kind, object's name, reason) to message."""
    wake_at: float | None
    """Seconds since the epoch; None: only when something happens."""


def plan(desired: Desired, observed: Observed, *, now: float) -> Plan:
    """Decide what to do."""
    actions: list[Action] = [Prune(jobset=name) for name in observed.removed]
    wakes: list[float] = []
    for jobset in (*desired.patterns.values(), *desired.jobsets.values()):
        seen = observed.jobsets.get(jobset.name, ObservedJobset())
        actions.extend(_evaluation(jobset, seen, now=now))
        if jobset.branches is None:
            actions.extend(_retention(jobset, seen))
        next_poll = _next_poll(jobset, seen)
        if _active(jobset, seen) and next_poll is not None:
            wakes.append(next_poll)
    actions.extend(_releases(desired, observed))
    actions.extend(_builds(observed, now=now))
    actions.extend(_fetches(observed, now=now))
    wakes.extend(each.not_before for each in observed.away if each.not_before > now)
    if observed.sweep_due and not observed.running and not observed.evaluating:
        actions.append(Sweep())
    for name, declared in desired.caches.items():
        cache = observed.caches.get(name, ObservedCache())
        actions.extend(_pushes(name, cache))
        wakes += [at for at in (cache.next_due_at, cache.left_alone_until) if at is not None]
        for due, action in upkeep(declared, cache, evaluating=observed.evaluating, now=now):
            if now < due:
                wakes.append(due)
            else:
                actions.append(action)
                break  # one at a time
    wakes.extend(at for at in observed.retry_at if at > now)
    scheduled = observed.scheduler.next_wake(now)
    if scheduled is not None:
        wakes.append(scheduled)
    wakes.extend(each.until for each in observed.slots if each.until is not None)
    return Plan(
        actions=tuple(actions),
        conditions=_conditions(desired, observed),
        wake_at=min(wakes, default=None),
    )


def _pushes(name: CacheName, cache: ObservedCache) -> Iterator[Action]:
    """What is to be found out, and sent, of what belongs in a cache."""
    for rule, derivations in cache.unqueued.items():
        yield QueuePushes(cache=name, rule=rule, derivations=derivations)
    if cache.left_alone_until is not None:
        return
    if cache.due and not cache.busy and not cache.collecting:
        yield Push(cache=name, paths=cache.due, further=cache.further)
    if cache.beside and not cache.accompanying and not cache.collecting:
        yield Accompany(cache=name, names=cache.beside)


def _evaluation(jobset: Jobset, seen: ObservedJobset, *, now: float) -> Iterator[Action]:
    """Whether a jobset is to be polled, or what it resolved to evaluated."""
    if not _active(jobset, seen):
        return
    cause = _poll_cause(jobset, seen, now=now)
    if jobset.branches is not None:
        if cause is not None:
            yield ListBranches(jobset=jobset.name, cause=cause)
    elif cause is not None:
        yield Poll(jobset=jobset.name, cause=cause)
    elif seen.locked is not None:
        cause = _evaluation_cause(seen, seen.locked)
        if cause is not None:
            yield Evaluate(jobset=jobset.name, locked=seen.locked, cause=cause)


def _active(jobset: Jobset, seen: ObservedJobset) -> bool:
    """Whether its source may be looked at now; at the end of what keeps it busy there is a tick."""
    return jobset.enabled and not seen.suspended and not seen.busy and not seen.unlisted


def _poll_cause(jobset: Jobset, seen: ObservedJobset, *, now: float) -> str | None:
    if seen.triggered is not None:
        return seen.triggered
    if seen.polled_at is None:
        return "start"
    next_poll = _next_poll(jobset, seen)
    if next_poll is not None and now >= next_poll:
        return "source was unavailable" if seen.locked is None else "interval"
    return None


def _next_poll(jobset: Jobset, seen: ObservedJobset) -> float | None:
    """When a source is looked at again by itself; one that was unavailable is, in any case."""
    if seen.polled_at is None:
        return None
    if seen.locked is None:
        return seen.polled_at + min(UNAVAILABLE_PAUSE, jobset.interval or UNAVAILABLE_PAUSE)
    return None if jobset.interval is None else seen.polled_at + jobset.interval


def _evaluation_cause(seen: ObservedJobset, locked: Locked) -> str | None:
    if seen.forced is not None:
        return seen.forced
    if not seen.evaluations:
        return "first evaluation"
    newest = seen.evaluations[0]
    if newest.interrupted:
        return "interrupted before"
    if newest.fingerprint != locked.fingerprint:
        return "source changed" if newest.locked != locked.text else "settings changed"
    if newest.state is EvaluationState.SUPERSEDED:
        return "declared again"
    return None


def kept_evaluations(jobset: Jobset, seen: ObservedJobset) -> frozenset[int]:
    """The evaluations whose results stay: the newest `keep` good ones, and all still running."""
    good = [
        each.id
        for each in seen.evaluations
        if each.state in (EvaluationState.SUCCEEDED, EvaluationState.SUPERSEDED)
    ]
    live = [
        each.id
        for each in seen.evaluations
        if each.state in (EvaluationState.PENDING, EvaluationState.RUNNING)
    ]
    return frozenset(good[: jobset.keep] + live)


def _retention(jobset: Jobset, seen: ObservedJobset) -> Iterator[Action]:
    """Evaluations beyond `keep` are forgotten; of failed ones, only newer ones are of interest."""
    kept = kept_evaluations(jobset, seen)
    failed = [each.id for each in seen.evaluations if each.state is EvaluationState.FAILED]
    kept |= set(failed[: jobset.keep])
    for each in seen.evaluations:
        if each.id not in kept:
            yield Forget(jobset=jobset.name, evaluation=each.id)


def _releases(desired: Desired, observed: Observed) -> Iterator[Action]:
    wanted: set[int] = set()
    for jobset in desired.jobsets.values():
        wanted |= kept_evaluations(jobset, observed.jobsets.get(jobset.name, ObservedJobset()))
    for evaluation in sorted(observed.rooted - wanted):
        yield Release(evaluation=evaluation)


def _builds(observed: Observed, *, now: float) -> Iterator[Action]:
    running = {each.derivation for each in observed.running}
    queued = observed.unwanted - running
    if queued:
        yield Withdraw(derivations=tuple(sorted(queued)))
    for each in observed.running:
        if each.derivation in observed.unwanted and not each.stopping:
            yield StopBuild(attempt=each.attempt, derivation=each.derivation)
    for assignment in assignments(observed, now=now):
        yield Build(derivation=assignment.derivation, builder=assignment.builder)


def assignments(observed: Observed, *, now: float) -> list[Assignment]:
    """Which builds start now, and where; none that nothing wants."""
    chosen = observed.scheduler.assignments(observed.slots, now=now)
    return [each for each in chosen if each.derivation not in observed.unwanted]


def _fetches(observed: Observed, *, now: float) -> Iterator[Action]:
    """A batch at a time: Nix fetches several at once by itself."""
    due = [each.derivation for each in observed.away if each.not_before <= now]
    if due and not observed.fetching:
        yield Fetch(derivations=tuple(due[:FETCH_BATCH]))


def _conditions(desired: Desired, observed: Observed) -> Mapping[tuple[str, str, str], str]:
    """What is wrong with each declared object."""
    conditions = {
        key: message
        for key, message in observed.faults.items()
        if _declared(desired, kind=key[0], name=key[1])
    }
    for away in observed.away:
        if away.error is not None:
            for name in away.jobsets:
                conditions["jobset", name, "not-fetched"] = away.error
    for cache, state in observed.caches.items():
        if state.left_alone_until is not None:
            until = time_of_day(state.left_alone_until)
            message = f"its server asks to be left alone until {until}"
            conditions["cache", cache, ASKED_TO_WAIT] = message
    for jobset in desired.jobsets.values():
        seen = observed.jobsets.get(jobset.name, ObservedJobset())
        newest = seen.evaluations[0] if seen.evaluations else None
        if newest is not None and newest.state is EvaluationState.FAILED and not newest.interrupted:
            conditions["jobset", jobset.name, "evaluation-failed"] = newest.error or "failed"
    return conditions


def _declared(desired: Desired, *, kind: str, name: str) -> bool:
    match kind:
        case "jobset":
            return name in desired.jobsets or name in desired.patterns
        case "builder":
            return name in desired.builders
        case "cache":
            return name in desired.caches
        case "artifact-store":
            return name in desired.artifact_stores
        case _:
            return True
