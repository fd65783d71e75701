from __future__ import annotations

import pytest

from reconciler.model import BuildState, EvaluationState, Outcome, PushState
from reconciler.transitions import (
    TABLES,
    Cause,
    IllegalTransitionError,
    State,
    build_state,
    cause_of,
    causes,
    check,
)

KINDS: list[type[State]] = [EvaluationState, BuildState, PushState]


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_is_reachable_from_creation(kind: type[State]) -> None:
    reached: set[State | None] = {None}
    while True:
        grown = reached | {after for before, after in TABLES[kind] if before in reached}
        if grown == reached:
            break
        reached = grown
    assert reached == {None, *kind}


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_speaks_only_of_its_own_kind_and_always_names_a_cause(kind: type[State]) -> None:
    for (before, after), allowed in TABLES[kind].items():
        assert before is None or type(before) is kind
        assert type(after) is kind
        assert before != after
        assert allowed


def test_every_cause_is_used_and_no_kind_is_missing() -> None:
    used = {cause for table in TABLES.values() for allowed in table.values() for cause in allowed}
    assert used == set(Cause)
    assert set(TABLES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_check_agrees_with_the_table_for_every_pair(kind: type[State]) -> None:
    befores: list[State | None] = [None, *kind]
    for before in befores:
        for after in kind:
            if (before, after) in TABLES[kind]:
                check(before, after)
                for cause in Cause:
                    if cause in causes(before, after):
                        check(before, after, cause)
                    else:
                        with pytest.raises(IllegalTransitionError, match=str(after)):
                            check(before, after, cause)
            else:
                with pytest.raises(IllegalTransitionError, match=str(after)):
                    check(before, after)


def test_equal_texts_of_different_kinds_are_not_confused() -> None:
    assert str(EvaluationState.PENDING) == str(PushState.PENDING)
    with pytest.raises(IllegalTransitionError, match="PushState must not change from pending"):
        check(EvaluationState.PENDING, PushState.PUSHED)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (BuildState.SUCCEEDED, BuildState.BUILDING),
        (BuildState.SUCCEEDED, BuildState.FAILED),
        (BuildState.FAILED, BuildState.BUILDING),
        (BuildState.QUEUED, BuildState.TIMED_OUT),
        (None, BuildState.SUCCEEDED),
        (PushState.PUSHED, PushState.PUSHING),
        (EvaluationState.PENDING, EvaluationState.SUCCEEDED),
        (EvaluationState.SUPERSEDED, EvaluationState.PENDING),
    ],
)
def test_what_must_never_happen(before: State | None, after: State) -> None:
    with pytest.raises(IllegalTransitionError):
        check(before, after)


def test_lost_outputs_queue_a_build_again() -> None:
    check(BuildState.SUCCEEDED, BuildState.QUEUED, Cause.OUTPUTS_LOST)
    check(BuildState.SUBSTITUTED, BuildState.QUEUED, Cause.OUTPUTS_LOST)
    with pytest.raises(IllegalTransitionError, match="only because of outputs lost"):
        check(BuildState.SUCCEEDED, BuildState.QUEUED, Cause.RETRY_REQUESTED)


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_gives_the_state_of_its_name_or_queues_again(outcome: Outcome) -> None:
    state = build_state(outcome)
    assert state == (outcome.value if outcome.final else "queued")
    check(BuildState.BUILDING, state, cause_of(outcome))


def test_each_outcome_has_its_own_cause() -> None:
    assert len({cause_of(outcome) for outcome in Outcome}) == len(Outcome)


def test_every_state_that_is_not_good_can_be_opened_again() -> None:
    for state in BuildState:
        if state.bad or state is BuildState.CANCELLED:
            assert Cause.RETRY_REQUESTED in causes(state, BuildState.QUEUED)
