"""Writes: builds and attempts."""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.database.file import Database
from reconciler.model import (
    AttemptResult,
    BuilderName,
    BuildState,
    Outcome,
)
from reconciler.transitions import Cause, build_state, cause_of, check


def set_build_states(
    database: Database,
    changes: Iterable[tuple[int, BuildState, BuildState]],
    *,
    cause: Cause,
    now: float,
) -> None:
    """Change builds' states: (derivation, before, after)."""
    rows = list(changes)
    if not rows:
        return
    with database.transaction():
        for _, before, after in rows:
            check(before, after, cause)
        database.execute_many(
            # A person's hurry ends with the build, however that ends.
            "UPDATE build SET state = ?1, finished_at = ?2, not_before = 0,"
            " bumped_at = CASE WHEN ?2 IS NULL THEN bumped_at END WHERE derivation = ?3",
            ((after, None if after.live else now, derivation) for derivation, _, after in rows),
        )
        database.execute_many(
            "INSERT INTO event(at, kind, subject, before, after, cause)"
            " SELECT ?, 'build', name, ?, ?, ? FROM derivation WHERE id = ?",
            ((now, before, after, cause, derivation) for derivation, before, after in rows),
        )


def begin_attempts(
    database: Database, assignments: Iterable[tuple[int, BuilderName]], *, now: float
) -> list[int]:
    """Record that builds are about to start; the attempts' ids, in order.

    The partial unique index refuses a second live attempt of one derivation.
    """
    made = []
    with database.transaction():
        for derivation, builder in assignments:
            made.append(
                database.execute(
                    "INSERT INTO attempt(derivation, builder, started_at) VALUES (?, ?, ?)",
                    (derivation, builder, now),
                )
            )
            set_build_states(
                database,
                [(derivation, BuildState.QUEUED, BuildState.BUILDING)],
                cause=Cause.STARTED,
                now=now,
            )
    return made


def end_attempt(
    database: Database,
    attempt: int,
    derivation: int,
    result: AttemptResult,
    *,
    not_before: float,
    cause: Cause | None = None,
) -> BuildState:
    """Record how an attempt ended; the build's state after it.

    `not_before` is when an infrastructure failure may be tried again; `cause` says more than the
    outcome does.
    """
    state = BuildState.SUBSTITUTED if result.substituted else build_state(result.outcome)
    if cause is None:
        cause = cause_of(result.outcome)
        if result.substituted:
            cause = Cause.SUBSTITUTED
        elif result.found:
            cause = Cause.FOUND_VALID
    with database.transaction():
        database.execute(
            "UPDATE attempt SET finished_at = ?, outcome = ?, message = ?, log_bytes = ?"
            " WHERE id = ?",
            (result.finished_at, result.outcome, result.message, result.log_bytes, attempt),
        )
        set_build_states(
            database,
            [(derivation, BuildState.BUILDING, state)],
            cause=cause,
            now=result.finished_at,
        )
        if result.outcome is Outcome.INFRASTRUCTURE:
            database.execute(
                "UPDATE build SET failures = failures + 1, not_before = ? WHERE derivation = ?",
                (not_before, derivation),
            )
        elif result.outcome.final:
            database.execute("UPDATE build SET failures = 0 WHERE derivation = ?", (derivation,))
        _add_facts(database, attempt, derivation, result)
    return state


def forgive(database: Database, derivations: Iterable[int]) -> None:
    """Count infrastructure failures from nothing again, and wait for nothing."""
    with database.transaction():
        database.execute_many(
            "UPDATE build SET failures = 0, not_before = 0 WHERE derivation = ?",
            ((each,) for each in derivations),
        )


def _add_facts(database: Database, attempt: int, derivation: int, result: AttemptResult) -> None:
    database.execute_many(
        "INSERT INTO output(derivation, name, path, size) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET path = excluded.path, size = excluded.size",
        ((derivation, name, fact.path, fact.size) for name, fact in result.outputs.items()),
    )
    database.execute_many(
        # Of all others the path is known before.
        "INSERT OR REPLACE INTO realisation(derivation, output, path, content)"
        " SELECT o.derivation, o.name, o.path, ? FROM output o JOIN derivation d"
        " ON d.id = o.derivation AND instr(' ' || d.features || ' ', ' ca-derivations ')"
        " WHERE o.derivation = ? AND o.name = ? AND o.path IS NOT NULL",
        ((text, derivation, name) for name, text in result.realisations.items()),
    )
    database.execute_many(
        "INSERT INTO product(attempt, kind, subtype, path) VALUES (?, ?, ?, ?)",
        ((attempt, item.kind, item.subtype, item.path) for item in result.products),
    )
    database.execute_many(
        "INSERT INTO metric(attempt, name, value, unit) VALUES (?, ?, ?, ?)",
        ((attempt, item.name, item.value, item.unit) for item in result.metrics),
    )


def set_duration(database: Database, *, name: str, system: str, seconds: float) -> None:
    """Fold a build's duration into what is expected of the next of its name and system: the seconds
    that a builder of speed 1 takes.

    A moving average: the newest build weighs as much as all before it.
    """
    database.execute(
        "INSERT INTO duration(name, system, seconds) VALUES (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET seconds = (seconds + excluded.seconds) / 2",
        (name, system, seconds),
    )


def bump(database: Database, derivations: Iterable[int], *, now: float) -> None:
    """Note that a person wants builds first."""
    with database.transaction():
        database.execute_many(
            "UPDATE build SET bumped_at = ? WHERE derivation = ?",
            ((now, each) for each in derivations),
        )
