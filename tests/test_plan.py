"""Desired, observed and the time give a plan; nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from reconciler.graph import Graph, Node, Platform
from reconciler.model import (
    ArtifactStore,
    Branches,
    Builder,
    BuilderName,
    Cache,
    CacheName,
    Compression,
    Desired,
    EvaluationState,
    Jobset,
    JobsetName,
    PushRule,
    PushScope,
    StorePath,
)
from reconciler.plan import (
    FETCH_BATCH,
    UNAVAILABLE_PAUSE,
    Accompany,
    Action,
    AwayOutputs,
    Build,
    Evaluate,
    Fetch,
    Forget,
    ListBranches,
    Locked,
    Observed,
    ObservedEvaluation,
    ObservedJobset,
    Plan,
    Poll,
    Prune,
    Push,
    QueuePushes,
    Release,
    RunningBuild,
    StopBuild,
    Sweep,
    Withdraw,
    plan,
)
from reconciler.quantities import time_of_day
from reconciler.scheduler import Demand, Scheduler, Slots
from reconciler.states import InspectionScope
from reconciler.upkeep import (
    MARK_INTERVAL,
    SAMPLE_INTERVAL,
    WHOLE_INTERVAL,
    Collect,
    Inspect,
    Mark,
    ObservedCache,
)
from tests.support import jobsets

NOW = 1_000_000.0
IT = JobsetName("it")
LOCAL = BuilderName("local")
MAIN = CacheName("main")
LOCKED = Locked(text="git+file:///it?rev=1", fingerprint="f1")
SYSTEM = "x86_64-linux"

BUILDER = Builder(
    name=LOCAL,
    uri=None,
    systems=None,
    max_jobs=2,
    speed_factor=1,
    supported_features=(),
    mandatory_features=(),
    drain=False,
)
RULE = PushRule(scope=PushScope.REQUISITES)
CACHE = Cache(
    name=MAIN,
    uri="file:/cache",
    signing_key_file=None,
    credentials_file=None,
    compression=Compression.ZSTD,
    rule=RULE,
    upstreams=(),
)


def jobset(**changes: Any) -> Jobset:
    return replace(jobsets.jobset(), name=IT, **{"keep": 2, **changes})


def desired(*declared: Jobset, caches: tuple[Cache, ...] = ()) -> Desired:
    return Desired(
        jobsets={each.name: each for each in declared},
        builders={LOCAL: BUILDER},
        caches={each.name: each for each in caches},
        digest="d",
    )


def evaluation(
    number: int,
    state: EvaluationState = EvaluationState.SUCCEEDED,
    *,
    fingerprint: str = "f1",
    locked: str = LOCKED.text,
    error: str | None = None,
    interrupted: bool = False,
) -> ObservedEvaluation:
    return ObservedEvaluation(
        id=number,
        state=state,
        fingerprint=fingerprint,
        locked=locked,
        error=error,
        interrupted=interrupted,
    )


def observed(
    seen: ObservedJobset | None = None, *, scheduler: Scheduler | None = None, **rest: Any
) -> Observed:
    return Observed(
        **{
            "jobsets": {} if seen is None else {IT: seen},
            "caches": {},
            "running": (),
            "slots": (slots(),),
            "scheduler": scheduler or Scheduler(Graph()),
            **rest,
        }
    )


def slots(*, free: int = 2, unavailable: str | None = None) -> Slots:
    return Slots(builder=BUILDER, systems=frozenset([SYSTEM]), free=free, unavailable=unavailable)


def seen(*evaluations: ObservedEvaluation, **changes: Any) -> ObservedJobset:
    """A jobset that was polled just now and resolved."""
    return ObservedJobset(
        **{"evaluations": evaluations, "polled_at": NOW - 10, "locked": LOCKED, **changes}
    )


def decide(of: ObservedJobset | None = None, /, **changes: Any) -> Plan:
    return plan(desired(jobset(**changes)), observed(of), now=NOW)


def actions(of: ObservedJobset | None = None, /, **changes: Any) -> tuple[Action, ...]:
    return decide(of, **changes).actions


# --- Sources and evaluations ---------------------------------------------------------------------


def test_nothing_declared_is_nothing_to_do() -> None:
    assert plan(desired(), observed(), now=NOW) == Plan(actions=(), conditions={}, wake_at=None)


def test_what_was_never_looked_at_is_looked_at() -> None:
    assert actions() == (Poll(jobset=IT, cause="start"),)
    assert actions(seen(polled_at=None, locked=None)) == (Poll(jobset=IT, cause="start"),)


def test_a_converged_jobset_needs_nothing() -> None:
    assert decide(seen(evaluation(1))) == Plan(actions=(), conditions={}, wake_at=None)


def test_a_trigger_polls_whatever_was_seen() -> None:
    assert actions(seen(evaluation(1), triggered="its folder changed")) == (
        Poll(jobset=IT, cause="its folder changed"),
    )


def test_a_disabled_or_suspended_jobset_is_left_alone() -> None:
    nothing = Plan(actions=(), conditions={}, wake_at=None)
    assert decide(seen(triggered="asked"), enabled=False, interval=5.0) == nothing
    assert decide(seen(triggered="asked", suspended=True), interval=5.0) == nothing


def test_a_busy_jobset_is_left_alone_and_wakes_nobody() -> None:
    """An interval that passes meanwhile would have the loop turn without end."""
    of = seen(evaluation(1, EvaluationState.RUNNING), busy=True, polled_at=NOW - 100)
    assert decide(of, interval=5.0) == Plan(actions=(), conditions={}, wake_at=None)


def test_an_interval_polls_again() -> None:
    of = seen(evaluation(1), polled_at=NOW - 300)
    assert actions(of, interval=300.0) == (Poll(jobset=IT, cause="interval"),)
    assert decide(of, interval=301.0) == Plan(actions=(), conditions={}, wake_at=NOW + 1)
    assert decide(of, interval=None) == Plan(actions=(), conditions={}, wake_at=None)


@pytest.mark.parametrize(
    ("interval", "pause"),
    [(None, UNAVAILABLE_PAUSE), (10.0, 10.0), (86_400.0, UNAVAILABLE_PAUSE)],
)
def test_a_source_that_was_unavailable_is_tried_again(interval: float | None, pause: float) -> None:
    late = seen(evaluation(1), locked=None, polled_at=NOW - pause)
    assert actions(late, interval=interval) == (Poll(jobset=IT, cause="source was unavailable"),)
    early = seen(evaluation(1), locked=None, polled_at=NOW - pause + 1)
    assert decide(early, interval=interval) == Plan(actions=(), conditions={}, wake_at=NOW + 1)


@pytest.mark.parametrize(
    ("of", "cause"),
    [
        (seen(), "first evaluation"),
        (seen(evaluation(1, fingerprint="f0", locked="else")), "source changed"),
        (seen(evaluation(1, fingerprint="f0")), "settings changed"),
        (seen(evaluation(1), forced="asked for by me"), "asked for by me"),
        (seen(evaluation(1, EvaluationState.SUPERSEDED)), "declared again"),
        (
            seen(evaluation(1, EvaluationState.FAILED, error="stopped", interrupted=True)),
            "interrupted before",
        ),
    ],
)
def test_what_causes_an_evaluation(of: ObservedJobset, cause: str) -> None:
    assert actions(of) == (Evaluate(jobset=IT, locked=LOCKED, cause=cause),)


def test_one_declared_for_branches_lists_them_and_is_not_evaluated() -> None:
    pattern = jobset(interval=300.0, branches=Branches(patterns=("*",), limit=9))
    declared = replace(desired(), patterns={IT: pattern})
    assert plan(declared, observed(), now=NOW).actions == (ListBranches(jobset=IT, cause="start"),)
    listed = observed(seen(polled_at=NOW))
    assert plan(declared, listed, now=NOW) == Plan(actions=(), conditions={}, wake_at=NOW + 300)


def test_a_failed_evaluation_is_not_repeated_and_shown() -> None:
    failed = evaluation(1, EvaluationState.FAILED, error="syntax error")
    assert decide(seen(failed)) == Plan(
        actions=(),
        conditions={("jobset", IT, "evaluation-failed"): "syntax error"},
        wake_at=None,
    )
    nameless = decide(seen(replace(failed, error=None))).conditions
    assert nameless == {("jobset", IT, "evaluation-failed"): "failed"}


# --- Keeping and forgetting ----------------------------------------------------------------------


def test_good_evaluations_beyond_keep_are_forgotten_and_failed_ones_counted_apart() -> None:
    state = EvaluationState
    of = seen(
        evaluation(9, state.SUCCEEDED),
        evaluation(8, state.SUPERSEDED),
        evaluation(7, state.FAILED),
        evaluation(6, state.SUPERSEDED),
        evaluation(5, state.FAILED),
        evaluation(4, state.FAILED),
    )
    assert actions(of) == (Forget(jobset=IT, evaluation=6), Forget(jobset=IT, evaluation=4))


def test_what_runs_is_kept_beside_the_good_ones() -> None:
    of = seen(evaluation(3, EvaluationState.RUNNING), evaluation(2), evaluation(1), busy=True)
    assert actions(of) == ()
    pending = seen(evaluation(3, EvaluationState.PENDING), evaluation(2), busy=True)
    assert actions(pending) == ()


def test_roots_of_what_is_not_kept_are_released() -> None:
    of = seen(evaluation(3), evaluation(2), evaluation(1, EvaluationState.FAILED))
    decided = plan(desired(jobset()), observed(of, rooted=frozenset([1, 2, 3, 99])), now=NOW)
    assert decided.actions == (Release(evaluation=1), Release(evaluation=99))


def test_what_is_declared_no_longer_is_pruned() -> None:
    decided = plan(desired(), observed(removed=(IT,)), now=NOW)
    assert decided.actions == (Prune(jobset=IT),)


def test_a_sweep_waits_for_quiet() -> None:
    assert plan(desired(), observed(sweep_due=True), now=NOW).actions == (Sweep(),)
    running = (RunningBuild(attempt=1, derivation=1, builder=LOCAL),)
    assert plan(desired(), observed(sweep_due=True, running=running), now=NOW).actions == ()
    busy = observed(seen(evaluation(1), busy=True), sweep_due=True)
    assert plan(desired(jobset()), busy, now=NOW).actions == ()


# --- Builds --------------------------------------------------------------------------------------


def scheduler(*nodes: int, wanted: tuple[int, ...]) -> Scheduler:
    graph = Graph()
    made = Scheduler(graph)
    graph.add(Node(id=each, platform=Platform(SYSTEM)) for each in nodes)
    made.demand([Demand(jobset=IT, derivation=each) for each in wanted], {IT: 100})
    return made


def test_what_is_ready_is_built_as_far_as_there_are_slots() -> None:
    ready = observed(scheduler=scheduler(1, 2, 3, wanted=(1, 2, 3)))
    assert plan(desired(), ready, now=NOW).actions == (
        Build(derivation=1, builder=LOCAL),
        Build(derivation=2, builder=LOCAL),
    )


def test_what_is_unwanted_is_withdrawn_not_built() -> None:
    ready = observed(scheduler=scheduler(1, 2, wanted=(1, 2)), unwanted=frozenset([1, 7, 5]))
    assert plan(desired(), ready, now=NOW).actions == (
        Withdraw(derivations=(1, 5, 7)),
        Build(derivation=2, builder=LOCAL),
    )


def test_what_runs_unwanted_is_stopped_once() -> None:
    running = (
        RunningBuild(attempt=11, derivation=1, builder=LOCAL),
        RunningBuild(attempt=12, derivation=2, builder=LOCAL, stopping=True),
        RunningBuild(attempt=13, derivation=3, builder=LOCAL),
    )
    decided = plan(desired(), observed(running=running, unwanted=frozenset([1, 2])), now=NOW)
    assert decided.actions == (StopBuild(attempt=11, derivation=1),)


def test_the_end_of_a_backoff_wakes() -> None:
    graph = Graph()
    waiting = Scheduler(graph)
    graph.add([Node(id=1, platform=Platform(SYSTEM), not_before=NOW + 7)])
    waiting.demand([Demand(jobset=IT, derivation=1)], {IT: 100})
    decided = plan(desired(), observed(scheduler=waiting), now=NOW)
    assert decided == Plan(actions=(), conditions={}, wake_at=NOW + 7)


def test_the_first_of_all_reasons_to_wake_counts() -> None:
    queue = ObservedCache(next_due_at=NOW + 3)
    both = observed(seen(evaluation(1), polled_at=NOW), caches={MAIN: queue})
    declared = desired(jobset(interval=5.0), caches=(CACHE,))
    assert plan(declared, both, now=NOW).wake_at == NOW + 3


# --- Caches --------------------------------------------------------------------------------------


def test_what_belongs_in_a_cache_is_queued_and_pushed() -> None:
    queue = ObservedCache(due=(StorePath("/nix/store/a"),), unqueued={RULE: (4, 5)})
    declared = desired(caches=(CACHE,))
    assert plan(declared, observed(caches={MAIN: queue}), now=NOW).actions == (
        QueuePushes(cache=MAIN, rule=RULE, derivations=(4, 5)),
        Push(cache=MAIN, paths=(StorePath("/nix/store/a"),)),
    )


def test_one_batch_at_a_time() -> None:
    queue = ObservedCache(due=(StorePath("/nix/store/a"),), busy=True)
    assert plan(desired(caches=(CACHE,)), observed(caches={MAIN: queue}), now=NOW).actions == ()


def test_logs_and_realisations_are_sent_beside_paths_and_once() -> None:
    queue = ObservedCache(due=(StorePath("/nix/store/a"),), busy=True, beside=("log/a",))
    of = observed(caches={MAIN: queue})
    declared = desired(caches=(CACHE,))
    assert plan(declared, of, now=NOW).actions == (Accompany(cache=MAIN, names=("log/a",)),)
    sending = observed(caches={MAIN: replace(queue, accompanying=True)})
    assert plan(declared, sending, now=NOW).actions == ()


def test_a_cache_that_asked_for_it_is_left_alone() -> None:
    queue = ObservedCache(
        due=(StorePath("/nix/store/a"),),
        beside=("log/a",),
        unqueued={RULE: (4,)},
        seen_at=NOW - WHOLE_INTERVAL,
        marked_at=None,
        left_alone_until=NOW + 1800,
    )
    declared = desired(caches=(replace(CACHE, gc=True),))
    found = plan(declared, observed(caches={MAIN: queue}), now=NOW)
    assert found.actions == (QueuePushes(cache=MAIN, rule=RULE, derivations=(4,)),), (
        "it asks the store alone"
    )
    assert found.wake_at == NOW + 1800
    ((key, message),) = found.conditions.items()
    assert key == ("cache", MAIN, "asked-to-wait")
    assert message.endswith(f"until {time_of_day(NOW + 1800)}")


def test_a_cache_of_which_nothing_is_known_needs_nothing() -> None:
    assert plan(desired(caches=(CACHE,)), observed(), now=NOW).actions == ()


# --- Conditions ----------------------------------------------------------------------------------


def test_faults_are_shown_of_what_is_declared() -> None:
    faults = {
        ("jobset", "it", "source-unavailable"): "no such folder",
        ("jobset", "gone", "source-unavailable"): "no such folder",
        ("builder", "local", "cannot-root"): "no daemon",
        ("builder", "gone", "cannot-root"): "no daemon",
        ("cache", "main", "unusable"): "no key",
        ("cache", "gone", "unusable"): "no key",
        ("document", "farm.yaml", "invalid"): "unknown key",
    }
    declared = desired(jobset(), caches=(CACHE,))
    decided = plan(declared, observed(seen(evaluation(1)), faults=faults), now=NOW)
    assert {key[:2] for key in decided.conditions} == {
        ("jobset", "it"),
        ("builder", "local"),
        ("cache", "main"),
        ("document", "farm.yaml"),
    }


def test_a_builder_that_is_left_alone_is_looked_at_again() -> None:
    away = replace(slots(unavailable="quarantined"), until=NOW + 7)
    assert plan(desired(), observed(slots=(away,)), now=NOW).wake_at == NOW + 7


def test_an_interrupted_evaluation_is_no_fault() -> None:
    cut = evaluation(1, EvaluationState.FAILED, error="stopped", interrupted=True)
    assert decide(seen(cut, busy=True)).conditions == {}


# --- Fetching ------------------------------------------------------------------------------------


def away(derivation: int, **rest: Any) -> AwayOutputs:
    return AwayOutputs(derivation=derivation, jobsets=(IT,), **rest)


def test_what_is_elsewhere_is_fetched() -> None:
    decided = plan(
        desired(jobset()), observed(seen(evaluation(1)), away=(away(1), away(2))), now=NOW
    )
    assert decided.actions == (Fetch(derivations=(1, 2)),)
    assert decided.conditions == {}


def test_a_batch_at_a_time_is_fetched() -> None:
    many = tuple(away(number) for number in range(FETCH_BATCH + 1))
    of = observed(seen(evaluation(1)), away=many)
    (fetch,) = plan(desired(jobset()), of, now=NOW).actions
    assert isinstance(fetch, Fetch)
    assert len(fetch.derivations) == FETCH_BATCH
    assert plan(desired(jobset()), replace(of, fetching=True), now=NOW).actions == ()


def test_what_could_not_be_fetched_waits_and_is_told() -> None:
    failed = away(1, not_before=NOW + 5, failures=1, error="no answer")
    decided = plan(desired(jobset()), observed(seen(evaluation(1)), away=(failed,)), now=NOW)
    assert decided.actions == ()
    assert decided.wake_at == NOW + 5
    assert decided.conditions == {("jobset", IT, "not-fetched"): "no answer"}
    later = plan(desired(jobset()), observed(seen(evaluation(1)), away=(failed,)), now=NOW + 5)
    assert later.actions == (Fetch(derivations=(1,)),)


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (ObservedCache(), None),
        (ObservedCache(seen_at=NOW), NOW + SAMPLE_INTERVAL),
        (ObservedCache(seen_at=NOW - SAMPLE_INTERVAL), InspectionScope.SAMPLE),
        (ObservedCache(seen_at=NOW - SAMPLE_INTERVAL, inspecting=True), None),
        (ObservedCache(seen_at=NOW - 9999, looked_at=NOW - 1), NOW - 1 + SAMPLE_INTERVAL),
        (ObservedCache(seen_at=NOW - WHOLE_INTERVAL), InspectionScope.WHOLE),
        (ObservedCache(seen_at=NOW - WHOLE_INTERVAL, looked_at=NOW), NOW + SAMPLE_INTERVAL),
    ],
)
def test_a_cache_is_looked_into_when_it_is_time(
    cache: ObservedCache, expected: InspectionScope | float | None
) -> None:
    found = plan(desired(caches=(CACHE,)), observed(caches={MAIN: cache}), now=NOW)
    if isinstance(expected, InspectionScope):
        assert found.actions == (Inspect(cache=MAIN, scope=expected),)
    else:
        assert (found.actions, found.wake_at) == ((), expected)


GC_CACHE = replace(CACHE, gc=True, grace_period=100.0)
FRESH = ObservedCache(seen_at=NOW, looked_at=NOW, marked_at=NOW)


@pytest.mark.parametrize(
    ("declared", "cache", "expected"),
    [
        (GC_CACHE, ObservedCache(), ()),  # nothing was pushed yet
        (GC_CACHE, FRESH, ()),
        (CACHE, replace(FRESH, marked_at=None, unneeded_since=0.0), ()),
        (GC_CACHE, replace(FRESH, marked_at=None), (Mark(cache=MAIN),)),
        (GC_CACHE, replace(FRESH, marked_at=NOW - MARK_INTERVAL), (Mark(cache=MAIN),)),
        (GC_CACHE, replace(FRESH, unneeded_since=NOW - 99), ()),
        (
            GC_CACHE,
            replace(FRESH, unneeded_since=NOW - 100),
            (Collect(cache=MAIN, before=NOW - 100),),
        ),
        (GC_CACHE, replace(FRESH, unneeded_since=0.0, collected_at=NOW - 1), ()),
        (GC_CACHE, replace(FRESH, unneeded_since=0.0, busy=True), ()),
        (GC_CACHE, replace(FRESH, unneeded_since=0.0, settled=False), ()),
        (GC_CACHE, replace(FRESH, unneeded_since=0.0, collecting=True), ()),
        (GC_CACHE, replace(FRESH, unneeded_since=0.0, inspecting=True), ()),
    ],
)
def test_only_a_quiet_cache_that_is_ours_is_collected(
    declared: Cache, cache: ObservedCache, expected: tuple[Action, ...]
) -> None:
    found = plan(desired(caches=(declared,)), observed(caches={MAIN: cache}), now=NOW)
    assert found.actions == expected


def test_nothing_is_sent_to_a_cache_or_deleted_at_the_same_time() -> None:
    cache = replace(FRESH, due=(StorePath("/nix/store/x"),), collecting=True, settled=False)
    found = plan(desired(caches=(GC_CACHE,)), observed(caches={MAIN: cache}), now=NOW)
    assert found.actions == ()


def test_nothing_is_deleted_while_something_is_evaluated() -> None:
    cache = replace(FRESH, unneeded_since=0.0)
    seen = ObservedJobset(busy=True)
    found = plan(
        desired(jobset(), caches=(GC_CACHE,)), observed(seen, caches={MAIN: cache}), now=NOW
    )
    assert found.actions == ()


# --- Artifact stores -----------------------------------------------------------------------------


def test_what_failed_wakes_when_it_is_tried_again_and_is_a_condition_while_it_is_declared() -> None:
    faults = {("artifact-store", name, "not-written"): "no" for name in ("builds", "gone")}
    stores = {"builds": ArtifactStore(name="builds", url="file:///srv/builds")}
    found = plan(
        replace(desired(), artifact_stores=stores),
        observed(faults=faults, retry_at=(NOW - 1, NOW + 30, NOW + 60)),
        now=NOW,
    )
    assert found.wake_at == NOW + 30
    assert found.conditions == {("artifact-store", "builds", "not-written"): "no"}
