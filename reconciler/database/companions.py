"""What goes into a cache beside paths: build logs, and realisations of content-addressed outputs.

Each belongs to paths, and is due when one of them is there; it goes when all of them have gone. The
log of a build that failed belongs to none. A realisation is Nix's word for where an output of a
content-addressed derivation was found to be.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from reconciler.database.file import Database
from reconciler.model import CacheName, DrvPath, StorePath

_DUE = (
    "k.state = 'pending' AND (k.path = '' OR EXISTS (SELECT 1 FROM push p WHERE p.cache = k.cache"
    " AND p.path = k.path AND p.state = 'pushed'))"
)
_NEWEST = (
    "(SELECT max(a.id) FROM attempt a WHERE a.derivation = d.id AND a.outcome = 'succeeded'"
    " AND a.log_bytes > 0)"
)
_AGAIN = (
    " ON CONFLICT DO UPDATE SET attempt = excluded.attempt, content = excluded.content,"
    " state = 'pending', failures = 0, not_before = 0, error = NULL"
    " WHERE attempt IS NOT excluded.attempt OR content IS NOT excluded.content"
)


class Companion(Struct, frozen=True, kw_only=True):
    """Something that is due. Of a log the attempt is known, of a realisation the content."""

    name: str
    attempt: int | None
    content: str | None


class Due(Struct, frozen=True, kw_only=True):
    """What is to be sent beside the paths of a cache."""

    names: tuple[str, ...] = ()
    next_at: float | None = None
    """When the next one that failed is tried again."""
    failures: int = 0
    """The most failures in a row that such a one has."""


def open_count(cache: str) -> str:
    """A query for how many are due in a cache, whose id an expression of SQL gives."""
    return f"(SELECT count(DISTINCT k.name) FROM companion k WHERE k.cache = {cache} AND {_DUE})"


def log_name(drv: str) -> str:
    """Where Nix looks for a derivation's log in a cache."""
    return f"log/{drv.rpartition('/')[2]}"


# --- Putting on the queue ----------------------------------------------------------------------


def queue(
    database: Database,
    cache: CacheName,
    *,
    roots: Collection[int],
    derivers: Mapping[StorePath, DrvPath],
    logs: bool,
) -> None:
    """Note what belongs to paths that are on a cache's queue, each with what the store says that it
    was built from; `roots` are derivations of whose outputs that is known.

    Of a content-addressed output that is its resolved derivation, under which Nix looks for its
    log, and the one that we know is found by the output.
    """
    with database.transaction():
        if logs:
            _queue_logs(database, cache, roots, derivers)
        _queue_realisations(database, cache, derivers)


def _queue_logs(
    database: Database,
    cache: CacheName,
    roots: Collection[int],
    derivers: Mapping[StorePath, DrvPath],
) -> None:
    found = database.query(
        f"SELECT w.key, {_NEWEST} FROM json_each(?) w JOIN derivation d ON d.path = w.value"
        f" UNION SELECT o.path, {_NEWEST} FROM json_each(?) r"
        " JOIN output o ON o.derivation = r.value JOIN derivation d ON d.id = r.value",
        (json.dumps(derivers), json.dumps(list(roots))),
    )
    database.execute_many(
        "INSERT INTO companion(cache, name, path, attempt, state)"
        f" SELECT id, ?, ?, ?, 'pending' FROM cache WHERE name = ?{_AGAIN}",
        (
            (log_name(derivers[path]), path, attempt, cache)
            for path, attempt in found
            if attempt is not None and path in derivers
        ),
    )


def _queue_realisations(database: Database, cache: CacheName, paths: Iterable[StorePath]) -> None:
    found = database.query(
        "SELECT path, content FROM realisation WHERE path IN (SELECT value FROM json_each(?))",
        (json.dumps(list(paths)),),
    )
    database.execute_many(
        "INSERT INTO companion(cache, name, path, content, state)"
        f" SELECT id, ?, ?, ?, 'pending' FROM cache WHERE name = ?{_AGAIN}",
        (
            (f"realisations/{json.loads(content)['id']}.doi", path, content, cache)
            for path, content in found
        ),
    )


def queue_failed_log(
    database: Database, caches: Iterable[CacheName], drv: DrvPath, attempt: int
) -> None:
    """Note the log of a build that failed."""
    with database.transaction():
        database.execute_many(
            "INSERT INTO companion(cache, name, path, attempt, state)"
            f" SELECT id, ?, '', ?, 'pending' FROM cache WHERE name = ?{_AGAIN}",
            ((log_name(drv), attempt, cache) for cache in caches),
        )


def queue_logs_of_pushed(database: Database, cache: CacheName) -> None:
    """Note the logs of what was on a cache's queue before logs were wanted there."""
    with database.transaction():
        database.execute(
            "INSERT INTO companion(cache, name, path, attempt, state)"
            " SELECT k.cache, k.name, k.path, k.attempt, 'pending' FROM (SELECT c.id AS cache,"
            "  'log/' || replace(d.path, rtrim(d.path, replace(d.path, '/', '')), '') AS name,"
            f"  p.path, {_NEWEST} AS attempt FROM cache c JOIN push p ON p.cache = c.id"
            "  JOIN output o ON o.path = p.path JOIN derivation d ON d.id = o.derivation"
            "  WHERE c.name = ? AND instr(' ' || d.features || ' ', ' ca-derivations ') = 0) k"
            " WHERE k.attempt IS NOT NULL ON CONFLICT DO NOTHING",
            (cache,),
        )


# --- Sending -----------------------------------------------------------------------------------


def due(database: Database, cache: CacheName, *, now: float, batch: int) -> Due:
    """What is to be sent now, so much at most, and when more is."""
    waiting = f"FROM companion k JOIN cache c ON c.id = k.cache WHERE c.name = ? AND {_DUE}"
    names = database.query(
        f"SELECT DISTINCT k.name {waiting} AND k.not_before <= ? LIMIT ?", (cache, now, batch)
    )
    later = database.one(
        f"SELECT min(k.not_before), max(k.failures) {waiting} AND k.not_before > ?", (cache, now)
    )
    assert later is not None
    return Due(names=tuple(row[0] for row in names), next_at=later[0], failures=later[1] or 0)


def named(database: Database, cache: CacheName, names: Iterable[str]) -> list[Companion]:
    """What is to be sent under these names."""
    return [
        Companion(name=row[0], attempt=row[1], content=row[2])
        for row in database.query(
            "SELECT k.name, max(k.attempt), max(k.content) FROM companion k"
            " JOIN cache c ON c.id = k.cache WHERE c.name = ?"
            " AND k.name IN (SELECT value FROM json_each(?)) GROUP BY k.name",
            (cache, json.dumps(list(names))),
        )
    ]


def record(
    database: Database,
    cache: CacheName,
    *,
    sent: Mapping[str, int],
    gone: Iterable[str],
    failed: Mapping[str, tuple[str, float]],
) -> None:
    """Note what became of them: bytes sent; those of which nothing is left; why others failed, and
    when they are tried again.
    """
    where = "cache = (SELECT id FROM cache WHERE name = ?) AND name = ?"
    with database.transaction():
        database.execute_many(
            "UPDATE companion SET state = 'pushed', bytes = ?, error = NULL, failures = 0"
            f" WHERE {where}",
            ((size, cache, name) for name, size in sent.items()),
        )
        database.execute_many(
            f"DELETE FROM companion WHERE {where}", ((cache, name) for name in gone)
        )
        database.execute_many(
            "UPDATE companion SET failures = failures + 1, error = ?, not_before = ?"
            f" WHERE {where}",
            ((why, at, cache, name) for name, (why, at) in failed.items()),
        )


def failures(database: Database, cache: CacheName, names: Iterable[str]) -> dict[str, int]:
    """How often each was tried in vain so far."""
    return {
        row[0]: row[1]
        for row in database.query(
            "SELECT k.name, max(k.failures) FROM companion k JOIN cache c ON c.id = k.cache"
            " WHERE c.name = ? AND k.name IN (SELECT value FROM json_each(?)) GROUP BY k.name",
            (cache, json.dumps(list(names))),
        )
    }


# --- Letting go --------------------------------------------------------------------------------


def belonging(
    database: Database, cache: CacheName, paths: Collection[StorePath]
) -> dict[str, frozenset[StorePath]]:
    """What goes with paths, by name, each with all paths that it belongs to; and, with none, the
    logs of failed builds that no kept evaluation has any more.
    """
    asked = json.dumps(list(paths))
    found: dict[str, set[StorePath]] = {}
    for name, path in database.query(
        "SELECT k.name, k.path FROM companion k JOIN cache c ON c.id = k.cache WHERE c.name = ?"
        " AND k.name IN (SELECT name FROM companion WHERE cache = c.id"
        "  AND path IN (SELECT value FROM json_each(?)))",
        (cache, asked),
    ):
        found.setdefault(name, set()).add(path)
    store_dir = next(iter(paths)).rpartition("/")[0]
    for (name,) in database.query(
        "SELECT k.name FROM companion k JOIN cache c ON c.id = k.cache WHERE c.name = ?"
        " AND k.path = '' AND NOT EXISTS (SELECT 1 FROM derivation d"
        "  WHERE d.path = ? || substr(k.name, length('log/') + 1))",
        (cache, f"{store_dir}/"),
    ):
        found.setdefault(name, set())
    return {name: frozenset(each) - {StorePath("")} for name, each in found.items()}


def forget(
    database: Database,
    cache: CacheName,
    *,
    names: Iterable[str],
    paths: Iterable[StorePath],
) -> None:
    """Note what was deleted."""
    where = "cache = (SELECT id FROM cache WHERE name = ?)"
    with database.transaction():
        database.execute_many(
            f"DELETE FROM companion WHERE {where} AND name = ?", ((cache, name) for name in names)
        )
        database.execute(
            f"DELETE FROM companion WHERE {where} AND path IN (SELECT value FROM json_each(?))",
            (cache, json.dumps(list(paths))),
        )
