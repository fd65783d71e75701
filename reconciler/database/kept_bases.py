"""Reads: which bases of incremental builds are to be kept, and which to be let go."""

from __future__ import annotations

import json
from collections.abc import Collection

from reconciler.database import due
from reconciler.database.bases import SAME_SOURCE
from reconciler.database.file import Database
from reconciler.model import CacheName, Desired, Incremental, JobsetName, StorePath

UNDECLARED = "its jobset is declared no longer"
DISABLED = "its jobset has incremental.enable no longer"


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


def ownerless(database: Database, desired: Desired) -> dict[int, str]:
    """The bases of jobsets without incremental builds, each with the reason, unless builds that
    were given them have not ended.
    """
    declared = {**desired.patterns, **desired.jobsets}
    names = [name for name, each in declared.items() if each.incremental.enable]
    rows = database.query(
        # From the few jobsets on, or it would read all that is kept.
        "SELECT b.id, j.name FROM jobset j CROSS JOIN incremental_slot s ON s.jobset = j.id"
        " CROSS JOIN base b ON b.slot = s.id WHERE b.released_at IS NULL"
        " AND j.name NOT IN (SELECT value FROM json_each(?)) ORDER BY b.id",
        (json.dumps(names),),
    )
    used = _used(database) if rows else frozenset()
    return {
        row["id"]: DISABLED if row["name"] in declared else UNDECLARED
        for row in rows
        if row["id"] not in used
    }


def unneeded(database: Database, desired: Desired) -> dict[int, str]:
    """All that is not to be kept, each with the reason."""
    sources = {
        each.branch_of or name: each
        for name, each in desired.jobsets.items()
        if each.incremental.enable
    }
    found = {
        base: "newer ones are kept"
        for each in sources.values()
        for base in superfluous(database, each.name, each.incremental)
    }
    return {**found, **ownerless(database, desired)}


def _used(database: Database) -> frozenset[int]:
    """What evaluations were given that go on, or whose builds do."""
    rows = database.query(
        # From the builds on that have not ended, or all jobs of all evaluations would be read.
        "SELECT DISTINCT base FROM evaluation_base WHERE evaluation IN (SELECT id FROM evaluation"
        " WHERE state IN ('pending', 'running') UNION SELECT job.evaluation"
        " FROM build INDEXED BY build_not_good CROSS JOIN job ON job.derivation = build.derivation"
        # The first condition is the partial index's.
        " WHERE build.state NOT IN ('succeeded', 'substituted')"
        " AND build.state IN ('queued', 'building'))"
    )
    return frozenset(row[0] for row in rows)


def unqueued(
    database: Database,
    cache: CacheName,
    jobsets: Collection[JobsetName],
    *,
    audited: Collection[JobsetName],
) -> dict[StorePath, int]:
    """What builds of jobsets left that belongs in a cache and is not on its queue: paths with their
    sizes; of the bases due. Of those jobsets that want builds `audited` first, only what such
    builds left.
    """
    rows = database.query(
        f"SELECT b.path, b.size FROM {due.BASES} JOIN incremental_slot s ON s.id = b.slot"
        " JOIN jobset j ON j.id = s.jobset WHERE b.released_at IS NULL"
        " AND b.quarantined_at IS NULL AND b.fetched_from IS NULL"
        " AND j.name IN (SELECT value FROM json_each(?))"
        " AND (b.depth = 0 OR b.audited_at IS NOT NULL"
        "  OR j.name NOT IN (SELECT value FROM json_each(?)))"
        " AND NOT EXISTS (SELECT 1 FROM push p JOIN cache c ON c.id = p.cache"
        "  WHERE c.name = ? AND p.path = b.path) ORDER BY b.id",
        (json.dumps(list(jobsets)), json.dumps(list(audited)), cache),
    )
    return {StorePath(row["path"]): row["size"] for row in rows}


def held_paths(database: Database) -> frozenset[StorePath]:
    """What must be rooted."""
    rows = database.query("SELECT DISTINCT path FROM base WHERE released_at IS NULL")
    return frozenset(row[0] for row in rows)
