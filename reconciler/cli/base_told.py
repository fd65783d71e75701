"""What a build started from, for the verbs that tell of a job: as JSON, and in one line."""

from __future__ import annotations

from reconciler.cli.output import Json
from reconciler.database import bases
from reconciler.database.bases import BuildFacts
from reconciler.database.file import Database


def build_json(found: BuildFacts) -> dict[str, Json]:
    """What a build started from, as the schemas have it."""
    return {
        "incremental": found.incremental,
        "base": found.base,
        "reason": found.reason,
        "audit": found.audit,
        "auditDetail": found.audit_detail,
    }


def sentence(database: Database, found: BuildFacts) -> str:
    """The same in one line."""
    told = found.reason
    base = bases.stored(database, [] if found.base is None else [found.base])
    if base:
        told += f" (base {found.base}, depth {base[0].base.depth})"
    elif found.incremental:
        told += " (a base that is forgotten)"
    return told + (f"; audit: {found.audit}" if found.audit else "")
