"""Reads: bases of incremental builds, and what used them."""

from __future__ import annotations

import json
from collections.abc import Iterable

from msgspec import Struct

from reconciler.bases import INTERMEDIATES, Base, Fingerprint, History, Trust
from reconciler.database import due
from reconciler.database.file import Database, Row
from reconciler.database.incremental import (
    DESCENDANTS,
    THIS_SLOT,
    TRUSTED_ALIKE,
    EvaluationInput,
    Slot,
)
from reconciler.model import DrvPath, JobsetName, Protocol, StorePath

_SELECT = (
    "SELECT b.*, f.parts, s.job, s.system, s.branch, s.trust, j.name AS jobset,"
    " (SELECT max(a.at) FROM artifact a WHERE a.base = b.id AND a.state = 'shared') AS shared_at"
    " FROM base b"
    " JOIN incremental_slot s ON s.id = b.slot JOIN fingerprint f ON f.digest = b.fingerprint"
    " JOIN jobset j ON j.id = s.jobset"
)
FAILED = "('failed', 'timed-out', 'log-limit', 'output-limit', 'not-deterministic')"
"""States of builds that came to no good by themselves."""
SAME_SOURCE = (
    "(SELECT coalesce(o.pattern, o.id) FROM jobset o WHERE o.name = ?) = coalesce(j.pattern, j.id)"
)
"""Jobsets `j` that are branches of one source, with the one that is named."""

SUPERSEDED = "#"
"""Between the derivation that left a base, and the base's number: the derivation was built anew
since, and may leave another."""

DIFFERENT = (
    "(WITH RECURSIVE different(id) AS (SELECT bb.derivation FROM audit a CROSS JOIN build_base bb"
    " ON bb.derivation = a.derivation AND bb.mode = 'incremental' WHERE a.state = 'different'"
    " UNION SELECT i.derivation FROM different d JOIN input i ON i.input = d.id)"
    " SELECT id FROM different)"
)
"""Builds from a base that are not what they are without, and all that needs them."""


class StoredBase(Struct, frozen=True, kw_only=True):
    """A base with all that is known of it."""

    slot: Slot
    base: Base
    name: str
    path: StorePath
    nar_hash: str
    size: int
    canonical: DrvPath
    built: DrvPath
    parent: int | None
    origin: int | None
    used_at: float | None
    audited_at: float | None
    released_at: float | None
    bucket: str | None = None
    """The artifact store that its policy names."""
    shared_at: float | None = None
    """When it was put there."""


class Left(Struct, frozen=True, kw_only=True):
    """What a good build left, and is to become a base."""

    derivation: int
    path: DrvPath
    name: str
    intermediates: StorePath
    slot: Slot
    fingerprint: Fingerprint
    canonical: DrvPath
    parent: int | None
    revision: str | None


class Fallen(Struct, frozen=True, kw_only=True):
    """A build from a base that came to no good, and that a job in force has."""

    jobset: JobsetName
    job: str
    derivation: int
    base: int | None
    lost: bool
    """The base could not be had; the build itself was never tried."""


class SlotFacts(Struct, frozen=True, kw_only=True):
    """What there is of a slot."""

    slot: Slot
    bases: int
    """Those that are kept."""
    size: int
    deepest: int
    newest_at: float | None
    quarantined: int
    incremental: int
    """Builds that started from a base, of those that are remembered."""
    full: int


class BuildFacts(Struct, frozen=True, kw_only=True):
    """What the build of a job started from, and what is known of the result."""

    slot: Slot
    derivation: int
    path: DrvPath
    canonical: DrvPath
    fingerprint: Fingerprint
    incremental: bool
    base: int | None
    reason: str
    hidden: bool
    """Its derivation names no base: the build is shown it."""
    revision: str | None
    at: float
    audit: str | None
    """Its state; None: none was asked for."""
    audit_detail: str | None
    refused: str | None = None
    """Why what it left is no base."""


class Audit(Struct, frozen=True, kw_only=True):
    """An audit that has not ended."""

    id: int
    derivation: int
    path: DrvPath
    clean: DrvPath
    base: int | None
    running: bool
    asked_at: float


# --- Bases -------------------------------------------------------------------------------------


def candidates(database: Database, jobset: JobsetName) -> list[Base]:
    """What the jobs of a jobset may start from: all that is kept of its source's branches."""
    rows = database.query(f"{_SELECT} WHERE b.released_at IS NULL AND {SAME_SOURCE}", (jobset,))
    prints: dict[str, Fingerprint] = {}
    return [_base(row, prints) for row in rows]


def stored(database: Database, bases: Iterable[int]) -> list[StoredBase]:
    """Bases by number, in this order; those that are forgotten are left out."""
    wanted = list(bases)
    rows = database.query(
        f"{_SELECT} WHERE b.id IN (SELECT value FROM json_each(?))", (json.dumps(wanted),)
    )
    found = {row["id"]: _stored(row) for row in rows}
    return [found[each] for each in wanted if each in found]


def of_jobset(database: Database, jobset: JobsetName) -> list[StoredBase]:
    """The bases of a jobset's own jobs, released ones too, the newest first."""
    rows = database.query(f"{_SELECT} WHERE j.name = ? ORDER BY b.id DESC", (jobset,))
    return [_stored(row) for row in rows]


def with_path(database: Database, path: StorePath) -> list[StoredBase]:
    """The bases that are kept at a path: several builds may leave the same."""
    rows = database.query(
        f"{_SELECT} WHERE b.path = ? AND b.released_at IS NULL ORDER BY b.id", (path,)
    )
    return [_stored(row) for row in rows]


def history(database: Database, evaluation: int) -> History:
    """Where the commit of an evaluation stands."""
    row = database.one("SELECT ancestors, merge_base FROM evaluation WHERE id = ?", (evaluation,))
    assert row is not None
    return History(parents=tuple(json.loads(row["ancestors"])), fork_point=row["merge_base"])


def built_instead(database: Database, slot: Slot, canonical: DrvPath) -> DrvPath | None:
    """The newest derivation that was built from a base in place of a canonical one, and well."""
    row = database.one(
        "SELECT d.path FROM build_base c JOIN incremental_slot s ON s.id = c.slot"
        " JOIN jobset j ON j.id = s.jobset JOIN derivation d ON d.id = c.derivation"
        " JOIN build b ON b.derivation = c.derivation LEFT JOIN base ON base.id = c.base"
        " WHERE c.canonical = ? AND c.mode = 'incremental' AND base.quarantined_at IS NULL"
        f" AND {THIS_SLOT}"
        " AND b.state IN ('succeeded', 'substituted')"
        f" AND c.derivation NOT IN {DIFFERENT}"
        " ORDER BY c.at DESC LIMIT 1",
        (canonical, *slot.key),
    )
    return None if row is None else DrvPath(row[0])


def is_unclaimed(database: Database, slot: Slot, drv: DrvPath) -> bool:
    """Whether a derivation was built without a base, as far as is known, and not as this job."""
    row = database.one(
        "SELECT 1 FROM build_base c JOIN derivation d ON d.id = c.derivation"
        " JOIN incremental_slot s ON s.id = c.slot JOIN jobset j ON j.id = s.jobset"
        f" WHERE d.path = ? AND (c.mode = 'incremental' OR {THIS_SLOT}) LIMIT 1",
        (drv, *slot.key),
    )
    return row is None


def descendants(database: Database, base: int) -> list[int]:
    """A base and all that descend from it."""
    return [
        row[0] for row in database.query(f"{DESCENDANTS} SELECT id FROM line ORDER BY id", (base,))
    ]


def ancestry(database: Database, base: int) -> list[StoredBase]:
    """A base and what it goes back to, down to the full build."""
    rows = database.query(
        "WITH RECURSIVE line(id, parent) AS (SELECT id, parent FROM base WHERE id = ?"
        " UNION SELECT b.id, b.parent FROM line l JOIN base b ON b.id = l.parent)"
        f" {_SELECT} JOIN line l ON l.id = b.id ORDER BY b.depth DESC",
        (base,),
    )
    return [_stored(row) for row in rows]


def _base(row: Row, prints: dict[str, Fingerprint]) -> Base:
    digest = row["fingerprint"]
    if digest not in prints:
        prints[digest] = _fingerprint(row)
    return Base(
        id=row["id"],
        job=row["job"],
        system=row["system"],
        fingerprint=prints[digest],
        branch=row["branch"] or None,
        trust=Trust(row["trust"]),
        commit=row["revision"],
        depth=row["depth"],
        full_at=row["full_at"],
        created_at=row["created_at"],
        quarantined=row["quarantine"],
        slot=row["shared_slot"],
        fetched_from=row["fetched_from"],
    )


def _stored(row: Row) -> StoredBase:
    return StoredBase(
        slot=_slot(row),
        base=_base(row, {}),
        name=row["name"],
        path=StorePath(row["path"]),
        nar_hash=row["nar_hash"],
        size=row["size"],
        canonical=DrvPath(row["canonical"]),
        built=DrvPath(row["built"].partition(SUPERSEDED)[0]),
        parent=row["parent"],
        origin=row["origin"],
        used_at=row["used_at"],
        audited_at=row["audited_at"],
        released_at=row["released_at"],
        bucket=row["bucket"],
        shared_at=row["shared_at"],
    )


def _fingerprint(row: Row) -> Fingerprint:
    return Fingerprint(digest=row["fingerprint"], parts=json.loads(row["parts"]))


def _slot(row: Row) -> Slot:
    return Slot(
        jobset=JobsetName(row["jobset"]),
        job=row["job"],
        system=row["system"],
        branch=row["branch"] or None,
        trust=Trust(row["trust"]),
    )


# --- What builds left --------------------------------------------------------------------------

STAGE = "coalesce(c.leaves, c.derivation)"
"""Of a row `c` of build_base: the derivation whose intermediates later builds start from."""

IN_FORCE = (
    "EXISTS (SELECT 1 FROM job JOIN evaluation e ON e.id = job.evaluation"
    " WHERE job.derivation = c.derivation AND e.state IN ('running', 'succeeded'))"
)
"""Of a row `c` of build_base: it is of a job in force."""


def left(database: Database) -> list[Left]:
    """What good builds of jobs in force left that is no base yet, and may be one; of those due."""
    rows = database.query(
        "SELECT c.*, d.path, d.name, o.path AS intermediates, f.parts, s.job, s.system, s.branch,"
        f" s.trust, j.name AS jobset FROM {due.BUILDS} JOIN incremental_slot s ON s.id = c.slot"
        " JOIN jobset j ON j.id = s.jobset JOIN fingerprint f ON f.digest = c.fingerprint"
        " JOIN derivation d ON d.id = c.derivation"
        f" JOIN build b ON b.derivation = {STAGE}"
        f" JOIN output o ON o.derivation = {STAGE} AND o.name = ?"
        " WHERE c.refused IS NULL AND o.path IS NOT NULL AND j.removed_at IS NULL"
        " AND b.state IN ('succeeded', 'substituted') AND NOT EXISTS"
        " (SELECT 1 FROM base WHERE base.slot = c.slot AND base.built = d.path)"
        f" AND {IN_FORCE}",
        (INTERMEDIATES,),
    )
    return [
        Left(
            derivation=row["derivation"],
            path=DrvPath(row["path"]),
            name=row["name"],
            intermediates=StorePath(row["intermediates"]),
            slot=_slot(row),
            fingerprint=_fingerprint(row),
            canonical=DrvPath(row["canonical"]),
            parent=row["base"],
            revision=row["revision"],
        )
        for row in rows
    ]


def taking_part(database: Database, derivations: Iterable[int]) -> frozenset[int]:
    """Those of the derivations that leave intermediates for later builds."""
    rows = database.query(
        "SELECT derivation FROM build_base WHERE derivation IN (SELECT value FROM json_each(?1))"
        " UNION SELECT leaves FROM build_base WHERE leaves IN (SELECT value FROM json_each(?1))",
        (json.dumps(list(derivations)),),
    )
    return frozenset(row[0] for row in rows)


def fallen(database: Database) -> list[Fallen]:
    """Builds from a base that failed, or whose base could not be had, of jobs in force and due."""
    rows = database.query(
        "SELECT j.name AS jobset, s.job, c.derivation, c.base, EXISTS"
        " (SELECT 1 FROM input i JOIN output o ON o.derivation = i.input"
        f"  JOIN build ib ON ib.derivation = i.input WHERE i.derivation = {STAGE}"
        # Nix fails to fetch it, which for any other would be tried again and again.
        f"  AND o.path = base.path AND (ib.state IN {FAILED} OR ib.failures > 0)) AS lost,"
        f" b.state IN {FAILED} OR first.state IN {FAILED} AS own"
        f" FROM {due.BUILDS} JOIN incremental_slot s ON s.id = c.slot"
        " JOIN jobset j ON j.id = s.jobset JOIN build b ON b.derivation = c.derivation"
        f" JOIN build first ON first.derivation = {STAGE} LEFT JOIN base ON base.id = c.base"
        f" WHERE c.mode = 'incremental' AND (lost OR own) AND j.removed_at IS NULL AND {IN_FORCE}"
    )
    return [
        Fallen(
            jobset=JobsetName(row["jobset"]),
            job=row["job"],
            derivation=row["derivation"],
            base=row["base"],
            lost=bool(row["lost"]),
        )
        for row in rows
    ]


def failed_instead(database: Database, slot: Slot, canonical: DrvPath) -> bool:
    """Whether a derivation with a base, in place of a canonical one, was tried and failed."""
    row = database.one(
        "SELECT 1 FROM build_base c JOIN incremental_slot s ON s.id = c.slot"
        f" JOIN jobset j ON j.id = s.jobset JOIN build b ON b.derivation IN (c.derivation, {STAGE})"
        " WHERE c.canonical = ? AND c.mode = 'incremental'"
        f" AND {THIS_SLOT}"
        f" AND b.state IN {FAILED} LIMIT 1",
        (canonical, *slot.key),
    )
    return row is not None


def suspects(database: Database) -> dict[int, str]:
    """The bases from which a build that is due failed and was good without, each with the job."""
    good = (
        " JOIN incremental_slot s ON s.id = c.slot JOIN derivation d ON d.path = c.canonical"
        " JOIN build clean ON clean.derivation = d.id AND clean.state IN ('succeeded',"
        f" 'substituted') WHERE base.quarantined_at IS NULL AND {TRUSTED_ALIKE}"
    )
    rows = database.query(
        f"SELECT base.id, s.job FROM {due.BUILDS} JOIN build b ON b.derivation = c.derivation"
        f" AND b.state IN {FAILED} JOIN base ON base.id = c.base{good} AND c.mode = 'incremental'"
        f" UNION SELECT base.id, s.job FROM {due.BUILDS} JOIN base ON base.id = c.failed_from{good}"
    )
    return {row[0]: row[1] for row in rows}


# --- For people --------------------------------------------------------------------------------


def slots(database: Database, jobset: JobsetName | None = None) -> list[SlotFacts]:
    """What there is of each slot; of one jobset, or of all."""
    rows = database.query(
        "SELECT s.job, s.system, s.branch, s.trust, j.name AS jobset,"
        " (SELECT count(*) FROM build_base c WHERE c.slot = s.id AND c.mode = 'incremental')"
        " AS incremental,"
        " (SELECT count(*) FROM build_base c WHERE c.slot = s.id AND c.mode = 'full') AS full,"
        " count(b.id) AS bases, coalesce(sum(b.size), 0) AS size,"
        " coalesce(max(b.depth), 0) AS deepest, max(b.created_at) AS newest_at,"
        " count(b.quarantined_at) AS quarantined"
        " FROM incremental_slot s JOIN jobset j ON j.id = s.jobset"
        " LEFT JOIN base b ON b.slot = s.id AND b.released_at IS NULL"
        " WHERE ?1 IS NULL OR j.name = ?1"
        " GROUP BY s.id ORDER BY j.name, s.job, s.system, s.branch, s.trust",
        (jobset,),
    )
    return [
        SlotFacts(
            slot=_slot(row),
            **{
                name: row[name]
                for name in (
                    "bases", "size", "deepest", "newest_at", "quarantined", "incremental", "full"
                )
            },
        )
        for row in rows
    ]  # fmt: skip


def explain(database: Database, derivation: int) -> list[BuildFacts]:
    """What a build started from and why: once for each job that it is."""
    rows = database.query(
        "SELECT c.*, f.parts, s.job, s.system, s.branch, s.trust, j.name AS jobset, d.path,"
        " a.state AS audit, a.detail AS audit_detail FROM build_base c"
        " JOIN derivation d ON d.id = c.derivation JOIN incremental_slot s ON s.id = c.slot"
        " JOIN jobset j ON j.id = s.jobset JOIN fingerprint f ON f.digest = c.fingerprint"
        " LEFT JOIN audit a ON a.derivation = c.derivation"
        " WHERE c.derivation = ? ORDER BY j.name, s.job",
        (derivation,),
    )
    return [
        BuildFacts(
            slot=_slot(row),
            derivation=row["derivation"],
            path=DrvPath(row["path"]),
            canonical=DrvPath(row["canonical"]),
            fingerprint=_fingerprint(row),
            incremental=row["mode"] == "incremental",
            base=row["base"],
            reason=row["reason"],
            hidden=row["strategy"] == "hidden",
            revision=row["revision"],
            at=row["at"],
            audit=row["audit"],
            audit_detail=row["audit_detail"],
            refused=row["refused"],
        )
        for row in rows
    ]


def inputs(database: Database, evaluation: int) -> list[EvaluationInput]:
    """What an evaluation was given; nothing for one without bases."""
    return [
        EvaluationInput(
            protocol=Protocol(row["protocol"]),
            reference=row["reference"],
            text=row["text"],
            revision=row["revision"],
        )
        for row in database.query(
            "SELECT * FROM evaluation_input WHERE evaluation = ? ORDER BY protocol", (evaluation,)
        )
    ]


def open_audits(database: Database) -> list[Audit]:
    """Those that have not ended, the oldest first."""
    return [
        Audit(
            id=row["id"],
            derivation=row["derivation"],
            path=DrvPath(row["path"]),
            clean=DrvPath(row["clean"]),
            base=row["base"],
            running=row["state"] == "running",
            asked_at=row["asked_at"],
        )
        for row in database.query(
            "SELECT a.*, d.path FROM audit a JOIN derivation d ON d.id = a.derivation"
            # By their number SQLite would read all; the index has those that have not ended.
            " WHERE a.finished_at IS NULL ORDER BY +a.id"
        )
    ]
