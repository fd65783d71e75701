"""Branches by pattern: each is a jobset of its own for as long as it is there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.repositories import Repository
from tests.support.trial import PREAMBLE, Trial

FILE = "release.nix"


def job(name: str) -> str:
    return PREAMBLE + f'{{ it = job "{name}" "echo {name} > $out"; }}'


@pytest.fixture
def repository(trial: Trial) -> Repository:
    made = Repository.create(trial.root / "repository")
    made.commit(FILE, job("main"))
    return made


def declare(trial: Trial, repository: Repository, *patterns: str, **rest: Any) -> None:
    git = {"url": repository.url, "branches": patterns, **rest.pop("git", {})}
    trial.declare({"web": {"source": {"git": git, "file": FILE}, "keep": 5, **rest}})


def jobsets(trial: Trial) -> set[str]:
    """The branches in force."""
    return {
        name
        for (name,) in trial.query(
            "SELECT name FROM jobset WHERE removed_at IS NULL AND pattern IS NOT NULL"
        )
    }


def add(repository: Repository, branch: str) -> str:
    repository.branch(branch)
    return repository.commit(FILE, job(branch.replace("/", "-")))


def test_branches_come_and_go_and_come_again(trial: Trial, repository: Repository) -> None:
    add(repository, "release-1")
    add(repository, "other")
    declare(trial, repository, "main", "release-*")
    assert trial.once()
    assert jobsets(trial) == {"web@main", "web@release-1"}
    assert trial.builds() == {"main": "succeeded", "release-1": "succeeded"}
    assert trial.conditions() == {}

    add(repository, "release-2")
    repository.git("branch", "-m", "release-1", "release-1b")
    assert trial.once()
    assert jobsets(trial) == {"web@main", "web@release-1b", "web@release-2"}
    assert trial.attempts("release-1") == ["succeeded"]  # the same commit: nothing is built again
    assert trial.evaluations("web@release-1") == [("superseded", None)]

    repository.git("branch", "release-1", "release-1b")
    assert trial.once()
    assert trial.evaluations("web@release-1") == [("superseded", None), ("succeeded", None)]
    stories = trial.query("SELECT after, cause FROM event WHERE subject = 'web@release-1'")
    assert stories == [
        ("declared", "its branch is there"),
        ("pruned", "its branch is gone"),
        ("declared", "its branch is there"),
    ]
