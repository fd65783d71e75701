"""Hidden bases by the whole reconciler: builds are shown them, and nobody else is."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from reconciler import executor
from reconciler.cli import cli
from reconciler.reconcile import farm
from tests.nix.connection_daemons import newer_nix
from tests.support.builders import TestBuilder
from tests.support.shown import install, mounted
from tests.support.trial import Trial
from tests.system.test_audit import STALE, audits, cached, in_force
from tests.system.test_builders import declared
from tests.system.test_forks import push_fork
from tests.system.test_incremental import RELEASE, UNITS, Project, unit_source

HIDDEN = RELEASE.replace("    base = incrementalBases.app or null;\n", "").replace(
    "{ incrementalBases ? { } }:\n", ""
)
UNEQUAL = """
{
  app = derivation {
    name = "app"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    outputs = [ "out" "intermediates" ];
    src = ./src;
    args = [ "-euc" "[ ! -e /incremental/base ]; echo > $out; mkdir $intermediates\n:" ];
  };
}
"""
"""Its build fails from any base."""
NO_HOOK = "built in full: Nix ran no pre-build-hook of ours for it: "
NO_VIEW = "built in full: the store's read-only view is not there: "


def declare_without_caches(project: Project) -> None:
    """Then there is no need for audits."""
    project.declare(strategy="hidden")
    document = json.loads(project.trial.config.read_text())
    document["jobsets"]["it"]["caches"] = []
    project.trial.document(document)


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
    with mounted(trial.store.store_dir, view, options="bind,ro"):
        yield


@pytest.mark.usefixtures("shown")
def test_each_commit_compiles_what_changed_by_the_canonical_derivation(project: Project) -> None:
    declare_without_caches(project)
    answers = project.trial.state_dir / "mounts"
    (answers / "of-a-killed-daemon.drv.shown").mkdir(parents=True)
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
    assert list(answers.iterdir()) == []


def reason_of_a_full_build(project: Project) -> str:
    """Change a unit, and see that all are compiled."""
    project.edit(1, 5)
    assert len(project.compiled()) == UNITS + 1
    mode, reason = project.reasons()[-1]
    assert mode == "full"
    return reason


def test_without_the_hook_it_is_a_full_build_with_the_reason(project: Project) -> None:
    project.declare(strategy="hidden")
    project.run()
    assert reason_of_a_full_build(project).startswith(NO_HOOK)
    ((_, _, name),) = project.trial.conditions()
    assert name == "not-incremental"


@pytest.mark.usefixtures("view")
def test_without_a_read_only_view_nothing_is_shown(project: Project) -> None:
    project.declare(strategy="hidden")
    project.run()
    assert reason_of_a_full_build(project).startswith(NO_VIEW)


@pytest.mark.usefixtures("shown")
def test_what_was_shown_a_base_is_pushed_once_its_audit_found_it_right(project: Project) -> None:
    project.declare(strategy="hidden")
    project.run()
    assert audits(project) == []
    assert set(in_force(project).values()) <= cached(project)
    project.edit(1, 5)
    assert project.trial.once()
    assert audits(project) == [("same", None)]
    assert project.result() == "7"
    assert set(in_force(project).values()) <= cached(project)
    clean = project.trial.query(
        "SELECT o.path FROM output o JOIN derivation d ON d.id = o.derivation"
        " JOIN audit a ON a.clean = d.path"
    )
    assert len(clean) == 2
    assert cached(project).isdisjoint(path for (path,) in clean)


@pytest.mark.usefixtures("shown")
def test_a_wrong_build_is_never_pushed_and_built_right_at_the_same_path(project: Project) -> None:
    project.write("src/Makefile", STALE)
    project.commit("unrelated", "")
    project.declare(strategy="hidden")
    project.run()
    before = cached(project)
    project.commit("src/common.h", "#define A 2\n")
    assert project.trial.once()
    assert audits(project) == [("different", "the output out differs in app")]
    assert project.result() == str(2 * UNITS)
    assert project.trial.attempts("app") == ["succeeded"] * 4, "full, wrong, its twin, right"
    assert [quarantined for _, _, quarantined in project.bases()] == [
        "an audit: the output out differs in app",
        "it goes back to base 1: an audit: the output out differs in app",
        None,
    ]
    assert project.reasons()[-1] == (
        "full",
        "built in full: what it started from before is in quarantine",
    )
    right = in_force(project)
    assert set(right.values()) <= cached(project) - before
    # What the cache has is what was built last.
    log = project.trial.store.run("nix-store", "--verify-path", *right.values())
    assert log.returncode == 0
    served = project.trial.store.run(
        "nix", "path-info", "--json", "--json-format", "1", "--store",
        f"file://{project.trial.root}/cache", right["app"],
    )  # fmt: skip
    here = project.trial.store.run("nix", "path-info", "--json", "--json-format", "1", right["app"])
    assert nar_hashes(served.stdout) == nar_hashes(here.stdout)
    assert project.trial.conditions() == {}
    # The right build's intermediates are the next base.
    assert [(depth, bad is None) for _, depth, bad in project.bases()] == [
        (0, False),
        (1, False),
        (0, True),
    ]
    assert all("#" not in each["built"] for each in told_bases(project))
    project.edit(2, 9)
    assert project.trial.once()
    assert project.reasons()[-1][0] == "incremental"
    assert "incremental: base base: 1 changed" in told(project, "incremental", "explain", "it.app")
    assert audits(project)[-1] == ("same", None)


def told_bases(project: Project) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(
        told(project, "incremental", "bases", "it.app", "--json")
    )["bases"]
    return found


def nar_hashes(text: str) -> list[str]:
    return [each["narHash"] for each in json.loads(text).values()]


@pytest.mark.usefixtures("shown")
def test_a_build_that_fails_from_its_base_is_made_again_without(project: Project) -> None:
    project.commit("release.nix", UNEQUAL)
    project.declare(strategy="hidden")
    assert project.trial.once()
    project.edit(1, 5)
    assert project.trial.once()
    assert project.trial.attempts("app") == ["succeeded", "failed", "succeeded"]
    assert project.reasons()[-1] == ("full", "built in full: it failed from a base")
    assert [quarantined for _, _, quarantined in project.bases()] == [
        "app failed from it, and was built without",
        "it is the same as base 1: app failed from it, and was built without",
    ]


@pytest.mark.usefixtures("shown")
def test_killed_at_any_moment_nothing_is_pushed_that_was_not_audited(project: Project) -> None:
    chance = random.Random(3)  # noqa: S311 - not a secret
    project.declare(strategy="hidden")
    project.run()
    for value in (5, 6, 7):
        project.edit(1, value)
        told = project.trial.value("SELECT max(id) FROM event") or 0
        with project.trial.running(wait=False) as daemon:
            daemon.eventually(partial(project.has_told, told + chance.randint(1, 14)))
            daemon.kill()
        project.trial.until_nothing_runs()
        unaudited = project.trial.query(
            "SELECT o.path FROM build_base c JOIN output o ON o.derivation = c.derivation"
            " WHERE c.mode = 'incremental' AND o.name = 'out' AND NOT EXISTS (SELECT 1 FROM audit a"
            " WHERE a.derivation = c.derivation AND a.state = 'same')"
        )
        assert cached(project).isdisjoint(path for (path,) in unaudited)
    assert project.trial.once()
    assert project.result() == str(UNITS - 1 + 7)
    assert {state for state, _ in audits(project)} <= {"same"}
    assert set(in_force(project).values()) <= cached(project)
    assert project.trial.conditions() == {}


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"enable": False}, "a jobset of another `incremental.strategy` needs it too"),
        (
            {"enable": True, "strategy": "hidden"},
            "a jobset of another source needs it too, and each starts from its own bases alone",
        ),
    ],
)
def test_what_another_jobset_needs_too_is_built_in_full(
    project: Project, other: dict[str, Any], why: str
) -> None:
    project.declare(strategy="hidden")
    project.run()
    project.edit(1, 5)
    document = json.loads(project.trial.config.read_text())
    jobset = document["jobsets"]["it"]
    project.declare_builders(drain=True)
    project.trial.once()
    document["jobsets"]["strict"] = {**jobset, "incremental": other}
    document["builders"]["local"]["drain"] = True
    project.trial.document(document)
    project.trial.once()
    project.declare_builders(drain=False)
    assert len(project.compiled()) == UNITS + 1
    assert ("full", f"built in full: {why}") in project.reasons()
    assert project.reasons()[-1][0] == "full"


@pytest.mark.usefixtures("shown")
def test_a_base_in_quarantine_is_shown_to_nothing_and_what_was_built_from_it_is_built_again(
    project: Project,
) -> None:
    declare_without_caches(project)
    project.run()
    project.edit(1, 5)
    assert project.compiled() == ["unit1.c"]
    before = in_force(project)
    project.trial.request("quarantine", "1")
    assert len(project.compiled()) == UNITS + 1
    assert in_force(project) == before, "at the same path"
    assert project.reasons()[-1] == (
        "full",
        "built in full: what it started from before is in quarantine",
    )
    assert project.trial.conditions() == {}


@pytest.mark.usefixtures("shown")
def test_a_wrong_output_that_something_else_keeps_is_told_and_never_pushed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "HOLD_PAUSES", (0.0,))
    project.write("src/Makefile", STALE)
    project.commit("unrelated", "")
    project.declare(strategy="hidden")
    project.run()
    project.declare_builders(drain=True)
    project.commit("src/common.h", "#define A 2\n")
    project.trial.once()
    wrong = in_force(project)["app"]
    kept = project.trial.store.root / "state/gcroots/kept"
    kept.symlink_to(wrong)
    project.declare_builders(drain=False)
    project.trial.once()
    reason = ("builder", "local", "wrong-outputs-stay")
    message = project.trial.conditions()[reason]
    assert message.startswith("cannot delete outputs that an audit found wrong: ")
    assert "still alive" in message
    assert wrong not in cached(project)
    kept.unlink()
    assert project.trial.once()
    assert project.result() == str(2 * UNITS)
    assert wrong in cached(project)
    assert project.trial.conditions() == {}


@pytest.mark.usefixtures("shown")
def test_what_kept_a_wrong_output_is_gone_after_a_while(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farm, "FIRST_PAUSE", 0.0)
    project.write("src/Makefile", STALE)
    project.commit("unrelated", "")
    project.declare(strategy="hidden")
    project.run()
    project.declare_builders(drain=True)
    project.commit("src/common.h", "#define A 2\n")
    project.trial.once()
    kept = project.trial.store.root / "state/gcroots/kept"
    kept.symlink_to(in_force(project)["app"])

    class Pauses:
        """It is let go once that it stays is told."""

        def __iter__(self) -> Iterator[float]:
            if ("builder", "local", "wrong-outputs-stay") in project.trial.conditions():
                kept.unlink(missing_ok=True)
            return iter((0.0,))

    monkeypatch.setattr(executor, "HOLD_PAUSES", Pauses())
    project.declare_builders(drain=False)
    assert project.trial.once()
    assert kept.is_symlink() is False
    assert project.result() == str(2 * UNITS)
    assert project.trial.conditions() == {}


@pytest.mark.usefixtures("shown")
def test_on_a_builder_elsewhere_it_is_a_full_build_with_the_reason(project: Project) -> None:
    declare_without_caches(project)
    project.run()
    project.edit(1, 5)
    with closing(TestBuilder(project.trial.store, newer_nix())) as big:
        document = json.loads(project.trial.config.read_text())
        document["builders"] = {"local": {"drain": True}, "big": declared(big.declared())}
        project.trial.document(document)
        assert len(project.compiled()) == UNITS + 1
    assert project.result() == "7"
    assert project.reasons()[-1] == (
        "full",
        "built in full: it is built on big, and only builds on this machine are shown a base",
    )
    assert project.trial.conditions() == {}


@pytest.mark.usefixtures("shown")
def test_status_why_and_explain_tell_of_it(project: Project) -> None:
    declare_without_caches(project)
    project.run()
    project.edit(1, 5)
    project.run()
    explained = told(project, "incremental", "explain", "it.app", "--json")
    assert json.loads(explained)["hidden"] is True
    assert "incremental: base base: 1 changed" in explained
    assert "shown to the build, not named by the derivation" in told(
        project, "incremental", "explain", "it.app"
    )
    assert "the build was shown it, and its derivation names none" in told(
        project, "status", "it.app"
    )


def told(project: Project, *arguments: str) -> str:
    places = ("--config", str(project.trial.config), "--state-dir", str(project.trial.state_dir))
    done = CliRunner().invoke(cli, [*places, *arguments], env=project.trial.env)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


@pytest.mark.usefixtures("shown")
def test_an_untrusted_branch_starts_from_nothing_that_it_left_itself(project: Project) -> None:
    git = {"url": project.repository.url, "branches": ["main", "refs/pull/*/head"]}
    project.source = {"git": git, "file": "release.nix"}
    declare_without_caches(project)
    project.run()
    push_fork(project, "src/unit1.c", unit_source(1, 5))
    assert project.compiled() == ["unit1.c"], "from what main left"
    push_fork(project, "src/unit2.c", unit_source(2, 5))
    assert project.compiled() == ["unit1.c", "unit2.c"], "from that again, not from its own"
