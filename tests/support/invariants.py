"""What is true of every state of the reconciler, whatever happened: DESIGN's invariants."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from reconciler.bases import is_sampled
from reconciler.database import (
    Database,
    audits,
    bases,
    due,
    kept_bases,
    mounts,
    observe,
    push_roots,
)
from reconciler.graph import Graph
from reconciler.model import BuildState, EvaluationState, PushScope, PushState
from reconciler.reconcile.farm import AuditStage, Farm
from reconciler.transitions import Cause, State, causes
from reconciler.work import LiveBuild


@contextmanager
def checked(database: Database) -> Iterator[None]:
    """What is in it after the block is checked, and it is closed."""
    yield
    check_tables(database)
    database.close()


def check_database(path: Path) -> None:
    """What can be told from the file alone."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        database = Database(connection, path)
        assert database.integrity() == []
        check_tables(database)


def check_tables(database: Database) -> None:
    """Attempts, states and the log of transitions agree."""
    _one_live_attempt(database)
    _attempts_fit_states(database)
    _inputs_first(database)
    _events_are_legal(database)
    _events_tell_the_story(database)


def _names(rows: Collection[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in rows]


def _one_live_attempt(database: Database) -> None:
    several = database.query(
        "SELECT derivation, count(*) FROM attempt WHERE finished_at IS NULL"
        " GROUP BY derivation HAVING count(*) > 1"
    )
    assert _names(several) == []


def _attempts_fit_states(database: Database) -> None:
    """What is being built has a live attempt, and nothing else has one."""
    unfit = database.query(
        "SELECT d.name, b.state, a.id FROM build b JOIN derivation d ON d.id = b.derivation"
        " LEFT JOIN attempt a ON a.derivation = b.derivation AND a.finished_at IS NULL"
        " WHERE (b.state = 'building') <> (a.id IS NOT NULL)"
    )
    assert _names(unfit) == []
    # What counts as built has an attempt that built it, or was found in the store.
    unfounded = database.query(
        "SELECT d.name FROM build b JOIN derivation d ON d.id = b.derivation"
        " WHERE b.state = 'succeeded'"
        " AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.derivation = d.id"
        "  AND a.outcome = 'succeeded')"
        " AND NOT EXISTS (SELECT 1 FROM event e WHERE e.kind = 'build' AND e.subject = d.name"
        "  AND e.after = 'succeeded')"
    )
    assert _names(unfounded) == []


def _inputs_first(database: Database) -> None:
    """No build started before its inputs had ended well."""
    early = database.query(
        "SELECT d.name, n.name FROM attempt a"
        " JOIN input i ON i.derivation = a.derivation"
        " JOIN derivation d ON d.id = i.derivation JOIN derivation n ON n.id = i.input"
        " WHERE NOT EXISTS (SELECT 1 FROM attempt e WHERE e.derivation = i.input"
        "   AND e.outcome = 'succeeded' AND e.finished_at <= a.started_at)"
        " AND NOT EXISTS (SELECT 1 FROM event f WHERE f.kind = 'build' AND f.subject = n.name"
        "   AND f.after IN ('succeeded', 'substituted') AND f.at <= a.started_at)"
        # It was there when it was first seen.
        " AND NOT EXISTS (SELECT 1 FROM build b WHERE b.derivation = i.input"
        "   AND b.state = 'substituted' AND b.finished_at <= a.started_at)"
    )
    assert _names(early) == []


_STATES: dict[str, type[State]] = {
    "build": BuildState,
    "evaluation": EvaluationState,
    "push": PushState,
}


def _events_are_legal(database: Database) -> None:
    known = {str(cause) for cause in Cause}
    for row in database.query(
        "SELECT kind, subject, before, after, cause FROM event"
        " WHERE kind IN ('build', 'evaluation', 'push') AND after <> 'forgotten'"
    ):
        states = _STATES[row["kind"]]
        before = None if row["before"] is None else states(row["before"])
        allowed = causes(before, states(row["after"]))
        assert allowed, f"illegal: {tuple(row)}"
        # Why an evaluation began is told in words of its own.
        if row["kind"] != "evaluation" or row["cause"] in known:
            assert row["cause"] in allowed, f"illegal cause: {tuple(row)}"


def _events_tell_the_story(database: Database) -> None:
    """Each change starts where the last one ended, and the last one is what is stored."""
    names = Counter(row[0] for row in database.query("SELECT name FROM derivation"))
    for row in database.query(
        "SELECT d.name, b.state FROM build b JOIN derivation d ON d.id = b.derivation"
    ):
        if names[row[0]] == 1:
            _chain(database, "build", row[0], row[1], first={"queued", "substituted"})
    for row in database.query(
        "SELECT j.name || '#' || e.id, e.state FROM evaluation e JOIN jobset j ON j.id = e.jobset"
    ):
        _chain(database, "evaluation", row[0], row[1], first={None})


def _chain(
    database: Database, kind: str, subject: str, stored: str, *, first: set[str | None]
) -> None:
    events = database.query(
        "SELECT before, after FROM event WHERE kind = ? AND subject = ? ORDER BY id",
        (kind, subject),
    )
    befores = [row["before"] for row in events]
    afters = [row["after"] for row in events]
    assert befores[1:] == afters[:-1], f"{kind} {subject}: {_names(events)}"
    if events:
        assert befores[0] in first, f"{kind} {subject} began as {befores[0]}"
        # A build that was forgotten, and found in the store when it was wanted again, begins anew.
        found_again = stored == "substituted" and afters[-1] == "succeeded"
        assert afters[-1] == stored or found_again, (
            f"{kind} {subject} is {stored}: {_names(events)}"
        )
    else:
        assert stored in first, f"{kind} {subject} is {stored} and nothing tells why"


# --- The store ---------------------------------------------------------------------------------


def outputs_that_should_exist(path: Path) -> dict[str, list[str]]:
    """The outputs of what succeeded and is in no cache, by name of the derivation."""
    found: dict[str, list[str]] = {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        for name, output in connection.execute(
            "SELECT d.name, o.path FROM build b JOIN derivation d ON d.id = b.derivation"
            " JOIN output o ON o.derivation = d.id"
            " WHERE b.state = 'succeeded' AND NOT EXISTS"
            " (SELECT 1 FROM push p WHERE p.path = o.path AND p.state = 'pushed')"
        ):
            assert output is not None, f"{name} succeeded, and nobody knows where its output is"
            found.setdefault(name, []).append(output)
    return found


# --- Memory ------------------------------------------------------------------------------------


def check_memory(farm: Farm) -> None:
    """The graph in memory is the one in the database, as far as anything wants it."""
    stored = {build.id: build for build in observe.live_builds(farm.database)}
    graph = farm.work.graph
    strangers = {node.id for node in graph.nodes} - stored.keys()
    assert not strangers, f"in memory alone: {strangers}"
    jobs = {job.derivation for job in observe.wanted_jobs(farm.database)}
    wanted = _below(stored, jobs & stored.keys())
    missing = wanted - {node.id for node in graph.nodes}
    awaited = any(each.busy or each.triggered or each.forced for each in farm.progress.values())
    awaited = awaited or AuditStage.FINDING in farm.auditing.values()
    awaited = awaited or bool(farm.discarding or farm.retaking)
    assert awaited or not missing, (
        f"in the database alone: {[stored[each].name for each in missing]}"
    )
    for node in graph.nodes:
        build = stored[node.id]
        assert node.state is build.state, f"{build.name}: {node.state} is stored as {build.state}"
        waits = (set(graph.waiting_on(node.id)), node.unmet)
        assert waits == (set(build.inputs), len(build.inputs)), f"{build.name} waits for {waits}"
        assert node.not_before == (build.not_before if node.state.live else node.not_before)
        kept = farm.work.builds[node.id]
        facts = (kept.failures, kept.bumped, kept.path)
        assert facts == (build.failures, build.bumped, build.path), f"{build.name}: {facts}"
    assert {build.id for build in farm.work.builds.values()} == {n.id for n in graph.nodes}
    _check_ready(graph)
    _check_pushes(farm)
    _check_vouched(farm.database)
    if farm.incremental_jobsets():
        _check_due(farm)


def _check_pushes(farm: Farm) -> None:
    """What belongs in a cache by a rule is on its queue, or waits to be put there."""
    database = farm.database
    rebuilt = {row[0] for row in database.query("SELECT derivation FROM rebuild")}
    wrong = database.query("SELECT 1 FROM base WHERE quarantined_at IS NOT NULL")
    evaluating = any(each.busy for each in farm.progress.values())
    for jobset in farm.desired.jobsets.values():
        for cache, rule in jobset.caches.items():
            waiting = {
                each
                for other, roots in farm.unqueued.of(cache).items()
                if other.covers(rule)
                for each in roots.waiting | roots.closing
            }
            found = push_roots.lacking_jobs(database, jobset.name, cache, rule)
            if rule.scope is PushScope.ALL and not evaluating:
                found += push_roots.lacking_requisites(database, jobset.name, cache, rule)
            left = {*found} - waiting - rebuilt - farm.held
            assert wrong or not left, f"{left} wait for {cache} by no rule that covers {rule}"


def _check_vouched(database: Database) -> None:
    """Of a build is vouched for what its audit found right, and nothing else."""
    wrong = database.query(
        "SELECT derivation, vouched FROM build_base c WHERE vouched <> EXISTS"
        " (SELECT 1 FROM audit a WHERE a.derivation = c.derivation AND a.state = 'same')"
    )
    assert _names(wrong) == []


def _check_due(farm: Farm) -> None:
    """Whatever of incremental builds is to be seen to was seen to by the tick, or is due."""
    database = farm.database
    waiting = {row[0] for row in database.query("SELECT derivation FROM incremental_due")}
    waiting_bases = {row[0] for row in database.query("SELECT base FROM incremental_due")}
    connection = database.connection
    connection.execute("BEGIN")
    try:
        due.everything(database)
        found = _to_see_to(farm)
        unqueued = _unqueued(farm)
        suspects = bases.suspects(database)
    finally:
        connection.rollback()
    assert not {each for each in found if each[1] not in waiting}
    assert waiting or not suspects, suspects
    assert waiting_bases - {None} or not unqueued, unqueued


def _to_see_to(farm: Farm) -> set[tuple[str, int]]:
    database, jobsets = farm.database, farm.desired.jobsets
    enabled = {each.name: each.incremental for each in farm.incremental_jobsets()}
    found = {
        ("left", each.derivation)
        for each in bases.left(database)
        if each.slot.jobset in enabled and each.derivation not in farm.keeping
    }
    found |= {
        ("fallen", each.derivation)
        for each in bases.fallen(database)
        if (each.jobset, each.derivation) not in farm.fallen
    }
    found |= {
        ("failed", each.derivation)
        for each in mounts.failed(database)
        if all(jobsets[name].incremental.retry_clean for name in each.jobsets & jobsets.keys())
    }
    return found | {
        ("unaudited", each.derivation)
        for each in audits.unaudited(database)
        if each.jobset in enabled
        and (
            enabled[each.jobset].audit_before_release
            or is_sampled(each.path, enabled[each.jobset].audit_fraction)
        )
    }


def _unqueued(farm: Farm) -> list[str]:
    """What builds left and no cache is to get, although nothing stands in its way."""
    free = [
        each for each in farm.incremental_jobsets() if not each.incremental.audit_before_release
    ]
    return [
        path
        for cache in farm.desired.caches
        for path in kept_bases.unqueued(
            farm.database, cache, [each.name for each in free if cache in each.caches], audited=()
        )
    ]


def _below(stored: dict[int, LiveBuild], roots: set[int]) -> set[int]:
    seen, todo = set(roots), list(roots)
    while todo:
        for needed in stored[todo.pop()].inputs:
            if needed not in seen:
                seen.add(needed)
                todo.append(needed)
    return seen


def _check_ready(graph: Graph) -> None:
    ready = {node.id for node in graph.nodes if node.state is BuildState.QUEUED and not node.unmet}
    assert set(graph.ready) == ready
