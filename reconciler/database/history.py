"""Writes: forgetting history by its age. Needs the state directory's lock: a daemon at work has
the rows in use.
"""

from __future__ import annotations

from msgspec import Struct

from reconciler.database import incremental
from reconciler.database.evaluated import forget_evaluations
from reconciler.database.file import Database
from reconciler.database.retention import UNNEEDED, needed, sweep

_OLD_JOBSETS = "SELECT id FROM jobset WHERE removed_at < :oldest"
_OLD_EVALUATIONS = (
    f"SELECT id FROM evaluation WHERE jobset IN ({_OLD_JOBSETS})"
    " AND state IN ('superseded', 'failed')"
)


class Waste(Struct, frozen=True, kw_only=True):
    """How much there is to forget."""

    jobsets: int
    caches: int
    evaluations: int
    builds: int
    attempts: int
    events: int
    requests: int


def waste(database: Database, *, oldest: float) -> Waste:
    """Count what `forget` would forget."""
    kept = needed(jobs=f"evaluation NOT IN ({_OLD_EVALUATIONS})")

    def count(sql: str) -> int:
        row = database.connection.execute(sql, {"oldest": oldest}).fetchone()
        return int(row[0])

    return Waste(
        jobsets=count(f"SELECT count(*) FROM ({_OLD_JOBSETS})"),
        caches=count("SELECT count(*) FROM cache WHERE removed_at < :oldest"),
        evaluations=count(f"SELECT count(*) FROM ({_OLD_EVALUATIONS})"),
        builds=count(f"{kept} SELECT count(*) FROM build b WHERE {UNNEEDED}"),
        attempts=count(
            f"{kept} SELECT count(*) FROM build b JOIN attempt a ON a.derivation = b.derivation"
            f" WHERE {UNNEEDED}"
        ),
        events=count("SELECT count(*) FROM event WHERE at < :oldest"),
        requests=count("SELECT count(*) FROM request WHERE handled_at < :oldest"),
    )


def forget(database: Database, *, oldest: float, now: float) -> list[int]:
    """Forget it; the attempts whose logs are of no use any more."""

    def run(sql: str) -> None:
        database.connection.execute(sql, {"oldest": oldest})

    with database.transaction():
        evaluations = database.connection.execute(_OLD_EVALUATIONS, {"oldest": oldest}).fetchall()
        forget_evaluations(database, [row[0] for row in evaluations], now=now)
        attempts = sweep(database)
        incremental.forget_released(database, before=oldest)
        run(
            "DELETE FROM jobset WHERE removed_at < :oldest"
            " AND id NOT IN (SELECT jobset FROM evaluation)"
        )
        run("DELETE FROM cache WHERE removed_at < :oldest")
        run(
            "DELETE FROM generation WHERE applied_at < :oldest"
            " AND id <> (SELECT max(id) FROM generation)"
            " AND id NOT IN (SELECT generation FROM jobset)"
            " AND id NOT IN (SELECT generation FROM cache)"
        )
        run("DELETE FROM event WHERE at < :oldest")
        run("DELETE FROM request WHERE handled_at < :oldest")
    return attempts
