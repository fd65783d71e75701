"""Actions become effects: the intent is written down, then the executor is told. Never waits."""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from reconciler import plan, upkeep
from reconciler.bases import INTERMEDIATES
from reconciler.build.attempt import Order
from reconciler.database import (
    bases,
    built,
    collected,
    companions,
    evaluated,
    inspected,
    mounts,
    observe,
    progress,
    pushed,
    retention,
    usage,
)
from reconciler.model import BuildState, PushState
from reconciler.plan import RunningBuild
from reconciler.reconcile import mounted
from reconciler.reconcile.farm import Farm, Progress
from reconciler.states import InspectionScope
from reconciler.transitions import Cause


def act(farm: Farm, action: plan.Action, *, now: float) -> None:
    """Carry out one action."""
    match action:
        case plan.Poll() | plan.ListBranches():
            _poll(farm, action)
        case plan.Evaluate():
            _evaluate(farm, action, now=now)
        case plan.Build():
            _build(farm, action, now=now)
        case plan.Fetch():
            _fetch(farm, action)
        case plan.StopBuild():
            running = farm.running[action.derivation]
            farm.running[action.derivation] = replace(running, stopping=True)
            farm.executor.stop_build(action.attempt)
        case plan.Withdraw():
            _withdraw(farm, action, now=now)
        case plan.QueuePushes() | plan.Push() | plan.Accompany():
            _send(farm, action, now=now)
        case upkeep.Inspect():
            _inspect(farm, action, now=now)
        case upkeep.Mark() | upkeep.Collect():
            _collect(farm, action, now=now)
        case plan.Release() | plan.Forget() | plan.Sweep() | plan.Prune():
            _let_go(farm, action, now=now)
        case _:
            assert_never(action)


def _send(farm: Farm, action: plan.QueuePushes | plan.Push | plan.Accompany, *, now: float) -> None:
    match action:
        case plan.QueuePushes():
            _queue_pushes(farm, action)
        case plan.Push():
            _push(farm, action, now=now)
        case plan.Accompany():
            _accompany(farm, action)
        case _:
            assert_never(action)


def _let_go(
    farm: Farm, action: plan.Release | plan.Forget | plan.Sweep | plan.Prune, *, now: float
) -> None:
    match action:
        case plan.Release():
            farm.store.release(action.evaluation)
        case plan.Forget():
            evaluated.forget_evaluations(farm.database, [action.evaluation], now=now)
            farm.sweep_due = True
        case plan.Sweep():
            farm.sweep_due = False
            farm.executor.remove_logs(retention.sweep(farm.database))
        case plan.Prune():
            farm.executor.stop_evaluation(action.jobset)
            evaluated.prune_jobset(farm.database, action.jobset, now=now)
            farm.progress.pop(action.jobset, None)
        case _:
            assert_never(action)


def _poll(farm: Farm, action: plan.Poll | plan.ListBranches) -> None:
    progress = farm.progress_of(action.jobset)
    progress.busy = True
    progress.triggered = None
    match action:
        case plan.Poll():
            jobset, head = farm.desired.jobsets[action.jobset], progress.head
            farm.executor.poll(jobset, at=None if head is None else head.revision)
        case plan.ListBranches():
            farm.executor.list_branches(farm.desired.patterns[action.jobset], progress.heads)
        case _:
            assert_never(action)


def _evaluate(farm: Farm, action: plan.Evaluate, *, now: float) -> None:
    progress = farm.progress_of(action.jobset)
    assert progress.locked is not None
    progress.busy = True
    progress.forced = None
    number = evaluated.begin_evaluation(
        farm.database,
        action.jobset,
        fingerprint=action.locked.fingerprint,
        locked=action.locked.text,
        cause=action.cause,
        now=now,
        origin=_origin(progress),
    )
    farm.executor.evaluate(
        farm.desired.jobsets[action.jobset],
        progress.locked,
        number,
        farm.work.ids.keys(),
    )


def _origin(progress: Progress) -> evaluated.Origin:
    """The commit that is evaluated; what it comes from is known of a branch that is still there."""
    assert progress.locked is not None
    revision, head = progress.locked.revision, progress.head
    if head is None or head.revision != revision:
        return evaluated.Origin(revision=revision)
    return evaluated.Origin(revision=revision, ancestors=head.ancestors, merge_base=head.merge_base)


def _build(farm: Farm, action: plan.Build, *, now: float) -> None:
    builder = farm.desired.builders[action.builder]
    mount = mounted.mount_of(farm, action.derivation, builder)
    (attempt,) = built.begin_attempts(farm.database, [(action.derivation, action.builder)], now=now)
    if mount is not None:
        mounts.begin(farm.database, attempt, kind=mount.kind)
    usage.charge(farm.database, attempt, farm.work.scheduler.jobsets(action.derivation))
    farm.work.graph.start(action.derivation)
    farm.work.scheduler.started(action.derivation, action.builder, now=now)
    farm.running[action.derivation] = RunningBuild(
        attempt=attempt, derivation=action.derivation, builder=action.builder
    )
    farm.executor.build(
        Order(
            attempt=attempt,
            derivation=action.derivation,
            path=farm.work.builds[action.derivation].path,
            mount=mount,
            limits=lambda: farm.work.limits(action.derivation, farm.desired.jobsets),
        ),
        builder,
    )


def _fetch(farm: Farm, action: plan.Fetch) -> None:
    outputs = observe.outputs(farm.database, action.derivations)
    paths = observe.derivation_paths(farm.database, action.derivations)
    farm.fetching = True
    farm.executor.fetch(
        {each: (paths[each], list(outputs[each].values())) for each in action.derivations}
    )


def _withdraw(farm: Farm, action: plan.Withdraw, *, now: float) -> None:
    """Take them out of the graph; only what was still to be built changes its state."""
    queued = [
        each for each in action.derivations if farm.work.graph[each].state is BuildState.QUEUED
    ]
    built.set_build_states(
        farm.database,
        [(each, BuildState.QUEUED, BuildState.CANCELLED) for each in queued],
        cause=Cause.NO_LONGER_WANTED,
        now=now,
    )
    farm.work.withdraw(action.derivations)


def _queue_pushes(farm: Farm, action: plan.QueuePushes) -> None:
    cache = farm.desired.caches[action.cache]
    roots = farm.unqueued.by(action.cache, action.rule)
    roots.waiting.difference_update(action.derivations)
    roots.closing.update(action.derivations)
    outputs = observe.outputs(farm.database, action.derivations)
    part = bases.taking_part(farm.database, action.derivations)
    farm.executor.caches.close_over(
        cache,
        action.rule,
        {
            each: [
                path
                for name, path in outputs.get(each, {}).items()
                # They are there as bases.
                if name != INTERMEDIATES or each not in part
            ]
            for each in action.derivations
        },
    )


def _push(farm: Farm, action: plan.Push, *, now: float) -> None:
    pushed.set_push_states(
        farm.database,
        action.cache,
        [
            pushed.PushChange(
                path=path,
                before=PushState.PENDING,
                after=PushState.PUSHING,
                cause=Cause.STARTED,
            )
            for path in action.paths
        ],
        now=now,
    )
    progress.begin_batch(farm.database, action.cache, now=now)
    farm.pushing.add(action.cache)
    farm.executor.caches.push(
        farm.desired.caches[action.cache],
        action.paths,
        replace=inspected.to_resend(farm.database, action.cache, action.paths),
        alone=inspected.alone(farm.database, action.cache, action.paths),
        further=action.further,
    )
    if action.further:
        last = observe.push_position(farm.database, action.cache, action.further[-1])
        farm.asked[action.cache] = last


def _accompany(farm: Farm, action: plan.Accompany) -> None:
    farm.accompanying.add(action.cache)
    farm.executor.caches.accompany(
        farm.desired.caches[action.cache],
        companions.named(farm.database, action.cache, action.names),
    )


def _inspect(farm: Farm, action: upkeep.Inspect, *, now: float) -> None:
    limit = upkeep.SAMPLE if action.scope is InspectionScope.SAMPLE else None
    paths = inspected.pushed_paths(farm.database, action.cache, limit=limit)
    farm.inspecting.add(action.cache)
    farm.inspected_at[action.cache] = now
    farm.executor.caches.inspect(
        farm.desired.caches[action.cache],
        action.scope,
        paths,
        alone=inspected.alone(farm.database, action.cache, paths),
    )


def _collect(farm: Farm, action: upkeep.Mark | upkeep.Collect, *, now: float) -> None:
    cache = farm.desired.caches[action.cache]
    farm.collecting.add(action.cache)
    wanted = collected.wanted(farm.database)
    ours = collected.ours(farm.database, action.cache)
    match action:
        case upkeep.Mark():
            farm.marked_at[action.cache] = now
            farm.executor.caches.mark(cache, ours, wanted)
        case upkeep.Collect():
            farm.collected_at[action.cache] = now
            paths = collected.due(farm.database, action.cache, before=action.before)
            collected.begin(farm.database, action.cache, paths)
            beside = companions.belonging(farm.database, action.cache, paths)
            farm.executor.caches.collect(cache, paths, ours=ours, wanted=wanted, beside=beside)
        case _:
            assert_never(action)
