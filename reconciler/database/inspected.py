"""What looking into caches came to: when it was, what was found, what is built again for it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct, field

from reconciler.database.events import event
from reconciler.database.file import Database
from reconciler.database.pushed import queue_pushes
from reconciler.model import CacheName, DrvPath, JobsetName, PushState, StorePath
from reconciler.states import InspectionScope
from reconciler.transitions import Cause, check

_NAMED = 3
"""Paths that an event names."""


class Looked(Struct, frozen=True, kw_only=True):
    """How fresh the knowledge of a cache is."""

    last_at: float | None
    """When it was last looked into."""
    oldest_at: float | None
    """When the pushed path that was looked at longest ago was seen; None: nothing is pushed."""


class Sight(Struct, frozen=True, kw_only=True):
    """What was seen in a cache."""

    scope: InspectionScope
    seen: Collection[StorePath]
    """Pushed paths that were looked at."""
    lost: Mapping[StorePath, str] = field(default_factory=dict)
    """Those of them that are not there, each in a sentence."""
    broken: Mapping[StorePath, str] = field(default_factory=dict)
    """Those that are there and of no use."""
    dangling: Mapping[StorePath, str] = field(default_factory=dict)
    """What they refer to and the cache does not have."""


# --- Reads -------------------------------------------------------------------------------------


def looked(database: Database, cache: CacheName) -> Looked:
    """When a cache was looked into."""
    row = database.one(
        "SELECT (SELECT max(at) FROM inspection WHERE cache = c.id),"
        " (SELECT min(checked_at) FROM push WHERE cache = c.id AND state = 'pushed')"
        " FROM cache c WHERE c.name = ?",
        (cache,),
    )
    if row is None:
        return Looked(last_at=None, oldest_at=None)
    return Looked(last_at=row[0], oldest_at=row[1])


def pushed_paths(
    database: Database, cache: CacheName, *, limit: int | None = None
) -> list[StorePath]:
    """What should be in a cache, first what was looked at longest ago."""
    return [
        row[0]
        for row in database.query(
            "SELECT p.path FROM push p JOIN cache c ON c.id = p.cache"
            " WHERE c.name = ? AND p.state = 'pushed' ORDER BY p.checked_at LIMIT ?",
            (cache, -1 if limit is None else limit),
        )
    ]


def to_resend(database: Database, cache: CacheName, paths: Iterable[StorePath]) -> list[StorePath]:
    """Those of the paths that are to be sent although the cache has something of them."""
    return _marked(database, cache, paths, "resend")


def alone(database: Database, cache: CacheName, paths: Iterable[StorePath]) -> list[StorePath]:
    """Those of the paths that are in a cache, or are to be, without what they refer to."""
    return _marked(database, cache, paths, "alone")


def _marked(
    database: Database, cache: CacheName, paths: Iterable[StorePath], column: str
) -> list[StorePath]:
    return [
        row[0]
        for row in database.query(
            "SELECT p.path FROM push p JOIN cache c ON c.id = p.cache"
            f" WHERE c.name = ? AND p.{column} AND p.path IN (SELECT value FROM json_each(?))",
            (cache, json.dumps(list(paths))),
        )
    ]


def makers(database: Database, paths: Iterable[StorePath]) -> dict[StorePath, DrvPath]:
    """The derivations that paths are outputs of, as far as they are known."""
    return {
        row[0]: row[1]
        for row in database.query(
            "SELECT o.path, d.path FROM output o JOIN derivation d ON d.id = o.derivation"
            " WHERE o.path IN (SELECT value FROM json_each(?)) ORDER BY d.id",
            (json.dumps(list(paths)),),
        )
    }


# --- Writes ------------------------------------------------------------------------------------


def record(database: Database, cache: CacheName, sight: Sight, *, now: float) -> None:
    """Note what was seen: what is not there, or of no use, is on the queue again."""
    check(PushState.PUSHED, PushState.PENDING, Cause.LOST_FROM_CACHE)
    flawed = {**sight.dangling, **sight.lost, **sight.broken}
    with database.transaction():
        row = database.one("SELECT id FROM cache WHERE name = ?", (cache,))
        assert row is not None
        identity = row["id"]
        database.execute_many(
            "UPDATE push SET checked_at = ? WHERE cache = ? AND path = ? AND state = 'pushed'",
            ((now, identity, path) for path in sight.seen),
        )
        database.execute_many(
            "UPDATE push SET state = 'pending', finished_at = NULL, not_before = 0, failures = 0,"
            " error = NULL, resend = ? WHERE cache = ? AND path = ? AND state = 'pushed'",
            ((int(path in sight.broken), identity, path) for path in flawed),
        )
        if sight.dangling:
            queue_pushes(database, cache, roots=(), paths=sight.dangling, now=now)
        database.execute(
            "INSERT OR REPLACE INTO inspection(cache, scope, at, paths, flawed)"
            " VALUES (?, ?, ?, ?, ?)",
            (identity, sight.scope, now, len(sight.seen), len(flawed)),
        )
        if flawed:
            some = "; ".join(list(flawed.values())[:_NAMED])
            more = f"; and {len(flawed) - _NAMED} more" if len(flawed) > _NAMED else ""
            event(
                database,
                at=now,
                kind="cache",
                subject=cache,
                before=None,
                after=f"{len(flawed)} to be pushed again",
                cause=f"{Cause.LOST_FROM_CACHE}: {some}{more}",
            )


def doubt(database: Database, cache: CacheName, *, since: float) -> None:
    """Know nothing newer than `since` of what is in a cache: it is to be looked at at once."""
    with database.transaction():
        database.execute(
            "UPDATE push SET checked_at = ?1 WHERE state = 'pushed' AND checked_at > ?1"
            " AND cache = (SELECT id FROM cache WHERE name = ?2)",
            (since, cache),
        )
        database.execute(
            "DELETE FROM inspection WHERE cache = (SELECT id FROM cache WHERE name = ?)", (cache,)
        )


def build_again(
    database: Database,
    cache: CacheName,
    jobsets: Iterable[JobsetName],
    paths: Iterable[StorePath],
) -> list[DrvPath]:
    """Have built again what makes paths that both a cache and the store have lost, as far as an
    evaluation in force of the jobsets needs it; the derivations.
    """
    with database.transaction():
        found = database.query(
            "WITH RECURSIVE needed(evaluation, id) AS ("
            " SELECT e.id, j.derivation FROM jobset s"
            " JOIN evaluation e ON e.jobset = s.id AND e.state IN ('running', 'succeeded')"
            " JOIN job j ON j.evaluation = e.id"
            " WHERE s.name IN (SELECT value FROM json_each(?)) AND j.derivation IS NOT NULL"
            " UNION SELECT n.evaluation, i.input FROM needed n JOIN input i ON i.derivation = n.id)"
            " SELECT DISTINCT d.id, d.path, n.evaluation FROM json_each(?) lost"
            " JOIN output o ON o.path = lost.value JOIN derivation d ON d.id = o.derivation"
            " JOIN needed n ON n.id = d.id JOIN build b ON b.derivation = d.id"
            " AND b.state IN ('succeeded', 'substituted')",
            (json.dumps(list(jobsets)), json.dumps(list(paths))),
        )
        database.execute_many(
            "INSERT OR IGNORE INTO rebuild(derivation, evaluation) VALUES (?, ?)",
            ((row[0], row[2]) for row in found),
        )
        database.execute_many(
            # What a start finds unqueued it puts on the queue.
            "DELETE FROM push_root WHERE derivation = ? AND cache ="
            " (SELECT id FROM cache WHERE name = ?)",
            ((row[0], cache) for row in found),
        )
    return list(dict.fromkeys(DrvPath(row[1]) for row in found))


def built_again(database: Database, paths: Iterable[StorePath]) -> bool:
    """Note that paths are in a cache: no longer is it wanted for that; whether it was."""
    asked = (json.dumps(list(paths)),)
    where = (
        "derivation IN (SELECT o.derivation FROM json_each(?) p JOIN output o ON o.path = p.value)"
    )
    if not database.one("SELECT 1 FROM rebuild LIMIT 1") or not database.one(
        f"SELECT 1 FROM rebuild WHERE {where}", asked
    ):
        return False
    database.execute(f"DELETE FROM rebuild WHERE {where}", asked)
    return True
