"""What a daemon that was killed wrote down in part: the next one does the rest of it."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from reconciler.database import Database, incremental, open_writer
from reconciler.places import Places
from tests.support.shown import install, mounted
from tests.support.trial import Trial
from tests.system.test_audit import ALL, NONE, STALE, audits, cached, in_force
from tests.system.test_hidden import HIDDEN, UNEQUAL, declare_without_caches, nar_hashes
from tests.system.test_incremental import RELEASE, UNITS, Project

WRONG = "it is wrong"


@pytest.fixture
def project(trial: Trial) -> Project:
    return Project(trial)


@pytest.fixture
def hidden(trial: Trial, project: Project) -> Iterator[Project]:
    """Its builds are shown their bases, and it lacks a dependency: what the header changes."""
    with mounted(trial.store.store_dir, install(trial), options="bind,ro"):
        project.write("src/Makefile", STALE)
        project.commit("release.nix", HIDDEN)
        yield project


@contextmanager
def written(project: Project) -> Iterator[Database]:
    """The database between two daemons."""
    project.trial.settled = False
    with closing(open_writer(project.trial.state_dir, now=time.time())) as database:
        yield database


def quarantine(project: Project) -> None:
    """Of the first base, and nothing of what follows."""
    with written(project) as database:
        assert incremental.quarantine(database, 1, reason=WRONG, now=time.time())


def delete(project: Project, *paths: str) -> None:
    project.trial.collected = True
    project.trial.store.run("nix-store", "--delete", "--ignore-liveness", *paths)


def outputs(project: Project) -> dict[str, str]:
    """Those of the newest derivation of the job, by name."""
    return dict(
        project.trial.query(
            "SELECT name, path FROM output WHERE derivation ="
            " (SELECT max(id) FROM derivation WHERE name = 'app')"
        )
    )


def build_wrong(project: Project) -> None:
    """A build from a base that did not see what changed."""
    project.run()
    project.commit("src/common.h", "#define A 2\n")
    project.trial.once()
    assert project.result() == str(UNITS), "the header was not seen"


def wrong_and_unsent(project: Project) -> set[str]:
    """Outputs that are on the way to the cache, and wrong, as nobody knows."""
    project.write("src/Makefile", STALE)
    project.commit("unrelated", "")
    project.declare(audit=NONE)
    project.run()
    project.commit("src/common.h", "#define A 2\n")
    key = project.trial.root / "key"
    away = key.rename(key.with_name("away"))  # without it nothing is sent
    project.trial.once()
    away.rename(key)
    assert project.result() == str(UNITS), "the header was not seen"
    wrong = {*in_force(project).values()}
    queued = "SELECT path FROM push WHERE state = 'pending'"
    assert {path for (path,) in project.trial.query(queued)} >= wrong
    return wrong


@pytest.mark.parametrize("state", ["pending", "pushing"])
def test_what_was_on_its_way_to_a_cache_when_it_turned_out_wrong_stays_here(
    project: Project, state: str
) -> None:
    wrong = wrong_and_unsent(project)
    quarantine(project)
    with written(project) as database, database.transaction():
        database.execute("UPDATE push SET state = ? WHERE state = 'pending'", (state,))
    assert project.trial.once()
    assert project.result() == str(2 * UNITS)
    assert cached(project).isdisjoint(wrong)
    assert set(in_force(project).values()) <= cached(project)
    assert project.trial.conditions() == {}


def test_what_a_person_puts_into_quarantine_is_not_pushed_from_then_on(project: Project) -> None:
    wrong = wrong_and_unsent(project)
    project.trial.request("quarantine", "1")
    assert project.trial.once()
    assert project.result() == str(2 * UNITS)
    assert cached(project).isdisjoint(wrong)


def test_a_base_is_rooted_although_it_was_only_recorded(project: Project) -> None:
    project.declare(audit=NONE)
    project.run()
    (path,) = project.trial.query("SELECT path FROM base")[0]
    link = Places(project.trial.state_dir, project.trial.env).roots / "bases" / Path(path).name
    link.unlink()
    project.trial.settled = False
    assert project.trial.once()
    assert link.is_symlink()


def test_what_is_audited_and_was_lost_is_built_again_before_it_is_compared(
    project: Project,
) -> None:
    project.declare(audit=ALL)
    project.run()
    project.edit(1, 5)
    assert project.trial.once()
    assert audits(project) == [("same", None)]
    (audited,) = project.trial.query("SELECT derivation FROM audit")[0]
    lost = project.trial.query("SELECT path FROM output WHERE derivation = ?", audited)
    delete(project, *(path for (path,) in lost))
    with written(project) as database, database.transaction():
        database.execute("UPDATE audit SET state = 'running', finished_at = NULL")
    assert project.trial.once()
    assert audits(project) == [("same", None)]


def test_a_build_that_failed_from_its_base_is_never_taken_for_one_that_failed_without(
    hidden: Project,
) -> None:
    hidden.commit("release.nix", UNEQUAL)
    hidden.declare(strategy="hidden")
    assert hidden.trial.once()
    hidden.edit(1, 5)
    with written(hidden) as database:
        database.connection.execute(
            "CREATE TRIGGER killed BEFORE UPDATE OF state ON build"
            " WHEN OLD.state = 'failed' AND NEW.state = 'queued'"
            " BEGIN SELECT RAISE(ABORT, 'killed'); END"
        )
    with pytest.raises(sqlite3.IntegrityError, match="killed"):
        hidden.trial.once()
    with written(hidden) as database:
        database.connection.execute("DROP TRIGGER killed")
    assert hidden.trial.once()
    assert hidden.trial.attempts("app") == ["succeeded", "failed", "succeeded"]
    assert hidden.reasons()[-1] == ("full", "built in full: it failed from a base")


@pytest.mark.parametrize("left", [("intermediates",), ("out",), ()], ids=str)
def test_what_was_deleted_in_part_is_built_once(hidden: Project, left: tuple[str, ...]) -> None:
    """Nix leaves outputs alone that are there, when it makes those that are not."""
    declare_without_caches(hidden)
    build_wrong(hidden)
    quarantine(hidden)
    delete(hidden, *(path for name, path in outputs(hidden).items() if name not in left))
    assert hidden.trial.once()
    assert hidden.result() == str(2 * UNITS)
    assert hidden.reasons()[-1][0] == "full"
    assert hidden.trial.conditions() == {}
    if left:
        assert hidden.trial.attempts("app") == ["succeeded"] * 3


def test_what_is_wrong_of_a_job_that_is_gone_is_not_another_s(hidden: Project) -> None:
    declare_without_caches(hidden)
    build_wrong(hidden)
    before = in_force(hidden)
    quarantine(hidden)
    document = json.loads(hidden.trial.config.read_text())
    source = document["jobsets"]["it"]["source"]
    document["jobsets"] = {"other": {"source": source, "caches": ["main"]}}
    hidden.trial.document(document)
    assert hidden.trial.once()
    assert in_force(hidden) == before, "at the same path"
    assert hidden.result() == str(2 * UNITS)
    assert set(before.values()) <= cached(hidden)
    assert hidden.trial.conditions() == {}


def test_an_audit_that_came_to_nothing_is_told_of_no_full_build(hidden: Project) -> None:
    hidden.declare(strategy="hidden")
    hidden.run()
    with written(hidden) as database, database.transaction():
        database.execute(
            "INSERT INTO audit(derivation, clean, state, detail, asked_at, finished_at)"
            " SELECT derivation, canonical, 'failed', 'it was lost', 1, 2 FROM build_base"
        )
        database.execute("UPDATE build_base SET strategy = 'hidden'")
    assert hidden.trial.once()
    assert hidden.trial.conditions() == {}


@pytest.mark.parametrize("strategy", ["pure", "hidden"])
def test_killed_at_any_moment_what_is_wrong_is_not_pushed_and_the_farm_heals(
    hidden: Project, strategy: str
) -> None:
    chance = random.Random(strategy)  # noqa: S311 - not a secret
    if strategy == "pure":
        hidden.commit("release.nix", RELEASE)
    hidden.declare(strategy=strategy, audit={"fraction": 1, "beforeRelease": True})
    hidden.run()
    hidden.commit("src/common.h", "#define A 2\n")
    for _ in range(3):
        told = hidden.trial.value("SELECT max(id) FROM event") or 0
        with hidden.trial.running(wait=False) as daemon:
            until = partial(hidden.has_told, told + chance.randint(1, 25))
            with suppress(AssertionError):
                daemon.eventually(until, deadline=2)
            daemon.kill()
        hidden.trial.until_nothing_runs()
    assert hidden.trial.once()
    assert hidden.result() == str(2 * UNITS)
    assert set(in_force(hidden).values()) <= cached(hidden)
    assert hidden.trial.conditions() == {}
    told = ("nix", "path-info", "--json", "--json-format", "1")
    kept = hidden.trial.store.run(*told, *in_force(hidden).values())
    there = ("--store", f"file://{hidden.trial.root}/cache")
    served = hidden.trial.store.run(*told, *there, *in_force(hidden).values())
    assert nar_hashes(served.stdout) == nar_hashes(kept.stdout)
