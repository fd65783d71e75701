"""Reads: which bases of incremental builds are to be kept, and which to be let go."""

from __future__ import annotations

from reconciler.database.bases import SAME_SOURCE
from reconciler.database.file import Database
from reconciler.model import Incremental, JobsetName, StorePath


def superfluous(database: Database, jobset: JobsetName, settings: Incremental) -> list[int]:
    """The bases of a source's branches that are not to be kept.

    Of each job of a branch the newest are kept, as far as all of them together are not too large,
    and whatever an evaluation was given whose builds have not ended. Untrusted branches have what
    room the others leave.
    """
    rows = database.query(
        "SELECT id, path, size, place FROM (SELECT b.*, row_number() OVER"
        " (PARTITION BY b.slot ORDER BY b.quarantined_at IS NOT NULL, b.created_at DESC,"
        " b.id DESC) AS place, j.pattern IS NOT NULL AND s.trust = j.name AS alone"
        " FROM base b JOIN incremental_slot s ON s.id = b.slot"
        f" JOIN jobset j ON j.id = s.jobset WHERE b.released_at IS NULL AND {SAME_SOURCE})"
        # The newest of each job before the second of any.
        " ORDER BY alone, place, created_at DESC, id DESC",
        (jobset,),
    )
    used = _used(database)
    counted: set[str] = set()
    total = 0
    found = []
    for row in rows:
        size = 0 if row["path"] in counted else row["size"]
        fits = row["place"] <= settings.per_slot and total + size <= settings.max_size
        if fits or row["id"] in used:
            counted.add(row["path"])
            total += size
        else:
            found.append(row["id"])
    return found


def ownerless(database: Database) -> list[int]:
    """The bases of jobsets that are declared no longer, unless their builds have not ended."""
    rows = database.query(
        "SELECT b.id FROM base b JOIN incremental_slot s ON s.id = b.slot"
        " JOIN jobset j ON j.id = s.jobset"
        " WHERE b.released_at IS NULL AND j.removed_at IS NOT NULL ORDER BY b.id"
    )
    used = _used(database)
    return [row[0] for row in rows if row[0] not in used]


def _used(database: Database) -> frozenset[int]:
    """What evaluations were given that go on, or whose builds do."""
    rows = database.query(
        "SELECT DISTINCT eb.base FROM evaluation_base eb JOIN evaluation e ON e.id = eb.evaluation"
        " WHERE e.state IN ('pending', 'running') OR EXISTS (SELECT 1 FROM job"
        " JOIN build ON build.derivation = job.derivation WHERE job.evaluation = e.id"
        " AND build.state IN ('queued', 'building'))"
    )
    return frozenset(row[0] for row in rows)


def held_paths(database: Database) -> frozenset[StorePath]:
    """What must be rooted."""
    rows = database.query("SELECT DISTINCT path FROM base WHERE released_at IS NULL")
    return frozenset(row[0] for row in rows)
