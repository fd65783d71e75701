"""The database file: opening it for one writer and many readers, locking, migrating, checking.

Knows nothing of what the tables mean.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reconciler.database.migrations import create, migrations
from reconciler.errors import StateError

Value = str | int | float | None
Row = sqlite3.Row

FILE_NAME = "reconciler.db"
LOCK_NAME = "lock"
MIGRATIONS = (
    "m001_first",
    "m002_charges",
    "m003_inspections",
    "m004_retention",
    "m005_branches",
    "m006_upstream_answers",
    "m007_quarantine",
    "m008_incremental",
    "m009_audits",
    "m010_mounts",
    "m011_artifacts",
    "m012_due",
    "m013_rules",
)
"""Names of this program's migrations, in order: a file of `migrations` each."""


def database_path(state_dir: Path) -> Path:
    """Where a state directory keeps its database."""
    return state_dir / FILE_NAME


def mend_of(error: OSError) -> str:
    """What to do where one cannot write."""
    mends = {errno.EROFS: "Mount it writable", errno.ENOSPC: "Free some space there"}
    return mends.get(error.errno or 0, "Run as its owner")


class StateLock:
    """The right to be the one daemon of a state directory; released when the process ends."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LOCK_NAME
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock, or say who has it. StateError."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StateError(
                f"cannot write in the state directory {self._path.parent}: {error.strerror}. "
                f"{mend_of(error)}, or name another one with --state-dir."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise StateError(
                f"another reconciler (process {holder or 'unknown'}) works on "
                f"{self._path.parent}. Stop it first, or give this one another --state-dir."
            ) from error
        self._descriptor = descriptor
        # A full disk leaves the lock held but unnamed: the first write to the database reports it.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lock_holder(state_dir: Path) -> int | None:
    """The process that holds a state directory's lock, without taking it; None: nobody."""
    try:
        descriptor = os.open(state_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # A shared lock asked for and dropped at once: it fails only while a daemon holds its own.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return None
        text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else 0
    else:
        return None
    finally:
        os.close(descriptor)


class Database:
    """One connection. It belongs to the thread that opened it."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        connection.row_factory = sqlite3.Row
        self.connection = connection
        self.path = path
        self.changes = 0
        """Counts this connection's write transactions: equal counts, equal contents."""
        self.file: tuple[int, int] | None = None
        """Which file it is, of a writer."""

    def query(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """All rows of a SELECT."""
        with _explained(self.path):
            return self.connection.execute(sql, parameters).fetchall()

    def chunks(self, sql: str, parameters: Sequence[Value] = ()) -> Iterator[list[tuple[Any, ...]]]:
        """All rows of a SELECT that has very many, some at a time.

        As plain tuples, which `Row` wraps, and few enough to be taken apart while they are in the
        processor's cache.
        """
        with _explained(self.path):
            cursor = self.connection.cursor()
            cursor.row_factory = None
            cursor.execute(sql, parameters)
            while rows := cursor.fetchmany(500):
                yield rows

    def one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """The first row of a SELECT."""
        with _explained(self.path):
            row: Row | None = self.connection.execute(sql, parameters).fetchone()
            return row

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        """Run one statement inside a transaction; the id of the row it inserted, if it did."""
        assert self.connection.in_transaction, "writes belong in `transaction()`"
        return self.connection.execute(sql, parameters).lastrowid or 0

    def execute_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> None:
        """Run one statement for each row, inside a transaction."""
        assert self.connection.in_transaction, "writes belong in `transaction()`"
        self.connection.executemany(sql, rows)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """One write: all of it or nothing. Nested, it joins the outer one.

        BEGIN IMMEDIATE, because a deferred transaction that turns from reading to writing can
        fail with SQLITE_BUSY without waiting.
        """
        if self.connection.in_transaction:
            yield
            return
        with _explained(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                # SQLite itself rolls back on some errors (a full disk, a RAISE(ROLLBACK)); then
                # this does nothing.
                self.connection.rollback()
                raise
            self.changes += 1

    @contextlib.contextmanager
    def vouched_transaction(self) -> Iterator[None]:
        """The same, without looking up what its rows refer to: the caller knows that it is there.

        Not for deletions: nothing would follow them. Nested, references are looked up as ever.
        """
        # SQLite ignores the pragma within a transaction.
        self.connection.execute("PRAGMA foreign_keys = OFF")
        try:
            with self.transaction():
                yield
        finally:
            self.connection.execute("PRAGMA foreign_keys = ON")

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several reads that see one state."""
        with _explained(self.path):
            self.connection.execute("BEGIN")
            try:
                yield
            finally:
                self.connection.execute("COMMIT")

    def check_in_place(self) -> None:
        """StateError where the file is not the one that was opened: SQLite goes on without a word,
        and nobody else sees what it writes.
        """
        if _identity(self.path) != self.file:
            raise StateError(
                f"{self.path} was deleted or replaced while it was in use. Start again: what is "
                "built stays in the Nix store and is found there."
            )

    def compact(self) -> None:
        """Give the room of what was deleted back; takes as much room as the file again. StateError.

        What was deleted stays so where there is not enough room for that.
        """
        with _explained(self.path):
            self.connection.execute("VACUUM")

    def external_version(self) -> int:
        """A number that changes when another process has written."""
        row = self.one("PRAGMA data_version")
        assert row is not None
        return int(row[0])

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file; empty: nothing."""
        found = [str(row[0]) for row in self.query("PRAGMA integrity_check(20)")]
        found += [
            f"table {row[0]}: row {row[1]} refers to a missing row of {row[2]}"
            for row in self.query("PRAGMA foreign_key_check")
        ]
        return [line for line in found if line != "ok"]

    def close(self) -> None:
        """Close the connection; the last one folds the write-ahead log into the file."""
        self.connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's faults of the environment into one message; a mistake of ours stays a crash."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise StateError(
                f"{path} is not a usable database ({error}). Move it away to start afresh: "
                "what is built stays in the Nix store and is found again."
            ) from error
        if name.startswith("SQLITE_FULL"):
            raise StateError(
                f"cannot write {path}: {error}. Free some space in {path.parent}; "
                "nothing recorded so far is lost."
            ) from error
        if name.startswith("SQLITE_IOERR"):
            raise StateError(
                f"cannot use {path}: {error}. Free some space in {path.parent}, or see whether its "
                "disk fails; nothing recorded so far is lost by this."
            ) from error
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            raise StateError(
                f"cannot use {path}: {error}. The daemon's user and root can write it, "
                "where its file system is writable."
            ) from error
        if name.startswith("SQLITE_BUSY"):
            raise StateError(f"cannot use {path}: {error}. Try again in a moment.") from error
        raise


def open_writer(state_dir: Path, *, now: float) -> Database:
    """Open for the daemon, migrated to this program's schema. StateError.

    A file that holds an older schema is copied to `reconciler.db.before-NAME` first.
    """
    path = database_path(state_dir)
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"cannot open {path}: {error}. Is {state_dir} writable?") from error
    database = Database(connection, path)
    try:
        with _explained(path):
            connection.execute("PRAGMA journal_mode = WAL")
            # With a write-ahead log NORMAL survives a killed process; after a power cut the last
            # transactions may be missing, which the store check at the next start makes good.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            # 16 MiB. Derivation paths are indexed and come in no order: with SQLite's 2 MiB the
            # pages of a large graph's index are written out and read back for each of them.
            connection.execute("PRAGMA cache_size = -16384")
            _migrate(database, now=now)
    except BaseException:
        connection.close()
        raise
    database.file = _identity(path)
    return database


def open_memory(*, now: float) -> Database:
    """Open an empty database in memory, with this program's schema."""
    database = Database(sqlite3.connect(":memory:", isolation_level=None), Path(":memory:"))
    database.connection.execute("PRAGMA foreign_keys = ON")
    _migrate(database, now=now)
    return database


def open_reader(state_dir: Path) -> Database | None:
    """Open for reading, as any user, daemon up or down; None: there is no state yet. StateError."""
    path = database_path(state_dir)
    try:
        if not path.exists():
            return None
    except PermissionError as error:
        raise StateError(f"cannot read {path}: {error.strerror}.") from error
    connection = _connect_read_only(path)
    database = Database(connection, path)
    _refuse_newer(database)
    if set(MIGRATIONS).difference(_applied(database)):
        connection.close()
        raise StateError(
            f"{path} is of an older version, or was not finished. Start the daemon or "
            "`reconciler run --once`: it brings the file up to date."
        )
    return database


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """Connect without writing.

    Reading a database with a write-ahead log wants the -shm file. After a clean stop there is
    none, and a reader without write permission cannot make it: then nobody writes, and the file
    is read as immutable.
    """
    uri = path.absolute().as_uri()
    with _explained(path):
        connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, isolation_level=None, timeout=10)
        try:
            connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if path.with_name(path.name + "-wal").exists():
                raise StateError(
                    f"cannot read {path}: this user can neither read nor make what belongs to its "
                    "write-ahead log. Run as its owner or as a member of its group, where there "
                    "is space and its file system is writable."
                ) from None
            unwritten = f"{uri}?mode=ro&immutable=1"
            connection = sqlite3.connect(unwritten, uri=True, isolation_level=None)
        except sqlite3.DatabaseError:
            connection.close()
            raise
    return connection


def _applied(database: Database) -> list[str]:
    """The migrations that a file has seen, as sqlite-utils notes them."""
    if not database.one("SELECT 1 FROM sqlite_schema WHERE name = '_sqlite_migrations'"):
        return []
    return [
        row[0]
        for row in database.query(
            "SELECT name FROM _sqlite_migrations WHERE migration_set = 'reconciler' ORDER BY id"
        )
    ]


def _refuse_newer(database: Database) -> None:
    unknown = [name for name in _applied(database) if name not in MIGRATIONS]
    if unknown:
        raise StateError(
            f"{database.path} was written by a newer version (migration {unknown[0]}). "
            "Use that version; this one changes nothing in it."
        )


def _migrate(database: Database, *, now: float) -> None:
    _refuse_newer(database)
    applied = _applied(database)
    pending = [name for name in MIGRATIONS if name not in applied]
    if not pending:
        return
    if not applied:
        with database.transaction():
            create(database.connection, MIGRATIONS)
        return
    _upgrade(database, before=pending[0])
    with database.transaction():
        for name in pending:
            database.execute(
                "INSERT INTO event(at, kind, subject, before, after, cause)"
                " VALUES (?, 'schema', ?, NULL, 'applied', 'start')",
                (now, name),
            )


def _upgrade(database: Database, *, before: str) -> None:
    """Copy the file, then migrate it."""
    import sqlite_utils  # noqa: PLC0415 - not needed for most starts, and slow to load

    backup = database.path.with_name(f"{database.path.name}.before-{before}")
    if not backup.exists():
        database.connection.execute("VACUUM INTO ?", (str(backup),))
    # Its plugins are for its command line, and are looked for among all that is installed.
    handle = sqlite_utils.Database(database.connection, execute_plugins=False)
    migrations(MIGRATIONS).apply(handle)
