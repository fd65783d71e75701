"""Writes: the queue of each cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msgspec import Struct

from reconciler.database import push_roots
from reconciler.database.file import Database
from reconciler.model import (
    CacheName,
    PushRule,
    PushScope,
    PushState,
    StorePath,
)
from reconciler.transitions import Cause, check

_UNKNOWN: Mapping[StorePath, int] = MappingProxyType({})
_WHOLE = PushRule(scope=PushScope.REQUISITES)


def queue_pushes(
    database: Database,
    cache: CacheName,
    *,
    roots: Iterable[int],
    paths: Iterable[StorePath],
    now: float,
    sizes: Mapping[StorePath, int] = _UNKNOWN,
    rule: PushRule = _WHOLE,
) -> None:
    """Put paths on a cache's queue in this order, and note the derivations they are queued for, and
    by which rule. `sizes` are bytes of their archives.

    A path that was given up because the store had lost it is taken up again. One that was queued
    alone goes there with what it refers to once any rule says so.
    """
    with database.transaction():
        row = database.one("SELECT id FROM cache WHERE name = ?", (cache,))
        assert row is not None
        identity = row["id"]
        newest = database.one("SELECT max(position) FROM push WHERE cache = ?", (identity,))
        last = 0 if newest is None or newest[0] is None else newest[0]
        database.execute_many(
            "INSERT INTO push(cache, path, position, state, queued_at, size, alone)"
            " VALUES (?, ?, ?, 'pending', ?, ?, ?) ON CONFLICT DO UPDATE SET unwanted_at = NULL,"
            " state = CASE state WHEN 'failed' THEN 'pending' ELSE state END,"
            " position = CASE state WHEN 'failed' THEN excluded.position ELSE position END,"
            " not_before = CASE WHEN state = 'failed' OR unwanted_at IS NOT NULL THEN 0"
            "  ELSE not_before END, alone = min(alone, excluded.alone)"
            " WHERE state = 'failed' OR unwanted_at IS NOT NULL OR alone > excluded.alone",
            (
                (identity, path, last + place, now, sizes.get(path), int(rule.alone))
                for place, path in enumerate(paths, start=1)
            ),
        )
        push_roots.note(database, identity, rule, roots)


def queue_lacking(
    database: Database, cache: CacheName, paths: Iterable[StorePath], *, now: float
) -> None:
    """Put references on a cache's queue that an upstream was thought to have, say; those that are
    there in any state are left as they are.
    """
    with database.transaction():
        database.execute_many(
            "INSERT INTO push(cache, path, position, state, queued_at)"
            " SELECT c.id, ?, (SELECT coalesce(max(position), 0) + 1 FROM push"
            "  WHERE cache = c.id), 'pending', ? FROM cache c WHERE c.name = ?"
            " ON CONFLICT DO NOTHING",
            ((path, now, cache) for path in paths),
        )


class PushChange(Struct, frozen=True, kw_only=True):
    """One path's new state in a cache's queue."""

    path: StorePath
    before: PushState
    after: PushState
    cause: Cause
    bytes: int | None = None
    error: str | None = None
    not_before: float = 0
    """When a failure may be tried again."""


def set_push_states(
    database: Database, cache: CacheName, changes: Iterable[PushChange], *, now: float
) -> None:
    """Change pushes' states."""
    rows = list(changes)
    for change in rows:
        check(change.before, change.after, change.cause)
    with database.transaction():
        database.execute_many(
            "UPDATE push SET state = ?1, finished_at = ?2, failures = failures + ?3,"
            " not_before = ?4, bytes = coalesce(?5, bytes), error = ?6,"
            " checked_at = coalesce(?2, checked_at), resend = CASE WHEN ?2 IS NULL THEN resend"
            " ELSE 0 END WHERE cache = (SELECT id FROM cache WHERE name = ?7) AND path = ?8",
            (
                (
                    change.after,
                    now if change.after is PushState.PUSHED else None,
                    int(change.error is not None),
                    change.not_before,
                    change.bytes,
                    change.error,
                    cache,
                    change.path,
                )
                for change in rows
            ),
        )


def wait_no_longer(database: Database) -> None:
    """Have what could not be pushed tried again at once, as if for the first time: paths, and what
    lies beside them.
    """
    # The first condition is the partial index's.
    waiting = "state <> 'pushed' AND state = 'pending' AND failures > 0"
    with database.transaction():
        for table in ("push", "companion"):
            if database.one(f"SELECT 1 FROM {table} WHERE {waiting}"):
                database.execute(f"UPDATE {table} SET not_before = 0, failures = 0 WHERE {waiting}")
