"""Builds that leave no base, and one whose base is let go and collected while it runs."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from reconciler.database import open_writer
from tests.support.trial import Trial
from tests.system.test_forks import told as verb
from tests.system.test_incremental import BY_HAND, CACHE_NIX, RELEASE, UNITS, Project
from tests.system.test_service import Gate


def told(project: Project) -> str:
    """What explain tells of the newest build, in one line."""
    return " ".join(verb(project, "explain", "it.app").split())


def test_a_build_that_runs_ends_from_what_was_let_go_and_leaves_nothing(trial: Trial) -> None:
    project, gate = Project(trial), Gate(trial)
    waiting = f'    build = "make";\n    setup = "read line < {gate.pipe}";\n'
    project.commit("release.nix", RELEASE.replace('    build = "make";\n', waiting))
    project.declare()
    kept = partial(trial.query, "SELECT path FROM base WHERE released_at IS NULL")
    with trial.running() as daemon:
        gate.open()
        daemon.eventually(kept)
    ((path,),) = kept()
    project.edit(1, 5)
    root = trial.state_dir / "gcroots/bases" / Path(path).name
    going_on = partial(
        trial.value,
        "SELECT 1 FROM build b JOIN build_base c ON c.derivation = b.derivation"
        " WHERE c.base IS NOT NULL AND b.state = ?",
    )
    with trial.running() as daemon:
        daemon.eventually(partial(going_on, "building"))
        assert daemon.ask("reset", "it.app").startswith("1 base is let go")
        daemon.eventually(lambda: not root.is_symlink())
        trial.store.run("nix-store", "--gc")
        gate.open()
        daemon.eventually(partial(going_on, "succeeded"))
    assert project.compiled() == ["unit1.c"]
    assert project.result() == "7"
    assert not kept(), "what it left goes back to what was let go"
    assert "it leaves no base: what it started from was let go: reset by tester" in told(project)
    project.commit("release.nix", RELEASE)
    assert len(project.compiled()) == UNITS + 1
    assert len(kept()) == 1
    assert trial.conditions() == {}


@pytest.mark.parametrize(
    ("leave", "why"),
    [
        ("echo $out >$intermediates", "its intermediates refer to /"),
        (
            "head -c 100000 /dev/zero >$intermediates",
            "its intermediates have 97.8KiB, more than retention.maxSize allows (10KiB)",
        ),
        (
            "mkdir $intermediates; echo unusable it was Monday >$intermediates/incremental",
            "it was Monday",
        ),
    ],
)
def test_what_cannot_be_a_base_is_told_and_costs_a_full_build(
    trial: Trial, leave: str, why: str
) -> None:
    project = Project(trial)
    project.commit("release.nix", BY_HAND.replace("@build@", f"echo > $out; {leave}"))
    project.declare(retention={"maxSize": "10KiB"})
    assert trial.once()
    project.edit(1, 5)
    assert trial.once()
    (first, second) = project.reasons()
    assert first[0] == second[0] == "full"
    assert f"its newest build left no base: {why}" in second[1]
    assert f"it leaves no base: {why}" in told(project)
    assert trial.conditions() == {}


def test_a_commit_of_ours_that_cannot_be_fetched_costs_a_full_build(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(trial)
    project.commit("release.nix", CACHE_NIX)
    project.declare(protocols=["cache.nix"])
    project.run()
    programs = trial.root / "programs"
    programs.mkdir()
    (programs / "git").write_text(
        "#!/bin/sh\n"
        'case "$*" in *fetch*file://*/overlays/*) echo it is gone >&2; exit 1 ;; esac\n'
        f'exec {shutil.which("git")} "$@"\n'
    )
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    project.edit(1, 5)
    assert len(project.compiled()) == UNITS + 1
    assert project.reasons()[-1][1].startswith("built in full: with a base it does not evaluate: ")
    assert "Failed to fetch git repository" in project.reasons()[-1][1]
    assert project.result() == "7"
    assert trial.conditions() == {}


def test_a_chain_is_no_longer_and_no_older_than_is_declared(trial: Trial) -> None:
    project = Project(trial)
    project.declare(chain={"maxDepth": 2, "fullEvery": "7d"})
    compiled = []
    for number in range(2, 7):
        project.edit(1, number)
        compiled.append(len(project.compiled()))
    assert compiled == [UNITS + 1, 1, 1, UNITS + 1, 1]
    assert [depth for _, depth, _ in project.bases()] == [2, 0, 1]
    assert any("2 builds after a full one" in reason for _, reason in project.reasons())
    with (
        closing(open_writer(trial.state_dir, now=time.time())) as database,
        database.transaction(),
    ):
        database.execute("UPDATE base SET full_at = full_at - 7 * 86400")
    project.edit(1, 7)
    assert len(project.compiled()) == UNITS + 1
    assert "chain.fullEvery is 7d" in project.reasons()[-1][1]
