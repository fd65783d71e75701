"""How far pushing to each cache is: written as batches begin and end, and every few seconds while
one is under way; read by whoever shows it, in whatever process.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from reconciler.database.file import Database, Row
from reconciler.model import CacheName, StorePath
from reconciler.push_progress import PushProgress

OVERHEAD = 64 * 1024
"""A small path takes as long as so many bytes more, for its questions and answers."""
_MEMORY = 20.0
"""Seconds of sending that weigh as much as all before them."""
FRESH = 60.0
"""Seconds after which what was told last says nothing of how long the rest takes."""


def begin_batch(database: Database, cache: CacheName, *, now: float) -> None:
    """Note that a batch is about to be sent; the first since the queue was empty counts anew."""
    with database.transaction():
        database.execute(
            "INSERT INTO push_progress(cache, began_at, batch_began_at, told_at)"
            " SELECT id, ?1, ?1, ?1 FROM cache WHERE name = ?2 ON CONFLICT DO UPDATE SET"
            " began_at = iif(ended_at IS NULL, began_at, ?1),"
            " paths = iif(ended_at IS NULL, paths, 0), size = iif(ended_at IS NULL, size, 0),"
            " sent = iif(ended_at IS NULL, sent, 0),"
            " ended_at = NULL, batch_began_at = ?1, batch_sent = 0, told_at = ?1",
            (now, cache),
        )


def advance(database: Database, cache: CacheName, *, sent: int, now: float) -> None:
    """Note how many bytes of the batch under way were sent."""
    with database.transaction():
        database.execute(
            "UPDATE push_progress SET batch_sent = ?, told_at = ?"
            " WHERE cache = (SELECT id FROM cache WHERE name = ?)",
            (sent, now, cache),
        )


def end_batch(
    database: Database, cache: CacheName, *, done: Collection[StorePath], sent: int, now: float
) -> None:
    """Note what a batch came to: paths that are there now, and bytes sent."""
    row = database.one(
        "SELECT p.* FROM push_progress p JOIN cache c ON c.id = p.cache WHERE c.name = ?", (cache,)
    )
    if row is None:
        return
    sizes = database.one(
        "SELECT coalesce(sum(size), 0) FROM push WHERE cache = ?"
        " AND path IN (SELECT value FROM json_each(?))",
        (row["cache"], json.dumps(list(done))),
    )
    assert sizes is not None
    paths, size = len(done), sizes[0]
    seconds = max(now - row["batch_began_at"], 0.001)
    weight = seconds / (seconds + _MEMORY)
    with database.transaction():
        database.execute(
            "UPDATE push_progress SET paths = paths + ?, size = size + ?, sent = sent + ?,"
            " batch_sent = 0, told_at = ?, speed = ?, rate = ?, ended_at = CASE WHEN EXISTS ("
            "  SELECT 1 FROM push p WHERE p.cache = push_progress.cache AND p.state <> 'pushed'"
            "   AND p.state <> 'failed') THEN NULL ELSE ? END WHERE cache = ?",
            (
                paths,
                size,
                sent,
                now,
                _blend(row["speed"], sent / seconds, weight),
                _blend(row["rate"], (size + OVERHEAD * paths) / seconds, weight),
                now,
                row["cache"],
            ),
        )


def _blend(before: float | None, new: float, weight: float) -> float:
    return new if before is None else before * (1 - weight) + new * weight


def of_cache(database: Database, cache: int, *, now: float) -> PushProgress | None:
    """How far pushing to a cache is, by its row's id; None: nothing is to be pushed."""
    row = database.one(
        "SELECT r.*, (SELECT count(*) FROM push p WHERE p.cache = r.cache AND p.state <> 'pushed'"
        "  AND p.state <> 'failed') AS left_paths,"
        " (SELECT coalesce(sum(size), 0) FROM push p WHERE p.cache = r.cache"
        "  AND p.state <> 'pushed' AND p.state <> 'failed') AS left_size,"
        " (SELECT coalesce(sum(size), 0) FROM push p WHERE p.cache = r.cache"
        "  AND p.state <> 'pushed' AND p.state = 'pushing') AS batch_size"
        " FROM push_progress r WHERE r.cache = ? AND r.ended_at IS NULL",
        (cache,),
    )
    if row is None or not row["left_paths"]:
        return None
    done = _done_of_batch(row)
    speed, rate = row["speed"], row["rate"]
    took = row["told_at"] - row["batch_began_at"]
    if row["batch_sent"] and took > 0:
        speed = row["batch_sent"] / took
        rate = done / took if rate is None else rate
    fresh = row["told_at"] > now - FRESH
    work = row["left_size"] - done + OVERHEAD * row["left_paths"]
    return PushProgress(
        since=row["began_at"],
        sent_paths=row["paths"],
        sent_bytes=row["sent"] + row["batch_sent"],
        left_paths=row["left_paths"],
        left_bytes=max(row["left_size"] - done, 0),
        rate=speed if fresh else None,
        estimate=max(work, 0) / rate if fresh and rate else None,
    )


def _done_of_batch(row: Row) -> int:
    """Bytes of archives that the bytes sent of a batch stand for, as its predecessors compressed;
    of the very first batch nothing is known, and one is taken for the other.
    """
    ratio = row["sent"] / row["size"] if row["sent"] and row["size"] else 1.0
    return int(min(row["batch_sent"] / ratio, row["batch_size"]))
