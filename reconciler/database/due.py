"""Which builds and bases a tick has to see to: those of which something changed since the last.

Triggers of the schema write them down, whoever changes something. What follows is decided
elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from reconciler.database.file import Database

BUILDS = (
    "(SELECT DISTINCT derivation AS id FROM incremental_due WHERE derivation IS NOT NULL) due"
    " CROSS JOIN build_base c ON c.derivation = due.id"
)
"""What a query of builds begins with: `c`. CROSS JOIN keeps SQLite from beginning elsewhere."""
BASES = (
    "(SELECT DISTINCT base AS id FROM incremental_due WHERE base IS NOT NULL) due"
    " CROSS JOIN base b ON b.id = due.id"
)
"""The same of bases: `b`."""


def newest(database: Database) -> int | None:
    """What is to be seen to now goes up to here; None: there is nothing."""
    row = database.one("SELECT max(id) FROM incremental_due")
    assert row is not None
    return None if row[0] is None else int(row[0])


def settle(database: Database, upto: int) -> None:
    """It was seen to; what came meanwhile is for the next tick."""
    with database.transaction():
        database.execute("DELETE FROM incremental_due WHERE id <= ?", (upto,))


def any_base(database: Database) -> bool:
    """Whether something changed of a base."""
    found = "SELECT 1 FROM incremental_due WHERE base IS NOT NULL LIMIT 1"
    return database.one(found) is not None


def again(database: Database, derivations: Iterable[int]) -> None:
    """Have builds seen to once more."""
    with database.transaction():
        database.execute(
            "INSERT INTO incremental_due(derivation) SELECT value FROM json_each(?)",
            (json.dumps(list(derivations)),),
        )


def everything(database: Database) -> None:
    """Have all seen to that is in force or kept: what is to be done depends on the document, too,
    and on what a process knows that is gone.
    """
    with database.transaction():
        database.execute(
            "INSERT INTO incremental_due(derivation) SELECT DISTINCT c.derivation"
            " FROM evaluation e CROSS JOIN job ON job.evaluation = e.id"
            " CROSS JOIN build_base c ON c.derivation = job.derivation"
            " WHERE e.state IN ('running', 'succeeded')"
        )
        database.execute(
            "INSERT INTO incremental_due(base) SELECT id FROM base WHERE released_at IS NULL"
        )
