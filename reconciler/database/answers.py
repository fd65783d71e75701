"""What upstreams said that they have, with an expiry."""

from __future__ import annotations

import json
from collections.abc import Collection

from reconciler.database.file import Database
from reconciler.model import StorePath

THERE_FOR = 86400.0
"""Seconds for which what an upstream has is taken to be there."""
ABSENT_FOR = 3600.0
"""What it lacks, it may be just about to build."""
KEPT_FOR = 7 * 86400.0
"""For as long an old answer is better than none."""


def known(
    database: Database, url: str, paths: Collection[StorePath], *, now: float
) -> dict[StorePath, bool]:
    """What is known of paths that need not be asked about again: whether they are there."""
    return {
        row[0]: bool(row[1])
        for row in database.query(
            "SELECT path, there FROM upstream_answer WHERE url = ?"
            " AND path IN (SELECT value FROM json_each(?))"
            " AND asked_at > ? - iif(there, ?, ?)",
            (url, json.dumps(list(paths)), now, THERE_FOR, ABSENT_FOR),
        )
    }


def once_there(
    database: Database, url: str, paths: Collection[StorePath], *, now: float
) -> frozenset[StorePath]:
    """Those of the paths that were there when it was asked last, for while it does not answer."""
    return frozenset(
        row[0]
        for row in database.query(
            "SELECT path FROM upstream_answer WHERE url = ? AND there"
            " AND path IN (SELECT value FROM json_each(?)) AND asked_at > ?",
            (url, json.dumps(list(paths)), now - KEPT_FOR),
        )
    )


def record(
    database: Database,
    url: str,
    asked: Collection[StorePath],
    there: Collection[StorePath],
    *,
    now: float,
) -> None:
    """Note an upstream's answer, and forget what is old."""
    with database.transaction():
        database.execute("DELETE FROM upstream_answer WHERE asked_at < ?", (now - KEPT_FOR,))
        database.execute_many(
            "INSERT OR REPLACE INTO upstream_answer(url, path, there, asked_at)"
            " VALUES (?, ?, ?, ?)",
            ((url, path, int(path in there), now) for path in asked),
        )
