"""What was put on a cache's queue is remembered with its rule, through documents and versions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler import config
from reconciler.database import database_path, declared, open_writer, push_roots, pushed
from reconciler.database.file import MIGRATIONS
from reconciler.database.migrations import create
from reconciler.model import CacheName, JobsetName, PushRule, StorePath
from reconciler.push_rules import PushScope, rule
from tests.cli.farm import DOCUMENT, Farm

MAIN, WEB = CacheName("main"), JobsetName("web")
JOBS = rule(PushScope.JOBS, [])
WHOLE = rule(PushScope.REQUISITES, [])
ALL = rule(PushScope.ALL, [])
LESS = rule(PushScope.REQUISITES, ["x", "y"])


@pytest.fixture
def built(farm: Farm) -> Farm:
    """A job, and what it was built from."""
    farm.derivations({"lib": [], "app": ["lib"]})
    farm.evaluation("web", {"app": "app"})
    for name in ("lib", "app"):
        farm.attempt(name)
    return farm


def path(farm: Farm, name: str) -> StorePath:
    return StorePath(f"/nix/store/{farm.ids[name]:032}-{name}")


def queue(farm: Farm, by: PushRule, *names: str) -> None:
    """The first is the root, the others are what belongs to it."""
    pushed.queue_pushes(
        farm.database,
        MAIN,
        roots=[farm.ids[names[0]]],
        paths=[path(farm, name) for name in reversed(names)],
        now=farm.now,
        rule=by,
    )


def lacking(farm: Farm, by: PushRule, jobset: JobsetName = WEB) -> set[str]:
    find = push_roots.lacking_requisites if by.scope is PushScope.ALL else push_roots.lacking_jobs
    names = {number: name for name, number in farm.ids.items()}
    return {names[each] for each in find(farm.database, jobset, MAIN, by)}


def pushes(farm: Farm) -> dict[str, tuple[str, int]]:
    """State of each path, and whether it goes there alone."""
    return {
        each[0].partition("-")[2]: (each[1], each[2])
        for each in farm.database.query("SELECT path, state, alone FROM push")
    }


def test_what_lacks_is_what_no_rule_sent_that_sends_as_much(built: Farm) -> None:
    assert lacking(built, JOBS) == lacking(built, LESS) == {"app"}
    assert lacking(built, ALL) == {"app", "lib"}
    queue(built, JOBS, "app")
    assert (lacking(built, JOBS), lacking(built, LESS)) == (set(), {"app"})
    queue(built, LESS, "app", "lib")
    assert (lacking(built, LESS), lacking(built, WHOLE)) == (set(), {"app"})
    assert lacking(built, rule(PushScope.REQUISITES, ["z", "y", "x"])) == set()
    queue(built, WHOLE, "app", "lib")
    assert lacking(built, WHOLE) == set()
    assert lacking(built, ALL) == {"lib"}
    assert lacking(built, WHOLE, JobsetName("web.next")) == set()


def test_a_path_goes_there_alone_until_a_rule_sends_more(built: Farm) -> None:
    queue(built, JOBS, "app")
    assert pushes(built) == {"app": ("pending", 1)}
    queue(built, WHOLE, "app", "lib")
    assert pushes(built) == {"app": ("pending", 0), "lib": ("pending", 0)}
    queue(built, JOBS, "app")
    assert pushes(built)["app"] == ("pending", 0)


def test_that_it_waits_after_a_failure_is_not_forgotten_for_another_rule(built: Farm) -> None:
    queue(built, JOBS, "app")
    with built.database.transaction():
        built.database.execute("UPDATE push SET not_before = 5, failures = 1")
    queue(built, WHOLE, "app")
    rows = built.database.query("SELECT not_before, failures, alone FROM push")
    assert [tuple(row) for row in rows] == [(5, 1, 0)]


def test_what_is_forgotten_meanwhile_is_no_root(built: Farm) -> None:
    pushed.queue_pushes(built.database, MAIN, roots=[999], paths=[], now=built.now, rule=LESS)
    assert built.database.query("SELECT * FROM push_root") == []


def document(caches: list[Any], *, also: Mapping[str, Any] | None = None, **settings: Any) -> Any:
    web = {**DOCUMENT["jobsets"]["web"], "caches": caches}
    return {
        **DOCUMENT,
        "jobsets": {"web": web, **(also or {})},
        "caches": {"main": {**DOCUMENT["caches"]["main"], **settings}},
    }


OTHER = {"other": {"source": {"path": "/srv/other"}, "caches": [{"name": "main", "push": "all"}]}}


@pytest.mark.parametrize(
    ("said", "anew"),
    [
        (document(["main"]), False),
        (document([{"name": "main"}]), False),
        (document([{"name": "main", "push": "requisites"}], push="jobs"), False),
        (document(["main"], also=OTHER), False),
        (document([], also=OTHER, push="jobs"), False),  # what is queued stays
        (document([{"name": "main", "push": "jobs"}]), True),
        (document([{"name": "main", "exclude": ["lib"]}]), True),
        (document(["main"], push="all"), True),
        (document(["main"], exclude=["lib"]), True),
    ],
)
def test_where_a_jobset_sends_something_else_all_is_found_anew(
    built: Farm, said: dict[str, Any], anew: bool
) -> None:
    built.push("lib", pushed_bytes=5)
    queue(built, WHOLE, "app", "lib")
    assert lacking(built, WHOLE) == set()
    built.declare(said)
    if anew:
        # Where jobs go there alone, nobody knows of what is there what it lacks until it is found.
        alone = "jobs" in str(said["jobsets"]["web"]["caches"])
        assert pushes(built) == {"lib": ("pushed", int(alone))}
        assert lacking(built, JOBS) == {"app"}
    else:
        assert pushes(built) == {"app": ("pending", 0), "lib": ("pushed", 0)}
        assert lacking(built, WHOLE) == set()


def test_the_order_of_what_is_excluded_changes_nothing(built: Farm) -> None:
    built.declare(document(["main"], exclude=["a", "b"]))
    queue(built, rule(PushScope.REQUISITES, ["a", "b"]), "app", "lib")
    built.declare(document([{"name": "main", "exclude": ["a"]}], exclude=["b"]))
    assert pushes(built) == {"app": ("pending", 0), "lib": ("pending", 0)}


def before_rules(state_dir: Path, document: dict[str, Any]) -> None:
    """A file of the version in which each cache had one rule: a root and its path in each cache."""
    state_dir.mkdir()
    with closing(sqlite3.connect(database_path(state_dir))) as old, old:
        create(old, MIGRATIONS[: MIGRATIONS.index("m013_rules")])
        for text in ('{"caches": {"main": {"push": "all"}}}', json.dumps(document)):
            old.execute(
                "INSERT INTO generation(digest, document, applied_at) VALUES ('d', ?, 0)", (text,)
            )
        old.execute(
            "INSERT INTO derivation(id, path, name, system, features, prefer_local)"
            " VALUES (7, 'd', 'app', 'x', '', 0)"
        )
        for number, name in enumerate(("main", "jobs", "gone"), start=1):
            old.execute(
                "INSERT INTO cache(id, name, uri, generation) VALUES (?, ?, 'file:/x', 1)",
                (number, name),
            )
            old.execute("INSERT INTO push_root(cache, derivation) VALUES (?, 7)", (number,))
            old.execute(
                "INSERT INTO push(cache, path, position, state, queued_at)"
                " VALUES (?, '/nix/store/x-app', 1, 'pushed', 0)",
                (number,),
            )


def test_what_an_earlier_version_queued_was_queued_by_the_rules_of_the_caches(
    tmp_path: Path,
) -> None:
    caches = {"main": {"push": "requisites", "exclude": ["y", "x"]}, "jobs": {"push": "jobs"}}
    before_rules(tmp_path / "state", {"caches": caches, "jobsets": {"web": {"caches": ["main"]}}})
    with closing(open_writer(tmp_path / "state", now=1.0)) as database:
        assert database.integrity() == []
        roots = database.query(
            "SELECT c.name, p.derivation, r.rule FROM push_root p JOIN cache c ON c.id = p.cache"
            " JOIN push_rule r ON r.id = p.rule ORDER BY c.id"
        )
        assert [(row[0], row[1], json.loads(row[2])) for row in roots] == [
            ("main", 7, ["requisites", "y", "x"]),
            ("jobs", 7, ["jobs"]),
        ]
        alone = database.query("SELECT c.name FROM push p JOIN cache c ON c.id = cache WHERE alone")
        assert [row[0] for row in alone] == ["jobs"]
        for told, left in (("main", 1), ({"name": "main", "push": "jobs"}, 0)):
            web = {"source": {"path": "/srv/web"}, "caches": [told]}
            main = {"uri": "file:/x", "exclude": ["x", "y"]}
            text = json.dumps({"jobsets": {"web": web}, "caches": {"main": main}})
            desired = config.parse(text.encode(), name="farm.json")
            with database.transaction():
                database.execute("UPDATE cache SET uri = ?", (desired.caches[MAIN].uri,))
            declared.adopt(database, desired, now=2.0)
            found = database.query(
                "SELECT 1 FROM push_root p JOIN cache c ON c.id = p.cache WHERE c.name = 'main'"
            )
            assert len(found) == left
