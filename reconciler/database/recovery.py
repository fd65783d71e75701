"""Writes: closing what a killed daemon left open."""

from __future__ import annotations

from reconciler.database.built import end_attempt
from reconciler.database.evaluated import INTERRUPTED, end_evaluation
from reconciler.database.file import Database
from reconciler.model import (
    AttemptResult,
    Outcome,
)


def recover(database: Database, *, now: float) -> None:
    """Close what a killed daemon left open: its attempts, evaluations and uploads."""
    with database.transaction():
        for row in database.query(
            "SELECT a.id, a.derivation, a.started_at FROM attempt a WHERE a.finished_at IS NULL"
        ):
            end_attempt(
                database,
                row["id"],
                row["derivation"],
                AttemptResult(
                    outcome=Outcome.INTERRUPTED,
                    message="the reconciler was stopped",
                    started_at=row["started_at"],
                    finished_at=now,
                ),
                not_before=now,
            )
        for row in database.query(
            "SELECT id FROM evaluation WHERE state IN ('pending', 'running')"
        ):
            end_evaluation(database, row["id"], error=INTERRUPTED, now=now)
        if database.one("SELECT 1 FROM push WHERE state = 'pushing'"):
            database.execute("UPDATE push SET state = 'pending' WHERE state = 'pushing'")
