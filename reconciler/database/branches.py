"""Which branches are jobsets, of those that are declared by patterns.

What was listed last stays known until it is listed again: a repository that does not answer takes
nothing away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from reconciler.database.events import event
from reconciler.database.file import Database
from reconciler.states import JobsetName


def known(database: Database) -> dict[JobsetName, dict[JobsetName, str]]:
    """The branches in force: by the jobset that is declared for them, their own jobset's."""
    found: dict[JobsetName, dict[JobsetName, str]] = {}
    for row in database.query(
        "SELECT p.name AS declared, s.name, s.branch FROM jobset s"
        " JOIN jobset p ON p.id = s.pattern WHERE s.removed_at IS NULL"
    ):
        found.setdefault(row["declared"], {})[row["name"]] = row["branch"]
    return found


def set_branches(
    database: Database, declared: JobsetName, branches: Mapping[JobsetName, str], *, now: float
) -> None:
    """Make these the branches of a declared jobset; those that are gone are marked.

    A branch that comes again has the history that it left.
    """
    with database.transaction():
        row = database.one("SELECT id, generation FROM jobset WHERE name = ?", (declared,))
        assert row is not None
        before = {
            each["name"]
            for each in database.query(
                "SELECT name FROM jobset WHERE pattern = ? AND removed_at IS NULL", (row["id"],)
            )
        }
        for name, branch in branches.items():
            if name in before:
                continue
            database.execute(
                "INSERT INTO jobset(name, generation, pattern, branch) VALUES (?, ?, ?, ?)"
                " ON CONFLICT(name) DO UPDATE SET generation = excluded.generation,"
                " pattern = excluded.pattern, branch = excluded.branch, removed_at = NULL",
                (name, row["generation"], row["id"], branch),
            )
            _tell(database, name, appeared=True, now=now)
        for name in sorted(before - branches.keys()):
            database.execute("UPDATE jobset SET removed_at = ? WHERE name = ?", (now, name))
            _tell(database, name, appeared=False, now=now)


def _tell(database: Database, name: JobsetName, *, appeared: bool, now: float) -> None:
    event(
        database,
        at=now,
        kind="jobset",
        subject=name,
        before=None if appeared else "declared",
        after="declared" if appeared else "pruned",
        cause="its branch is there" if appeared else "its branch is gone",
    )


def disown(database: Database, declared: Collection[JobsetName]) -> None:
    """Note that these are no branches: they are declared themselves."""
    for name in declared:
        database.execute(
            "UPDATE jobset SET pattern = NULL, branch = NULL"
            " WHERE name = ? AND pattern IS NOT NULL",
            (name,),
        )
