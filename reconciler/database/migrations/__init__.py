"""The database's schema, as an append-only list of migrations: a file of SQL for each name.

A released migration is never edited; a change is a further file. States are text with a CHECK that
the file spells out: the enum in `states` may grow later, a released migration may not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database, Migrations

_SET = "reconciler"
_NOTES = """
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
"""
"""The table in which sqlite-utils notes what it applied."""


def create(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    """Give an empty file the whole schema, in the transaction that is open.

    The same as migrating it, but for loading sqlite-utils, which takes longer than the statements.
    """
    for statement in _split(_NOTES):
        connection.execute(statement)
    for name in names:
        for statement in _statements(name):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO _sqlite_migrations(migration_set, name, applied_at)"
            " VALUES (?, ?, strftime('%Y-%m-%d %H:%M:%f000+00:00'))",
            (_SET, name),
        )


def migrations(names: Sequence[str]) -> Migrations:
    """All of them, for a file that has some; those that it has are not run again."""
    from sqlite_utils import Migrations  # noqa: PLC0415 - see `create`

    found = Migrations(_SET)
    for name in names:
        found(name=name)(_runs(name))
    return found


def _runs(name: str) -> Callable[[Database], None]:
    def migrate(database: Database) -> None:
        for statement in _statements(name):
            database.execute(statement)

    return migrate


def _statements(name: str) -> list[str]:
    return _split(files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8"))


def _split(script: str) -> list[str]:
    """One by one: `executescript` would commit the transaction."""
    return [statement for statement in script.split(";\n") if statement.strip()]
