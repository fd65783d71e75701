"""What a builder in quarantine is after the daemon was killed: still there, until its time."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler import quarantine
from reconciler.database import database_path
from tests.cli.farm import check_schema
from tests.support.trial import PROJECT, SYSTEM, Trial

NOWHERE = "ssh-ng://nobody@127.0.0.1:1"
JOB = '{ it = asking "it" "echo > $out"; }'
ASKING = 'let asking = with_ { requiredSystemFeatures = [ "kvm" ]; }; in '


def declare(trial: Trial, **rest: Any) -> None:
    """A build that only a builder that is not there can make."""
    dead = {"uri": NOWHERE, "systems": [SYSTEM], "supportedFeatures": ["kvm"], **rest}
    settings = {"source": trial.source("it", ASKING + JOB), "retry": {"attempts": 100}}
    trial.declare({"it": settings}, builders={"dead": dead})


def kept(trial: Trial) -> list[tuple[Any, ...]]:
    return trial.query("SELECT builder, failures, until FROM quarantine")


def quarantined(trial: Trial) -> bool:
    return ("builder", "dead", "quarantined") in trial.conditions()


def shown(trial: Trial) -> dict[str, Any]:
    """The builder as `builders --json` has it, without what it was asked for."""
    argv = [sys.executable, "-m", "reconciler", "builders", "--json"]
    argv += ["--config", str(trial.config), "--state-dir", str(trial.state_dir)]
    environment = {**trial.env, "PYTHONPATH": str(PROJECT)}
    printed = subprocess.run(argv, env=environment, check=True, capture_output=True).stdout
    found = json.loads(printed)
    check_schema(found, "builders")
    (builder,) = found["builders"]
    return dict(builder)


def test_a_killed_daemon_leaves_it_in_quarantine_until_its_time(trial: Trial) -> None:
    declare(trial)
    with trial.running() as daemon:
        daemon.eventually(lambda: quarantined(trial))
        daemon.kill()
    (before,) = kept(trial)
    assert before[:2] == ("dead", 2)
    condition, attempts = shown(trial)["conditions"], trial.attempts("it")
    # Started anew, and having looked twice at what could be done: the build waits for nothing else.
    change(trial, "UPDATE build SET not_before = 0")
    with trial.running() as daemon:
        assert daemon.ask("bump", "it.it").startswith("1 build, ")
        assert daemon.ask("bump", "it.it").startswith("1 build, ")
        assert kept(trial) == [before]
        assert shown(trial)["conditions"] == condition
        assert trial.attempts("it") == attempts, "it is left alone"
        daemon.kill()
    # When its time has come it is tried by one build, and the pause grows on.
    change(trial, "UPDATE quarantine SET until = 0")
    with trial.running() as daemon:
        daemon.eventually(lambda: kept(trial)[0][1] == 3)
        (after,) = kept(trial)
        assert after[2] - time.time() > 1.5 * quarantine.FIRST_PAUSE
        assert len(trial.attempts("it")) == len(attempts) + 1


def change(trial: Trial, sql: str) -> None:
    """Let the time have come for something, while the daemon is down."""
    with closing(sqlite3.connect(database_path(trial.state_dir))) as connection, connection:
        connection.execute(sql)


def test_another_declaration_frees_it_also_while_the_daemon_is_down(trial: Trial) -> None:
    declare(trial)
    with trial.running() as daemon:
        daemon.eventually(lambda: quarantined(trial))
        daemon.kill()
    declare(trial, drain=True)
    with trial.running() as daemon:
        daemon.eventually(lambda: not quarantined(trial))
        assert kept(trial) == []


def test_one_that_builds_again_is_forgiven(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(quarantine, "FIRST_PAUSE", 0.1)
    # Of the machine itself: a hook of Nix's that fails until somebody mends it.
    flag = tmp_path / "mended"
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntest -e {flag}\n")
    hook.chmod(0o755)
    with (trial.store.root / "conf/nix.conf").open("a") as conf:
        conf.write(f"pre-build-hook = {hook}\n")
    settings = {"source": trial.source("it", '{ it = job "it" "echo > $out"; }')}
    trial.declare({"it": settings | {"retry": {"attempts": 3, "backoff": "1s"}}})
    trial.once()
    assert trial.builds() == {"it": "queued"}
    ((builder, failures, _),) = kept(trial)
    assert builder == "local"
    assert failures > 1
    flag.touch()
    trial.request("retry", "it.it")
    assert trial.once(), "who runs it once has it tried at once"
    assert trial.builds() == {"it": "succeeded"}
    assert kept(trial) == []
    assert trial.conditions() == {}
