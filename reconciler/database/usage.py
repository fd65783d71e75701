"""Who the builders' time was spent on: written as attempts begin, read at a start."""

from __future__ import annotations

import json
from collections.abc import Collection

from reconciler.database.file import Database
from reconciler.database.running import last_attempt
from reconciler.model import JobsetName

HALF_LIFE = 3600.0
"""Seconds after which what was used counts half."""
WINDOW = 8 * HALF_LIFE
"""Seconds after which it counts for nothing."""
_STEP = 300
"""Seconds of attempts that are counted together."""


def charge(database: Database, attempt: int, jobsets: Collection[JobsetName]) -> None:
    """Note the jobsets that an attempt is made for: each pays its part."""
    database.execute(
        "INSERT INTO charge(attempt, jobset) SELECT ?, id FROM jobset"
        " WHERE name IN (SELECT value FROM json_each(?))",
        (attempt, json.dumps(list(jobsets))),
    )


def recent_usage(database: Database, *, now: float) -> dict[JobsetName, float]:
    """The slot-seconds that each jobset was given of late, the older ones counting less."""
    found: dict[JobsetName, float] = {}
    for name, steps, seconds in database.query(
        "SELECT s.name, CAST((? - a.finished_at) / ? AS INTEGER) AS steps,"
        " sum((a.finished_at - a.started_at)"
        "  / (SELECT count(*) FROM charge o WHERE o.attempt = a.id)) AS seconds"
        " FROM attempt a JOIN charge c ON c.attempt = a.id JOIN jobset s ON s.id = c.jobset"
        " WHERE a.id > ? AND a.finished_at > a.started_at GROUP BY s.id, steps",
        (now, _STEP, last_attempt(database, before=now - WINDOW)),
    ):
        # A clock that was set back may have attempts end in the future.
        decayed = seconds * 0.5 ** (max(0, steps) * _STEP / HALF_LIFE)
        found[name] = found.get(name, 0.0) + decayed
    return found
