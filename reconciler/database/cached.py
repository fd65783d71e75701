"""Reads for `status` and `caches`: the queue of each cache, how fresh the knowledge of it is, what
it was sent. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from reconciler.database import companions, progress
from reconciler.database.file import Database
from reconciler.states import CacheName
from reconciler.status import UNSEEN_GRACE, CacheFacts, Condition


def conditions_of(conditions: Iterable[Condition], kind: str, name: str) -> tuple[Condition, ...]:
    """Those of one object."""
    return tuple(each for each in conditions if each.kind == kind and each.name == name)


_LOST = (
    # A path that was given up, although it is an output of something that is wanted.
    "SELECT count(DISTINCT r.derivation) FROM rebuild r CROSS JOIN output o"
    " ON o.derivation = r.derivation CROSS JOIN push l ON l.cache = c.id AND l.path = o.path"
    " AND l.state = 'failed' JOIN build b ON b.derivation = r.derivation"
    " JOIN evaluation e ON e.id = r.evaluation WHERE e.state IN ('running', 'succeeded')"
)


def caches(
    database: Database, conditions: Sequence[Condition], *, now: float
) -> tuple[CacheFacts, ...]:
    """Each cache's queue, and how fresh the knowledge of it is."""
    return tuple(
        CacheFacts(
            name=CacheName(row["name"]),
            uri=row["uri"],
            removed_at=row["removed_at"],
            open=row["open"],
            failing=row["failing"],
            error=row["error"],
            next_due_at=row["due"],
            looked_at=row["looked_at"],
            seen_at=row["seen_at"],
            unseen=row["seen_at"] is not None and row["seen_at"] < now - UNSEEN_GRACE,
            lost=row["lost"],
            gone=row["gone"],
            progress=progress.of_cache(database, row["id"], now=now) if row["open"] else None,
            beside=row["beside"],
            beside_error=row["beside_error"],
            conditions=conditions_of(conditions, "cache", row["name"]),
        )
        for row in database.query(
            "SELECT c.id, c.name, c.uri, c.removed_at, count(p.path) AS open,"
            f" {companions.open_count('c.id')} AS beside,"
            " (SELECT max(error) FROM companion WHERE cache = c.id AND state = 'pending')"
            "  AS beside_error,"
            " coalesce(sum(p.failures > 0), 0) AS failing, max(p.error) AS error,"
            " min(CASE WHEN p.failures > 0 THEN p.not_before END) AS due,"
            " (SELECT max(at) FROM inspection WHERE cache = c.id) AS looked_at,"
            " (SELECT min(checked_at) FROM push WHERE cache = c.id AND state = 'pushed')"
            "  AS seen_at,"
            f" ({_LOST}) AS lost, ({_LOST} AND b.state NOT IN ('queued', 'building', 'succeeded',"
            "  'substituted')) AS gone"
            # `<> 'pushed'` is the partial index's condition; a dropped path waits for nothing.
            " FROM cache c LEFT JOIN push p INDEXED BY push_open ON p.cache = c.id"
            " AND p.state <> 'pushed' AND p.state <> 'failed'"
            " GROUP BY c.id ORDER BY c.removed_at IS NOT NULL, c.name"
        )
    )


def why_not_there(database: Database, derivation: int) -> list[str]:
    """Of the caches that are still to get what a derivation makes, what is wrong; in sentences."""
    return [
        f"cache {row['name']} does not have it yet: {row['reason']}: {row['message']}"
        for row in database.query(
            "SELECT DISTINCT c.name, replace(k.reason, '-', ' ') AS reason, k.message"
            " FROM output o CROSS JOIN push p ON p.path = o.path"
            " AND p.state IN ('pending', 'pushing') JOIN cache c ON c.id = p.cache"
            " JOIN condition k ON k.kind = 'cache' AND k.name = c.name"
            " WHERE o.derivation = ? ORDER BY 1, 2",
            (derivation,),
        )
    ]


class CacheContents(Struct, frozen=True, kw_only=True):
    """What a cache was sent so far."""

    pushed: int
    bytes: int
    """As sent, compressed; what the cache had already is not counted."""
    dropped: int
    """Paths that were collected before they could be pushed."""
    last_push_at: float | None


def cache_contents(database: Database) -> dict[CacheName, CacheContents]:
    """What each cache was sent: reads the whole queue."""
    return {
        CacheName(row["name"]): CacheContents(
            pushed=row["pushed"], bytes=row["bytes"], dropped=row["dropped"], last_push_at=row["at"]
        )
        for row in database.query(
            "SELECT c.name, coalesce(sum(p.state = 'pushed'), 0) AS pushed,"
            " coalesce(sum(p.bytes), 0) AS bytes, "
            " coalesce(sum(p.state = 'failed' AND p.unwanted_at IS NULL), 0) AS dropped,"
            " max(p.finished_at) AS at FROM cache c LEFT JOIN push p ON p.cache = c.id"
            " GROUP BY c.id"
        )
    }
