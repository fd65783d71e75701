"""Why a job is as it is, and what changed between two evaluations.

Pure: facts in, values out. Neither reads the database nor prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from reconciler.model import BuilderName, BuildState
from reconciler.resources import Needs
from reconciler.scheduler import Obstacle, Slots
from reconciler.status import JobState, counted, job_state
from reconciler.work import LiveBuild, Work

# --- Why ---------------------------------------------------------------------------------------


class Step(Struct, frozen=True, kw_only=True):
    """One derivation of a chain, or one that is waited for."""

    id: int
    name: str
    path: str
    state: JobState


class BuilderAnswer(Struct, frozen=True, kw_only=True):
    """Why a builder does not take a build; no reasons: it takes it next."""

    builder: BuilderName
    reasons: tuple[str, ...]


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a derivation that does not exist is not built."""

    state: JobState
    message: str
    """One sentence."""
    chain: tuple[Step, ...]
    """From the derivation down to the root cause, or to what is waited for."""
    waiting_for: tuple[Step, ...] = ()
    """Direct inputs that do not exist yet."""
    remaining: int = 0
    """Builds still to be done before it, itself not counted."""
    builders: tuple[BuilderAnswer, ...] = ()
    """Of the last of the chain, if it only waits for a builder."""
    retry_at: float | None = None
    """When the last of the chain is tried again."""
    fails_at: float | None = None
    """When the last of the chain, which waits for a builder that can, counts as failed."""

    @property
    def last(self) -> Step:
        """The root cause, or what is waited for."""
        return self.chain[-1]


def explain(
    derivation: int,
    builds: Sequence[LiveBuild],
    slots: Sequence[Slots],
    *,
    attempts: int,
    now: float,
    needless: bool = False,
    fails_at: Mapping[int, float] | None = None,
    asked: Mapping[int, Needs] | None = None,
    kept_free: KeptFree | None = None,
) -> Explanation:
    """Explain one that does not exist, from all below it that does not exist either.

    `attempts`: after so many infrastructure failures a build counts as failed; `needless`: only
    what cannot be built needs it; `fails_at`: of what no builder can build but waits for one,
    when it counts as failed; `asked`: what rules say that builds take; `kept_free`: says what
    builders keep free for others than a derivation, which is a lot of work.
    """
    waits = fails_at or {}
    work = Work({})
    work.need(asked or {})
    work.join(builds)
    hopeless = {*work.scheduler.unsupported(slots)}
    hopeless |= {each.id for each in builds if each.state.live and each.unsupported is not None}
    exhausted = {each.id for each in builds if _exhausted(each, attempts)}
    dead = {each.id for each in builds if not each.state.live} | hopeless | exhausted

    def step(key: int) -> Step:
        build = work.builds[key]
        state = job_state(build.state)
        if key in hopeless:
            state = JobState.WAITING if key in waits else JobState.UNSUPPORTED
        elif key in exhausted:
            state = JobState.FAILED
        return Step(id=key, name=build.name, path=build.path, state=state)

    if derivation in dead:
        return _ended(step(derivation), work, slots, waits, now=now)
    # What failed for good says more than what may still find a builder.
    chain = _path_to(derivation, dead.difference(waits), work) or _path_to(derivation, dead, work)
    if chain:
        return _dependency_failed([step(key) for key in chain], work, slots, waits, now=now)
    if needless:
        message = "it is not built: only what cannot be built needs it"
        return Explanation(state=JobState.QUEUED, message=message, chain=(step(derivation),))
    explanation = _waiting(derivation, work, slots, step, now=now)
    last = explanation.last.id
    if kept_free is None or not work.graph[last].platform.needs:
        return explanation
    if all(each.reasons for each in explanation.builders):
        return explanation
    return _without_what_is_kept(explanation, kept_free(last))


KeptFree = Callable[[int], Mapping[BuilderName, str]]


def _without_what_is_kept(found: Explanation, kept: Mapping[BuilderName, str]) -> Explanation:
    """What takes resources is not started with those that are kept free for another."""
    builders = tuple(
        each
        if each.reasons or each.builder not in kept
        else replace(each, reasons=(kept[each.builder],))
        for each in found.builders
    )
    message = found.message
    if len(found.chain) == 1 and builders != found.builders:
        message = _no_builder_yet(builders, retry=found.retry_at is not None)
    return replace(found, builders=builders, message=message)


def _exhausted(build: LiveBuild, attempts: int) -> bool:
    return build.state is BuildState.QUEUED and build.failures >= attempts


def _path_to(start: int, targets: set[int], work: Work) -> list[int]:
    """The shortest way down from one to the nearest of the targets; of those the lowest."""
    came_from: dict[int, int] = {start: start}
    level = [start]
    while level:
        reached = sorted(key for key in level if key in targets)
        if reached:
            path = [reached[0]]
            while path[-1] != start:
                path.append(came_from[path[-1]])
            return path[::-1]
        below = []
        for key in level:
            for needed in work.graph.waiting_on(key):
                if needed not in came_from:
                    came_from[needed] = key
                    below.append(needed)
        level = below
    return []


def _ended(
    step: Step, work: Work, slots: Sequence[Slots], waits: Mapping[int, float], *, now: float
) -> Explanation:
    build = work.builds[step.id]
    if step.state in (JobState.UNSUPPORTED, JobState.WAITING):
        return Explanation(
            state=step.state,
            message=build.unsupported or "no declared builder can build it",
            chain=(step,),
            builders=() if build.unsupported else _answers(step.id, work, slots),
            fails_at=waits.get(step.id),
        )
    if step.state is JobState.CANCELLED:
        message = "it was cancelled, or nothing wanted it any more"
    elif build.state.live:
        message = "every attempt so far failed for reasons of the infrastructure"
    else:
        message = f"its build ended as {build.state}"
    return Explanation(
        state=step.state,
        message=message,
        chain=(step,),
        retry_at=build.not_before if build.not_before > now else None,
    )


_FATE = {
    JobState.FAILED: "which failed",
    JobState.UNSUPPORTED: "which no builder can build",
    JobState.WAITING: "which no builder can build yet",
    JobState.CANCELLED: "which was cancelled",
}


def _dependency_failed(
    chain: list[Step], work: Work, slots: Sequence[Slots], waits: Mapping[int, float], *, now: float
) -> Explanation:
    root = _ended(chain[-1], work, slots, waits, now=now)
    state = JobState.DEPENDENCY_FAILED if root.state.bad else JobState.QUEUED
    above = [Step(id=each.id, name=each.name, path=each.path, state=state) for each in chain[:-1]]
    return Explanation(
        state=state,
        message=f"it needs {root.last.name}, {_FATE[root.last.state]}",
        chain=(*above, root.last),
        builders=root.builders,
        retry_at=root.retry_at,
        fails_at=root.fails_at,
    )


def _waiting(
    derivation: int,
    work: Work,
    slots: Sequence[Slots],
    step: Callable[[int], Step],
    *,
    now: float,
) -> Explanation:
    first = step(derivation)
    if first.state is JobState.BUILDING:
        return Explanation(state=first.state, message="it is being built", chain=(first,))
    waiting_for = tuple(step(key) for key in work.graph.waiting_on(derivation))
    building = {each.id for each in work.graph.nodes if each.state is BuildState.BUILDING}
    # What is being built will bring it forward; if nothing is, the nearest that could be.
    chain = _path_to(derivation, building, work) or _path_to(
        derivation, set(work.graph.ready), work
    )
    steps = tuple(step(key) for key in chain)
    last = work.builds[chain[-1]]
    retry_at = last.not_before if last.not_before > now else None
    builders = () if last.id in building else _answers(last.id, work, slots)
    if not waiting_for:
        message = _no_builder_yet(builders, retry=retry_at is not None)
    else:
        names = ", ".join(each.name for each in waiting_for[:3])
        more = f" and {len(waiting_for) - 3} more" if len(waiting_for) > 3 else ""
        message = f"it waits for {counted(len(waiting_for), 'input')}: {names}{more}"
    return Explanation(
        state=JobState.QUEUED,
        message=message,
        chain=steps,
        waiting_for=waiting_for,
        remaining=len(work.graph) - 1,
        builders=builders,
        retry_at=retry_at,
    )


_PASSING = frozenset(
    {Obstacle.DRAINED, Obstacle.UNAVAILABLE, Obstacle.AVOIDED, Obstacle.FULL, Obstacle.SHORT}
)


def _answers(derivation: int, work: Work, slots: Sequence[Slots]) -> tuple[BuilderAnswer, ...]:
    """What keeps each builder from it; of one that can never build it, not what passes."""
    found = []
    for name, refusals in work.scheduler.explain(derivation, slots).items():
        lasting = [each for each in refusals if each.obstacle not in _PASSING]
        reasons = tuple(each.message for each in lasting or refusals)
        found.append(BuilderAnswer(builder=name, reasons=reasons))
    return tuple(found)


def _no_builder_yet(builders: Sequence[BuilderAnswer], *, retry: bool) -> str:
    if retry:
        return "it is ready, and tried again after a pause"
    if any(not each.reasons for each in builders):
        return "it is ready and starts next"
    return "it is ready, and no builder takes it now"


# --- Differences -------------------------------------------------------------------------------


class Change(StrEnum):
    """What became of a job from one evaluation to another."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


class Health(StrEnum):
    """What became of a job's health."""

    NEWLY_FAILING = "newly failing"
    STILL_FAILING = "still failing"
    NEWLY_FIXED = "newly fixed"


class ComparedJob(Struct, frozen=True, kw_only=True):
    """A job of one of two evaluations."""

    derivation: str | None
    """Its path; None: it does not evaluate."""
    state: JobState


class JobDifference(Struct, frozen=True, kw_only=True):
    """A job that differs, or fails."""

    attr: str
    change: Change
    health: Health | None
    before: ComparedJob | None
    after: ComparedJob | None


def compare(
    before: Mapping[str, ComparedJob], after: Mapping[str, ComparedJob]
) -> tuple[JobDifference, ...]:
    """What differs between two evaluations, by job; what is unchanged and good is left out."""
    found = []
    for attr in sorted({*before, *after}):
        old, new = before.get(attr), after.get(attr)
        change, health = _change(old, new), _health(old, new)
        if change is not Change.UNCHANGED or health is not None:
            found.append(
                JobDifference(attr=attr, change=change, health=health, before=old, after=new)
            )
    return tuple(found)


def _change(old: ComparedJob | None, new: ComparedJob | None) -> Change:
    if old is None:
        return Change.ADDED
    if new is None:
        return Change.REMOVED
    return Change.UNCHANGED if old.derivation == new.derivation else Change.CHANGED


def _health(old: ComparedJob | None, new: ComparedJob | None) -> Health | None:
    if new is None:
        return None
    was_bad = old is not None and old.state.bad
    if new.state.bad:
        return Health.STILL_FAILING if was_bad else Health.NEWLY_FAILING
    return Health.NEWLY_FIXED if was_bad and new.state is JobState.SUCCEEDED else None
