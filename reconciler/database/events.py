"""The log of transitions: what changed, from what, to what, and why."""

from __future__ import annotations

from reconciler.database.file import Database


def event(
    database: Database,
    *,
    at: float,
    kind: str,
    subject: str,
    before: str | None,
    after: str | None,
    cause: str,
) -> None:
    """One line of the log of transitions."""
    database.execute(
        "INSERT INTO event(at, kind, subject, before, after, cause) VALUES (?, ?, ?, ?, ?, ?)",
        (at, kind, subject, before, after, cause),
    )
