"""Artifact stores: what is there of this farm's builds, what is to go there, what came from there.

Nothing is sent or fetched here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from msgspec import Struct

from reconciler.bases import Fingerprint
from reconciler.database import bases, incremental
from reconciler.database.bases import StoredBase
from reconciler.database.file import Database
from reconciler.database.incremental import Slot
from reconciler.model import DrvPath, JobsetName, StorePath

K = TypeVar("K")


class Fetched(Struct, frozen=True, kw_only=True):
    """Intermediates of another farm, or of an earlier life of this one, that are in the store."""

    store: str
    """The artifact store's name."""
    name: str
    path: StorePath
    nar_hash: str
    size: int
    fingerprint: Fingerprint
    kept_as: str
    """The slot in which they were found."""
    canonical: DrvPath
    built: DrvPath
    revision: str | None
    depth: int
    full_at: float
    bucket: str


class Due(Struct, frozen=True, kw_only=True):
    """What an artifact store is to get, and to lose."""

    share: tuple[StoredBase, ...] = ()
    withdraw: tuple[str, ...] = ()
    """Names there."""


def farm_id(database: Database) -> str:
    """What tells this farm's objects from those of others."""
    row = database.one("SELECT id FROM artifact_farm")
    assert row is not None
    return str(row[0])


def due(
    database: Database,
    bucket: str,
    url: str,
    keep: Mapping[JobsetName, int],
    *,
    audited: Collection[JobsetName] = (),
) -> Due:
    """What is to be done for the artifact store of this name, which is at this address.

    `keep` tells of each jobset that shares how many, the newest, are to be there of each slot. Of
    those that want builds `audited` first, nothing goes there before.
    """
    rows = database.query(
        "SELECT b.id, j.name AS jobset, s.system, coalesce(b.shared_slot, s.job) AS slot,"
        " EXISTS (SELECT 1 FROM artifact a WHERE a.base = b.id AND a.url = ?) AS known"
        " FROM base b INDEXED BY base_shared JOIN incremental_slot s ON s.id = b.slot"
        " JOIN jobset j ON j.id = s.jobset"
        " WHERE b.bucket = ? AND b.released_at IS NULL AND b.quarantined_at IS NULL"
        # What was not trusted when it was left never is.
        " AND b.fetched_from IS NULL AND (s.branch = '' OR s.trust <> j.name)"
        " AND (b.depth = 0 OR b.audited_at IS NOT NULL"
        "  OR j.name NOT IN (SELECT value FROM json_each(?)))"
        " ORDER BY b.created_at DESC, b.id DESC",
        (url, bucket, json.dumps(list(audited))),
    )
    known = {row["id"] for row in rows if row["known"]}
    newest = _newest(((row["jobset"], row["system"], row["slot"], row["id"]) for row in rows), keep)
    wanted = [each for each in newest if each not in known]
    return Due(
        share=tuple(bases.stored(database, reversed(wanted))),
        withdraw=_superfluous(database, url, keep),
    )


def _superfluous(database: Database, url: str, keep: Mapping[JobsetName, int]) -> tuple[str, ...]:
    rows = database.query(
        "SELECT a.*, b.quarantined_at IS NOT NULL AS bad FROM artifact a"
        " LEFT JOIN base b ON b.id = a.base WHERE a.url = ? AND a.state = 'shared'"
        " ORDER BY a.created_at DESC, a.name DESC",
        (url,),
    )
    facts = [row for row in rows if row["jobset"] in keep]
    good = [row for row in facts if not row["bad"]]
    kept = _newest(((r["jobset"], r["system"], r["slot"], r["name"]) for r in good), keep)
    return tuple(row["name"] for row in facts if row["name"] not in kept)


def _newest(facts: Iterable[tuple[str, str, str, K]], keep: Mapping[JobsetName, int]) -> list[K]:
    """Of each slot, newest first, as many as are kept."""
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    found = []
    for jobset, system, slot, key in facts:
        number = keep.get(JobsetName(jobset), 0)
        if counts[system, slot] < number:
            counts[system, slot] += 1
            found.append(key)
    return found


def record(
    database: Database,
    url: str,
    *,
    shared: Mapping[str, StoredBase],
    gone: Mapping[str, StoredBase],
    withdrawn: Collection[str],
    now: float,
) -> None:
    """Write down what was put into an artifact store, by its name there, and what was deleted."""
    with database.transaction():
        for state, some in (("shared", shared), ("gone", gone)):
            for name, stored in some.items():
                database.execute(
                    "INSERT INTO artifact(url, name, base, jobset, system, slot, created_at, state,"
                    " at) SELECT ?, ?, (SELECT id FROM base WHERE id = ?), ?, ?, ?, ?, ?, ?"
                    " WHERE true ON CONFLICT(url, name) DO UPDATE SET state = excluded.state,"
                    " at = excluded.at, base = excluded.base",
                    (
                        url, name, stored.base.id, stored.slot.jobset, stored.slot.system,
                        stored.base.kept_as, stored.base.created_at, state, now,
                    ),
                )  # fmt: skip
        for name in withdrawn:
            database.execute(
                "UPDATE artifact SET state = 'withdrawn', at = ? WHERE url = ? AND name = ?",
                (now, url, name),
            )
        database.execute("DELETE FROM artifact WHERE base IS NULL AND state <> 'shared'")


def undeclared(database: Database, declared: Collection[str]) -> dict[JobsetName, dict[str, str]]:
    """By jobset the artifact stores that bases are to go to and that are not declared; each with a
    job that names it.
    """
    found: dict[JobsetName, dict[str, str]] = {}
    for row in database.query(
        "SELECT j.name, b.bucket, min(s.job) AS job FROM base b INDEXED BY base_shared"
        " JOIN incremental_slot s ON s.id = b.slot JOIN jobset j ON j.id = s.jobset"
        " WHERE b.bucket IS NOT NULL AND b.released_at IS NULL GROUP BY j.name, b.bucket"
    ):
        if row["bucket"] not in declared:
            found.setdefault(JobsetName(row["name"]), {})[row["bucket"]] = row["job"]
    return found


# --- From there --------------------------------------------------------------------------------


def not_before(database: Database, slot: Slot) -> float | None:
    """Since when bases of artifact stores may serve a job: since its own were let go, by a person
    or because one was lost; None: they all may, or it has some.
    """
    row = database.one(
        "SELECT CASE WHEN count(*) = count(b.released_at) THEN max(b.released_at) END"
        " FROM base b JOIN incremental_slot s ON s.id = b.slot JOIN jobset j ON j.id = s.jobset"
        " WHERE (j.name, s.job, s.system) = (?, ?, ?)",
        (slot.jobset, slot.job, slot.system),
    )
    assert row is not None
    return None if row[0] is None else float(row[0])


def is_bad(database: Database, slot: Slot, nar_hash: str) -> bool:
    """Whether a job must not use a base of this content, whichever branch found that out."""
    row = database.one(
        "SELECT 1 FROM base b JOIN incremental_slot s ON s.id = b.slot"
        f" JOIN jobset j ON j.id = s.jobset WHERE b.nar_hash = ? AND {bases.SAME_SOURCE}"
        # An untrusted branch could have any found bad.
        " AND (s.trust = ? OR s.branch = '' OR s.trust <> j.name)"
        " AND b.quarantined_at IS NOT NULL LIMIT 1",
        (nar_hash, slot.jobset, slot.trust),
    )
    return row is not None


def take(database: Database, slot: Slot, fetched: Fetched, *, now: float) -> None:
    """Record what was fetched as a base of a job. What the job's own build left stays as it is,
    whatever is said of what was fetched.
    """
    with database.transaction():
        incremental.add_fingerprint(database, fetched.fingerprint)
        row = database.one(
            "INSERT INTO base(slot, name, path, nar_hash, size, fingerprint, canonical, built,"
            " revision, depth, full_at, created_at, shared_slot, bucket, fetched_from)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(slot, built) DO UPDATE SET name = excluded.name, path = excluded.path,"
            " nar_hash = excluded.nar_hash, size = excluded.size, depth = excluded.depth,"
            " full_at = excluded.full_at, fingerprint = excluded.fingerprint,"
            " shared_slot = excluded.shared_slot, fetched_from = excluded.fetched_from,"
            " released_at = NULL WHERE base.fetched_from IS NOT NULL RETURNING id",
            (
                incremental.slot_id(database, slot), fetched.name, fetched.path, fetched.nar_hash,
                fetched.size, fetched.fingerprint.digest, fetched.canonical, fetched.built,
                fetched.revision, fetched.depth, min(fetched.full_at, now), now, fetched.kept_as,
                fetched.bucket, fetched.store,
            ),
        )  # fmt: skip
        if row is not None:
            base = int(row[0])
            database.execute("UPDATE base SET origin = id WHERE id = ? AND depth = 0", (base,))
            cause = f"fetched from the artifact store {fetched.store}"
            incremental.base_event(database, base, before=None, after="kept", cause=cause, now=now)
