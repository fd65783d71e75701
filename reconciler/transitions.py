"""Which changes of state are legal, and what may cause them.

One table for evaluations, builds and pushes; whoever writes a state asks it first. It knows
nothing of the graph, of time or of the database. A state that is about to be recorded for the
first time has the state before None.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import assert_never

from reconciler.model import BuildState, EvaluationState, Outcome, PushState

State = EvaluationState | BuildState | PushState


class IllegalTransitionError(AssertionError):
    """A change of state that the table does not know: a mistake in this program."""


class Cause(StrEnum):
    """Why a state changed, as the log of transitions says it."""

    CREATED = "created"
    STARTED = "attempt started"
    SUCCEEDED = "attempt succeeded"
    FAILED = "attempt failed"
    TIMED_OUT = "attempt timed out"
    LOG_LIMIT = "log limit exceeded"
    OUTPUT_LIMIT = "output limit exceeded"
    NOT_DETERMINISTIC = "outputs differ between builds"
    INFRASTRUCTURE = "infrastructure failure"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled by request"
    NO_LONGER_WANTED = "no longer wanted"
    WANTED_AGAIN = "wanted again"
    RETRY_REQUESTED = "retry requested"
    TRIED_WITHOUT = "failed from a base"
    EXPIRED = "its failure is too old to count"
    SUPERSEDED = "superseded by a newer one"
    SUBSTITUTED = "fetched from a substituter"
    FOUND_VALID = "found valid in the store"
    FOUND_IN_CACHE = "found in the cache"
    OUTPUTS_LOST = "outputs lost"
    LOST_FROM_CACHE = "lost from the cache"
    PATH_COLLECTED = "path collected before it was pushed"


_Table = Mapping[tuple[State | None, State], frozenset[Cause]]


def _evaluations() -> _Table:
    s, c = EvaluationState, Cause
    return {
        (None, s.PENDING): frozenset({c.CREATED}),
        (s.PENDING, s.RUNNING): frozenset({c.STARTED}),
        (s.PENDING, s.FAILED): frozenset({c.FAILED, c.CANCELLED}),
        (s.RUNNING, s.SUCCEEDED): frozenset({c.SUCCEEDED}),
        (s.RUNNING, s.FAILED): frozenset({c.FAILED, c.TIMED_OUT, c.CANCELLED}),
        # What is evaluated again is a new evaluation: an old one only goes out of force.
        (s.SUCCEEDED, s.SUPERSEDED): frozenset({c.SUPERSEDED, c.NO_LONGER_WANTED}),
    }


_BAD = tuple(state for state in BuildState if state.bad)
_ENDED = (*_BAD, BuildState.CANCELLED)


def _builds() -> _Table:
    s, c = BuildState, Cause
    found = frozenset({c.FOUND_VALID, c.SUBSTITUTED})
    table: dict[tuple[State | None, State], frozenset[Cause]] = {
        (None, s.QUEUED): frozenset({c.CREATED}),
        (None, s.SUBSTITUTED): found,
        (s.QUEUED, s.BUILDING): frozenset({c.STARTED}),
        (s.QUEUED, s.CANCELLED): frozenset({c.CANCELLED, c.NO_LONGER_WANTED}),
        (s.QUEUED, s.SUBSTITUTED): found,
        # What an interrupted attempt finished after all counts as built, not as fetched.
        (s.QUEUED, s.SUCCEEDED): frozenset({c.FOUND_VALID}),
        (s.BUILDING, s.SUCCEEDED): frozenset({c.SUCCEEDED, c.FOUND_VALID}),
        (s.BUILDING, s.SUBSTITUTED): found,
        (s.BUILDING, s.FAILED): frozenset({c.FAILED}),
        (s.BUILDING, s.TIMED_OUT): frozenset({c.TIMED_OUT}),
        (s.BUILDING, s.LOG_LIMIT): frozenset({c.LOG_LIMIT}),
        (s.BUILDING, s.OUTPUT_LIMIT): frozenset({c.OUTPUT_LIMIT}),
        (s.BUILDING, s.NOT_DETERMINISTIC): frozenset({c.NOT_DETERMINISTIC}),
        (s.BUILDING, s.CANCELLED): frozenset({c.CANCELLED, c.NO_LONGER_WANTED}),
        (s.BUILDING, s.QUEUED): frozenset({c.INTERRUPTED, c.INFRASTRUCTURE}),
        (s.SUCCEEDED, s.QUEUED): frozenset({c.OUTPUTS_LOST}),
        (s.SUBSTITUTED, s.QUEUED): frozenset({c.OUTPUTS_LOST}),
        (s.CANCELLED, s.QUEUED): frozenset({c.RETRY_REQUESTED, c.WANTED_AGAIN}),
    }
    for state in _BAD:
        table[state, s.QUEUED] = frozenset({c.RETRY_REQUESTED, c.TRIED_WITHOUT, c.EXPIRED})
    for state in _ENDED:  # somebody else built it meanwhile
        table[state, s.SUBSTITUTED] = found
    return table


def _pushes() -> _Table:
    s, c = PushState, Cause
    return {
        (None, s.PENDING): frozenset({c.CREATED}),
        (s.PENDING, s.PUSHING): frozenset({c.STARTED}),
        (s.PENDING, s.PUSHED): frozenset({c.FOUND_IN_CACHE}),
        (s.PENDING, s.FAILED): frozenset({c.PATH_COLLECTED, c.NO_LONGER_WANTED}),
        (s.PUSHING, s.PUSHED): frozenset({c.SUCCEEDED, c.FOUND_IN_CACHE}),
        (s.PUSHING, s.PENDING): frozenset({c.INTERRUPTED, c.INFRASTRUCTURE}),
        (s.PUSHING, s.FAILED): frozenset({c.FAILED, c.PATH_COLLECTED}),
        (s.PUSHED, s.PENDING): frozenset({c.LOST_FROM_CACHE}),
        # Deleted from a cache that is ours.
        (s.PUSHED, s.FAILED): frozenset({c.NO_LONGER_WANTED}),
        (s.FAILED, s.PENDING): frozenset({c.RETRY_REQUESTED, c.WANTED_AGAIN}),
    }


# One table a kind: states of different kinds with the same text are equal as strings.
TABLES: Mapping[type[State], _Table] = {
    EvaluationState: _evaluations(),
    BuildState: _builds(),
    PushState: _pushes(),
}


def causes(before: State | None, after: State) -> frozenset[Cause]:
    """Tell what may change `before` to `after`; empty: nothing may."""
    if before is not None and type(before) is not type(after):
        return frozenset()
    return TABLES[type(after)].get((before, after), frozenset())


def check(before: State | None, after: State, cause: Cause | None = None) -> None:
    """Raise IllegalTransitionError unless `before` may become `after` (because of `cause`)."""
    allowed = causes(before, after)
    if not allowed:
        raise IllegalTransitionError(
            f"{type(after).__name__} must not change from {before} to {after}"
        )
    if cause is not None and cause not in allowed:
        raise IllegalTransitionError(
            f"{type(after).__name__} must not change from {before} to {after}"
            f" because of «{cause}»: only because of {', '.join(sorted(allowed))}"
        )


def build_state(outcome: Outcome) -> BuildState:
    """Give the state of a build whose attempt ended so (built, not fetched)."""
    match outcome:
        case Outcome.SUCCEEDED:
            return BuildState.SUCCEEDED
        case Outcome.FAILED:
            return BuildState.FAILED
        case Outcome.TIMED_OUT:
            return BuildState.TIMED_OUT
        case Outcome.LOG_LIMIT:
            return BuildState.LOG_LIMIT
        case Outcome.OUTPUT_LIMIT:
            return BuildState.OUTPUT_LIMIT
        case Outcome.NOT_DETERMINISTIC:
            return BuildState.NOT_DETERMINISTIC
        case Outcome.CANCELLED:
            return BuildState.CANCELLED
        case Outcome.INFRASTRUCTURE | Outcome.INTERRUPTED:
            return BuildState.QUEUED
        case _:
            assert_never(outcome)


def cause_of(outcome: Outcome) -> Cause:
    """Give what the log of transitions says of an attempt that ended so."""
    match outcome:
        case Outcome.SUCCEEDED:
            return Cause.SUCCEEDED
        case Outcome.FAILED:
            return Cause.FAILED
        case Outcome.TIMED_OUT:
            return Cause.TIMED_OUT
        case Outcome.LOG_LIMIT:
            return Cause.LOG_LIMIT
        case Outcome.OUTPUT_LIMIT:
            return Cause.OUTPUT_LIMIT
        case Outcome.NOT_DETERMINISTIC:
            return Cause.NOT_DETERMINISTIC
        case Outcome.CANCELLED:
            return Cause.CANCELLED
        case Outcome.INFRASTRUCTURE:
            return Cause.INFRASTRUCTURE
        case Outcome.INTERRUPTED:
            return Cause.INTERRUPTED
        case _:
            assert_never(outcome)
