"""Branches that are jobsets, as they are stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlite_utils

from reconciler.config import parse
from reconciler.database import Database, declared, open_memory, open_writer
from reconciler.database.branches import known, set_branches
from reconciler.database.evaluated import Origin, begin_evaluation
from reconciler.database.file import MIGRATIONS, database_path
from reconciler.database.migrations import migrations
from reconciler.database.observe import jobsets, suspended_jobsets
from reconciler.model import JobsetName

WEB, MAIN, TOPIC = JobsetName("web"), JobsetName("web@main"), JobsetName("web@topic")
FOR_BRANCHES = b"jobsets: {web: {source: {git: {url: /srv/x, branches: ['*']}}}}"


@pytest.fixture
def database() -> Iterator[Database]:
    with closing(open_memory(now=1.0)) as made:
        declared.adopt(made, parse(FOR_BRANCHES, name="farm"), now=1.0)
        yield made


def test_what_was_listed_stays_known_until_it_is_listed_again(database: Database) -> None:
    assert known(database) == {}
    set_branches(database, WEB, {MAIN: "main", TOPIC: "topic"}, now=2.0)
    assert known(database) == {WEB: {MAIN: "main", TOPIC: "topic"}}
    set_branches(database, WEB, {MAIN: "main"}, now=3.0)
    assert known(database) == {WEB: {MAIN: "main"}}
    assert jobsets(database)[TOPIC].removed
    set_branches(database, WEB, {}, now=4.0)
    assert known(database) == {}


def test_a_listing_that_changes_nothing_writes_nothing(database: Database) -> None:
    set_branches(database, WEB, {MAIN: "main"}, now=2.0)
    before = database.connection.total_changes
    set_branches(database, WEB, {MAIN: "main"}, now=3.0)
    assert database.connection.total_changes == before


def test_branches_are_suspended_with_their_jobset(database: Database) -> None:
    set_branches(database, WEB, {MAIN: "main", TOPIC: "topic"}, now=2.0)
    declared.suspend(database, TOPIC, who="ann", why="", now=3.0)
    assert suspended_jobsets(database) == {TOPIC}
    declared.suspend(database, WEB, who="ann", why="", now=3.0)
    assert suspended_jobsets(database) == {WEB, MAIN, TOPIC}


def test_a_branch_that_is_declared_by_itself_is_none_any_more(database: Database) -> None:
    set_branches(database, WEB, {MAIN: "main", TOPIC: "topic"}, now=2.0)
    document = b"jobsets: {web@main: {source: {path: /x}}}"
    declared.adopt(database, parse(document, name="farm"), now=3.0)
    assert known(database) == {}
    rows = database.query("SELECT name, branch, removed_at FROM jobset ORDER BY name")
    assert [tuple(row) for row in rows] == [
        ("web", None, 3.0),
        ("web@main", None, None),
        ("web@topic", "topic", 3.0),
    ]


def test_a_state_from_before_there_were_branches_is_taken_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(database_path(tmp_path))) as connection:
        migrations(MIGRATIONS).apply(sqlite_utils.Database(connection), stop_before="m005_branches")
        connection.execute("INSERT INTO generation VALUES (1, 'd', '{}', 1.0)")
        connection.execute("INSERT INTO jobset(id, name, generation) VALUES (1, 'web', 1)")
        connection.execute(
            "INSERT INTO evaluation(jobset, state, fingerprint, locked, cause, started_at)"
            " VALUES (1, 'succeeded', 'f', 'x?rev=1', 'start', 1.0)"
        )
        connection.commit()
    with closing(open_writer(tmp_path, now=2.0)) as database:
        assert database.integrity() == []
        assert [*jobsets(database)] == ["web"]
        origin = Origin(revision="2" * 40, ancestors=("1" * 40,), merge_base="0" * 40)
        begin_evaluation(
            database, WEB, fingerprint="g", locked="x", cause="c", now=3.0, origin=origin
        )
        rows = database.query("SELECT revision, ancestors, merge_base FROM evaluation ORDER BY id")
        assert [tuple(row) for row in rows] == [
            (None, "[]", None),
            ("2" * 40, f'["{"1" * 40}"]', "0" * 40),
        ]
