"""What an evaluation without any job says; those with jobs are tried in `system`."""

from __future__ import annotations

import pytest

from reconciler.evaluating import no_jobs
from reconciler.model import FlakeSource
from tests.support.jobsets import jobset

FLAKE = FlakeSource(url="git+https://git.example.org/website")


def test_of_a_flake_its_usual_attributes_are_named() -> None:
    said = no_jobs(jobset(FLAKE), broken=[])
    assert said == (
        "no jobs: there is no derivation in the flake's hydraJobs, or without these in its checks"
        " and packages; put some there, or name where they are in the jobset's attributes"
    )


def test_of_an_expression_its_file_is_named() -> None:
    said = no_jobs(jobset(), broken=[])
    assert "no derivation in what release.nix evaluates to; have it give a set of them" in said


@pytest.mark.parametrize("source", [FLAKE, None])
def test_declared_attributes_are_named_instead(source: FlakeSource | None) -> None:
    said = no_jobs(jobset(source, attributes=("ci", "packages.app")), broken=[])
    assert said == (
        "no jobs: there is no derivation in the attributes ci, packages.app; name others there"
    )


def test_so_are_declared_systems() -> None:
    said = no_jobs(jobset(systems=("x86_64-linux", "aarch64-linux")), broken=[])
    assert "no derivation for x86_64-linux or aarch64-linux in what release.nix" in said
    assert said.endswith("or add their systems to the jobset's systems")


def test_an_empty_list_takes_everything_away() -> None:
    assert "the jobset's attributes are an empty list" in no_jobs(jobset(attributes=()), broken=[])
    assert "the jobset's systems are an empty list" in no_jobs(jobset(systems=()), broken=[])


def test_where_all_is_broken_nothing_is_missing() -> None:
    assert no_jobs(jobset(), broken=["a", "b"]) == (
        "no jobs: a, b cannot be evaluated: `reconciler why tested.a`"
    )
    assert no_jobs(jobset(), broken=["a", "b", "c", "d", "e"]) == (
        "no jobs: a, b, c and 2 more cannot be evaluated: `reconciler why tested.a`"
    )
