"""Each migration is known by name, and a new file has what a migrated one has."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib.resources import files

import sqlite_utils

from reconciler.database.file import MIGRATIONS
from reconciler.database.migrations import create, migrations


def test_each_name_has_its_file_and_each_file_its_name() -> None:
    names = [each.name for each in files("reconciler.database.migrations").iterdir()]
    scripts = sorted(name.removesuffix(".sql") for name in names if name.endswith(".sql"))
    assert tuple(scripts) == MIGRATIONS


def test_a_new_file_has_what_a_migrated_one_has() -> None:
    with closing(sqlite3.connect(":memory:")) as new, closing(sqlite3.connect(":memory:")) as old:
        create(new, MIGRATIONS)
        known = migrations(MIGRATIONS)
        known.apply(sqlite_utils.Database(old), stop_before=MIGRATIONS[1])
        known.apply(sqlite_utils.Database(old))
        assert _contents(new) == _contents(old)
        assert known.pending(sqlite_utils.Database(new)) == []


def _contents(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    """The schema, and what sqlite-utils knows of it but for the time."""
    schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2")
    noted = connection.execute("SELECT id, migration_set, name FROM _sqlite_migrations")
    times = connection.execute("SELECT DISTINCT typeof(applied_at) FROM _sqlite_migrations")
    return [*schema, *noted, *times]
