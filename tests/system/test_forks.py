"""Branches of forks by the whole reconciler: they take from trusted branches, and give nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli import cli
from tests.support.trial import Trial
from tests.system.test_audit import ALL, STALE, audits
from tests.system.test_incremental import UNITS, Project, unit_source
from tests.system.test_incremental_verbs import verb

PULL = "refs/pull/1/head"


@pytest.fixture
def project(trial: Trial) -> Project:
    """A project whose makefile lacks a dependency: stale objects stay where a base has such."""
    made = Project(trial)
    made.write("src/Makefile", STALE)
    made.commit("note", "")
    git = {"url": made.repository.url, "branches": ["main", "topic", "refs/pull/*/head"]}
    made.source = {"git": git, "file": "release.nix"}
    return made


def push_fork(project: Project, name: str, text: str) -> str:
    """A commit on top of a pull request, or of main where there is none yet, as a forge has it."""
    known = project.repository.git("for-each-ref", "--format=%(refname)", PULL)
    project.repository.git("checkout", "-q", "--detach", known or "main")
    revision = project.commit(name, text)
    project.repository.git("update-ref", PULL, revision)
    project.repository.git("checkout", "-q", "main")
    return revision


def poison(project: Project) -> str:
    """Have a fork's newest base hold an object of other than its source; the last commit."""
    project.run()
    project.repository.git("checkout", "-q", "--detach", "main")
    project.write("src/common.h", "#define A 20\n")
    project.repository.git("update-ref", PULL, project.commit("src/unit1.c", unit_source(1, 5)))
    assert project.compiled() == ["unit1.c"], "it starts from what main left"
    revision = push_fork(project, "src/common.h", "#define A 1\n")
    assert project.compiled() == []
    assert project.result() == "102", "it starts from its own"
    return revision


def told(project: Project, *arguments: str) -> str:
    """What a verb of `incremental` prints."""
    places = ["--config", str(project.trial.config), "--state-dir", str(project.trial.state_dir)]
    result = CliRunner().invoke(cli, ["incremental", *arguments, *places], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def slots(project: Project) -> list[tuple[str, str]]:
    return project.trial.query(
        "SELECT s.branch, s.trust FROM build_base c JOIN incremental_slot s ON s.id = c.slot"
        " WHERE s.job = 'app' ORDER BY c.at"
    )


def test_what_a_fork_left_reaches_no_other_branch_though_it_is_merged(project: Project) -> None:
    project.declare()
    poisoned = poison(project)
    project.repository.git("merge", "-q", "--no-ff", "-m", "merge", poisoned)
    # A branch from the fork's commit: that is its parent, and where it left main.
    project.repository.branch("topic", poisoned)
    project.edit(2, 7)
    project.run()
    results = project.trial.query(
        "SELECT s.branch, b.depth, b.revision FROM base b JOIN incremental_slot s ON s.id = b.slot"
        " WHERE b.parent IN (SELECT b.id FROM base b JOIN incremental_slot s ON s.id = b.slot"
        "  WHERE s.branch = ?) ORDER BY b.id",
        PULL,
    )
    assert [branch for branch, _, _ in results] == [PULL]
    assert outcomes(project) == {"main": "7", "topic": "13", PULL: "102"}
    assert {*slots(project)} == {("main", "it"), ("topic", "it"), (PULL, f"it@{PULL}")}
    marked = [line for line in told(project, "status").splitlines() if "untrusted" in line]
    assert {(*line.split()[1:3],) for line in marked} == {(PULL, "(untrusted)")}
    assert "for its untrusted branch alone" in told(project, "bases", f"it@{PULL}.app")
    assert "what it leaves serves no other" in told(project, "explain", f"it@{PULL}.app")
    assert "untrusted" not in told(project, "bases", "it@topic.app")
    assert project.trial.conditions() == {}


def test_a_fork_merged_as_it_is_is_built_without_what_it_left(project: Project) -> None:
    project.declare()
    poisoned = poison(project)
    verb(project, "reset", "it@main.app")
    project.repository.git("merge", "-q", "--ff-only", poisoned)
    assert len(project.compiled()) == UNITS + 1, "the fork's was the parent, and the fork point"
    assert outcomes(project) == {"main": "7", PULL: "102"}
    project.edit(2, 7)
    assert project.compiled() == ["unit2.c"]
    assert outcomes(project)["main"] == "13"


def test_a_branch_that_is_trusted_no_longer_serves_no_more(project: Project) -> None:
    project.declare(untrusted=["!refs/pull/*"])
    poisoned = poison(project)
    assert {trust for _, trust in slots(project)} == {"it"}
    project.declare()
    project.repository.branch("topic", poisoned)
    project.edit(2, 7)
    project.run()
    assert outcomes(project) == {"main": str(UNITS), "topic": "13", PULL: "102"}


def test_what_a_fork_builds_wrong_says_nothing_of_what_others_left(project: Project) -> None:
    project.declare(audit=ALL)
    project.run()
    push_fork(project, "src/common.h", "#define A 20\n")
    assert project.trial.once()
    assert audits(project) == [("different", "the output out differs in app")]
    assert outcomes(project) == {"main": "3", PULL: "60"}, "it was built right"
    assert project.trial.query(
        "SELECT s.branch, b.quarantine FROM base b JOIN incremental_slot s ON s.id = b.slot"
        " WHERE b.quarantine IS NOT NULL"
    ) == [(PULL, "an audit: the output out differs in app")]
    project.edit(1, 5)
    project.run()
    mode = project.trial.query("SELECT mode, base FROM build_base ORDER BY at DESC")[0]
    assert mode == ("incremental", 1)


def outcomes(project: Project) -> dict[str, str]:
    """What the program of each branch in force comes to."""
    rows = project.trial.query(
        "SELECT js.name, o.path FROM job j JOIN evaluation e ON e.id = j.evaluation"
        " JOIN jobset js ON js.id = e.jobset"
        " JOIN output o ON o.derivation = j.derivation AND o.name = 'out'"
        " WHERE j.attr = 'uses' AND e.state = 'succeeded'"
    )
    return {name.removeprefix("it@"): Path(path).read_text().strip() for name, path in rows}


def test_a_fork_cannot_have_a_wrong_build_of_others_found_right(project: Project) -> None:
    """It says that the derivation which main will build is in place of one that it made up."""
    project.declare(audit=ALL)
    project.run()
    shutil.copytree(project.folder / "src", project.folder / "made-up")
    project.write("made-up/unit0.c", "// another one\n" + unit_source(0, 1))
    text = (project.folder / "release.nix").read_text()
    project.write(
        "release.nix",
        text.replace("./src;", "if incrementalBases ? app then ./src else ./made-up;"),
    )
    push_fork(project, "src/common.h", "#define A 20\n")
    assert project.trial.once()
    assert audits(project) == [("same", None)], "its made-up one comes to what is wrong here"
    project.commit("src/common.h", "#define A 20\n")
    project.run()
    assert outcomes(project)["main"] == "60"
    assert audits(project) == [("different", "the output out differs in app")]
