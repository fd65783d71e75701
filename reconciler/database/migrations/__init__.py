"""The database's schema, as an append-only list of migrations: a file of SQL for each name.

A released migration is never edited; a change is a further file. States are text with a CHECK that
the file spells out: the enum in `states` may grow later, a released migration may not.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from sqlite_utils import Database, Migrations

from reconciler.database.file import MIGRATIONS


def _runs(name: str) -> Callable[[Database], None]:
    """Execute a file's statements one by one: `executescript` would commit the transaction."""
    script = files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")

    def migrate(database: Database) -> None:
        for statement in script.split(";\n"):
            if statement.strip():
                database.execute(statement)

    return migrate


migrations = Migrations("reconciler")
for _name in MIGRATIONS:
    migrations(name=_name)(_runs(_name))
