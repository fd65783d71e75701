"""Reads: what is under way, and what came to an end since one looked last. Writes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Collection

from msgspec import Struct

from reconciler.database.file import Database
from reconciler.model import BuilderName, BuildState, Outcome

RECENT_ATTEMPTS = 10_000
"""How far back the last error of a builder is looked for: attempts have no index by builder."""
MESSAGE_LENGTH = 4000
"""Characters of it that are shown; the database has the rest."""


class LiveAttempt(Struct, frozen=True, kw_only=True):
    """An attempt that is being made."""

    attempt: int
    name: str
    path: str
    system: str
    builder: str
    started_at: float


class EndedAttempt(Struct, frozen=True, kw_only=True):
    """An attempt that has ended, and its build's state after it."""

    attempt: int
    derivation: int
    name: str
    builder: str
    started_at: float
    finished_at: float
    outcome: Outcome
    message: str
    state: BuildState
    not_before: float


def live_attempts(database: Database) -> list[LiveAttempt]:
    """The live attempts, oldest first."""
    return [
        LiveAttempt(
            attempt=row["id"],
            name=row["name"],
            path=row["path"],
            system=row["system"],
            builder=row["builder"],
            started_at=row["started_at"],
        )
        for row in database.query(
            "SELECT a.id, a.builder, a.started_at, d.name, d.path, d.system FROM attempt a"
            " JOIN derivation d ON d.id = a.derivation WHERE a.finished_at IS NULL ORDER BY a.id"
        )
    ]


def speed_in_use(database: Database) -> float:
    """How fast all that runs is together, by the speeds that are declared; 0: nothing runs."""
    row = database.one(
        "SELECT coalesce(sum(json_extract(b.value, '$.speedFactor')), 0) FROM attempt a JOIN"
        " json_each((SELECT document FROM generation ORDER BY id DESC LIMIT 1), '$.builders') b"
        " ON b.key = a.builder WHERE a.finished_at IS NULL"
    )
    assert row is not None
    return float(row[0])


class BuilderError(Struct, frozen=True, kw_only=True):
    """Why an attempt on a builder came to nothing for reasons that were not the build's own."""

    at: float
    message: str


def builder_errors(database: Database) -> dict[BuilderName, BuilderError]:
    """The last of each builder, among the newest attempts."""
    return {
        BuilderName(row["builder"]): BuilderError(at=row["at"], message=row["message"] or "")
        for row in database.query(
            # With max() SQLite takes the other columns from the row that has the maximum.
            "SELECT builder, max(finished_at) AS at, substr(message, 1, ?) AS message FROM attempt"
            " WHERE id > (SELECT coalesce(max(id), 0) FROM attempt) - ?"
            " AND outcome = 'infrastructure' GROUP BY builder",
            (MESSAGE_LENGTH, RECENT_ATTEMPTS),
        )
    }


def last_attempt(database: Database, *, before: float = math.inf) -> int:
    """The number of the newest attempt that started before a time; 0: there was none."""
    row = database.one(
        "SELECT coalesce("
        "(SELECT id FROM attempt WHERE started_at < ? ORDER BY id DESC LIMIT 1), 0)",
        (before,),
    )
    assert row is not None
    return int(row[0])


def ended_attempts(database: Database, *, after: int, among: Collection[int]) -> list[EndedAttempt]:
    """Of the attempts after one, and some before it, those that have ended, in that order."""
    return [
        EndedAttempt(
            attempt=row["id"],
            derivation=row["derivation"],
            name=row["name"],
            builder=row["builder"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            outcome=Outcome(row["outcome"]),
            message=row["message"] or "",
            state=BuildState(row["state"]),
            not_before=row["not_before"],
        )
        for row in database.query(
            "SELECT a.*, d.name, b.state, b.not_before FROM attempt a"
            " JOIN derivation d ON d.id = a.derivation JOIN build b ON b.derivation = d.id"
            " WHERE (a.id > ? OR a.id IN (SELECT value FROM json_each(?)))"
            " AND a.finished_at IS NOT NULL ORDER BY a.finished_at, a.id",
            (after, json.dumps(sorted(among))),
        )
    ]


def queued_by_name(database: Database) -> dict[tuple[str, str], int]:
    """How many builds are queued, by name and system."""
    return {
        (row[0], row[1]): row[2]
        for row in database.query(
            "SELECT d.name, d.system, count(*) FROM build b JOIN derivation d"
            " ON d.id = b.derivation WHERE b.state NOT IN ('succeeded', 'substituted')"
            " AND b.state = 'queued' GROUP BY d.name, d.system"
        )
    }


def has_live_builds(database: Database) -> bool:
    """Whether anything is queued or being built."""
    return (
        database.one(
            "SELECT 1 FROM build WHERE state NOT IN ('succeeded', 'substituted')"
            " AND state IN ('queued', 'building') LIMIT 1"
        )
        is not None
    )


class Evaluation(Struct, frozen=True, kw_only=True):
    """An evaluation, with what it yielded."""

    id: int
    jobset: str
    cause: str
    started_at: float
    finished_at: float | None
    error: str | None
    jobs: int
    errors: int
    """Those of the jobs that do not evaluate."""


def evaluation(database: Database, subject: str) -> Evaluation | None:
    """What an event's subject (`JOBSET#NUMBER`) names; None: it was forgotten."""
    row = database.one(
        "SELECT e.id, s.name, e.cause, e.started_at, e.finished_at, e.error, count(j.id) AS jobs,"
        " coalesce(sum(j.derivation IS NULL AND j.id IS NOT NULL), 0) AS errors"
        " FROM evaluation e JOIN jobset s ON s.id = e.jobset"
        " LEFT JOIN job j ON j.evaluation = e.id WHERE e.id = ? GROUP BY e.id",
        (subject.rpartition("#")[2],),
    )
    if row is None:
        return None
    return Evaluation(
        id=row["id"],
        jobset=row["name"],
        cause=row["cause"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        error=row["error"],
        jobs=row["jobs"],
        errors=row["errors"],
    )


class Event(Struct, frozen=True, kw_only=True):
    """A line of the log of transitions."""

    id: int
    at: float
    kind: str
    subject: str
    before: str | None
    after: str | None
    cause: str


def last_event(database: Database, *, before: float = math.inf) -> int:
    """The number of the newest event before a time; 0: there was none."""
    # Backwards from the end, where the answer is: neither table has an index on its time.
    row = database.one(
        "SELECT coalesce((SELECT id FROM event WHERE at < ? ORDER BY id DESC LIMIT 1), 0)",
        (before,),
    )
    assert row is not None
    return int(row[0])


def condition_message(database: Database, event: Event) -> str | None:
    """What a condition that an event tells the begin of says; None: it is over again."""
    row = database.one(
        "SELECT message FROM condition WHERE kind = ? AND name = ? AND reason = ?",
        (event.kind, event.subject, event.after),
    )
    return None if row is None else str(row[0])


def events(
    database: Database,
    *,
    after: int = 0,
    since: float = 0.0,
    kinds: Collection[str] = (),
    subject: str | None = None,
    newest: int | None = None,
) -> list[Event]:
    """Events in order; `newest`: only so many of the last ones."""
    where, parameters = "id > ? AND at >= ?", list[str | float | int]([after, since])
    if kinds:
        where += " AND kind IN (SELECT value FROM json_each(?))"
        parameters.append(json.dumps(sorted(kinds)))
    if subject is not None:
        where += " AND subject GLOB ?"
        parameters.append(subject)
    parameters.append(-1 if newest is None else newest)
    rows = database.query(f"SELECT * FROM event WHERE {where} ORDER BY id DESC LIMIT ?", parameters)
    return [
        Event(
            id=row["id"],
            at=row["at"],
            kind=row["kind"],
            subject=row["subject"],
            before=row["before"],
            after=row["after"],
            cause=row["cause"],
        )
        for row in reversed(rows)
    ]
