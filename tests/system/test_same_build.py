"""One build from a base that two branches have: what comes of it is seen to for both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.trial import Trial
from tests.system.test_audit import ALL, NONE, STALE
from tests.system.test_forks import outcomes
from tests.system.test_incremental import UNEQUAL, UNITS, Project


@pytest.fixture
def project(trial: Trial) -> Project:
    made = Project(trial)
    git = {"url": made.repository.url, "branches": ["main", "topic"]}
    made.source = {"git": git, "file": "release.nix"}
    return made


def branch_off(project: Project) -> None:
    """Have a second branch at the commit that is built next."""
    project.repository.branch("topic", project.repository.git("rev-parse", "main"))


def states(project: Project) -> dict[str, str]:
    """Of the job of each branch in force."""
    return dict(
        project.trial.query(
            "SELECT js.name, b.state FROM job j JOIN evaluation e ON e.id = j.evaluation"
            " JOIN jobset js ON js.id = e.jobset JOIN build b ON b.derivation = j.derivation"
            " WHERE j.attr = 'app' AND e.state = 'succeeded'"
        )
    )


def shared(project: Project) -> int:
    """Builds from a base that both branches had."""
    return len(
        project.trial.query(
            "SELECT 1 FROM build_base WHERE mode = 'incremental' GROUP BY derivation"
            " HAVING count(*) = 2 AND max(reason) LIKE 'starts from%'"
        )
    )


def test_where_it_fails_both_are_built_without(project: Project) -> None:
    project.commit("release.nix", UNEQUAL)
    project.declare()
    assert project.trial.once()
    project.edit(1, 5)
    branch_off(project)
    assert project.trial.once()
    assert shared(project) == 1
    assert states(project) == {"it@main": "succeeded", "it@topic": "succeeded"}


def test_where_it_is_wrong_both_are_built_right(project: Project) -> None:
    project.commit("src/Makefile", STALE)
    project.declare(audit=NONE)
    project.run()
    project.commit("src/common.h", "#define A 20\n")
    branch_off(project)
    project.run()
    assert outcomes(project) == {"main": "3", "topic": "3"}, "an object is stale"
    project.declare(audit=ALL)
    project.run()
    assert shared(project) >= 1
    assert outcomes(project) == {"main": "60", "topic": "60"}
    assert project.trial.conditions() == {}


def test_where_its_base_is_lost_both_are_built_in_full(project: Project) -> None:
    project.declare()
    project.run()
    path = project.trial.value("SELECT path FROM base")
    project.edit(1, 5)
    branch_off(project)
    project.declare_builders(drain=True)
    project.trial.once()
    assert shared(project) == 1
    (project.trial.state_dir / "gcroots/bases" / Path(path).name).unlink()
    project.trial.store.run("nix-store", "--delete", "--ignore-liveness", path)
    project.declare_builders(drain=False)
    assert len(project.compiled()) == UNITS + 1
    assert outcomes(project) == {"main": "7", "topic": "7"}
    assert project.trial.conditions() == {}
