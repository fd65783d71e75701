"""Whose builds took the builders' time, told from the attempts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlite_utils

from reconciler.database import database_path, open_writer
from reconciler.database.file import MIGRATIONS
from reconciler.database.migrations import migrations
from reconciler.database.usage import HALF_LIFE, WINDOW, charge, recent_usage
from reconciler.model import JobsetName, Outcome
from tests.cli.farm import Farm
from tests.support.invariants import check_database

WEB, NEXT = JobsetName("web"), JobsetName("web.next")


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path)
    made.declare()
    made.derivations({"site-1.0": [], "lib-1.0": []})
    yield made
    made.database.close()
    check_database(database_path(made.state_dir))


def build(farm: Farm, name: str, *jobsets: JobsetName) -> None:
    """Of four seconds."""
    attempt = farm.start(name)
    with farm.database.transaction():
        charge(farm.database, attempt, jobsets)
    farm.end(attempt, name, Outcome.INFRASTRUCTURE)


def usage(farm: Farm, *, later: float = 0.0) -> dict[JobsetName, float]:
    return recent_usage(farm.database, now=farm.now + later)


def test_what_several_want_is_paid_by_each_in_part(farm: Farm) -> None:
    build(farm, "site-1.0", WEB)
    build(farm, "lib-1.0", WEB, NEXT)
    assert usage(farm) == pytest.approx({WEB: 6.0, NEXT: 2.0})


def test_what_nobody_wanted_and_what_goes_on_is_left_out(farm: Farm) -> None:
    build(farm, "site-1.0")
    attempt = farm.start("lib-1.0")
    with farm.database.transaction():
        charge(farm.database, attempt, [WEB])
    assert usage(farm, later=10) == {}


def test_it_counts_less_and_less_and_then_no_more(farm: Farm) -> None:
    build(farm, "site-1.0", WEB)
    assert usage(farm, later=HALF_LIFE)[WEB] == pytest.approx(2.0, rel=0.1)
    assert usage(farm, later=3 * HALF_LIFE)[WEB] == pytest.approx(0.5, rel=0.1)
    assert usage(farm, later=WINDOW + 60) == {}


def test_a_clock_that_was_set_back_makes_it_no_more(farm: Farm) -> None:
    build(farm, "site-1.0", WEB)
    assert usage(farm, later=-HALF_LIFE)[WEB] == pytest.approx(4.0)


def test_a_state_of_the_first_schema_is_taken_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(database_path(tmp_path))) as connection:
        old = sqlite_utils.Database(connection)
        migrations(MIGRATIONS).apply(old, stop_before="m002_charges")
        connection.execute("INSERT INTO generation VALUES (1, 'd', '{}', 1.0)")
        connection.execute("INSERT INTO jobset(id, name, generation) VALUES (1, 'web', 1)")
        connection.commit()
    database = open_writer(tmp_path, now=2.0)
    assert recent_usage(database, now=2.0) == {}
    assert [row[0] for row in database.query("SELECT name FROM jobset")] == ["web"]
    assert (tmp_path / "reconciler.db.before-m002_charges").exists()
    told = database.query("SELECT subject FROM event WHERE kind = 'schema' ORDER BY id")
    assert [row[0] for row in told] == [*MIGRATIONS[1:]]
    assert database.integrity() == []
    database.close()
