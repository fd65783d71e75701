"""What is to be deleted from caches that are ours: since when it is unneeded, and what it was."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from reconciler.database.events import event
from reconciler.database.file import Database
from reconciler.database.retention import needed
from reconciler.model import CacheName, PushState, StorePath
from reconciler.transitions import Cause, check

_KEPT = (
    "evaluation IN (SELECT e.id FROM evaluation e JOIN jobset s ON s.id = e.jobset"
    " WHERE s.removed_at IS NULL)"
)


class Unneeded(Struct, frozen=True, kw_only=True):
    """What of a cache nothing needs."""

    cache: CacheName
    paths: int
    due: int
    """Those of them whose grace period has passed."""
    next_at: float
    """When the first of them is to be deleted."""


def marked_at(database: Database, cache: CacheName) -> float | None:
    """When it was last found out what of a cache is needed."""
    row = database.one("SELECT marked_at FROM cache WHERE name = ?", (cache,))
    return None if row is None else row[0]


def since(database: Database, cache: CacheName) -> float | None:
    """Since when something in a cache is unneeded."""
    row = database.one(
        "SELECT min(p.unwanted_at) FROM cache c JOIN push p ON p.cache = c.id"
        " AND p.unwanted_at IS NOT NULL WHERE c.name = ?",
        (cache,),
    )
    return None if row is None else row[0]


def unneeded(database: Database, grace: Mapping[CacheName, float], *, now: float) -> list[Unneeded]:
    """What there is to delete from caches, each with its grace period in seconds."""
    found = []
    for cache, seconds in grace.items():
        row = database.one(
            "SELECT count(*), sum(p.unwanted_at <= ?), min(p.unwanted_at) FROM cache c"
            " JOIN push p ON p.cache = c.id AND p.unwanted_at IS NOT NULL WHERE c.name = ?",
            (now - seconds, cache),
        )
        if row is not None and row[0]:
            found.append(Unneeded(cache=cache, paths=row[0], due=row[1], next_at=row[2] + seconds))
    return found


def due(database: Database, cache: CacheName, *, before: float) -> list[StorePath]:
    """What has been unneeded since before a time."""
    return [
        row[0]
        for row in database.query(
            "SELECT p.path FROM push p JOIN cache c ON c.id = p.cache"
            " WHERE c.name = ? AND p.unwanted_at <= ?",
            (cache, before),
        )
    ]


def ours(database: Database, cache: CacheName) -> list[StorePath]:
    """What was pushed from here and is there, or was being deleted."""
    return [
        row[0]
        for row in database.query(
            "SELECT p.path FROM push p JOIN cache c ON c.id = p.cache"
            " WHERE c.name = ? AND (p.state = 'pushed' OR p.unwanted_at IS NOT NULL)",
            (cache,),
        )
    ]


def wanted(database: Database) -> list[StorePath]:
    """The outputs of all that any kept evaluation of any declared jobset needs, and what builds
    left that later ones may start from.
    """
    return [
        row[0]
        for row in database.query(
            f"{needed(jobs=_KEPT)} SELECT o.path FROM needed n JOIN output o ON o.derivation = n.id"
            " WHERE o.path IS NOT NULL UNION SELECT path FROM base"
            " WHERE released_at IS NULL AND quarantined_at IS NULL"
        )
    ]


def mark(
    database: Database,
    cache: CacheName,
    *,
    seen: Collection[StorePath],
    unwanted: Collection[StorePath],
    now: float,
) -> None:
    """Note what of the paths seen is unneeded, and since when."""
    with database.transaction():
        where = "cache = (SELECT id FROM cache WHERE name = ?) AND path = ?"
        database.execute_many(
            f"UPDATE push SET unwanted_at = ? WHERE {where} AND unwanted_at IS NULL",
            ((now, cache, path) for path in unwanted),
        )
        database.execute_many(
            # Deleting it may have been begun: it is asked for before anything is sent.
            "UPDATE push SET unwanted_at = NULL,"
            " state = CASE state WHEN 'failed' THEN 'pending' ELSE state END"
            f" WHERE {where} AND unwanted_at IS NOT NULL",
            ((cache, path) for path in seen if path not in unwanted),
        )
        database.execute("UPDATE cache SET marked_at = ? WHERE name = ?", (now, cache))


def begin(database: Database, cache: CacheName, paths: Iterable[StorePath]) -> None:
    """Note that paths are about to be deleted: from now on they are not there."""
    check(PushState.PUSHED, PushState.FAILED, Cause.NO_LONGER_WANTED)
    with database.transaction():
        row = database.one("SELECT id FROM cache WHERE name = ?", (cache,))
        assert row is not None
        asked = (row["id"], json.dumps(list(paths)))
        some = "cache = ? AND path IN (SELECT value FROM json_each(?))"
        database.execute(
            "UPDATE push SET state = 'failed', error = 'nothing needs it'"
            f" WHERE {some} AND state = 'pushed'",
            asked,
        )
        database.execute(
            # What is wanted again is put on the queue again.
            "DELETE FROM push_root WHERE cache = ? AND derivation IN (SELECT derivation"
            " FROM output WHERE path IN (SELECT value FROM json_each(?)))",
            asked,
        )


def end(
    database: Database,
    cache: CacheName,
    *,
    gone: Collection[StorePath],
    kept: Collection[StorePath],
    now: float,
) -> None:
    """Note what was deleted; what is needed after all, is there as before."""
    where = (
        "cache = (SELECT id FROM cache WHERE name = ?) AND path = ? AND state = 'failed'"
        " AND unwanted_at IS NOT NULL"
    )
    with database.transaction():
        database.execute_many(f"DELETE FROM push WHERE {where}", ((cache, each) for each in gone))
        database.execute_many(
            # It is asked for before anything is sent.
            "UPDATE push SET state = 'pending', error = NULL, not_before = 0, unwanted_at = NULL"
            f" WHERE {where}",
            ((cache, each) for each in kept),
        )
        if gone:
            event(
                database,
                at=now,
                kind="cache",
                subject=cache,
                before=None,
                after=f"{len(gone)} deleted",
                cause="nothing needs them",
            )
