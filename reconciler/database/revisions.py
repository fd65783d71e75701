"""Reads: the evaluations of a jobset that are kept, with the jobs to compare. Writes nothing."""

from __future__ import annotations

from reconciler.database.blocked import Blocked
from reconciler.database.file import Database
from reconciler.database.report import MESSAGE_LENGTH, evaluation_facts
from reconciler.explain import ComparedJob
from reconciler.model import BuildState, JobsetName
from reconciler.status import EvaluationFacts, JobState, job_state


def evaluations(database: Database, jobset: JobsetName) -> list[EvaluationFacts]:
    """Those with a result, newest first."""
    return [
        evaluation_facts(row)
        for row in database.query(
            "SELECT e.id, e.state, e.cause, e.locked, e.started_at, e.finished_at,"
            " substr(e.error, 1, ?) AS error FROM jobset s JOIN evaluation e ON e.jobset = s.id"
            " WHERE s.name = ? AND e.state IN ('succeeded', 'superseded', 'running')"
            " ORDER BY e.id DESC",
            (MESSAGE_LENGTH, jobset),
        )
    ]


def compared_jobs(database: Database, evaluation: int, in_way: Blocked) -> dict[str, ComparedJob]:
    """An evaluation's jobs, as their builds are now."""
    return {
        row["attr"]: ComparedJob(
            derivation=row["path"],
            state=JobState.EVALUATION_ERROR
            if row["derivation"] is None
            else in_way.states.get(row["derivation"]) or job_state(BuildState(row["state"])),
        )
        for row in database.query(
            "SELECT j.attr, j.derivation, d.path, b.state FROM job j"
            " LEFT JOIN derivation d ON d.id = j.derivation"
            " LEFT JOIN build b ON b.derivation = j.derivation WHERE j.evaluation = ?",
            (evaluation,),
        )
    }
