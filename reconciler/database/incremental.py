"""Writes: what builds leave for later ones, what evaluations are given, and audits."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from reconciler.bases import Fingerprint, Trust
from reconciler.database import alike
from reconciler.database.events import event
from reconciler.database.file import Database
from reconciler.model import DrvPath, JobsetName, Protocol, StorePath

DESCENDANTS = (
    "WITH RECURSIVE line(id) AS (SELECT id FROM base WHERE id = ?"
    " UNION SELECT b.id FROM line l JOIN base b ON b.parent = l.id)"
)
"""A query's first part, `line`: a base and all that descend from it."""

THIS_SLOT = "(j.name, s.job, s.system, s.branch, s.trust) = (?, ?, ?, ?, ?)"
"""Of a slot `s` and its jobset `j`: they are those of a `Slot.key`."""

TRUSTED_ALIKE = (
    "(SELECT trust FROM incremental_slot WHERE id = c.slot)"
    " = (SELECT trust FROM incremental_slot WHERE id = base.slot)"
)
"""Of a row `c` of build_base and a base: what came of the build says something of the base. An
untrusted branch could have any base of others found bad."""


UNTRUSTED = (
    "c.slot IN (SELECT s.id FROM incremental_slot s JOIN jobset j ON j.id = s.jobset"
    " WHERE s.branch <> '' AND s.trust = j.name)"
)
"""Of a row `c` of build_base: it is of a `Slot` that is `untrusted`."""

_VOID = (
    "NOT EXISTS (SELECT 1 FROM build_base c WHERE c.derivation = audit.derivation"
    " AND (c.canonical = audit.clean OR c.strategy = 'hidden'))"
)
"""Of a row of audit: nobody builds its derivation in place of the one it is held against."""


class Slot(Struct, frozen=True, kw_only=True):
    """A job that leaves intermediates."""

    jobset: JobsetName
    job: str
    system: str
    branch: str | None
    trust: Trust

    @property
    def untrusted(self) -> bool:
        """What it leaves serves its own branch and no other."""
        return self.branch is not None and self.trust == Trust(self.jobset)

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """Its parameters for `THIS_SLOT`."""
        return (self.jobset, self.job, self.system, self.branch or "", self.trust)


class NewBase(Struct, frozen=True, kw_only=True):
    """Intermediates that are in the store by their content."""

    name: str
    path: StorePath
    nar_hash: str
    """As Nix's fixed-output derivations take it: `sha256-…`."""
    size: int
    fingerprint: Fingerprint
    canonical: DrvPath
    """The derivation of its job without any base."""
    built: DrvPath
    """The one that made them."""
    revision: str | None
    parent: int | None
    """What that one started from; None: it was a full build."""
    shared_slot: str | None = None
    """The name under which it is kept; None: the job's own."""
    bucket: str | None = None
    """The artifact store in which it is shared."""


class EvaluationInput(Struct, frozen=True, kw_only=True):
    """What an evaluation was given for a protocol."""

    protocol: Protocol
    reference: str
    """What names it to Nix or git: a locked flake reference, a revision, a hash of the text."""
    text: str
    revision: str | None
    """The commit that it was put on top of."""


class BuildBase(Struct, frozen=True, kw_only=True):
    """What the build of a job starts from."""

    derivation: int
    canonical: DrvPath
    fingerprint: Fingerprint
    base: int | None
    reason: str
    revision: str | None
    hidden: bool = False
    """The derivation is the canonical one, and its build is shown the base."""
    leaves: int | None = None
    """The first of two stages, which leaves its intermediates whatever the second comes to."""


# --- Bases -------------------------------------------------------------------------------------


def slot_id(database: Database, slot: Slot) -> int:
    """The number of a slot, which is made if need be; inside a transaction."""
    database.execute(
        "INSERT INTO incremental_slot(jobset, job, system, branch, trust)"
        " SELECT id, ?2, ?3, ?4, ?5 FROM jobset WHERE name = ?1 ON CONFLICT DO NOTHING",
        slot.key,
    )
    row = database.one(
        f"SELECT s.id FROM incremental_slot s JOIN jobset j ON j.id = s.jobset WHERE {THIS_SLOT}",
        slot.key,
    )
    assert row is not None, f"there is no jobset {slot.jobset}"
    return int(row[0])


def add_base(database: Database, slot: Slot, new: NewBase, *, now: float) -> int:
    """Record intermediates; its number. What the same build left before is replaced by it."""
    with database.transaction():
        add_fingerprint(database, new.fingerprint)
        number = slot_id(database, slot)
        parent = database.one(
            "SELECT depth + 1, full_at, origin FROM base WHERE id = ?", (new.parent,)
        )
        assert (parent is None) == (new.parent is None), f"there is no base {new.parent}"
        depth, full_at, origin = (0, now, None) if parent is None else tuple(parent)
        row = database.one(
            "INSERT INTO base(slot, name, path, nar_hash, size, fingerprint, canonical, built,"
            " revision, depth, parent, origin, full_at, created_at, shared_slot, bucket)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(slot, built) DO UPDATE SET name = excluded.name, path = excluded.path,"
            " nar_hash = excluded.nar_hash, size = excluded.size, bucket = excluded.bucket,"
            " shared_slot = excluded.shared_slot, released_at = NULL"
            " RETURNING id",
            (
                number, new.name, new.path, new.nar_hash, new.size, new.fingerprint.digest,
                new.canonical, new.built, new.revision, depth, new.parent, origin, full_at, now,
                new.shared_slot, new.bucket,
            ),
        )  # fmt: skip
        assert row is not None
        base = int(row[0])
        database.execute("UPDATE base SET origin = id WHERE id = ? AND depth = 0", (base,))
        _inherit(database, base, new.parent, now=now)
        _resemble(database, base, new.nar_hash, now=now)
        _audited(database, base, new.built, now=now)
        base_event(database, base, before=None, after="kept", cause=f"left by {new.name}", now=now)
    return base


def _inherit(database: Database, base: int, parent: int | None, *, now: float) -> None:
    """What starts from a base that turned out wrong while it was built is as wrong."""
    row = database.one("SELECT quarantine FROM base WHERE id = ?", (parent,))
    if row is not None and row["quarantine"] is not None:
        quarantine(database, base, reason=_inherited(parent, row["quarantine"]), now=now)


def _resemble(database: Database, base: int, nar_hash: str, *, now: float) -> None:
    """What is of the same content as something that turned out wrong is as wrong."""
    found = alike.wrong(database, base, nar_hash)
    if found is not None:
        quarantine(database, base, reason=_resembling(*found), now=now)


def _audited(database: Database, base: int, built: DrvPath, *, now: float) -> None:
    """The audit of what left it may have ended meanwhile."""
    row = database.one(
        "SELECT a.* FROM audit a JOIN derivation d ON d.id = a.derivation WHERE d.path = ?"
        # Or it is built in full since, at the same path.
        " AND EXISTS (SELECT 1 FROM build_base c WHERE c.derivation = d.id"
        " AND c.mode = 'incremental') AND a.state IN ('same', 'different')",
        (built,),
    )
    if row is not None and row["state"] == "same":
        database.execute("UPDATE base SET audited_at = ? WHERE id = ?", (row["finished_at"], base))
    elif row is not None:
        quarantine(database, base, reason=f"an audit: {row['detail']}", now=now)


def _inherited(base: int | None, reason: str) -> str:
    return f"it goes back to base {base}: {reason}"


def _resembling(base: int, reason: str) -> str:
    return f"it is the same as base {base}: {reason}"


def release(database: Database, bases: Iterable[int], *, cause: str, now: float) -> None:
    """Let bases go: nothing starts from them any more, and nothing keeps their paths."""
    with database.transaction():
        for base in bases:
            database.execute("UPDATE base SET released_at = ? WHERE id = ?", (now, base))
            base_event(database, base, before="kept", after="released", cause=cause, now=now)


def quarantine(database: Database, base: int, *, reason: str, now: float) -> list[int]:
    """Have nothing start from a base, nor from any of the same content, nor from what descends from
    those; the bases this is new to.
    """
    with database.transaction():
        found = _quarantine_line(database, base, reason=reason, now=now)
        for each in alike.others(database, base):
            why = _resembling(base, reason)
            found += _quarantine_line(database, each, reason=why, now=now)
    return found


def _quarantine_line(database: Database, base: int, *, reason: str, now: float) -> list[int]:
    found = [
        row[0]
        for row in database.query(
            f"{DESCENDANTS} SELECT id FROM line JOIN base USING (id)"
            " WHERE quarantined_at IS NULL ORDER BY id",
            (base,),
        )
    ]
    for each in found:
        why = reason if each == base else _inherited(base, reason)
        database.execute(
            "UPDATE base SET quarantined_at = ?, quarantine = ? WHERE id = ?", (now, why, each)
        )
        base_event(database, each, before="kept", after="quarantined", cause=reason, now=now)
    return found


def forget_released(database: Database, *, before: float) -> None:
    """Drop what was let go before a time and nothing descends from; fingerprints of nothing.

    While a build is remembered, so is what it left, or it would leave that anew, and what it
    started from, or it would pass for a full one. What is wrong may be met again.
    """
    leaf = (
        "released_at < ? AND quarantined_at IS NULL AND NOT EXISTS (SELECT 1 FROM base c"
        " WHERE c.parent = base.id OR (c.origin = base.id AND c.id <> base.id))"
        " AND NOT EXISTS (SELECT 1 FROM build_base c JOIN derivation d ON d.id = c.derivation"
        " WHERE c.slot = base.slot AND d.path = base.built)"
        " AND NOT EXISTS (SELECT 1 FROM build_base c WHERE c.base = base.id)"
        " AND NOT EXISTS (SELECT 1 FROM evaluation_base e WHERE e.base = base.id)"
    )
    with database.transaction():
        while database.one(f"SELECT 1 FROM base WHERE {leaf} LIMIT 1", (before,)):
            database.execute(f"DELETE FROM base WHERE {leaf}", (before,))
        database.execute(
            "DELETE FROM fingerprint WHERE digest NOT IN (SELECT fingerprint FROM base)"
            " AND digest NOT IN (SELECT fingerprint FROM build_base)"
        )


def base_event(
    database: Database, base: int, *, before: str | None, after: str, cause: str, now: float
) -> None:
    """Write down what became of a base; inside a transaction."""
    row = database.one(
        "SELECT j.name, s.job FROM base b JOIN incremental_slot s ON s.id = b.slot"
        " JOIN jobset j ON j.id = s.jobset WHERE b.id = ?",
        (base,),
    )
    assert row is not None
    subject = f"{row[0]}.{row[1]}#{base}"
    event(database, at=now, kind="base", subject=subject, before=before, after=after, cause=cause)


def add_fingerprint(database: Database, found: Fingerprint) -> None:
    """Have a fingerprint to refer to; inside a transaction."""
    database.execute(
        "INSERT INTO fingerprint(digest, parts) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (found.digest, json.dumps(dict(found.parts))),
    )


# --- Evaluations and builds --------------------------------------------------------------------


def give(
    database: Database,
    evaluation: int,
    inputs: Iterable[EvaluationInput],
    bases: Collection[int],
    *,
    now: float,
) -> None:
    """Record what an evaluation is given, in place of what it was given before."""
    with database.transaction():
        for table in ("evaluation_input", "evaluation_base"):
            database.execute(f"DELETE FROM {table} WHERE evaluation = ?", (evaluation,))
        database.execute_many(
            "INSERT INTO evaluation_input(evaluation, protocol, reference, text, revision)"
            " VALUES (?, ?, ?, ?, ?)",
            (
                (evaluation, each.protocol, each.reference, each.text, each.revision)
                for each in inputs
            ),
        )
        database.execute_many(
            "INSERT INTO evaluation_base(evaluation, base) VALUES (?, ?)",
            ((evaluation, base) for base in sorted(bases)),
        )
        database.execute_many(
            "UPDATE base SET used_at = ? WHERE id = ?", ((now, base) for base in bases)
        )


def overlay_commits(database: Database) -> frozenset[str]:
    """The commits of ours that evaluations which are remembered were made of."""
    rows = database.query(
        "SELECT reference FROM evaluation_input WHERE protocol = ?", (Protocol.CACHE_NIX,)
    )
    return frozenset(row[0] for row in rows)


def record_repeat(database: Database, evaluation: int, facts: Mapping[str, object]) -> None:
    """Record what else it takes to repeat an evaluation, as JSON."""
    with database.transaction():
        database.execute(
            "INSERT OR REPLACE INTO evaluation_repeat(evaluation, facts) VALUES (?, ?)",
            (evaluation, json.dumps(facts)),
        )


def choose(database: Database, slot: Slot, choice: BuildBase, *, now: float) -> None:
    """Record what the build of a job starts from; the newest choice for a derivation counts.

    Of what a derivation is built in place of, an untrusted branch says nothing where others say
    something else: audits would hold what others build against what it made up.
    """
    with database.transaction():
        if not _may_say(database, slot, choice):
            return
        add_fingerprint(database, choice.fingerprint)
        database.execute(
            "INSERT INTO build_base(derivation, slot, canonical, fingerprint, mode, base, reason,"
            " revision, at, strategy, leaves) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(derivation, slot) DO UPDATE SET mode = excluded.mode,"
            " base = excluded.base, reason = excluded.reason, at = excluded.at,"
            " revision = excluded.revision, strategy = excluded.strategy,"
            " leaves = excluded.leaves",
            (
                choice.derivation,
                slot_id(database, slot),
                choice.canonical,
                choice.fingerprint.digest,
                "full" if choice.base is None else "incremental",
                choice.base,
                choice.reason,
                choice.revision,
                now,
                "hidden" if choice.hidden else "pure",
                choice.leaves,
            ),
        )


def _may_say(database: Database, slot: Slot, choice: BuildBase) -> bool:
    """Have the word of trusted branches stand alone; inside a transaction."""
    said = (choice.derivation, choice.canonical)
    if slot.untrusted:
        other = (
            "SELECT 1 FROM build_base c WHERE c.derivation = ? AND c.canonical <> ?"
            f" AND NOT {UNTRUSTED} LIMIT 1"
        )
        return database.one(other, said) is None
    database.execute(
        f"DELETE FROM build_base AS c WHERE derivation = ? AND canonical <> ? AND {UNTRUSTED}",
        said,
    )
    # One under way is dropped when it ends: its number may be given to the next.
    database.execute(
        f"DELETE FROM audit WHERE derivation = ? AND finished_at IS NOT NULL AND clean <> ?"
        f" AND {_VOID}",
        said,
    )
    return True


def refuse(database: Database, slot: Slot, derivation: int, *, reason: str) -> None:
    """Record why what a build left can be no base."""
    with database.transaction():
        database.execute(
            "UPDATE build_base SET refused = ? WHERE derivation = ? AND slot = ?",
            (reason, derivation, slot_id(database, slot)),
        )


def refuse_from(database: Database, bases: Collection[int], *, reason: str) -> None:
    """Have builds leave nothing that start from any of these bases and did not end yet."""
    with database.transaction():
        database.execute(
            "UPDATE build_base AS c SET refused = ? WHERE base IN (SELECT value FROM json_each(?))"
            " AND refused IS NULL AND NOT EXISTS (SELECT 1 FROM base b JOIN derivation d"
            " ON d.path = b.built WHERE b.slot = c.slot AND d.id = c.derivation)",
            (reason, json.dumps(list(bases))),
        )


# --- Audits ------------------------------------------------------------------------------------


def ask_audit(
    database: Database, derivation: int, *, base: int | None, clean: DrvPath, now: float
) -> None:
    """Have a build made again without its base; asked for once more, it is made once more."""
    with database.transaction():
        database.execute(
            "INSERT INTO audit(derivation, base, clean, state, asked_at)"
            " VALUES (?, ?, ?, 'pending', ?)"
            " ON CONFLICT(derivation) DO UPDATE SET state = 'pending', detail = NULL,"
            " finished_at = NULL, asked_at = excluded.asked_at WHERE finished_at IS NOT NULL",
            (derivation, base, clean, now),
        )


def start_audit(database: Database, audit: int) -> None:
    """Record that its clean build has begun."""
    with database.transaction():
        database.execute(
            "UPDATE audit SET state = 'running' WHERE id = ? AND finished_at IS NULL", (audit,)
        )


def drop_void(database: Database, audit: int) -> bool:
    """Forget an audit that has come to an end, if what it was held against concerns nobody."""
    with database.transaction():
        found = database.one(f"DELETE FROM audit WHERE id = ? AND {_VOID} RETURNING id", (audit,))
    return found is not None


def end_audit(database: Database, audit: int, *, difference: str | None, now: float) -> list[int]:
    """Record what an audit found, None being nothing; the bases that are now in quarantine."""
    with database.transaction():
        row = database.one("SELECT derivation, base FROM audit WHERE id = ?", (audit,))
        assert row is not None
        state = "same" if difference is None else "different"
        _finish_audit(database, audit, state=state, detail=difference, now=now)
        if difference is None:
            database.execute(
                "UPDATE base SET audited_at = ? WHERE built = (SELECT path FROM derivation"
                " WHERE id = ?)",
                (now, row["derivation"]),
            )
            return []
        base = database.one(
            "SELECT base.id FROM base JOIN build_base c ON c.derivation = ?"
            f" WHERE base.id = ? AND {TRUSTED_ALIKE} LIMIT 1",
            (row["derivation"], row["base"]),
        )
        reason = f"an audit: {difference}"
        return [] if base is None else quarantine(database, base[0], reason=reason, now=now)


def fail_audit(database: Database, audit: int, *, why: str, now: float) -> None:
    """Record that nothing could be found out: the clean build failed, say."""
    with database.transaction():
        _finish_audit(database, audit, state="failed", detail=why, now=now)


def _finish_audit(
    database: Database, audit: int, *, state: str, detail: str | None, now: float
) -> None:
    database.execute(
        "UPDATE audit SET state = ?, detail = ?, finished_at = ? WHERE id = ?",
        (state, detail, now, audit),
    )
