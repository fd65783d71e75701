"""How far the farm is: declared against observed, each object with a verdict and in words.

Pure: facts in, a report out. Neither reads the database nor prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct, field

from reconciler.push_progress import PushProgress, outlook
from reconciler.states import BuilderName, BuildState, CacheName, EvaluationState, JobsetName


class Verdict(StrEnum):
    """What a report comes to."""

    IN_SYNC = "in-sync"
    FAILED = "failed"
    IN_PROGRESS = "in-progress"
    UNKNOWN = "unknown"


EXIT_STATUS: Mapping[Verdict, int] = {
    Verdict.IN_SYNC: 0,
    Verdict.FAILED: 1,
    Verdict.IN_PROGRESS: 3,
    Verdict.UNKNOWN: 4,
}


UNSUPPORTED_GRACE = 3600.0
"""Seconds for which a build that no builder can build waits for one to be declared, before it
counts as failed."""


UNSEEN_GRACE = 2 * 86400.0
"""Seconds after which it is not known any more what a cache has. While a daemon runs, every path is
looked at within half of that."""


class JobState(StrEnum):
    """How a job is: its build's state, and what the graph adds to it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEPENDENCY_FAILED = "dependency-failed"
    EVALUATION_ERROR = "evaluation-error"
    UNSUPPORTED = "unsupported"
    WAITING = "waiting"
    """No builder can build it, but there may be one yet."""
    CANCELLED = "cancelled"
    BUILDING = "building"
    QUEUED = "queued"

    @property
    def live(self) -> bool:
        """Whether something is still to happen to it by itself."""
        return self in (JobState.BUILDING, JobState.QUEUED, JobState.WAITING)

    @property
    def bad(self) -> bool:
        """Whether nothing more happens although its outputs do not exist."""
        return not self.live and self is not JobState.SUCCEEDED


def job_state(build: BuildState) -> JobState:
    """What a build's own state makes of its job; the graph may say more of a queued one."""
    if build.good:
        return JobState.SUCCEEDED
    if build is BuildState.CANCELLED:
        return JobState.CANCELLED
    if build.bad:
        return JobState.FAILED
    return JobState.BUILDING if build is BuildState.BUILDING else JobState.QUEUED


# --- Facts -------------------------------------------------------------------------------------


class DocumentDrift(StrEnum):
    """How the document's file relates to the document in force."""

    SAME = "same"
    CHANGED = "changed"
    INVALID = "invalid"
    UNREADABLE = "unreadable"


class DocumentFacts(Struct, frozen=True, kw_only=True):
    """The document in force, and what its file says now."""

    file: str
    generation: int
    digest: str
    applied_at: float
    drift: DocumentDrift = DocumentDrift.SAME
    message: str | None = None
    """What is wrong with the file."""


class Condition(Struct, frozen=True, kw_only=True):
    """Something that is wrong with an object, as the daemon recorded it."""

    kind: str
    name: str
    reason: str
    message: str
    since: float


class EvaluationFacts(Struct, frozen=True, kw_only=True):
    """An evaluation."""

    id: int
    state: EvaluationState
    cause: str
    locked: str
    started_at: float
    finished_at: float | None
    error: str | None


class Suspension(Struct, frozen=True, kw_only=True):
    """Who suspended a jobset."""

    since: float
    by: str
    why: str


class JobsetFacts(Struct, frozen=True, kw_only=True):
    """A jobset: what is declared of it and what is stored."""

    name: JobsetName
    removed_at: float | None
    """When it was last declared; None: it is declared."""
    enabled: bool
    suspended: Suspension | None
    source: str
    caches: tuple[CacheName, ...]
    newest: EvaluationFacts | None
    current: EvaluationFacts | None
    """The evaluation whose jobs count: the good one in force, else the one that runs."""
    jobs: Mapping[JobState, int]
    conditions: tuple[Condition, ...] = ()
    patterns: tuple[str, ...] | None = None
    """It is declared for the branches that these ask for: it has no jobs itself."""
    branches: int = 0
    """Those that are there."""
    branch_of: JobsetName | None = None
    """It is a branch's, of the one that is declared."""
    branch: str | None = None


class CacheFacts(Struct, frozen=True, kw_only=True):
    """A cache's queue."""

    name: CacheName
    uri: str
    removed_at: float | None
    open: int
    failing: int
    """Open ones that failed before."""
    error: str | None
    next_due_at: float | None
    looked_at: float | None = None
    """When it was looked into last."""
    seen_at: float | None = None
    """By when at the latest all that was pushed was seen there; None: nothing was pushed."""
    unseen: bool = False
    """That is too long ago."""
    lost: int = 0
    """Derivations whose outputs the store has lost as well, and which are to be built again."""
    gone: int = 0
    """Those of them for which that failed."""
    progress: PushProgress | None = None
    """None: nothing is to be pushed, or nothing was sent yet."""
    beside: int = 0
    """Build logs and realisations that are to be pushed, of paths that are there."""
    beside_error: str | None = None
    """Why that failed so far."""
    conditions: tuple[Condition, ...] = ()


class BuilderFacts(Struct, frozen=True, kw_only=True):
    """A declared builder."""

    name: BuilderName
    uri: str | None
    systems: tuple[str, ...] | None
    features: tuple[str, ...]
    mandatory_features: tuple[str, ...]
    max_jobs: int
    speed_factor: float
    running: int
    drain: bool
    conditions: tuple[Condition, ...] = ()
    resources: Mapping[str, str | int] = field(default_factory=dict)
    """As the document writes them."""


class Problem(Struct, frozen=True, kw_only=True):
    """A job that is not there and will not be by itself."""

    jobset: JobsetName
    attr: str
    state: JobState
    derivation: str | None
    cause: str | None
    """The derivation for which it is not built, of a dependency-failed one."""
    message: str | None
    at: float | None


class Stuck(Struct, frozen=True, kw_only=True):
    """A queued build that nothing will come of by itself: no builder fits, or every attempt so
    far failed for the infrastructure.
    """

    derivation: str
    state: JobState
    message: str
    next_attempt_at: float | None = None
    fails_at: float | None = None
    """When one that waits for a builder counts as failed."""


class Facts(Struct, frozen=True, kw_only=True):
    """Everything a report is made from."""

    document: DocumentFacts
    daemon: int | None
    """The daemon's process; None: none runs."""
    jobsets: tuple[JobsetFacts, ...] = ()
    caches: tuple[CacheFacts, ...] = ()
    builders: tuple[BuilderFacts, ...] = ()
    conditions: tuple[Condition, ...] = ()
    """Of the document, and of artifact stores: the others are at their objects."""
    builds: Mapping[BuildState, int] = field(default_factory=dict)
    """Of those whose outputs do not exist; queued are those that can still be reached."""
    stuck: tuple[Stuck, ...] = ()
    problems: tuple[Problem, ...] = ()


# --- Report ------------------------------------------------------------------------------------


class JobsetStatus(Struct, frozen=True, kw_only=True):
    """A jobset's verdict, and why in a few words."""

    verdict: Verdict
    summary: str
    facts: JobsetFacts


class CacheStatus(Struct, frozen=True, kw_only=True):
    """A cache's verdict, and why in a few words."""

    verdict: Verdict
    summary: str
    facts: CacheFacts


class BuilderStatus(Struct, frozen=True, kw_only=True):
    """A builder's verdict, and why in a few words."""

    verdict: Verdict
    summary: str
    facts: BuilderFacts


class Report(Struct, frozen=True, kw_only=True):
    """The whole."""

    verdict: Verdict
    summary: str
    document: DocumentFacts
    daemon: int | None
    jobsets: tuple[JobsetStatus, ...]
    caches: tuple[CacheStatus, ...]
    builders: tuple[BuilderStatus, ...]
    conditions: tuple[Condition, ...]
    builds: Mapping[BuildState, int]
    stuck: tuple[Stuck, ...]
    problems: tuple[Problem, ...]

    @property
    def exit_status(self) -> int:
        """What a command that shows it ends with."""
        return EXIT_STATUS[self.verdict]


def report(facts: Facts) -> Report:
    """Judge everything."""
    jobsets = tuple(judge_jobset(each) for each in facts.jobsets)
    caches = tuple(judge_cache(each) for each in facts.caches)
    builders = tuple(judge_builder(each) for each in facts.builders)
    counted = [
        *(each.verdict for each in jobsets if not held(each.facts)),
        *(each.verdict for each in caches if each.facts.removed_at is None),
        *(each.verdict for each in builders),
        _document_verdict(facts),
    ]
    counted += [Verdict.FAILED if each.state.bad else Verdict.IN_PROGRESS for each in facts.stuck]
    verdict = worst(counted)
    return Report(
        verdict=verdict,
        summary=_summary(verdict, facts, jobsets),
        document=facts.document,
        daemon=facts.daemon,
        jobsets=jobsets,
        caches=caches,
        builders=builders,
        conditions=facts.conditions,
        builds=facts.builds,
        stuck=facts.stuck,
        problems=facts.problems,
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """What several come to: a failure counts before progress, so that it is seen at once."""
    found = set(verdicts)
    for verdict in (Verdict.UNKNOWN, Verdict.FAILED, Verdict.IN_PROGRESS):
        if verdict in found:
            return verdict
    return Verdict.IN_SYNC


def held(facts: JobsetFacts) -> bool:
    """Whether a jobset is left out of the verdict: nothing is to happen to it."""
    return facts.removed_at is not None or not facts.enabled or facts.suspended is not None


def _document_verdict(facts: Facts) -> Verdict:
    drift = facts.document.drift
    if facts.conditions or drift is DocumentDrift.INVALID:
        return Verdict.FAILED
    return Verdict.IN_PROGRESS if drift is DocumentDrift.CHANGED else Verdict.IN_SYNC


def judge_jobset(facts: JobsetFacts) -> JobsetStatus:
    """One jobset."""
    if facts.removed_at is not None:
        verdict, summary = Verdict.IN_SYNC, "pruned"
    elif facts.suspended is not None:
        verdict, summary = Verdict.IN_SYNC, f"suspended by {facts.suspended.by}"
    elif not facts.enabled:
        verdict, summary = Verdict.IN_SYNC, "disabled"
    else:
        verdict, summary = _judge_active(facts)
    return JobsetStatus(verdict=verdict, summary=summary, facts=facts)


def _judge_active(facts: JobsetFacts) -> tuple[Verdict, str]:
    bad = sum(count for state, count in facts.jobs.items() if state.bad)
    progress = _progress(facts) if facts.patterns is None else _listing(facts)
    reasons = [each.reason.replace("-", " ") for each in facts.conditions]
    if bad:
        reasons.append(f"{bad} failed")
    if reasons:
        return Verdict.FAILED, ", ".join(reasons + progress)
    if progress:
        return Verdict.IN_PROGRESS, ", ".join(progress)
    return Verdict.IN_SYNC, "in sync" if facts.patterns is None else branch_count(facts.branches)


def _listing(facts: JobsetFacts) -> list[str]:
    """What is to be done for one whose branches are jobsets; to have none is a condition."""
    return [] if facts.branches or facts.conditions else ["not listed yet"]


def branch_count(branches: int) -> str:
    """Branches in words."""
    return "1 branch" if branches == 1 else f"{branches} branches"


def _progress(facts: JobsetFacts) -> list[str]:
    """What is under way, or still to be."""
    found = []
    if facts.newest is None:
        found.append("not evaluated yet")
    elif facts.newest.state in (EvaluationState.PENDING, EvaluationState.RUNNING):
        found.append("evaluating")
    elif facts.current is None and not facts.conditions:
        found.append("to be evaluated again")
    if facts.jobs.get(JobState.BUILDING):
        found.append("building")
    elif facts.jobs.get(JobState.QUEUED):
        found.append("waiting for builds")
    if facts.jobs.get(JobState.WAITING):
        found.append("waiting for a builder")
    return found


def judge_cache(facts: CacheFacts) -> CacheStatus:
    """One cache."""
    if facts.removed_at is not None:
        return CacheStatus(verdict=Verdict.IN_SYNC, summary="pruned", facts=facts)
    found = [each.reason.replace("-", " ") for each in facts.conditions]
    if facts.failing:
        found.append(f"{facts.failing} failing")
    waiting = facts.open - facts.failing
    if waiting:
        found.append(f"{waiting} pending{outlook(facts.progress)}")
    if facts.beside:
        found.append(f"{facts.beside} logs or realisations pending")
    if facts.gone:
        found.append(f"{facts.gone} lost, and not to be built again")
    if facts.lost > facts.gone:
        found.append(f"{facts.lost - facts.gone} lost, to be built again")
    if facts.unseen:
        found.append("not looked into for too long: run the daemon, or reconciler caches verify")
    if facts.conditions or facts.failing or facts.gone or facts.beside_error:
        verdict = Verdict.FAILED
    elif facts.unseen:
        verdict = Verdict.UNKNOWN
    else:
        open_ = waiting or facts.lost or facts.beside
        verdict = Verdict.IN_PROGRESS if open_ else Verdict.IN_SYNC
    return CacheStatus(verdict=verdict, summary=", ".join(found) or "in sync", facts=facts)


ADVICE = frozenset({"not-asked-for"})
"""Reasons of a builder's conditions that only tell a person something, and are no failure."""


def judge_builder(facts: BuilderFacts) -> BuilderStatus:
    """One builder."""
    found = [each.reason.replace("-", " ") for each in facts.conditions]
    if facts.drain:
        found.append("drained" if not facts.running else "draining")
    broken = any(each.reason not in ADVICE for each in facts.conditions)
    verdict = Verdict.FAILED if broken else Verdict.IN_SYNC
    default = "building" if facts.running else "idle"
    return BuilderStatus(verdict=verdict, summary=", ".join(found) or default, facts=facts)


def _summary(verdict: Verdict, facts: Facts, jobsets: Iterable[JobsetStatus]) -> str:
    """One line. What is held is no part of the verdict, and only counted."""
    totals: dict[JobState, int] = {}
    names = left_out = 0
    for each in jobsets:
        if each.facts.removed_at is None and each.facts.patterns is None:
            if held(each.facts):
                left_out += 1
                continue
            names += 1
            for state, count in each.facts.jobs.items():
                totals[state] = totals.get(state, 0) + count
    parts = [verdict.replace("-", " ") + ":", counted(names, "jobset") + ",", count_jobs(totals)]
    open_pushes = sum(each.open for each in facts.caches if each.removed_at is None)
    if open_pushes:
        parts.append(f"· {counted(open_pushes, 'path')} to push")
    if left_out:
        parts.append(f"· {counted(left_out, 'jobset')} suspended or disabled")
    if facts.document.drift is DocumentDrift.INVALID:
        parts.append("· the document is not valid")
    if facts.daemon is None and verdict is Verdict.IN_PROGRESS:
        parts.append("· the daemon is not running")
    return " ".join(parts)


def count_jobs(jobs: Mapping[JobState, int]) -> str:
    """Counts in words, the good ones out of all first."""
    total = sum(jobs.values())
    if not total:
        return "no jobs"
    others = [
        f"{jobs[state]} {state}"
        for state in JobState
        if state is not JobState.SUCCEEDED and jobs.get(state)
    ]
    done = jobs.get(JobState.SUCCEEDED, 0)
    first = (
        f"{counted(total, 'job')} succeeded" if done == total else f"{done} of {total} succeeded"
    )
    return ", ".join([first, *others])


def gist(message: str) -> str:
    """The first line of an error that says anything."""
    return next((line.strip() for line in message.splitlines() if line.strip()), "")


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
