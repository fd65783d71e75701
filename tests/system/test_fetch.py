"""What only a substituter has is fetched where it has to be rooted and pushed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.support.private_store import PrivateStore
from tests.support.trial import Trial
from tests.system.test_cache import cached, declare, keys
from tests.system.test_changes import roots

JOBS = """
rec {
  library = job "library" "echo library > $out";
  program = job "program" "echo uses ${library} > $out";
}
"""


@pytest.fixture
def elsewhere(trial: Trial) -> Path:
    """A cache that has all of JOBS, substituted from by a store that is empty again."""
    keys(trial)
    declare(trial, JOBS)
    assert trial.once()
    there = trial.root / "elsewhere"
    (trial.root / "cache").rename(there)
    shutil.rmtree(trial.state_dir)
    empty(trial, there)
    trial.settled = False
    return there


def empty(trial: Trial, substituter: Path) -> None:
    """An empty store, in the place of the one that was: paths hold the name of its folder."""
    PrivateStore(trial.store.root).destroy()
    trial.store.root.mkdir()
    settings = f"extra-substituters = file://{substituter}\nrequire-sigs = false\n"
    PrivateStore.create(root=trial.store.root, settings=settings)


def ahead(trial: Trial) -> str:
    where = ("--config", str(trial.config), "--state-dir", str(trial.state_dir))
    return trial.store.run(sys.executable, "-m", "reconciler", *where, "plan").stdout


@pytest.mark.usefixtures("elsewhere")
def test_what_a_substituter_has_is_fetched_rooted_and_pushed(trial: Trial) -> None:
    declare(trial, JOBS)
    assert trial.once()
    assert trial.builds() == {"library": "substituted", "program": "substituted"}
    assert trial.value("SELECT count(*) FROM attempt") == 0
    program = trial.output("program")
    assert program.read_text().startswith("uses ")
    assert {str(program), str(trial.output("library"))} <= roots(trial)
    trial.store.run("nix-collect-garbage")
    assert program.exists()
    assert cached(trial) == {"library", "program"}


@pytest.mark.usefixtures("elsewhere")
def test_what_was_lost_while_nobody_looked_is_fetched_again(trial: Trial) -> None:
    declare(trial, JOBS)
    assert trial.once()
    program = trial.output("program")
    shutil.rmtree(trial.state_dir / "gcroots")
    trial.store.run("nix-store", "--delete", str(program))
    assert "+ fetch what 1 job made" in ahead(trial)
    assert trial.once()
    assert program.exists()
    assert str(program) in roots(trial)


def test_what_cannot_be_delivered_is_said_and_tried_again(trial: Trial, elsewhere: Path) -> None:
    nars = elsewhere / "nar"
    nars.rename(elsewhere / "hidden")
    declare(trial, JOBS)
    with trial.running() as daemon:
        failed = ("jobset", "it", "not-fetched")
        daemon.eventually(lambda: failed in trial.conditions())
        assert "nar" in trial.conditions()[failed]
        assert cached(trial) == set()
        assert roots(trial).isdisjoint({str(trial.output("program"))})
        (elsewhere / "hidden").rename(nars)
        assert daemon.ask("retry", "it") == "2 builds are tried again"
        daemon.eventually(lambda: trial.conditions() == {})
        daemon.eventually(lambda: cached(trial) == {"library", "program"})
    assert trial.value("SELECT count(*) FROM attempt") == 0


def test_what_the_substituter_has_lost_after_all_is_built(trial: Trial, elsewhere: Path) -> None:
    for nar in (elsewhere / "nar").iterdir():
        nar.unlink()
    declare(trial, JOBS)
    assert trial.once()  # it gives up for now
    assert trial.builds() == {"library": "substituted", "program": "substituted"}
    for narinfo in elsewhere.glob("*.narinfo"):
        narinfo.unlink()
    shutil.rmtree(trial.store.root / "cache")  # where Nix remembers what a substituter has
    assert trial.once()
    assert trial.builds() == {"library": "succeeded", "program": "succeeded"}
    assert cached(trial) == {"library", "program"}


def test_nothing_is_fetched_for_a_disabled_jobset(trial: Trial, elsewhere: Path) -> None:
    (elsewhere / "nar").rename(elsewhere / "hidden")
    declare(trial, JOBS)
    assert trial.once()
    (elsewhere / "hidden").rename(elsewhere / "nar")
    trial.declare({"it": {"source": trial.source("it", JOBS), "enabled": False}})
    assert trial.once()
    assert trial.conditions() == {}
    assert not trial.output("program").exists()
