"""Reads for `status` and `builders`: everything that a report is made from.

Counts in SQL, and starts from what is not good: on a state in which all is built, nothing is read
row by row. Writes nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from reconciler.database import cached
from reconciler.database.blocked import ENDED, Blocked, LocalSystems, blocked
from reconciler.database.cached import conditions_of
from reconciler.database.file import Database, Row
from reconciler.database.in_force import InForce
from reconciler.states import BuildState, EvaluationState, JobsetName
from reconciler.status import (
    UNSUPPORTED_GRACE,
    BuilderFacts,
    Condition,
    DocumentFacts,
    EvaluationFacts,
    Facts,
    JobsetFacts,
    JobState,
    Problem,
    Suspension,
    job_state,
)

MESSAGE_LENGTH = 4000
"""Characters of an error that a report shows; the database has the rest."""

_GOOD = "('succeeded', 'substituted')"


# --- The whole ---------------------------------------------------------------------------------


def facts(
    database: Database,
    current: InForce,
    *,
    document: DocumentFacts,
    daemon: int | None,
    local_systems: LocalSystems,
    now: float,
    grace: float = UNSUPPORTED_GRACE,
) -> Facts:
    """Everything, in one snapshot. For `grace` seconds what no builder can build only waits."""
    with database.snapshot():
        conditions = all_conditions(database)
        in_way = blocked(database, current, local_systems=local_systems, now=now, grace=grace)
        evaluations = _evaluations(database)
        shown = {each.id: name for name, (_, each) in evaluations.items() if each is not None}
        counts = _build_counts(database)
        return Facts(
            document=document,
            daemon=daemon,
            jobsets=_jobsets(
                database,
                current,
                evaluations,
                conditions,
                _job_counts(database, list(shown), in_way, missing=sum(counts.values())),
            ),
            caches=cached.caches(database, conditions, now=now),
            builders=builders(database, current, conditions),
            conditions=tuple(
                each for each in conditions if each.kind in ("document", "artifact-store")
            ),
            builds={
                key: number - (in_way.number if key is BuildState.QUEUED else 0)
                for key, number in counts.items()
            },
            stuck=in_way.stuck,
            problems=tuple(_problems(database, shown, in_way)),
        )


def all_conditions(database: Database) -> list[Condition]:
    """What the daemon found wrong."""
    return [
        Condition(kind=row[0], name=row[1], reason=row[2], message=row[3], since=row[4])
        for row in database.query(
            "SELECT kind, name, reason, message, since FROM condition ORDER BY kind, name, reason"
        )
    ]


def _build_counts(database: Database) -> dict[BuildState, int]:
    """Builds whose outputs do not exist, by state: counting one by one within the index takes
    half the time of grouping.
    """
    states = json.dumps([state for state in BuildState if not state.good])
    return {
        BuildState(row[0]): row[1]
        for row in database.query(
            "SELECT s.value, (SELECT count(*) FROM build"
            f" WHERE state NOT IN {_GOOD} AND state = s.value) FROM json_each(?) s",
            (states,),
        )
        if row[1]
    }


# --- Jobsets -----------------------------------------------------------------------------------

_Evaluations = Mapping[JobsetName, tuple[EvaluationFacts | None, EvaluationFacts | None]]


def _evaluations(database: Database) -> _Evaluations:
    """Of each jobset the newest evaluation, and the one whose jobs count."""
    newest: dict[JobsetName, EvaluationFacts] = {}
    current: dict[JobsetName, EvaluationFacts] = {}
    names = [JobsetName(row[0]) for row in database.query("SELECT name FROM jobset")]
    for row in database.query(
        "SELECT s.name, e.id, e.state, e.cause, e.locked, e.started_at, e.finished_at,"
        " substr(e.error, 1, ?) AS error"
        " FROM jobset s JOIN evaluation e ON e.jobset = s.id ORDER BY e.id DESC",
        (MESSAGE_LENGTH,),
    ):
        found = evaluation_facts(row)
        newest.setdefault(row["name"], found)
        known = current.get(row["name"])
        if found.state is EvaluationState.SUCCEEDED or (
            known is None and found.state is EvaluationState.RUNNING
        ):
            current[row["name"]] = found
    return {name: (newest.get(name), current.get(name)) for name in names}


def evaluation_facts(row: Row) -> EvaluationFacts:
    """An evaluation's row."""
    return EvaluationFacts(
        id=row["id"],
        state=EvaluationState(row["state"]),
        cause=row["cause"],
        locked=row["locked"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        error=row["error"],
    )


def _jobsets(
    database: Database,
    document: InForce,
    evaluations: _Evaluations,
    conditions: Sequence[Condition],
    jobs: Mapping[int, Mapping[JobState, int]],
) -> tuple[JobsetFacts, ...]:
    found = []
    branches = Counter(each.branch_of for each in document.jobsets.values())
    for row in database.query(
        # What is suspended, its branches are as well.
        "SELECT s.name, s.removed_at, s.branch, p.name AS pattern,"
        " coalesce(s.suspended_at, p.suspended_at) AS suspended_at,"
        " coalesce(s.suspended_by, p.suspended_by) AS suspended_by,"
        " coalesce(s.suspended_why, p.suspended_why) AS suspended_why"
        " FROM jobset s LEFT JOIN jobset p ON p.id = s.pattern"
    ):
        name = JobsetName(row["name"])
        declared = document.jobsets.get(name)
        newest, current = evaluations[name]
        found.append(
            JobsetFacts(
                name=name,
                removed_at=row["removed_at"],
                enabled=declared is None or declared.enabled,
                suspended=None
                if row["suspended_at"] is None
                else Suspension(
                    since=row["suspended_at"], by=row["suspended_by"], why=row["suspended_why"]
                ),
                source="" if declared is None else declared.source,
                caches=() if declared is None else declared.caches,
                newest=newest,
                current=current,
                jobs={} if current is None else jobs[current.id],
                conditions=conditions_of(conditions, "jobset", name),
                patterns=None if declared is None else declared.patterns,
                branches=branches[name],
                branch_of=row["pattern"],
                branch=row["branch"],
            )
        )
    order = {name: place for place, name in enumerate(document.jobsets)}
    return tuple(
        sorted(
            found,
            key=lambda each: (each.removed_at is not None, order.get(each.name, 0), each.name),
        )
    )


def _job_counts(
    database: Database, shown: Sequence[int], in_way: Blocked, *, missing: int
) -> dict[int, dict[JobState, int]]:
    """Jobs by state, of each evaluation; `missing` builds have no outputs.

    The good ones are what remains of all when the others are counted: those are found by the
    partial index over builds, all is counted within the index of names. Where there are fewer
    jobs than missing builds, it is the jobs whose builds are looked up.
    """
    asked = json.dumps(shown)
    among = "IN (SELECT value FROM json_each(?))"
    counts: dict[int, dict[JobState, int]] = {each: {} for each in shown}
    totals = dict[int, int](
        (row[0], row[1])
        for row in database.query(
            f"SELECT evaluation, count(*) FROM job WHERE evaluation {among} GROUP BY evaluation",
            (asked,),
        )
    )
    for row in database.query(
        "SELECT evaluation, count(*) FROM job INDEXED BY job_derivation"
        f" WHERE derivation IS NULL AND evaluation {among} GROUP BY evaluation",
        (asked,),
    ):
        counts[row[0]][JobState.EVALUATION_ERROR] = row[1]
    builds_first = missing < sum(totals.values())
    # SQLite takes the tables of a CROSS JOIN in the order in which they are written.
    tables = "build b CROSS JOIN job j" if builds_first else "job j CROSS JOIN build b"
    for row in database.query(
        f"SELECT j.evaluation, b.state, count(*) FROM {tables}"
        f" ON j.derivation = b.derivation WHERE b.state NOT IN {_GOOD}"
        f" AND j.evaluation {among} GROUP BY j.evaluation, b.state",
        (asked,),
    ):
        _add(counts[row[0]], job_state(BuildState(row[1])), row[2])
    for row in _jobs_of(database, in_way.states, shown):
        _add(counts[row["evaluation"]], JobState.QUEUED, -1)
        _add(counts[row["evaluation"]], in_way.states[row["derivation"]], 1)
    for evaluation, states in counts.items():
        good = totals.get(evaluation, 0) - sum(states.values())
        counts[evaluation] = {JobState.SUCCEEDED: good, **states}
    return {key: {s: n for s, n in states.items() if n} for key, states in counts.items()}


def _add(counts: dict[JobState, int], state: JobState, number: int) -> None:
    counts[state] = counts.get(state, 0) + number


def _jobs_of(
    database: Database, derivations: Collection[int], evaluations: Collection[int]
) -> list[Row]:
    if not derivations:
        return []
    return database.query(
        "SELECT j.evaluation, j.attr, j.derivation, d.name FROM json_each(?) w"
        " CROSS JOIN job j ON j.derivation = w.value JOIN derivation d ON d.id = j.derivation"
        " WHERE j.evaluation IN (SELECT value FROM json_each(?))",
        (json.dumps(list(derivations)), json.dumps(list(evaluations))),
    )


def _problems(
    database: Database, shown: Mapping[int, JobsetName], in_way: Blocked
) -> Iterable[Problem]:
    """The jobs that are not there and will not be by themselves."""
    asked = json.dumps(list(shown))
    found = [
        Problem(
            jobset=shown[row["evaluation"]],
            attr=row["attr"],
            state=JobState.EVALUATION_ERROR,
            derivation=None,
            cause=None,
            message=row["error"],
            at=None,
        )
        for row in database.query(
            "SELECT evaluation, attr, substr(error, 1, ?) AS error"
            " FROM job INDEXED BY job_derivation"
            " WHERE derivation IS NULL AND evaluation IN (SELECT value FROM json_each(?))",
            (MESSAGE_LENGTH, asked),
        )
    ]
    for row in database.query(
        "SELECT j.evaluation, j.attr, d.name, b.state, b.finished_at, (SELECT a.message"
        " FROM attempt a WHERE a.derivation = b.derivation ORDER BY a.id DESC LIMIT 1) AS message"
        " FROM build b CROSS JOIN job j ON j.derivation = b.derivation"
        f" JOIN derivation d ON d.id = b.derivation WHERE b.state NOT IN {_GOOD}"
        f" AND b.state IN ({ENDED})"
        " AND j.evaluation IN (SELECT value FROM json_each(?))",
        (asked,),
    ):
        state = BuildState(row["state"])
        found.append(
            Problem(
                jobset=shown[row["evaluation"]],
                attr=row["attr"],
                state=job_state(state),
                derivation=row["name"],
                cause=None,
                message=row["message"] or str(state),
                at=row["finished_at"],
            )
        )
    for row in _jobs_of(database, in_way.states, shown):
        key = row["derivation"]
        found.append(
            Problem(
                jobset=shown[row["evaluation"]],
                attr=row["attr"],
                state=in_way.states[key],
                derivation=row["name"],
                cause=in_way.causes.get(key),
                message=in_way.messages.get(key),
                at=None,
            )
        )
    order = list(JobState)
    return sorted(found, key=lambda p: (p.jobset, order.index(p.state), p.attr))


# --- Builders ------------------------------------------------------------------------------------


def builders(
    database: Database, document: InForce, conditions: Sequence[Condition]
) -> tuple[BuilderFacts, ...]:
    """The declared builders, with what runs on them."""
    running = {
        row[0]: row[1]
        for row in database.query(
            "SELECT builder, count(*) FROM attempt WHERE finished_at IS NULL GROUP BY builder"
        )
    }
    return tuple(
        BuilderFacts(
            name=each.name,
            uri=each.uri,
            systems=each.systems,
            features=each.features,
            mandatory_features=each.mandatory_features,
            max_jobs=each.max_jobs,
            speed_factor=each.speed_factor,
            running=running.get(each.name, 0),
            drain=each.drain,
            conditions=conditions_of(conditions, "builder", each.name),
            resources=each.resources,
        )
        for each in document.builders
    )
