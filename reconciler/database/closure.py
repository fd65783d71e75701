"""Reads: a derivation with all below it that is recorded. Writes nothing."""

from __future__ import annotations

import json

from msgspec import Struct

from reconciler.database.blocked import Blocked
from reconciler.database.file import Database
from reconciler.model import BuildState
from reconciler.status import JobState, job_state


class ClosureNode(Struct, frozen=True, kw_only=True):
    """A derivation of a graph."""

    id: int
    name: str
    path: str
    system: str
    state: JobState
    inputs: tuple[int, ...]


def closure(
    database: Database, derivation: int, in_way: Blocked, *, limit: int
) -> tuple[dict[int, ClosureNode], bool]:
    """The nodes by id, the nearest `limit` of them, and whether that is all."""
    found = [
        row[0]
        for row in database.query(
            # Ordered by distance: SQLite takes rows off a recursive query's queue in that order.
            "WITH RECURSIVE below(id, depth) AS (SELECT ?1, 0 UNION"
            " SELECT i.input, a.depth + 1 FROM below a CROSS JOIN input i ON i.derivation = a.id"
            " ORDER BY 2 LIMIT ?2) SELECT DISTINCT id FROM below",
            (derivation, 50 * limit),
        )
    ]
    chosen = found[:limit]
    asked = json.dumps(chosen)
    inputs: dict[int, list[int]] = {}
    for row in database.query(
        "SELECT i.derivation, i.input FROM json_each(?) a"
        " CROSS JOIN input i ON i.derivation = a.value"
        " JOIN derivation d ON d.id = i.input ORDER BY d.name, d.id",
        (asked,),
    ):
        inputs.setdefault(row[0], []).append(row[1])
    known = set(chosen)
    nodes = {
        row["id"]: ClosureNode(
            id=row["id"],
            name=row["name"],
            path=row["path"],
            system=row["system"],
            state=in_way.states.get(row["id"]) or job_state(BuildState(row["state"])),
            inputs=tuple(key for key in inputs.get(row["id"], ()) if key in known),
        )
        for row in database.query(
            "SELECT d.id, d.name, d.path, d.system, b.state FROM derivation d"
            " JOIN build b ON b.derivation = d.id WHERE d.id IN (SELECT value FROM json_each(?))",
            (asked,),
        )
    }
    whole = len(nodes) == len(found) and all(
        key in nodes for each in inputs.values() for key in each
    )
    return nodes, whole
