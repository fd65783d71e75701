"""Writes: forgetting what no kept evaluation needs."""

from __future__ import annotations

import json

from reconciler.database.file import Database

_NEEDED = (
    "WITH RECURSIVE needed(id) AS (SELECT derivation FROM job WHERE derivation IS NOT NULL"
    " UNION SELECT i.input FROM needed n JOIN input i ON i.derivation = n.id)"
)


def sweep(database: Database) -> list[int]:
    """Drop derivations that no evaluation needs, with their builds; the attempts dropped.

    Those being built stay. What past builds took is kept: it tells what the next will take.
    """
    with database.transaction():
        orphans = json.dumps(
            [
                row[0]
                for row in database.query(
                    f"{_NEEDED} SELECT b.derivation FROM build b"
                    " WHERE b.state <> 'building' AND b.derivation NOT IN (SELECT id FROM needed)"
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
