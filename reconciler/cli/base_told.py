"""What a build started from, for the verbs that tell of a job: as JSON, and in one line."""

from __future__ import annotations

from reconciler.cli.output import Json
from reconciler.database import bases, slots
from reconciler.database.bases import BuildFacts
from reconciler.database.file import Database


def build_json(found: BuildFacts) -> dict[str, Json]:
    """What a build started from, as the schemas have it."""
    return {
        "incremental": found.incremental,
        "base": found.base,
        "reason": found.reason,
        "hidden": found.hidden,
        "audit": found.audit,
        "auditDetail": found.audit_detail,
        "refused": found.refused,
    }


def sentence(database: Database, found: BuildFacts) -> str:
    """The same in one line."""
    told = found.reason
    base = bases.stored(database, [] if found.base is None else [found.base])
    if base:
        told += f" (base {found.base}, depth {base[0].base.depth})"
    elif found.incremental:
        told += " (a base that is forgotten)"
    if found.hidden and found.incremental:
        told += "; the build was shown it, and its derivation names none"
    if found.audit is None:
        return told
    told += f"; audit: {found.audit}"
    if found.audit_detail:
        told += f" ({found.audit_detail})"
    if slots.waits_for_a_person(database, found):
        job = f"{found.slot.jobset}.{found.slot.job}"
        told += f"; not pushed: ask for another with `reconciler incremental audit {job}`"
    return told
