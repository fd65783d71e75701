"""A repository that is rewritten by force: bases of commits that are gone there."""

from __future__ import annotations

import pytest

from tests.support.trial import Trial
from tests.system.test_incremental import CACHE_NIX, Project


@pytest.fixture
def project(trial: Trial) -> Project:
    return Project(trial)


def rewrite(project: Project) -> None:
    """Replace the newest commit by another one, and have nothing left of it upstream."""
    git = project.repository.git
    git("reset", "-q", "--hard", "HEAD~1")
    project.edit(2, 9)
    git("reflog", "expire", "--expire=now", "--all")
    git("gc", "-q", "--prune=now")


@pytest.mark.parametrize("protocol", ["arg", "cache.nix"])
def test_the_next_build_starts_from_what_is_gone_and_is_right(
    project: Project, protocol: str
) -> None:
    if protocol == "cache.nix":
        project.commit("release.nix", CACHE_NIX)
    project.declare(protocols=[protocol])
    project.run()
    project.edit(1, 5)
    assert project.compiled() == ["unit1.c"]
    rewrite(project)
    assert project.compiled() == ["unit1.c", "unit2.c"]
    assert project.result() == str(1 + 1 + 9)
    assert project.trial.conditions() == {}
