"""`why` on a farm that runs: the true reason for each kind of waiting, builder by builder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cli.farm import check_schema
from tests.nix.connection_daemons import newer_nix
from tests.support.builders import TestBuilder
from tests.support.trial import PROJECT, SYSTEM, Trial, processes_with
from tests.system.conftest import a_trial
from tests.system.test_builders import declared

GATED = "until test -e {gate}/open; do :; done; echo > $out"
FIRST = """
rec {{
  hog = asking [ "resource:memory=6GiB" ] "hog" "{gated}";
  busy = asking [ "kvm" ] "busy" "{gated}";
"""
"""What takes from the rest what that waits for."""
REST = """
  system = with_ { system = "sparc-linux"; } "system" "echo > $out";
  feature = asking [ "gpu" ] "feature" "echo > $out";
  mandatory = with_ { system = "s390x-linux"; } "mandatory" "echo > $out";
  drained = with_ { system = "riscv64-linux"; } "drained" "echo > $out";
  quarantined = with_ { system = "aarch64-linux"; } "quarantined" "echo > $out";
  full = asking [ "kvm" ] "full" "echo > $out";
  short = asking [ "resource:memory=4GiB" ] "short" "echo > $out";
  larger = with_ { inherit short; } "larger" "echo > $out";
  small = asking [ "resource:memory=1GiB" ] "small" "echo > $out";
  ruled = job "ruled" "echo > $out";
  input = with_ { inherit hog; } "input" "echo > $out";
  above = with_ { inherit feature; } "above" "echo > $out";
"""


DRAINED = "is drained: it takes nothing new"
MANDATORY = "takes only what requires the system feature kvm"


@dataclass
class Staged:
    """A farm in which much waits, each for another reason."""

    trial: Trial

    def why(self, job: str, *options: str) -> str:
        argv = [sys.executable, "-m", "reconciler", "why", f"it.{job}", *options]
        argv += ["--config", str(self.trial.config), "--state-dir", str(self.trial.state_dir)]
        return subprocess.run(
            argv,
            env={**self.trial.env, "PYTHONPATH": str(PROJECT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def asked(self, job: str) -> dict[str, Any]:
        """The same as JSON; the reasons by builder."""
        found: dict[str, Any] = json.loads(self.why(job, "--json"))
        check_schema(found, "why")
        found["by"] = {each["builder"]: each["reasons"] for each in found["builders"]}
        return found


@pytest.fixture(scope="module")
def staged() -> Iterator[Staged]:
    with a_trial() as trial:
        gate = trial.root / "gate"
        gate.mkdir()
        settings = f"extra-sandbox-paths = {gate}\nsystem-features = kvm\n"
        conf = trial.store.root / "conf/nix.conf"
        conf.write_text(conf.read_text() + f"extra-sandbox-paths = {gate}\n")
        with closing(TestBuilder(trial.store, newer_nix(), settings=settings)) as big:
            first = FIRST.format(gated=GATED.format(gate=gate))
            declare(trial, big, first + "}")
            with trial.running() as daemon, opened(trial):
                daemon.eventually(lambda: trial.builds() == {"hog": "building", "busy": "building"})
                declare(trial, big, first + REST + "}")
                daemon.eventually(lambda: ("builder", "dead", "quarantined") in trial.conditions())
                yield Staged(trial)
                (gate / "open").touch()
                for name in ("input", "full", "short", "small", "ruled", "larger"):
                    daemon.eventually(lambda: trial.builds()[name] == "succeeded")  # noqa: B023


@contextmanager
def opened(trial: Trial) -> Iterator[None]:
    """Let what waits for the gate end, however the test does."""
    try:
        yield
    finally:
        (trial.root / "gate/open").touch()


def declare(trial: Trial, big: TestBuilder, jobs: str) -> None:
    nowhere = "ssh-ng://nobody@127.0.0.1:"
    asking = "let asking = features: with_ { requiredSystemFeatures = features; }; in"
    trial.declare(
        {
            "it": {
                "source": trial.source("it", asking + jobs),
                "retry": {"attempts": 100},
                "resources": [{"match": "rule*", "needs": {"memory": "3GiB"}}],
            }
        },
        builders={
            "local": {"maxJobs": 4, "supportedFeatures": [], "resources": {"memory": "8GiB"}},
            "big": declared(
                big.declared(),
                systems=[SYSTEM],
                maxJobs=1,
                supportedFeatures=["kvm"],
                mandatoryFeatures=["kvm"],
            ),
            "dead": {"uri": f"{nowhere}1", "systems": ["aarch64-linux"]},
            "drained": {"uri": f"{nowhere}2", "systems": ["riscv64-linux"], "drain": True},
            "special": {
                "uri": f"{nowhere}3",
                "systems": ["s390x-linux"],
                "mandatoryFeatures": ["kvm"],
            },
        },
    )


def test_no_builder_for_its_system(staged: Staged) -> None:
    found = staged.asked("system")
    assert found["state"] == "waiting"
    assert found["message"] == "no declared builder can build it"
    assert found["by"]["drained"] == ["builds for riscv64-linux, not for sparc-linux"]
    assert all("not for sparc-linux" in reasons[0] for reasons in found["by"].values())
    assert len(found["by"]) == 5


def test_no_builder_with_its_feature(staged: Staged) -> None:
    found = staged.asked("feature")
    assert found["state"] == "waiting"
    assert found["by"]["local"] == ["lacks the system feature gpu"]
    assert found["by"]["big"] == ["lacks the system feature gpu", MANDATORY]


def test_a_builder_takes_only_what_asks_for_its_feature(staged: Staged) -> None:
    found = staged.asked("mandatory")
    assert found["state"] == "waiting"
    assert found["by"]["special"] == [MANDATORY]


def test_the_builder_is_drained(staged: Staged) -> None:
    found = staged.asked("drained")
    assert found["state"] == "queued"
    assert found["message"] == "it is ready, and no builder takes it now"
    assert found["by"]["drained"] == [DRAINED]


def test_the_builder_is_quarantined(staged: Staged) -> None:
    found = staged.asked("quarantined")
    (reason,) = found["by"]["dead"]
    assert reason.startswith("quarantined until ")
    assert re.search(r" UTC after \d+ failures in a row, then tried by one build; the", reason)
    assert "it turns connections away: does sshd run there, at that port?" in reason


def test_all_slots_are_taken(staged: Staged) -> None:
    found = staged.asked("full")
    assert found["message"] == "it is ready, and no builder takes it now"
    assert found["by"]["big"] == ["its one slot is taken"]
    assert found["by"]["local"] == ["lacks the system feature kvm"]


def test_resources_are_short(staged: Staged) -> None:
    found = staged.asked("short")
    assert found["by"]["local"] == ["needs 4GiB of memory: 2GiB of 8GiB are free"]
    assert "declares no memory, of which 4GiB is needed" in found["by"]["big"]
    found = staged.asked("ruled")
    assert found["by"]["local"] == ["needs 3GiB of memory: 2GiB of 8GiB are free"]


def test_resources_are_kept_free_for_what_goes_before(staged: Staged) -> None:
    found = staged.asked("small")
    assert found["message"] == "it is ready, and no builder takes it now"
    (reason,) = found["by"]["local"]
    assert reason.startswith("keeps 4GiB of memory free for short, which goes before it")
    assert staged.trial.attempts("small") == []


def test_an_input_is_being_built(staged: Staged) -> None:
    found = staged.asked("input")
    assert (found["state"], found["message"]) == ("queued", "it waits for 1 input: hog")
    assert [(each["name"], each["state"]) for each in found["chain"]] == [
        ("input", "queued"),
        ("hog", "building"),
    ]
    assert found["builders"] == []


def test_an_input_that_no_builder_can_build(staged: Staged) -> None:
    found = staged.asked("above")
    assert found["chain"][-1]["name"] == "feature"
    assert found["by"]["local"] == ["lacks the system feature gpu"]


def test_in_words(staged: Staged) -> None:
    text = staged.why("short")
    assert "it.short (queued): it is ready, and no builder takes it now\n" in text
    assert "  local: needs 4GiB of memory: 2GiB of 8GiB are free\n" in text
    assert processes_with(str(staged.trial.root / "gate"))
    argv = [sys.executable, "-m", "reconciler", "builders", "--config", str(staged.trial.config)]
    argv += ["--state-dir", str(staged.trial.state_dir)]
    environment = {**staged.trial.env, "PYTHONPATH": str(PROJECT)}
    shown = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout
    assert "local: takes 6GiB of 8GiB of memory" in shown
    assert "dead: quarantined since " in shown
    assert "special: " not in shown
