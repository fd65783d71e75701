"""One tick: collect what ended, observe, plan, record the intent, act, report.

Level-based: every tick looks at the world again; a signal only wakes. Never waits: effects run
in the executor and come back as outcomes. A tick with nothing to do writes nothing.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import NamedTuple

from msgspec import Struct

from reconciler.database import collected, companions, declared, inspected, observe, usage
from reconciler.errors import ConnectionLostError, NixError, NoNixError
from reconciler.model import CacheName, EvaluationState, Jobset, StorePath
from reconciler.plan import AwayOutputs, Locked, Observed, ObservedJobset, Plan, plan
from reconciler.reconcile import act, collect, incremental, requests
from reconciler.reconcile.farm import KEYLESS, Away, Farm
from reconciler.reconcile.unqueued import Roots, Untold
from reconciler.store import Whereabouts
from reconciler.upkeep import ObservedCache

PUSH_BATCH = 200
"""Paths sent to a cache in one go."""
ASKED_AT_ONCE = 10_000
"""Paths behind a batch for which a cache is asked in one go: a bucket is listed faster than it is
asked for each, and of a cache that was filled by another there is nothing to send."""
WORTH_ASKING = 250
"""Fewer are asked for when it is their turn."""
BESIDE_BATCH = 64
"""Logs and realisations, held in memory while they are sent."""
PUSH_BATCH_SIZE = 1024**3
"""Bytes of archives, before compression: what was sent is recorded at the end of a batch."""


class Tick(Struct, frozen=True, kw_only=True):
    """What one pass came to."""

    plan: Plan
    observed: Observed


async def start(farm: Farm, *, now: float) -> None:
    """Derive what is kept in memory from the database and the store. NoNixError without one."""
    # An empty store is made by the first that opens it; several at once get in each other's way.
    try:
        await farm.store.connection()
    except ConnectionLostError as error:
        raise NoNixError(str(error)) from error
    collected = await _find_lost(farm, now=now)
    _look_for_emptied(farm)
    _load(farm)
    farm.work.scheduler.recall(usage.recent_usage(farm.database, now=now))
    farm.recall_troubles(now=now)
    farm.adopt(farm.desired, now=now)
    farm.away = {each: away for each, away in farm.away.items() if farm.work.jobs(each)}
    collected |= await _find_lost_derivations(farm)
    if collected:
        for jobset in farm.desired.jobsets:
            farm.trigger(jobset, cause="its derivations were collected", force=True)
    incremental.take_up(farm)


def _look_for_emptied(farm: Farm) -> None:
    """Have it found out which caches that are folders were emptied. Nothing waits for that: a
    folder of a server that does not answer may take long.
    """
    for cache in farm.desired.caches.values():
        pushed_to = inspected.looked(farm.database, cache.name).oldest_at is not None
        if cache.uri.startswith("file:") and pushed_to:
            farm.executor.caches.look_for(cache)


def _load(farm: Farm) -> None:
    """Take into the graph what is wanted or queued, with all that it needs and does not exist.

    What ended badly for somebody who has gone stays in the database alone.
    """
    builds = {each.id: each for each in observe.live_builds(farm.database)}
    todo = [each.id for each in builds.values() if each.state.live]
    todo += [job.derivation for job in observe.wanted_jobs(farm.database)]
    needed: set[int] = set()
    while todo:
        derivation = todo.pop()
        if derivation in builds and derivation not in needed:
            needed.add(derivation)
            todo.extend(builds[derivation].inputs)
    farm.work.join(each for each in builds.values() if each.id in needed)  # inputs mostly first


async def _find_lost(farm: Farm, *, now: float) -> bool:
    """Queue again what is needed and was collected; whether the derivations were as well."""
    outputs = observe.needed_outputs(farm.database)
    paths = {path for each in outputs.values() for path in each}
    found = await farm.store.locate(paths) if paths else Whereabouts()
    there = found.here | found.away
    lost = [drv for drv, each in outputs.items() if not there.issuperset(each)]
    if found.away:
        away = {drv for drv, each in outputs.items() if not found.away.isdisjoint(each)}
        ids = observe.derivation_ids(farm.database, away.difference(lost))
        farm.away = {each: Away() for each in ids}
    try:
        if lost:
            await farm.executor.ingest.revisit(lost, now=now)
    except NixError:
        return True
    return False


async def _find_lost_derivations(farm: Farm) -> bool:
    """Whether derivations that are to be built were collected.

    They leave the graph with what needs them, until an evaluation finds them
    again.
    """
    paths = {StorePath(build.path): each for each, build in farm.work.builds.items()}
    there = await farm.store.valid(paths) if paths else frozenset[StorePath]()
    lost = {derivation for path, derivation in paths.items() if path not in there}
    for node in farm.work.graph.nodes:  # inputs first
        if not lost.isdisjoint(node.inputs):
            lost.add(node.id)
    farm.work.withdraw(lost)
    return bool(lost)


def tick(farm: Farm, *, now: float) -> Tick:
    """One pass."""
    record_ends(farm, now=now)
    for request in observe.open_requests(farm.database):
        requests.answer(farm, request, now=now)
    incremental.look(farm, now=now)
    observed = look(farm, now=now)
    decided = plan(farm.desired, observed, now=now)
    if decided.actions:
        with farm.database.transaction():
            for action in decided.actions:
                act.act(farm, action, now=now)
    _report(farm, decided, now=now)
    return Tick(plan=decided, observed=observed)


def record_ends(farm: Farm, *, now: float) -> None:
    """The part of a pass that begins nothing: write down what has ended."""
    ended = farm.executor.drain()
    if ended:
        with farm.database.transaction():
            for outcome in ended:
                collect.collect(farm, outcome, now=now)


def can_go_on(farm: Farm, tick: Tick, *, now: float, failures: int, patience: float) -> bool:
    """Whether waiting could bring something, although nothing is to be done just now.

    A build that backs off has attempts left, a builder in quarantine or a path that failed was
    tried less than `failures` times; and for a path it is no more than `patience` seconds.
    """
    graph = farm.work.graph
    awaited = any(each.until > now and each.failures <= failures for each in farm.troubles.values())
    for derivation in graph.ready:
        if (
            (awaited or graph[derivation].not_before > now)
            and not farm.exhausted(derivation)
            and farm.work.scheduler.useful(derivation)
        ):
            return True
    if any(0 < each.failures < failures for each in tick.observed.away):
        return True
    return any(
        cache.next_due_at is not None
        and cache.failures < failures
        and max(cache.next_due_at, cache.left_alone_until or now) <= now + patience
        for cache in tick.observed.caches.values()
    )


def look(farm: Farm, *, now: float) -> Observed:
    """Everything the plan is made from, in one read snapshot."""
    with farm.database.snapshot():
        stored = observe.jobsets(farm.database)
        return Observed(
            jobsets={
                name: _declared_for_branches(farm, each)
                if name in farm.desired.patterns
                else _jobset(farm, farm.desired.jobsets.get(name), each)
                for name, each in stored.items()
            },
            caches={name: _cache(farm, name, now=now) for name in farm.desired.caches},
            running=tuple(farm.running.values()),
            slots=farm.slots(now=now),
            scheduler=farm.work.scheduler,
            away=_away(farm),
            fetching=farm.fetching,
            unwanted=farm.work.unwanted(),
            rooted=farm.store.held(),
            sweep_due=farm.sweep_due,
            retry_at=tuple(each.not_before for each in (*farm.unshared.values(), farm.undiscarded)),
            removed=tuple(
                name
                for name, each in stored.items()
                if (each.removed or name in farm.desired.patterns)
                and any(e.state in ("running", "succeeded") for e in each.evaluations)
            ),
            faults=farm.faults,
        )


def _jobset(farm: Farm, jobset: Jobset | None, stored: observe.StoredJobset) -> ObservedJobset:
    progress = farm.progress.get(stored.name)
    if progress is None or jobset is None:
        return ObservedJobset(
            evaluations=stored.evaluations,
            suspended=stored.suspended,
            busy=_evaluating(stored),
            unlisted=jobset is not None and jobset.branch_of is not None,
        )
    locked = progress.locked
    return ObservedJobset(
        evaluations=stored.evaluations,
        suspended=stored.suspended,
        busy=progress.busy or _evaluating(stored),
        polled_at=progress.polled_at,
        locked=None
        if locked is None
        else Locked(text=locked.locked, fingerprint=fingerprint(jobset, locked.fingerprint)),
        triggered=progress.triggered,
        forced=progress.forced,
        unlisted=jobset.branch_of is not None and progress.head is None,
    )


def _evaluating(stored: observe.StoredJobset) -> bool:
    """Whether an evaluation is under way, also of one that was declared no longer for a moment."""
    live = (EvaluationState.PENDING, EvaluationState.RUNNING)
    return any(each.state in live for each in stored.evaluations)


def _declared_for_branches(farm: Farm, stored: observe.StoredJobset) -> ObservedJobset:
    """One whose branches are listed; it has evaluations from when it was none."""
    progress = farm.progress_of(stored.name)
    return ObservedJobset(
        evaluations=stored.evaluations,
        suspended=stored.suspended,
        busy=progress.busy,
        polled_at=progress.polled_at,
        locked=Locked(text="listed", fingerprint="") if progress.listed else None,
        triggered=progress.triggered,
    )


def fingerprint(jobset: Jobset, source: str) -> str:
    """Digest of all that an evaluation depends on; equal: there is nothing new to be found."""
    settings = [
        source,
        jobset.attributes,
        jobset.systems,
        jobset.evaluation.pure,
        jobset.evaluation.allow_import_from_derivation,
    ]
    return sha256(json.dumps(settings).encode()).hexdigest()


def _away(farm: Farm) -> tuple[AwayOutputs, ...]:
    """What only substituters have of the jobs that are served."""
    if not farm.away:
        return ()
    active = {jobset.name for jobset in farm.active_jobsets()}
    found = []
    for derivation, away in farm.away.items():
        jobsets = {job.jobset for job in farm.work.jobs(derivation)} & active
        if jobsets and derivation not in farm.work.graph and derivation not in farm.spoilt:
            found.append(
                AwayOutputs(
                    derivation=derivation,
                    jobsets=tuple(sorted(jobsets)),
                    not_before=away.not_before,
                    failures=away.failures,
                    error=away.error,
                )
            )
    return tuple(found)


def _cache(farm: Farm, name: CacheName, *, now: float) -> ObservedCache:
    queue = observe.push_queue(
        farm.database, name, now=now, batch=PUSH_BATCH, batch_size=PUSH_BATCH_SIZE
    )
    beside = companions.due(farm.database, name, now=now, batch=BESIDE_BATCH)
    waiting = farm.unqueued.of(name).items()
    unqueued = {rule: _unqueued(farm, roots, now=now) for rule, roots in waiting}
    untold = [each for some in unqueued.values() for each in some.untold]
    put_off = [each.not_before for each in untold if each.not_before > now]
    left_alone = farm.left_alone_until(name, now=now)
    later = left_alone if queue.due or beside.names else None
    told = (queue.next_due_at, beside.next_at, later, *put_off)
    dues = [each for each in told if each is not None]
    looked = inspected.looked(farm.database, name)
    usable = ("cache", name, KEYLESS) not in farm.faults
    return ObservedCache(
        due=queue.due if usable else (),
        further=_further(farm, name, queue.due, now=now) if usable else (),
        next_due_at=min(dues, default=None),
        failures=max(queue.failures, beside.failures, *(each.failures for each in untold)),
        unqueued={rule: some.now for rule, some in unqueued.items() if some.now},
        busy=name in farm.pushing,
        beside=beside.names if usable else (),
        accompanying=name in farm.accompanying,
        seen_at=looked.oldest_at if usable else None,
        looked_at=max(looked.last_at or 0.0, farm.inspected_at.get(name, 0.0)),
        inspecting=name in farm.inspecting,
        collecting=name in farm.collecting,
        marked_at=max(
            collected.marked_at(farm.database, name) or 0.0, farm.marked_at.get(name, 0.0)
        ),
        unneeded_since=collected.since(farm.database, name),
        collected_at=farm.collected_at.get(name),
        left_alone_until=left_alone,
        settled=not (
            queue.due
            or dues
            or beside.names
            or any(roots.waiting or roots.closing for _, roots in waiting)
        ),
    )


class _Waiting(NamedTuple):
    """Derivations that wait to be put on a queue by one rule."""

    now: tuple[int, ...]
    untold: list[Untold]
    """Of those of them for which that could not be found out before, due now or not."""


def _unqueued(farm: Farm, roots: Roots, *, now: float) -> _Waiting:
    found = roots.waiting - roots.closing - farm.away.keys() - farm.held
    untold = {each: roots.untold[each] for each in found & roots.untold.keys()}
    put_off = {each for each, why in untold.items() if why.not_before > now}
    return _Waiting(tuple(sorted(found - put_off)), [*untold.values()])


def _further(
    farm: Farm, name: CacheName, due: tuple[StorePath, ...], *, now: float
) -> tuple[StorePath, ...]:
    """What to ask for beside the next batch, each path once."""
    if len(due) < PUSH_BATCH or name in farm.pushing:
        return ()
    found = observe.further_pushes(
        farm.database,
        name,
        behind=due,
        after=farm.asked.get(name, 0),
        now=now,
        limit=ASKED_AT_ONCE,
    )
    return found if len(found) >= WORTH_ASKING else ()


def _report(farm: Farm, decided: Plan, *, now: float) -> None:
    if decided.conditions == farm.reported:
        return
    for kind in ("document", "jobset", "builder", "cache", "artifact-store"):
        wanted = {
            (name, reason): message
            for (of, name, reason), message in decided.conditions.items()
            if of == kind
        }
        declared.set_conditions(farm.database, kind, wanted, now=now)
    farm.reported = decided.conditions
