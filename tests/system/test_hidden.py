"""Hidden bases by the whole reconciler: builds are shown them, and nobody else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shown import install, view_of
from tests.support.trial import Trial
from tests.system.test_incremental import RELEASE, UNITS, Project

HIDDEN = RELEASE.replace("    base = incrementalBases.app or null;\n", "").replace(
    "{ incrementalBases ? { } }:\n", ""
)
NO_HOOK = "built in full: Nix ran no pre-build-hook of ours for it: "
NO_VIEW = "built in full: the store's read-only view is not there: see `reconciler doctor`"


@pytest.fixture
def project(trial: Trial) -> Project:
    made = Project(trial)
    made.commit("release.nix", HIDDEN)
    return made


@pytest.fixture
def view(trial: Trial) -> Path:
    return install(trial)


@pytest.fixture
def shown(trial: Trial, view: Path) -> Iterator[None]:
    """The hook is there, and the view that it needs."""
    with view_of(trial, view):
        yield


@pytest.mark.usefixtures("shown")
def test_each_commit_compiles_what_changed_by_the_canonical_derivation(project: Project) -> None:
    project.declare(strategy="hidden")
    assert len(project.compiled()) == UNITS + 1
    project.edit(1, 5)
    assert project.compiled() == ["unit1.c"]
    assert project.result() == "7"
    project.edit(2, 7)
    assert project.compiled() == ["unit2.c"]
    assert [depth for _, depth, _ in project.bases()] == [0, 1, 2]
    assert [mode for mode, _ in project.reasons()] == ["full", "incremental", "incremental"]
    rows = project.trial.query(
        "SELECT d.path, c.canonical, c.strategy FROM build_base c"
        " JOIN derivation d ON d.id = c.derivation"
    )
    assert all(path == canonical and how == "hidden" for path, canonical, how in rows)
    assert project.trial.conditions() == {}
    assert list((project.trial.state_dir / "mounts").iterdir()) == []


def test_without_the_hook_it_is_a_full_build_with_the_reason(project: Project) -> None:
    project.declare(strategy="hidden")
    project.run()
    project.edit(1, 5)
    assert len(project.compiled()) == UNITS + 1
    mode, reason = project.reasons()[-1]
    assert mode == "full"
    assert reason.startswith(NO_HOOK)
    ((_, _, name),) = project.trial.conditions()
    assert name == "not-shown"


@pytest.mark.usefixtures("view")
def test_without_a_read_only_view_nothing_is_shown(project: Project) -> None:
    project.declare(strategy="hidden")
    project.run()
    project.edit(1, 5)
    assert len(project.compiled()) == UNITS + 1
    assert project.reasons()[-1] == ("full", NO_VIEW)
