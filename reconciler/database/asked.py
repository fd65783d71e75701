"""Reads: what the evaluations in force ask of builders. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Collection

from reconciler.database.file import Database
from reconciler.model import JobsetName

_IN_FORCE = (
    "EXISTS (SELECT 1 FROM job j JOIN evaluation e ON e.id = j.evaluation"
    " JOIN jobset s ON s.id = e.jobset WHERE j.derivation = a.id"
    " AND e.state IN ('running', 'succeeded') AND s.removed_at IS NULL)"
)


def are_evaluated(database: Database, jobsets: Collection[JobsetName]) -> bool:
    """Whether of each of the jobsets, of which there are some, an evaluation is in force, and no
    other is under way.
    """
    row = database.one(
        "SELECT count(*) FROM jobset s WHERE s.name IN (SELECT value FROM json_each(?))"
        " AND EXISTS (SELECT 1 FROM evaluation e WHERE e.jobset = s.id AND e.state = 'succeeded')"
        " AND NOT EXISTS (SELECT 1 FROM evaluation e WHERE e.jobset = s.id"
        "  AND e.state IN ('pending', 'running'))",
        (json.dumps(list(jobsets)),),
    )
    return row is not None and 0 < row[0] == len(jobsets)


def features_asked_for(database: Database, features: Collection[str]) -> bool:
    """Whether a job in force, or what it was found to need, requires all of some features.

    From what does upwards: with few such derivations that is little, with many soon found.
    """
    every = " AND ".join("instr(' ' || features || ' ', ' ' || ? || ' ')" for _ in features)
    return (
        database.one(
            f"WITH RECURSIVE asking(id) AS (SELECT id FROM derivation WHERE {every}"
            " UNION SELECT i.derivation FROM asking a CROSS JOIN input i ON i.input = a.id)"
            f" SELECT 1 FROM asking a WHERE {_IN_FORCE} LIMIT 1",
            tuple(features),
        )
        is not None
    )
