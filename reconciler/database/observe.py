"""Reads that a tick needs: the stored half of the observed state. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from itertools import accumulate

from msgspec import Struct

from reconciler.database.evaluated import INTERRUPTED
from reconciler.database.file import Database
from reconciler.model import (
    BuildState,
    CacheName,
    DrvPath,
    EvaluationState,
    JobsetName,
    StorePath,
)
from reconciler.plan import ObservedEvaluation
from reconciler.work import LiveBuild, WantedJob


class StoredJobset(Struct, frozen=True, kw_only=True):
    """A jobset's row with its evaluations, newest first."""

    name: JobsetName
    removed: bool
    suspended: bool
    evaluations: tuple[ObservedEvaluation, ...]


class Request(Struct, frozen=True, kw_only=True):
    """Something a person asks for."""

    id: int
    verb: str
    subject: str
    who: str
    why: str


def document_in_force(database: Database) -> tuple[str, str] | None:
    """Digest and text of the document that was adopted last."""
    row = database.one("SELECT digest, document FROM generation ORDER BY id DESC LIMIT 1")
    return None if row is None else (row[0], row[1])


def jobsets(database: Database) -> dict[JobsetName, StoredJobset]:
    """All jobsets that were ever declared and not forgotten."""
    evaluations: dict[int, list[ObservedEvaluation]] = {}
    for row in database.query(
        "SELECT jobset, id, state, fingerprint, locked, error FROM evaluation ORDER BY id DESC"
    ):
        evaluations.setdefault(row["jobset"], []).append(
            ObservedEvaluation(
                id=row["id"],
                state=EvaluationState(row["state"]),
                fingerprint=row["fingerprint"],
                locked=row["locked"],
                error=row["error"],
                interrupted=row["error"] == INTERRUPTED,
            )
        )
    suspended = suspended_jobsets(database)
    return {
        row["name"]: StoredJobset(
            name=row["name"],
            removed=row["removed_at"] is not None,
            suspended=row["name"] in suspended,
            evaluations=tuple(evaluations.get(row["id"], ())),
        )
        for row in database.query("SELECT id, name, removed_at FROM jobset")
    }


def suspended_jobsets(database: Database) -> set[JobsetName]:
    """Those for which a person wants nothing started; with one, all its branches."""
    return {
        row[0]
        for row in database.query(
            "SELECT s.name FROM jobset s LEFT JOIN jobset p ON p.id = s.pattern"
            " WHERE s.suspended_at IS NOT NULL OR p.suspended_at IS NOT NULL"
        )
    }


def wanted_jobs(database: Database) -> list[WantedJob]:
    """The jobs of the evaluations in force: running ones, and each declared jobset's good one; and
    what is built again for them, or to audit one that is kept.
    """
    return [
        WantedJob(
            jobset=row[0],
            evaluation=row[1],
            derivation=row[2],
            timeout=row[3],
            max_silent=row[4],
            priority=row[5],
            audit=bool(row[6]),
        )
        for row in database.query(
            "SELECT s.name, e.id, j.derivation, j.timeout, j.max_silent, j.priority, 0"
            " FROM evaluation e JOIN jobset s ON s.id = e.jobset JOIN job j ON j.evaluation = e.id"
            " WHERE e.state IN ('running', 'succeeded') AND s.removed_at IS NULL"
            " AND j.derivation IS NOT NULL"
            " UNION ALL SELECT s.name, e.id, r.derivation, NULL, NULL, 0, 0 FROM rebuild r"
            " JOIN evaluation e ON e.id = r.evaluation JOIN jobset s ON s.id = e.jobset"
            " WHERE e.state IN ('running', 'succeeded') AND s.removed_at IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM job WHERE evaluation = e.id AND derivation = r.derivation)"
            " UNION ALL SELECT s.name, max(e.id), d.id, NULL, NULL, 0, 1 FROM audit a"
            " JOIN derivation d ON d.path = a.clean JOIN job j ON j.derivation = a.derivation"
            " JOIN evaluation e ON e.id = j.evaluation JOIN jobset s ON s.id = e.jobset"
            " WHERE a.finished_at IS NULL AND s.removed_at IS NULL"
            " AND e.state IN ('running', 'succeeded', 'superseded') GROUP BY s.id, d.id"
        )
    ]


_NOT_GOOD = "state NOT IN ('succeeded', 'substituted')"


def live_builds(database: Database, only: Collection[int] | None = None) -> list[LiveBuild]:
    """The builds whose outputs do not exist (all of them, or those asked for), with the edges
    between them.
    """
    where, parameters = f"b.{_NOT_GOOD}", list[str]()
    if only is not None:
        where += " AND b.derivation IN (SELECT value FROM json_each(?))"
        parameters.append(json.dumps(list(only)))
    # Of an id that many have as an input there is one object, and others have none.
    live = {each: each for each in _live(database, only)}.get
    found: list[LiveBuild] = []
    for rows in database.chunks(
        # One row for each build: rows for the edges, eight times as many, take most of the time.
        "SELECT d.id, d.path, d.name, d.system, d.features, d.prefer_local, d.unsupported,"
        " b.state, b.not_before, b.failures, b.bumped_at,"
        " (SELECT group_concat(i.input) FROM input i WHERE i.derivation = d.id)"
        f" FROM build b JOIN derivation d ON d.id = b.derivation WHERE {where}",
        parameters,
    ):
        # Decoded as one text, which takes half the time of making the numbers one by one.
        inputs: list[list[int]] = json.loads(f"[[{'],['.join([row[11] or '' for row in rows])}]]")
        found += [
            LiveBuild(  # by place: by name takes twice the time
                identity,
                path,
                name,
                system,
                tuple(features.split()) if features else (),
                prefer_local == 1,
                unsupported,
                _BUILD_STATES[state],
                not_before,
                failures,
                bumped_at is not None,
                tuple(filter(None, map(live, needed))),
            )
            for (
                (
                    identity,
                    path,
                    name,
                    system,
                    features,
                    prefer_local,
                    unsupported,
                    state,
                    not_before,
                    failures,
                    bumped_at,
                    _,
                ),
                needed,
            ) in zip(rows, inputs, strict=True)
        ]
    return found


_BUILD_STATES = {state.value: state for state in BuildState}


def _live(database: Database, only: Collection[int] | None) -> list[int]:
    """The builds whose outputs do not exist: all, or those that builds asked for have as inputs."""
    if only is None:
        # One text instead of one row each.
        row = database.one(f"SELECT json_group_array(derivation) FROM build WHERE {_NOT_GOOD}")
    else:
        row = database.one(
            "SELECT json_group_array(i.input) FROM json_each(?) a"
            " CROSS JOIN input i ON i.derivation = a.value"
            f" CROSS JOIN build b ON b.derivation = i.input AND b.{_NOT_GOOD}",
            (json.dumps(list(only)),),
        )
    assert row is not None
    found: list[int] = json.loads(row[0])
    return found


def needed_outputs(database: Database) -> dict[DrvPath, set[StorePath]]:
    """The outputs that should exist, by derivation: of jobs in force, and of what is needed by
    builds that are still to be made.
    """
    found: dict[DrvPath, set[StorePath]] = {}
    for row in database.query(
        "SELECT d.path, o.path FROM evaluation e JOIN jobset s ON s.id = e.jobset"
        " JOIN job j ON j.evaluation = e.id JOIN build b ON b.derivation = j.derivation"
        " JOIN derivation d ON d.id = j.derivation JOIN output o ON o.derivation = d.id"
        " WHERE e.state IN ('running', 'succeeded') AND s.removed_at IS NULL"
        f" AND NOT b.{_NOT_GOOD} AND o.path IS NOT NULL"
        " UNION SELECT d.path, o.path FROM rebuild r JOIN build b ON b.derivation = r.derivation"
        " JOIN derivation d ON d.id = r.derivation JOIN output o ON o.derivation = d.id"
        f" WHERE NOT b.{_NOT_GOOD} AND o.path IS NOT NULL"
        " UNION SELECT d.path, o.path FROM build a JOIN input i ON i.derivation = a.derivation"
        " JOIN build b ON b.derivation = i.input JOIN derivation d ON d.id = i.input"
        " JOIN output o ON o.derivation = d.id"
        " AND instr(' ' || i.outputs || ' ', ' ' || o.name || ' ')"
        f" WHERE a.state = 'queued' AND NOT b.{_NOT_GOOD} AND o.path IS NOT NULL"
    ):
        found.setdefault(DrvPath(row[0]), set()).add(row[1])
    return found


def dependants(database: Database, derivations: Iterable[int]) -> dict[int, list[int]]:
    """Who has each of the derivations as an input."""
    found: dict[int, list[int]] = {}
    for needed, derivation in database.query(
        "SELECT input, derivation FROM input WHERE input IN (SELECT value FROM json_each(?))",
        (json.dumps(list(derivations)),),
    ):
        found.setdefault(needed, []).append(derivation)
    return found


def derivation_paths(database: Database, derivations: Iterable[int]) -> dict[int, DrvPath]:
    """Paths of derivations by id."""
    return {
        row[0]: row[1]
        for row in database.query(
            "SELECT id, path FROM derivation WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(derivations)),),
        )
    }


def derivation_ids(database: Database, paths: Iterable[DrvPath]) -> list[int]:
    """The derivations that have these paths."""
    return [
        row[0]
        for row in database.query(
            "SELECT id FROM derivation WHERE path IN (SELECT value FROM json_each(?))",
            (json.dumps(list(paths)),),
        )
    ]


def outputs(database: Database, derivations: Iterable[int]) -> dict[int, dict[str, StorePath]]:
    """The known output paths of derivations."""
    found: dict[int, dict[str, StorePath]] = {}
    for row in database.query(
        "SELECT derivation, name, path FROM output"
        " WHERE path IS NOT NULL AND derivation IN (SELECT value FROM json_each(?))",
        (json.dumps(list(derivations)),),
    ):
        found.setdefault(row[0], {})[row[1]] = row[2]
    return found


def failed_before(database: Database, when: float) -> list[int]:
    """The builds that failed for good before a time."""
    bad = json.dumps([state for state in BuildState if state.bad])
    return [
        row[0]
        for row in database.query(
            f"SELECT derivation FROM build WHERE {_NOT_GOOD}"
            " AND state IN (SELECT value FROM json_each(?)) AND finished_at < ?",
            (bad, when),
        )
    ]


def durations(database: Database) -> dict[tuple[str, str], float]:
    """Expected seconds of builds on a builder of speed 1, by package name and system."""
    return {
        (row[0], row[1]): row[2]
        for row in database.query("SELECT name, system, seconds FROM duration")
    }


class PushQueue(Struct, frozen=True, kw_only=True):
    """A cache's queue at one time."""

    due: tuple[StorePath, ...]
    next_due_at: float | None
    """When the next path that waits after a failure is due."""
    failures: int
    """The most failures in a row that a waiting path has."""


def push_queue(
    database: Database, cache: CacheName, *, now: float, batch: int, batch_size: int
) -> PushQueue:
    """What a cache is to be sent next: so many paths at most, of so many bytes."""
    waiting = (
        # Without the index, of which the first condition is, all that was ever pushed is read.
        "FROM cache c CROSS JOIN push p INDEXED BY push_open ON p.cache = c.id WHERE c.name = ?"
        " AND p.state <> 'pushed' AND p.state = 'pending'"
    )
    due = database.query(
        f"SELECT p.path, p.size {waiting} AND p.not_before <= ? ORDER BY p.position LIMIT ?",
        (cache, now, batch),
    )
    later = database.one(
        f"SELECT min(p.not_before), max(p.failures) {waiting} AND p.not_before > ?", (cache, now)
    )
    assert later is not None
    sizes = accumulate(row[1] or 0 for row in due)
    fitting = sum(size <= batch_size for size in sizes)
    return PushQueue(
        due=tuple(row[0] for row in due[: max(fitting, 1)]),
        next_due_at=later[0],
        failures=later[1] or 0,
    )


def push_position(database: Database, cache: CacheName, path: StorePath) -> int:
    """The place of a path in a cache's queue."""
    row = database.one(
        "SELECT p.position FROM push p JOIN cache c ON c.id = p.cache"
        " WHERE c.name = ? AND p.path = ?",
        (cache, path),
    )
    assert row is not None
    return int(row[0])


def further_pushes(
    database: Database,
    cache: CacheName,
    *,
    behind: Collection[StorePath],
    after: int,
    now: float,
    limit: int,
) -> tuple[StorePath, ...]:
    """What is to be pushed behind a batch, from a place in the queue on."""
    rows = database.query(
        "SELECT p.path FROM push p JOIN cache c ON c.id = p.cache WHERE c.name = ?"
        " AND p.state <> 'pushed' AND p.state = 'pending' AND NOT p.resend"
        " AND p.not_before <= ? AND p.position > ? ORDER BY p.position LIMIT ?",
        (cache, now, after, limit),
    )
    batch = set(behind)
    return tuple(row[0] for row in rows if row[0] not in batch)


def open_requests(database: Database) -> list[Request]:
    """What people ask for and nobody has answered."""
    return [
        Request(
            id=row["id"],
            verb=row["verb"],
            subject=row["subject"],
            who=row["who"],
            why=row["why"],
        )
        for row in database.query(
            "SELECT id, verb, subject, who, why FROM request WHERE handled_at IS NULL ORDER BY id"
        )
    ]


def push_failures(
    database: Database, cache: CacheName, paths: Iterable[StorePath]
) -> dict[StorePath, int]:
    """How often pushing each of the paths has failed so far."""
    return {
        row[0]: row[1]
        for row in database.query(
            "SELECT p.path, p.failures FROM push p JOIN cache c ON c.id = p.cache"
            " WHERE c.name = ? AND p.path IN (SELECT value FROM json_each(?))",
            (cache, json.dumps(list(paths))),
        )
    }


def derivations_named(database: Database, subject: str) -> list[int]:
    """The derivations of a jobset or all its branches, of a job (`JOBSET.ATTR`) in force, or with
    a path.

    Both names may contain dots: as for the command line, the longest jobset that fits is meant.
    """
    found = database.query(
        "SELECT id, NULL FROM derivation WHERE path = ?1"
        " UNION SELECT j.derivation, length(s.name) FROM jobset s"
        " LEFT JOIN jobset p ON p.id = s.pattern"
        " JOIN evaluation e ON e.jobset = s.id AND e.state IN ('running', 'succeeded')"
        " JOIN job j ON j.evaluation = e.id WHERE j.derivation IS NOT NULL"
        " AND s.removed_at IS NULL AND (?1 IN (s.name, p.name) OR s.name || '.' || j.attr = ?1)",
        (subject,),
    )
    whole = database.one("SELECT 1 FROM jobset WHERE name = ?", (subject,)) is not None
    longest = max((row[1] or 0 for row in found), default=0)
    return [row[0] for row in found if whole or (row[1] or 0) == longest]


def open_pushes(database: Database) -> dict[CacheName, int]:
    """How many paths wait on each cache's queue."""
    return {
        row[0]: row[1]
        for row in database.query(
            "SELECT c.name, count(*) FROM push p JOIN cache c ON c.id = p.cache"
            " WHERE p.state <> 'pushed' AND p.state <> 'failed' GROUP BY c.id"
        )
    }
