"""What builders went through since they last built something, kept over a restart.

Of builders that are declared; what becomes of them is decided elsewhere (`quarantine`).
"""

from __future__ import annotations

from reconciler.database.file import Database
from reconciler.model import BuilderName
from reconciler.quarantine import Trouble


def troubles(database: Database) -> dict[BuilderName, Trouble]:
    """All that is remembered."""
    return {
        BuilderName(row["builder"]): Trouble(
            failures=row["failures"],
            failed_at=row["failed_at"],
            until=row["until"],
            error=row["error"],
            unfit=bool(row["unfit"]),
        )
        for row in database.query("SELECT * FROM quarantine ORDER BY builder")
    }


def remember(database: Database, builder: BuilderName, trouble: Trouble) -> None:
    """Replace what is remembered of a builder."""
    with database.transaction():
        database.execute(
            "INSERT OR REPLACE INTO quarantine(builder, failures, failed_at, until, error, unfit)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                builder,
                trouble.failures,
                trouble.failed_at,
                trouble.until,
                trouble.error,
                int(trouble.unfit),
            ),
        )


def forget(database: Database, builder: BuilderName) -> None:
    """Nothing is known against a builder any more."""
    with database.transaction():
        database.execute("DELETE FROM quarantine WHERE builder = ?", (builder,))
