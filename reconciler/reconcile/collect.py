"""What ended becomes recorded fact: each outcome is written down, then applied to the farm."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import assert_never

from msgspec.structs import replace

from reconciler import backoff
from reconciler import outcomes as out
from reconciler.database import (
    built,
    collected,
    companions,
    evaluated,
    inspected,
    observe,
    progress,
    pushed,
)
from reconciler.model import BuildState, CacheName, Outcome, PushScope, PushState, StorePath
from reconciler.reconcile import audits, expiry, incremental, listed, mounted, sharing
from reconciler.reconcile.farm import Away, Farm
from reconciler.reconcile.unqueued import Untold
from reconciler.transitions import Cause
from reconciler.upkeep import SAMPLE, WHOLE_INTERVAL
from reconciler.work import LiveBuild, package_name

PUSH_BACKOFF = 5.0
"""Seconds after a path's first failure at most; doubled each time."""
FETCH_BACKOFF = 1.0
"""Seconds after outputs could not be fetched for the first time; doubled each time."""


def collect(farm: Farm, outcome: out.Outcome, *, now: float) -> None:
    """Record one outcome and apply it."""
    match outcome:
        case out.Polled():
            _polled(farm, outcome, now=now)
        case out.Listed():
            listed.listed(farm, outcome, now=now)
        case out.EvaluationStarted():
            evaluated.start_evaluation(farm.database, outcome.evaluation, now=now)
        case out.Discovered():
            _discovered(farm, outcome, now=now)
        case out.Evaluated():
            _evaluated(farm, outcome, now=now)
        case out.Built():
            _built(farm, outcome, now=now)
        case out.Kept() | out.Shared() | out.Audited() | out.Twinned() | out.Discarded():
            _of_bases(farm, outcome, now=now)
        case out.Fetched():
            _fetched(farm, outcome, now=now)
        case out.Faulted():
            farm.fault(outcome.kind, outcome.name, outcome.reason, outcome.message)
        case out.Revisited():
            _revisited(farm, outcome, now=now)
        case (
            out.Closed()
            | out.Sending()
            | out.Pushed()
            | out.AskedToWait()
            | out.Accompanied()
            | out.Inspected()
            | out.Emptied()
            | out.Marked()
            | out.Collected()
        ):
            _of_cache(farm, outcome, now=now)
        case _:
            assert_never(outcome)


def _of_bases(
    farm: Farm,
    outcome: out.Kept | out.Shared | out.Audited | out.Twinned | out.Discarded,
    *,
    now: float,
) -> None:
    match outcome:
        case out.Kept():
            incremental.kept(farm, outcome, now=now)
        case out.Shared():
            sharing.shared(farm, outcome, now=now)
        case out.Audited():
            audits.audited(farm, outcome, now=now)
        case out.Twinned():
            audits.twinned(farm, outcome, now=now)
        case out.Discarded():
            audits.discarded(farm, outcome, now=now)
        case _:
            assert_never(outcome)


def _of_cache(
    farm: Farm,
    outcome: out.Closed
    | out.Sending
    | out.Pushed
    | out.AskedToWait
    | out.Accompanied
    | out.Inspected
    | out.Emptied
    | out.Marked
    | out.Collected,
    *,
    now: float,
) -> None:
    match outcome:
        case out.Closed():
            _closed(farm, outcome, now=now)
        case out.Sending():
            progress.advance(farm.database, outcome.cache, sent=outcome.sent, now=now)
        case out.Pushed():
            _pushed(farm, outcome, now=now)
        case out.AskedToWait():
            before = farm.left_alone.get(outcome.cache, 0.0)
            farm.left_alone[outcome.cache] = max(before, outcome.until)
        case out.Accompanied():
            _accompanied(farm, outcome, now=now)
        case out.Inspected():
            _inspected(farm, outcome, now=now)
        case out.Emptied():
            inspected.doubt(farm.database, outcome.cache, since=now - WHOLE_INTERVAL)
        case out.Marked() | out.Collected():
            _collected(farm, outcome, now=now)
        case _:
            assert_never(outcome)


def _polled(farm: Farm, outcome: out.Polled, *, now: float) -> None:
    progress = farm.progress_of(outcome.jobset)
    progress.busy = False
    progress.polled_at = now
    progress.locked = outcome.locked
    farm.fault("jobset", outcome.jobset, "source-unavailable", outcome.error)


def _discovered(farm: Farm, outcome: out.Discovered, *, now: float) -> None:
    farm.join(outcome.batch.live, lost=outcome.batch.lost, now=now)
    farm.want()
    # All jobs that exist; of those that did not when the batch was stored, one may have been
    # built since.
    wanted = {each for each in outcome.batch.jobs.values() if each not in farm.work.graph}
    for each in wanted.intersection(outcome.away):
        farm.away.setdefault(each, Away())
    farm.hold_outputs(outcome.evaluation, wanted - farm.away.keys())
    farm.unqueued.add_for(farm.declared([outcome.jobset]), wanted)


def _evaluated(farm: Farm, outcome: out.Evaluated, *, now: float) -> None:
    evaluated.end_evaluation(farm.database, outcome.evaluation, error=outcome.error, now=now)
    progress = farm.progress_of(outcome.jobset)
    progress.busy = False
    farm.fault("jobset", outcome.jobset, "evaluation-interrupted", outcome.fault)
    if outcome.fault is not None:
        # As if the source had not answered: it is asked again after the same pause.
        progress.locked, progress.polled_at = None, now
    farm.want()
    if outcome.error is None:
        expiry.expire(farm, outcome.jobset, now=now)
        for jobset in farm.declared([outcome.jobset]):
            farm.unqueued.look_for_intermediates(farm.database, jobset)
        incremental.evaluated(farm, outcome.jobset, now=now)


def _built(farm: Farm, outcome: out.Built, *, now: float) -> None:
    result, derivation = outcome.result, outcome.derivation
    farm.running.pop(derivation)
    by_request = derivation in farm.cancelled
    farm.cancelled.discard(derivation)
    if by_request and result.outcome is Outcome.CANCELLED:
        result = replace(result, message="stopped on request: `reconciler retry` reopens it")
    withdrawn = result.outcome is Outcome.CANCELLED and not by_request
    if withdrawn and derivation not in farm.work.unwanted():
        # Stopped because nothing needed it; meanwhile something does.
        withdrawn, result = False, replace(result, outcome=Outcome.INTERRUPTED)
    build = farm.work.builds[derivation]
    not_before = now + _pause(farm.backoff(derivation), failures=build.failures)
    state = built.end_attempt(
        farm.database,
        outcome.attempt,
        derivation,
        result,
        not_before=not_before,
        cause=Cause.NO_LONGER_WANTED if withdrawn else None,
    )
    if outcome.mount is not None:
        mounted.built_with(farm, outcome)
    farm.work.scheduler.finished(derivation, now=now)
    if result.outcome is Outcome.SUCCEEDED and not (result.substituted or result.found):
        _learn(farm, build, outcome)
    if result.builder_failed:
        farm.builder_failed(outcome.builder, result, now=now)
    elif result.outcome.final:
        farm.builder_works(outcome.builder)
    if result.outcome is Outcome.INFRASTRUCTURE:
        farm.work.failed_again(derivation)
        farm.work.graph.requeue(derivation, not_before=not_before, avoid=outcome.builder)
    elif state is BuildState.QUEUED:
        farm.work.graph.requeue(derivation)
    else:
        if not state.good:
            _log_of_failed(farm, outcome)
        farm.work.forgive([derivation])
        farm.settle(derivation, state)
        if result.outputs:
            for evaluation in {job.evaluation for job in farm.work.jobs(derivation)}:
                farm.hold_outputs(evaluation, {derivation})


def _learn(farm: Farm, build: LiveBuild, outcome: out.Built) -> None:
    """Expect of the next build of that name the same work: the seconds of a builder of speed 1.

    Of a builder that is declared no longer nobody knows how fast it was.
    """
    builder = farm.desired.builders.get(outcome.builder)
    if builder is not None:
        seconds = outcome.result.building * builder.speed_factor
        name = package_name(build.name)
        built.set_duration(farm.database, name=name, system=build.system, seconds=seconds)
        farm.work.learn(build.name, build.system, seconds)


def _log_of_failed(farm: Farm, outcome: out.Built) -> None:
    """Where all goes that was built, the logs of what failed do too."""
    if not outcome.result.log_bytes or not outcome.result.outcome.final:
        return
    caches = {
        cache
        for jobset in farm.declared(farm.work.wanting(outcome.derivation))
        for cache, rule in jobset.caches.items()
        if rule.scope is PushScope.ALL and farm.desired.caches[cache].logs
    }
    drv = farm.work.builds[outcome.derivation].path
    companions.queue_failed_log(farm.database, caches, drv, outcome.attempt)


def _fetched(farm: Farm, outcome: out.Fetched, *, now: float) -> None:
    farm.fetching = False
    for derivation in outcome.done:
        farm.away.pop(derivation, None)
        for evaluation in {job.evaluation for job in farm.work.jobs(derivation)}:
            farm.hold_outputs(evaluation, {derivation})
    if outcome.batch is not None:
        farm.join(outcome.batch.live, lost=outcome.batch.lost, now=now)
        farm.want()
    for derivation, error in outcome.failed.items():
        away = farm.away.get(derivation)
        if away is not None:  # or it is built instead
            away.failures, away.error = away.failures + 1, error
            away.not_before = now + _pause(FETCH_BACKOFF, failures=away.failures)


def _pause(first: float, *, failures: int) -> float:
    """Seconds until the next attempt, of one that failed so often before.

    The first time none: what is lost now and then (a killed builder, a dropped connection) is
    best tried again at once; what fails twice in a row is given time.
    """
    return backoff.doubled(first, failures - 1) if failures else 0.0


def _tried_again(farm: Farm, cache: CacheName, *, now: float) -> Callable[[int], float]:
    """When something is sent to a cache once more, by how often that failed before.

    One chance for all of a batch: it is tried again as a batch.
    """
    chance = random.random()  # noqa: S311 no secret depends on it
    at_least = farm.left_alone_until(cache, now=now) or now

    def when(failures: int) -> float:
        pause = backoff.jittered(PUSH_BACKOFF, failures, chance=chance)
        return max(now + pause, at_least)

    return when


def _fault_of_cache(
    farm: Farm, cache: CacheName, reason: str, message: str | None, *, now: float
) -> None:
    """Note that a cache cannot be used, unless that is what its server asks for: it says so."""
    asked = farm.left_alone_until(cache, now=now) is not None
    farm.fault("cache", cache, reason, None if asked else message)


def _closed(farm: Farm, outcome: out.Closed, *, now: float) -> None:
    roots = farm.unqueued.by(outcome.cache, outcome.rule)
    roots.closing -= {*outcome.derivations, *outcome.unknown}
    if outcome.rule not in farm.desired.rules_of(outcome.cache):
        return  # something else belongs there meanwhile: that was found when it was declared
    for derivation in outcome.derivations:
        roots.untold.pop(derivation, None)
    for derivation, why in outcome.unknown.items():
        each = roots.untold.setdefault(derivation, Untold())
        each.error = why
        each.failures += 1
        each.not_before = now + _pause(PUSH_BACKOFF, failures=each.failures - 1)
    roots.waiting |= outcome.unknown.keys()
    untold = (
        each for by in farm.unqueued.of(outcome.cache).values() for each in by.untold.values()
    )
    farm.fault(
        "cache", outcome.cache, "closure-unknown", next((each.error for each in untold), None)
    )
    if not outcome.derivations:
        return
    if not farm.held.isdisjoint(outcome.derivations):
        # An audit has found something out meanwhile: once more, without them.
        roots.waiting |= {*outcome.derivations}
        return
    pushed.queue_pushes(
        farm.database,
        outcome.cache,
        roots=outcome.derivations,
        paths=outcome.paths,
        now=now,
        sizes=outcome.sizes,
        rule=outcome.rule,
    )
    cache = farm.desired.caches.get(outcome.cache)
    if cache is not None:
        companions.queue(
            farm.database,
            outcome.cache,
            roots=outcome.derivations,
            derivers=outcome.derivers,
            logs=cache.logs,
        )


def _pushed(farm: Farm, outcome: out.Pushed, *, now: float) -> None:
    farm.pushing.discard(outcome.cache)
    _fault_of_cache(farm, outcome.cache, "unusable", outcome.unusable, now=now)
    again = _tried_again(farm, outcome.cache, now=now)
    failures = observe.push_failures(farm.database, outcome.cache, outcome.failed)
    change = partial(pushed.PushChange, before=PushState.PUSHING)
    changes = [
        change(
            path=path,
            after=PushState.PUSHED,
            cause=Cause.SUCCEEDED if size else Cause.FOUND_IN_CACHE,
            bytes=size,
        )
        for path, size in outcome.sent.items()
    ]
    changes += [
        pushed.PushChange(
            path=path,
            before=PushState.PENDING,
            after=PushState.PUSHED,
            cause=Cause.FOUND_IN_CACHE,
            bytes=0,
        )
        for path in outcome.found
    ]
    changes += [
        change(
            path=path,
            after=PushState.FAILED,
            cause=Cause.PATH_COLLECTED,
            error="the store has it no longer",
        )
        for path in outcome.gone
    ]
    changes += [
        change(
            path=path,
            after=PushState.PENDING,
            cause=Cause.INFRASTRUCTURE,
            error=message,
            not_before=again(failures.get(path, 0)),
        )
        for path, message in outcome.failed.items()
    ]
    changes += [
        change(
            path=path,
            after=PushState.PENDING,
            cause=Cause.INTERRUPTED,
            not_before=now + PUSH_BACKOFF,
        )
        for path in outcome.waiting
    ]
    pushed.set_push_states(farm.database, outcome.cache, changes, now=now)
    pushed.queue_lacking(farm.database, outcome.cache, _belonging(farm, outcome), now=now)
    if outcome.failed or outcome.waiting:
        audits.not_pushed(farm)
    progress.end_batch(
        farm.database, outcome.cache, done=outcome.sent.keys(), sent=outcome.traffic, now=now
    )
    if inspected.built_again(farm.database, outcome.sent):
        farm.want()
    if outcome.gone:
        _build_again(farm, outcome.cache, outcome.gone)


def _belonging(farm: Farm, outcome: out.Pushed) -> list[StorePath]:
    """Of the references for want of which paths wait, those that some rule sends to the cache."""
    rules = farm.desired.rules_of(outcome.cache)
    wanted = dict.fromkeys(outcome.waiting.values())
    return [path for path in wanted if not all(rule.excludes(path) for rule in rules)]


def _accompanied(farm: Farm, outcome: out.Accompanied, *, now: float) -> None:
    farm.accompanying.discard(outcome.cache)
    again = _tried_again(farm, outcome.cache, now=now)
    before = companions.failures(farm.database, outcome.cache, outcome.failed)
    companions.record(
        farm.database,
        outcome.cache,
        sent=outcome.sent,
        gone=outcome.gone,
        failed={name: (why, again(before.get(name, 0))) for name, why in outcome.failed.items()},
    )


def _build_again(farm: Farm, cache: CacheName, paths: Iterable[StorePath]) -> None:
    """Have what neither a cache nor the store has built again, as far as it is wanted."""
    jobsets = [each.name for each in farm.desired.jobsets.values() if cache in each.caches]
    lost = inspected.build_again(farm.database, cache, jobsets, paths)
    if lost:
        farm.executor.revisit(lost)


def _inspected(farm: Farm, outcome: out.Inspected, *, now: float) -> None:
    farm.inspecting.discard(outcome.cache)
    _fault_of_cache(farm, outcome.cache, "not-inspected", outcome.unusable, now=now)
    if outcome.unusable is None:
        sight = inspected.Sight(
            scope=outcome.scope,
            seen=outcome.seen,
            lost=outcome.lost,
            broken=outcome.broken,
            dangling=outcome.dangling,
        )
        inspected.record(farm.database, outcome.cache, sight, now=now)
        if len(outcome.seen) == SAMPLE and len(outcome.lost) == SAMPLE:
            # It was emptied, it seems: all that is behind the sample is looked at, too.
            inspected.doubt(farm.database, outcome.cache, since=now - WHOLE_INTERVAL)
        farm.inspected_at.pop(outcome.cache, None)


def _revisited(farm: Farm, outcome: out.Revisited, *, now: float) -> None:
    audits.revisited(farm, outcome, now=now)
    if outcome.batch is None:
        return
    farm.join(outcome.batch.live, lost=outcome.batch.lost, now=now)
    farm.want()
    live = {*outcome.batch.live}
    for derivation in observe.derivation_ids(farm.database, outcome.derivations):
        if derivation not in live:  # somewhere it is after all
            farm.away.setdefault(derivation, Away())
            jobsets = {job.jobset for job in farm.work.jobs(derivation) if not job.audit}
            farm.unqueued.add_for(farm.declared(jobsets), [derivation])


def _collected(farm: Farm, outcome: out.Marked | out.Collected, *, now: float) -> None:
    farm.collecting.discard(outcome.cache)
    _fault_of_cache(farm, outcome.cache, "not-collected", outcome.unusable, now=now)
    if outcome.unusable is not None:
        return
    match outcome:
        case out.Marked():
            collected.mark(
                farm.database,
                outcome.cache,
                seen=outcome.seen,
                unwanted=outcome.unwanted,
                now=now,
            )
            farm.marked_at.pop(outcome.cache, None)
        case out.Collected():
            collected.end(
                farm.database, outcome.cache, gone=outcome.gone, kept=outcome.kept, now=now
            )
            companions.forget(
                farm.database, outcome.cache, names=outcome.beside, paths=outcome.gone
            )
            farm.collected_at.pop(outcome.cache, None)
        case _:
            assert_never(outcome)
