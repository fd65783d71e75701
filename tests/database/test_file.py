"""The database file: one writer, many readers, and what can be wrong with it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from reconciler.database import (
    Database,
    StateLock,
    database_path,
    open_memory,
    open_reader,
    open_writer,
)
from reconciler.database.file import MIGRATIONS, lock_holder
from reconciler.errors import StateError

NOW = 1_000_000.0


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return open_writer(tmp_path, now=NOW)


def insert_generation(database: Database, digest: str = "d") -> int:
    return database.execute(
        "INSERT INTO generation(digest, document, applied_at) VALUES (?, '{}', ?)", (digest, NOW)
    )


def digests(database: Database) -> list[str]:
    return [row[0] for row in database.query("SELECT digest FROM generation ORDER BY id")]


def insert_and_break(database: Database) -> None:
    with database.transaction():
        insert_generation(database, "lost")
        database.execute("INSERT INTO jobset(name, generation) VALUES ('a', 99)")


def insert_vouched(database: Database, name: str, *, failing: bool = False) -> None:
    with database.vouched_transaction():
        database.execute("INSERT INTO jobset(name, generation) VALUES (?, 99)", (name,))
        if failing:
            raise ValueError("in the middle")


def insert_much(database: Database) -> None:
    with database.transaction():
        for _ in range(1000):
            insert_generation(database, "x" * 1000)


def insert_derivation(database: Database) -> None:
    database.execute(
        "INSERT INTO derivation(id, path, name, system, features, prefer_local)"
        " VALUES (1, 'p', 'n', 's', '', 0)"
    )


def test_a_transaction_is_all_or_nothing(tmp_path: Path, database: Database) -> None:
    with database.transaction():
        insert_generation(database, "kept")
    with pytest.raises(sqlite3.IntegrityError):
        insert_and_break(database)
    other = open_reader(tmp_path)
    assert other is not None
    assert digests(other) == ["kept"]


def test_an_inner_transaction_belongs_to_the_outer(tmp_path: Path, database: Database) -> None:
    other = open_reader(tmp_path)
    assert other is not None
    with database.transaction():
        with database.transaction():
            insert_generation(database)
        assert digests(other) == []
    assert digests(other) == ["d"]
    assert database.changes == open_memory(now=NOW).changes + 1


def test_a_write_outside_of_a_transaction_is_a_mistake(database: Database) -> None:
    with pytest.raises(AssertionError, match="transaction"):
        insert_generation(database)
    with pytest.raises(AssertionError, match="transaction"):
        database.execute_many("DELETE FROM generation", [])


def test_a_snapshot_sees_one_state(tmp_path: Path, database: Database) -> None:
    reader = open_reader(tmp_path)
    assert reader is not None
    before = reader.external_version()
    with reader.snapshot():
        assert digests(reader) == []
        with database.transaction():
            insert_generation(database)
        assert digests(reader) == []
    assert digests(reader) == ["d"]
    assert reader.external_version() != before


def test_foreign_keys_and_states_are_enforced(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError), database.transaction():
        database.execute("INSERT INTO jobset(name, generation) VALUES ('a', 99)")
    with database.transaction():
        insert_derivation(database)
    with pytest.raises(sqlite3.IntegrityError), database.transaction():
        database.execute("INSERT INTO build(derivation, state, queued_at) VALUES (1, 'odd', 0)")


def test_references_that_are_vouched_for_are_not_looked_up(database: Database) -> None:
    insert_vouched(database, "a")
    with pytest.raises(ValueError, match="in the middle"):
        insert_vouched(database, "lost", failing=True)
    assert [row[0] for row in database.query("SELECT name FROM jobset")] == ["a"]
    with pytest.raises(sqlite3.IntegrityError), database.transaction():  # as ever, afterwards
        database.execute("INSERT INTO jobset(name, generation) VALUES ('b', 99)")


def test_within_another_transaction_nothing_is_vouched_for(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError), database.transaction():
        insert_vouched(database, "a")


def test_a_second_live_attempt_is_refused(database: Database) -> None:
    with database.transaction():
        insert_derivation(database)
        database.execute("INSERT INTO build(derivation, state, queued_at) VALUES (1, 'queued', 0)")
        attempt = "INSERT INTO attempt(derivation, builder, started_at) VALUES (1, 'local', 0)"
        database.execute(attempt)
    with pytest.raises(sqlite3.IntegrityError), database.transaction():
        database.execute(attempt)


def test_integrity_names_what_refers_to_nothing(database: Database) -> None:
    assert database.integrity() == []
    database.connection.execute("PRAGMA foreign_keys = OFF")
    with database.transaction():
        database.execute("INSERT INTO jobset(name, generation) VALUES ('a', 99)")
    (found,) = database.integrity()
    assert "jobset" in found
    assert "generation" in found


def test_there_may_be_no_state_yet(tmp_path: Path) -> None:
    assert open_reader(tmp_path) is None


def test_a_reader_works_while_nobody_writes_and_may_not_write(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, now=NOW)
    with writer.transaction():
        insert_generation(writer)
    writer.close()
    reader = open_reader(tmp_path)
    assert reader is not None
    assert digests(reader) == ["d"]
    with pytest.raises(StateError, match="readonly"), reader.transaction():
        insert_generation(reader)


def test_a_new_file_begins_with_no_event(database: Database) -> None:
    assert database.query("SELECT subject FROM event") == []


def test_opening_again_applies_nothing_again(tmp_path: Path, database: Database) -> None:
    applied = database.query("SELECT name FROM _sqlite_migrations")
    assert len(applied) == len(MIGRATIONS)
    database.close()
    again = open_writer(tmp_path, now=NOW + 1)
    assert again.query("SELECT name FROM _sqlite_migrations") == applied
    assert again.query("SELECT subject FROM event") == []
    assert not list(tmp_path.glob("*.before-*"))


def test_garbage_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    database_path(tmp_path).write_bytes(b"garbage" * 1000)
    with pytest.raises(StateError, match="not a usable database"):
        open_writer(tmp_path, now=NOW)
    with pytest.raises(StateError, match="not a usable database"):
        open_reader(tmp_path)
    assert database_path(tmp_path).read_bytes() == b"garbage" * 1000


def test_a_file_that_was_deleted_or_replaced_is_noticed(tmp_path: Path, database: Database) -> None:
    database.check_in_place()
    database_path(tmp_path).rename(tmp_path / "away")
    with pytest.raises(StateError, match="deleted or replaced"):
        database.check_in_place()
    database_path(tmp_path).write_bytes(b"")
    with pytest.raises(StateError, match="deleted or replaced"):
        database.check_in_place()
    (tmp_path / "away").replace(database_path(tmp_path))
    database.check_in_place()


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    database_path(tmp_path).mkdir()
    for refused in (partial(open_writer, tmp_path, now=NOW), partial(open_reader, tmp_path)):
        with pytest.raises(StateError, match=re.escape(str(database_path(tmp_path)))):
            refused()


@contextlib.contextmanager
def no_file_larger_than(count: int) -> Iterator[None]:
    """As on a full disk: what would make a file larger fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_no_room_to_compact_is_explained_and_loses_nothing(database: Database) -> None:
    with database.transaction():
        insert_generation(database, "before")
    with (
        no_file_larger_than(4096),
        pytest.raises(StateError, match="Free some space"),
    ):
        database.compact()
    assert digests(database) == ["before"]
    database.compact()
    assert digests(database) == ["before"]
    assert database.integrity() == []


def test_a_full_disk_is_explained_and_loses_nothing(tmp_path: Path, database: Database) -> None:
    with database.transaction():
        insert_generation(database, "before")
    written = max(path.stat().st_size for path in tmp_path.iterdir())
    with (
        no_file_larger_than(written),
        pytest.raises(StateError, match="Free some space"),
    ):
        insert_much(database)
    assert digests(database) == ["before"]
    with database.transaction():
        insert_generation(database, "after")
    assert digests(database) == ["before", "after"]
    assert database.integrity() == []


def test_one_lock_a_state_directory(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    with StateLock(tmp_path):
        assert lock_holder(tmp_path) == os.getpid()
        with pytest.raises(StateError, match=f"process {os.getpid()}"), StateLock(tmp_path):
            pass
    assert lock_holder(tmp_path) is None
    with StateLock(tmp_path):
        pass


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from reconciler.database import StateLock\n"
        "with StateLock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert lock_holder(tmp_path) == holder.pid
        with pytest.raises(StateError, match=f"process {holder.pid}"), StateLock(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with StateLock(tmp_path):
            assert lock_holder(tmp_path) == os.getpid()
