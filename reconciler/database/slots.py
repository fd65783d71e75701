"""Reads for people: the jobs that leave intermediates, by name, and the evaluations to repeat."""

from __future__ import annotations

import json
from typing import Any

from reconciler.bases import INTERMEDIATES
from reconciler.database import bases, lookup
from reconciler.database.bases import BuildFacts, SlotFacts, StoredBase
from reconciler.database.file import Database
from reconciler.database.incremental import THIS_SLOT, Slot
from reconciler.model import JobsetName

_NAMED = "j.name || '.' || s.job = ?"


def slots_of(database: Database, job: str) -> list[SlotFacts]:
    """The slots of a job, by its whole name: one for each system it had."""
    row = database.one(
        "SELECT j.name FROM incremental_slot s JOIN jobset j ON j.id = s.jobset"
        f" WHERE {_NAMED} LIMIT 1",
        (job,),
    )
    if row is None:
        return []
    jobset = JobsetName(row[0])
    return [each for each in bases.slots(database, jobset) if f"{jobset}.{each.slot.job}" == job]


def all_bases(database: Database, job: str) -> list[StoredBase]:
    """All that is remembered of a job, released ones too, the newest first."""
    rows = database.query(
        "SELECT b.id FROM base b JOIN incremental_slot s ON s.id = b.slot"
        f" JOIN jobset j ON j.id = s.jobset WHERE {_NAMED} ORDER BY b.id DESC",
        (job,),
    )
    return bases.stored(database, [row[0] for row in rows])


def kept_of(database: Database, job: str) -> list[int]:
    """The bases that are kept of a job."""
    return [each.base.id for each in all_bases(database, job) if each.released_at is None]


def newest_build(database: Database, job: str) -> BuildFacts | None:
    """The newest build of a job of which is known what it started from."""
    row = database.one(
        "SELECT c.derivation FROM build_base c JOIN incremental_slot s ON s.id = c.slot"
        f" JOIN jobset j ON j.id = s.jobset WHERE {_NAMED} ORDER BY c.at DESC LIMIT 1",
        (job,),
    )
    return None if row is None else build(database, row[0], job)


def build(database: Database, derivation: int, job: str | None = None) -> BuildFacts | None:
    """What a build started from; as a job of this name, where it is several."""
    found = bases.explain(database, derivation)
    own = [each for each in found if f"{each.slot.jobset}.{each.slot.job}" == job]
    return next(iter(own or found), None)


def refused_last(database: Database, slot: Slot) -> str | None:
    """Why what the newest good build of a job left is no base; None: it may be one."""
    row = database.one(
        "SELECT c.refused FROM build_base c JOIN incremental_slot s ON s.id = c.slot"
        f" JOIN jobset j ON j.id = s.jobset JOIN build b ON b.derivation = {bases.STAGE}"
        f" WHERE {THIS_SLOT} AND b.state IN ('succeeded', 'substituted')"
        " ORDER BY c.at DESC LIMIT 1",
        slot.key,
    )
    return None if row is None else row[0]


def auditable(database: Database, job: str) -> BuildFacts | str:
    """The newest build of a job, if it can be audited and was not yet; else why not."""
    found = newest_build(database, job)
    if found is None:
        return f"no build of {job} is remembered: its history was forgotten"
    if not found.incremental:
        return f"the newest build of {job} started from no base, so there is nothing to audit"
    own = (found.derivation, INTERMEDIATES)
    if not database.one("SELECT 1 FROM output WHERE derivation = ? AND name = ?", own):
        return f"{job} starts from no base itself, but needs what does: audit that"
    state = lookup.build_facts(database, found.derivation).state
    if not state.good:
        return f"the newest build of {job} is {state}: only what was built can be audited"
    if found.audit in ("pending", "running"):
        return f"{job} is being audited already: `reconciler incremental explain {job}` shows it"
    if found.audit == "same":
        return f"{job} was audited already: it is what a build without a base comes to"
    if found.audit == "different":
        return f"{job} was audited already, and is built without a base: {found.audit_detail}"
    return found


def waits_for_a_person(database: Database, found: BuildFacts) -> bool:
    """Whether a build is not pushed because its audit came to nothing."""
    row = database.one(
        "SELECT 1 FROM condition WHERE kind = 'jobset' AND name = ? AND reason = 'not-audited'",
        (found.slot.jobset,),
    )
    return found.audit == "failed" and row is not None


# --- To repeat ---------------------------------------------------------------------------------


def repeatable(database: Database, evaluation: int) -> dict[str, Any] | None:
    """What was recorded of an evaluation so that anyone can repeat it."""
    row = database.one("SELECT facts FROM evaluation_repeat WHERE evaluation = ?", (evaluation,))
    if row is None:
        return None
    facts: dict[str, Any] = json.loads(row[0])
    return facts


def evaluations_with(database: Database, derivation: int, attr: str) -> list[int]:
    """The evaluations in which a job is this derivation, the oldest first."""
    rows = database.query(
        "SELECT evaluation FROM job WHERE derivation = ? AND attr = ? ORDER BY evaluation",
        (derivation, attr),
    )
    return [row[0] for row in rows]


def canonical_jobs(database: Database, evaluation: int) -> list[str]:
    """The jobs of an evaluation that are what they are without any base."""
    rows = database.query(
        "SELECT attr FROM job WHERE evaluation = ? AND derivation IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM build_base c WHERE c.derivation = job.derivation"
        " AND c.mode = 'incremental') ORDER BY attr",
        (evaluation,),
    )
    return [row[0] for row in rows]
