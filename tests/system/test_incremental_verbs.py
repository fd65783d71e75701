"""The verbs of incremental builds over a whole reconciler: repeat, quarantine, reset."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner

from reconciler.cli import cli
from tests.support.trial import Trial
from tests.system.test_incremental import CACHE_NIX, UNITS, Project


@pytest.fixture
def project(trial: Trial) -> Project:
    return Project(trial)


def verb(project: Project, *arguments: str) -> Any:
    places = ["--config", str(project.trial.config), "--state-dir", str(project.trial.state_dir)]
    result = CliRunner().invoke(
        cli, ["incremental", *arguments, "--json", *places], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def elsewhere(project: Project, script: str, name: str) -> list[str]:
    """What a script prints in an empty store of the same name, its derivations."""
    root = project.trial.root / name
    root.mkdir()
    environment = {
        **project.trial.env,
        "NIX_REMOTE": f"local?root={root}",
        "NIX_STATE_DIR": str(root / "var"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "HOME": str(root),
    }
    done = subprocess.run(
        ["sh", "-c", script], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [line.partition("!")[0] for line in done.stdout.splitlines()]


@contextmanager
def nothing_of_ours(project: Project) -> Iterator[None]:
    """While our state and our store are not there."""
    ours = [project.trial.state_dir, project.trial.store.root]
    away = [each.with_name(f"{each.name}.away") for each in ours]
    for folder, place in zip(ours, away, strict=True):
        folder.rename(place)
    try:
        yield
    finally:
        for folder, place in zip(ours, away, strict=True):
            shutil.rmtree(folder, ignore_errors=True)
            place.rename(folder)


def in_force(project: Project) -> dict[str, str]:
    """The newest evaluation's derivations by job."""
    return dict(
        project.trial.query(
            "SELECT j.attr, d.path FROM job j JOIN derivation d ON d.id = j.derivation"
            " WHERE j.evaluation = (SELECT max(id) FROM evaluation)"
        )
    )


def test_a_replay_makes_the_same_derivations_in_another_store(project: Project) -> None:
    project.declare()
    project.run()
    full = in_force(project)
    first = verb(project, "replay", "it.app")
    assert elsewhere(project, first["script"], "first") == [full["app"]]
    project.edit(1, 5)
    project.run()
    built = in_force(project)
    job = verb(project, "replay", "it.app")
    assert job["jobs"] == ["app"]
    assert elsewhere(project, job["script"], "second") == [built["app"]]
    whole = verb(project, "replay", str(job["evaluation"]))
    assert sorted(whole["jobs"]) == ["app", "uses"]
    assert elsewhere(project, whole["script"], "third") == [built[each] for each in whole["jobs"]]
    # Evaluated again, a job is what it was: what made it so is still found.
    project.trial.request("trigger", "it")
    assert project.trial.once()
    assert in_force(project) == built
    assert verb(project, "replay", "it.app") == job


@pytest.mark.parametrize("protocol", ["garnix", "cache.nix"])
def test_a_replay_needs_nothing_but_what_is_public(project: Project, protocol: str) -> None:
    """Neither our state, with overlays and bases, nor our store."""
    if protocol == "garnix":
        project.use_garnix()
        app = "packages.x86_64-linux.app"
    else:
        project.commit("release.nix", CACHE_NIX)
        app = "app"
    project.declare(protocols=[protocol])
    project.run()
    project.edit(1, 5)
    assert project.compiled() == ["unit1.c"]
    built = in_force(project)
    scripts = [verb(project, "replay", f"it.{app}")]
    scripts.append(verb(project, "replay", str(scripts[0]["evaluation"])))
    with nothing_of_ours(project):
        for number, each in enumerate(scripts):
            made = elsewhere(project, each["script"], f"elsewhere{number}")
            assert made == [built[job] for job in each["jobs"]]
    assert scripts[0]["jobs"] == [app]
    assert len(scripts[1]["jobs"]) == 2


def test_after_a_reset_the_next_build_is_a_full_one(project: Project) -> None:
    project.declare()
    project.run()
    verb(project, "reset", "it.app", "--why", "another linker")
    project.edit(1, 5)
    assert len(project.compiled()) == UNITS + 1
    assert project.trial.query("SELECT answer FROM request") == [
        ("1 base is let go: its next build is a full one",)
    ]
    assert project.reasons()[-1][0] == "full"


def test_nothing_starts_from_a_base_in_quarantine(project: Project) -> None:
    project.declare(audit={"fraction": 0})
    project.run()
    project.edit(1, 5)
    project.run()
    verb(project, "quarantine", "1", "--why", "wrong dates")
    project.edit(2, 7)
    assert len(project.compiled()) == UNITS + 1
    ((answer,),) = project.trial.query("SELECT answer FROM request")
    assert answer == "base 1 is in quarantine, and 1 from it"
    assert str(project.bases()[0][2]).endswith(": wrong dates")
    assert project.result() == "13"


def test_what_is_of_no_jobset_any_more_is_let_go_by_the_daemon(project: Project) -> None:
    """Also of the last with incremental builds."""
    trial = project.trial
    project.commit("release.nix", CACHE_NIX)
    project.declare(protocols=["cache.nix"])
    project.run()
    project.edit(1, 5)
    assert project.compiled() == ["unit1.c"]
    roots, overlays = trial.state_dir / "gcroots/bases", trial.state_dir / "overlays"
    assert len([*roots.iterdir()]) == 2
    assert [each.name for each in overlays.iterdir()] == ["it"]
    trial.declare({"other": "{ }"})
    trial.once()
    assert project.bases() == []
    assert [*roots.iterdir()] == []
    assert [*overlays.iterdir()] == []
    assert verb(project, "gc", "--dry-run")["leftovers"] == []
    project.declare(protocols=["cache.nix"])
    project.edit(1, 6)
    assert len(project.compiled()) == UNITS + 1
    project.edit(1, 7)
    assert project.compiled() == ["unit1.c"], "with a repository that was made anew"


def test_other_retention_is_heeded_at_once(project: Project) -> None:
    project.declare()
    project.run()
    project.edit(1, 5)
    project.run()
    assert [depth for _, depth, _ in project.bases()] == [0, 1]
    project.declare(retention={"perSlot": 1})
    project.trial.once()
    assert [depth for _, depth, _ in project.bases()] == [1]
    assert len([*(project.trial.state_dir / "gcroots/bases").iterdir()]) == 1
