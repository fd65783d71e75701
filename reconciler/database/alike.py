"""Reads: bases of one content, which several builds may leave: what one of them is, all are.

Nothing here says that a base is wrong.
"""

from __future__ import annotations

from reconciler.database.file import Database

_SAID = (
    "JOIN incremental_slot said ON said.id = b.slot JOIN jobset j ON j.id = said.jobset"
    " JOIN base o ON o.nar_hash = b.nar_hash AND o.id <> b.id"
    " JOIN incremental_slot of ON of.id = o.slot"
    " AND (of.trust = said.trust OR said.branch = '' OR said.trust <> j.name)"
)
"""After a base `b`: others, `o`, of which holds what is found out of it. An untrusted branch tells
of its own alone: it could leave what others did, and have it found bad.
"""


def others(database: Database, base: int) -> list[int]:
    """The bases that are wrong if this one is."""
    rows = database.query(f"SELECT o.id FROM base b {_SAID} WHERE b.id = ? ORDER BY o.id", (base,))
    return [row[0] for row in rows]


def wrong(database: Database, base: int, nar_hash: str) -> tuple[int, str] | None:
    """What tells that a base of this content is wrong, and why. What is only suspected, as it
    descends from something wrong, tells nothing: a clean build may leave the same.
    """
    row = database.one(
        f"SELECT b.id, b.quarantine FROM base b {_SAID} LEFT JOIN base p ON p.id = b.parent"
        # By its content SQLite would read all that are kept.
        " WHERE b.quarantined_at IS NOT NULL AND +b.nar_hash = ? AND o.id = ?"
        " AND (p.quarantined_at IS NULL OR p.quarantined_at > b.quarantined_at)"
        " ORDER BY b.id LIMIT 1",
        (nar_hash, base),
    )
    return None if row is None else (row["id"], row["quarantine"])
