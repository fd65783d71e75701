"""Writes: forgetting what no kept evaluation needs."""

from __future__ import annotations

import json

from reconciler.database.file import Database

UNNEEDED = "b.state <> 'building' AND b.derivation NOT IN (SELECT id FROM needed)"
"""Of a build `b`, beside `needed`. Those being built stay."""


def needed(*, jobs: str) -> str:
    """A query's first part, `needed`: all that the jobs need for which a condition holds, and the
    clean builds of audits that go on.
    """
    return (
        "WITH RECURSIVE needed(id) AS (SELECT derivation FROM job"
        f" WHERE derivation IS NOT NULL AND {jobs}"
        " UNION SELECT d.id FROM audit a JOIN derivation d ON d.path = a.clean"
        " WHERE a.finished_at IS NULL"
        " UNION SELECT i.input FROM needed n JOIN input i ON i.derivation = n.id)"
    )


def sweep(database: Database) -> list[int]:
    """Drop derivations that no evaluation needs, with their builds; the attempts dropped.

    What past builds took is kept: it tells what the next will take.
    """
    with database.transaction():
        orphans = json.dumps(
            [
                row[0]
                for row in database.query(
                    f"{needed(jobs='TRUE')} SELECT b.derivation FROM build b WHERE {UNNEEDED}"
                )
            ]
        )
        attempts = database.query(
            "SELECT id FROM attempt WHERE derivation IN (SELECT value FROM json_each(?))",
            (orphans,),
        )
        database.execute(
            "DELETE FROM derivation WHERE id IN (SELECT value FROM json_each(?))", (orphans,)
        )
    return [row[0] for row in attempts]
