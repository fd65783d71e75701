"""Jobs built in two stages: what did compile is not compiled again by the commit that mends."""

from __future__ import annotations

import re

import pytest

from reconciler.build import log as build_log
from tests.support.trial import Trial
from tests.system.test_incremental import RELEASE, UNITS, Project, unit_source

STAGED = RELEASE.replace('build = "make";', 'build = "make"; stages = "compile-finish";')
WRONG = "a mistake\n"


@pytest.fixture
def project(trial: Trial) -> Project:
    made = Project(trial)
    made.commit("release.nix", STAGED)
    return made


def compiled(project: Project, *, since: int) -> list[list[str]]:
    """What each build of the program after an attempt compiled, of those that compiled something;
    what failed to compile, too.
    """
    found = []
    for (attempt,) in project.trial.query(
        "SELECT a.id FROM attempt a JOIN derivation d ON d.id = a.derivation"
        " WHERE d.name = 'app' AND a.id > ? ORDER BY a.id",
        since,
    ):
        log = b"".join(build_log.read(project.trial.state_dir / "logs", attempt)).decode()
        units = sorted(re.findall(r"-c -o \S+ (\S+\.c)", log))
        found += [units] if units else []
    return found


def last_attempt(project: Project) -> int:
    return int(project.trial.value("SELECT max(id) FROM attempt") or 0)


def test_a_commit_that_mends_compiles_what_was_missing(project: Project) -> None:
    project.write("src/unit1.c", WRONG)
    project.commit("note", "broken from the beginning")
    project.declare()
    project.trial.once()
    assert project.trial.builds()["app"] == "failed"
    # In each stage: what failed is tried again, where the build fails with it.
    everything = sorted(["main.c", *(f"unit{unit}.c" for unit in range(UNITS))])
    assert compiled(project, since=0) == [everything, ["unit1.c"]]
    ((_, depth, quarantine),) = project.bases()
    assert (depth, quarantine) == (0, None)
    before = last_attempt(project)
    project.edit(1, 5)
    assert project.trial.once()
    assert compiled(project, since=before) == [["unit1.c"]]
    assert project.result() == "7"
    assert project.reasons()[-1][0] == "incremental"
    assert project.trial.conditions() == {}


def test_a_chain_goes_on_over_a_failure(project: Project) -> None:
    """A failure from a base is made sure of without one; neither it nor the base is to blame."""
    project.declare(audit={"fraction": 1})
    assert project.trial.once()
    project.write("src/unit1.c", WRONG)
    project.commit("src/unit2.c", unit_source(2, 7))
    before = last_attempt(project)
    project.trial.once()
    first, *_ = compiled(project, since=before)
    assert first == ["unit1.c", "unit2.c"]
    assert [mode for mode, reason in project.reasons() if "needs" not in reason] == [
        "full",
        "incremental",
        "full",
    ]
    before = last_attempt(project)
    project.edit(1, 5)
    assert project.trial.once()
    assert compiled(project, since=before)[0] == ["unit1.c"]
    assert project.result() == "13"
    assert [quarantine for _, _, quarantine in project.bases()] == [None] * 3
    assert project.trial.query("SELECT state FROM audit") == [("same",)]


def test_intermediates_of_both_stages_are_cached_once(project: Project) -> None:
    project.declare()
    document = project.trial.config.read_text()
    project.trial.config.write_text(document.replace('"uri"', '"push": "all", "uri"'))
    assert project.trial.once()
    own = project.trial.query("SELECT path FROM output WHERE name = 'intermediates'")
    assert len(own) == 2
    queued = {path for (path,) in project.trial.query("SELECT path FROM push")}
    assert queued.isdisjoint(path for (path,) in own)
    assert {path for (path,) in project.trial.query("SELECT path FROM base")} <= queued
