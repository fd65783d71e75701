"""Reads: for which jobsets nothing is started, and why. Writes nothing."""

from __future__ import annotations

from msgspec import Struct

from reconciler.database.file import Database
from reconciler.database.in_force import InForce
from reconciler.states import JobsetName


class Hold(Struct, frozen=True, kw_only=True):
    """Why nothing is started for a jobset."""

    jobset: JobsetName
    removed: bool
    """It is declared no longer."""
    disabled: bool
    suspended: JobsetName | None
    """What is to be resumed: it itself, or the one that it is a branch of."""
    by: str | None
    why: str | None

    @property
    def said(self) -> str:
        """The same in words, in short."""
        if self.removed:
            return f"jobset {self.jobset} is declared no longer"
        if self.suspended is not None:
            return f"jobset {self.suspended} is suspended"
        return f"jobset {self.jobset} is declared with enabled: false"

    @property
    def notes(self) -> tuple[str, ...]:
        """All there is to say of it, and what to do."""
        found = []
        if self.removed:
            found.append(f"jobset {self.jobset} is declared no longer")
        elif self.suspended is not None:
            reason = f" ({self.why})" if self.why else ""
            found.append(
                f"jobset {self.suspended} was suspended by {self.by}{reason}: "
                f"`reconciler resume {self.suspended}`"
            )
        if self.disabled:
            found.append(f"jobset {self.jobset} is declared with enabled: false")
        return tuple(found)


def hold_on(database: Database, document: InForce, jobset: JobsetName) -> Hold | None:
    """What holds a jobset; None: nothing."""
    row = database.one(
        "SELECT s.removed_at, coalesce(s.suspended_by, p.suspended_by) AS by,"
        " coalesce(s.suspended_why, p.suspended_why) AS why,"
        " iif(s.suspended_by IS NULL, p.name, s.name) AS suspended"
        " FROM jobset s LEFT JOIN jobset p ON p.id = s.pattern WHERE s.name = ?",
        (jobset,),
    )
    assert row is not None
    declared = document.jobsets.get(jobset)
    found = Hold(
        jobset=jobset,
        removed=row["removed_at"] is not None,
        disabled=declared is not None and not declared.enabled,
        suspended=None if row["by"] is None else row["suspended"],
        by=row["by"],
        why=row["why"],
    )
    return found if found.notes else None


def holds(database: Database, document: InForce, derivation: int) -> tuple[Hold, ...]:
    """What holds those that want a derivation; empty if one of them is not held."""
    some = database.one(
        "SELECT 1 FROM jobset WHERE suspended_by IS NOT NULL OR removed_at IS NOT NULL"
    )
    if some is None and all(each.enabled for each in document.jobsets.values()):
        return ()  # what lies above a derivation may be very much
    wanting = database.query(
        "WITH RECURSIVE above(id) AS (SELECT ?"
        " UNION SELECT i.derivation FROM above a CROSS JOIN input i ON i.input = a.id"
        " JOIN build b ON b.derivation = i.derivation AND b.state = 'queued')"
        ", wanting(evaluation) AS ("
        " SELECT j.evaluation FROM above a CROSS JOIN job j ON j.derivation = a.id"
        " UNION SELECT r.evaluation FROM above a CROSS JOIN rebuild r ON r.derivation = a.id)"
        " SELECT DISTINCT s.name FROM wanting w JOIN evaluation e ON e.id = w.evaluation"
        " AND e.state IN ('running', 'succeeded') JOIN jobset s ON s.id = e.jobset ORDER BY s.name",
        (derivation,),
    )
    found = [hold_on(database, document, JobsetName(row[0])) for row in wanting]
    held = tuple(each for each in found if each is not None)
    return held if len(held) == len(found) else ()
