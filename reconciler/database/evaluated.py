"""Writes: evaluations and their jobs."""

from __future__ import annotations

import json
from collections.abc import Iterable

from msgspec import Struct

from reconciler.database.events import event
from reconciler.database.file import Database, Value
from reconciler.model import (
    EvaluatedJob,
    EvaluationFailure,
    EvaluationState,
    JobsetName,
)
from reconciler.transitions import Cause, check

INTERRUPTED = "interrupted: the reconciler was stopped"
"""The error of an evaluation that a stop cut off: it is evaluated again."""


class Origin(Struct, frozen=True, kw_only=True):
    """The commit that an evaluation is of, and what it comes from, as far as that is known."""

    revision: str | None = None
    ancestors: tuple[str, ...] = ()
    merge_base: str | None = None


UNKNOWN = Origin()


def begin_evaluation(
    database: Database,
    jobset: JobsetName,
    *,
    fingerprint: str,
    locked: str,
    cause: str,
    now: float,
    origin: Origin = UNKNOWN,
) -> int:
    """Record that a jobset is to be evaluated; the evaluation's id."""
    with database.transaction():
        evaluation = database.execute(
            "INSERT INTO evaluation(jobset, state, fingerprint, locked, cause, started_at,"
            " revision, ancestors, merge_base)"
            " SELECT id, 'pending', ?, ?, ?, ?, ?, ?, ? FROM jobset WHERE name = ?",
            (
                fingerprint,
                locked,
                cause,
                now,
                origin.revision,
                json.dumps(origin.ancestors),
                origin.merge_base,
                jobset,
            ),
        )
        event(
            database,
            at=now,
            kind="evaluation",
            subject=f"{jobset}#{evaluation}",
            before=None,
            after=EvaluationState.PENDING,
            cause=cause,
        )
    return evaluation


def start_evaluation(database: Database, evaluation: int, *, now: float) -> None:
    """Record that an evaluation has begun to run."""
    with database.transaction():
        row = database.one(
            "SELECT e.state, j.name FROM evaluation e JOIN jobset j ON j.id = e.jobset"
            " WHERE e.id = ?",
            (evaluation,),
        )
        assert row is not None
        _evaluation_state(
            database,
            row["name"],
            evaluation,
            row["state"],
            EvaluationState.RUNNING,
            cause=Cause.STARTED,
            now=now,
        )
        database.execute("UPDATE evaluation SET started_at = ? WHERE id = ?", (now, evaluation))


def end_evaluation(database: Database, evaluation: int, *, error: str | None, now: float) -> None:
    """Record how an evaluation ended; a success supersedes what its jobset had before."""
    after = EvaluationState.SUCCEEDED if error is None else EvaluationState.FAILED
    with database.transaction():
        row = database.one(
            "SELECT e.state, e.jobset, j.name FROM evaluation e JOIN jobset j ON j.id = e.jobset"
            " WHERE e.id = ?",
            (evaluation,),
        )
        assert row is not None
        cause = Cause.SUCCEEDED if error is None else Cause.FAILED
        _evaluation_state(
            database, row["name"], evaluation, row["state"], after, cause=cause, now=now
        )
        database.execute(
            "UPDATE evaluation SET finished_at = ?, error = ? WHERE id = ?",
            (now, error, evaluation),
        )
        if error is None:
            _supersede(
                database,
                row["name"],
                "jobset = ? AND id < ?",
                (row["jobset"], evaluation),
                cause=Cause.SUPERSEDED,
                now=now,
            )


def prune_jobset(database: Database, jobset: JobsetName, *, now: float) -> None:
    """Put what a jobset that is declared no longer has out of force; its history stays."""
    with database.transaction():
        _supersede(
            database,
            jobset,
            "jobset = (SELECT id FROM jobset WHERE name = ?)",
            (jobset,),
            cause=Cause.NO_LONGER_WANTED,
            now=now,
        )


def _supersede(
    database: Database,
    jobset: str,
    where: str,
    parameters: tuple[Value, ...],
    *,
    cause: Cause,
    now: float,
) -> None:
    for row in database.query(
        f"SELECT id, state FROM evaluation WHERE state = 'succeeded' AND {where}",
        parameters,
    ):
        _evaluation_state(
            database,
            jobset,
            row["id"],
            row["state"],
            EvaluationState.SUPERSEDED,
            cause=cause,
            now=now,
        )


def _evaluation_state(
    database: Database,
    jobset: str,
    evaluation: int,
    before: str,
    after: EvaluationState,
    *,
    cause: Cause,
    now: float,
) -> None:
    check(EvaluationState(before), after, cause)
    database.execute("UPDATE evaluation SET state = ? WHERE id = ?", (after, evaluation))
    event(
        database,
        at=now,
        kind="evaluation",
        subject=f"{jobset}#{evaluation}",
        before=before,
        after=after,
        cause=cause,
    )


def add_jobs(
    database: Database,
    evaluation: int,
    jobs: Iterable[tuple[EvaluatedJob, int]],
    failures: Iterable[EvaluationFailure],
) -> None:
    """Store rows of an evaluation; each job with the id of its derivation."""
    sql = (
        "INSERT INTO job(evaluation, attr, derivation, error, description, timeout, max_silent,"
        " priority, constituents) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT(evaluation, attr) DO UPDATE SET derivation = excluded.derivation,"
        " error = excluded.error"
    )
    database.execute_many(
        sql,
        (
            (
                evaluation,
                job.attr,
                derivation,
                None,
                job.description,
                job.timeout,
                job.max_silent,
                job.priority,
                json.dumps(job.constituents),
            )
            for job, derivation in jobs
        ),
    )
    database.execute_many(
        sql,
        (
            (evaluation, failure.attr, None, failure.message, None, None, None, 0, "[]")
            for failure in failures
        ),
    )


def forget_evaluations(database: Database, evaluations: Iterable[int], *, now: float) -> None:
    """Drop evaluations that are no longer kept, with their jobs. Builds stay."""
    with database.transaction():
        for evaluation in evaluations:
            row = database.one("SELECT state FROM evaluation WHERE id = ?", (evaluation,))
            assert row is not None
            database.execute("DELETE FROM evaluation WHERE id = ?", (evaluation,))
            event(
                database,
                at=now,
                kind="evaluation",
                subject=f"#{evaluation}",
                before=row["state"],
                after="forgotten",
                cause="keep",
            )
