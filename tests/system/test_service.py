"""The daemon as a service: what it tells its manager, and what becomes of signals."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise

import pytest

from reconciler.database import database_path
from tests.support.service_manager import Manager, service_manager
from tests.support.trial import PROJECT, Daemon, Trial, processes_with
from tests.system.test_cache import cached, declare, keys

ONE = '{ one = job "one" "echo one > $out"; }'
SECONDS = "RECONCILER_STOP_AFTER"


@pytest.fixture
def systemd(trial: Trial) -> Iterator[Manager]:
    """The manager of the daemons of this test."""
    address = trial.root / "notify"
    with service_manager(address) as manager:
        trial.environment["NOTIFY_SOCKET"] = str(address)
        yield manager


@contextmanager
def running(trial: Trial, systemd: Manager) -> Iterator[Daemon]:
    """A daemon that is started as a service."""
    with trial.running(wait=False) as daemon:
        systemd.service = daemon.process
        yield daemon
        systemd.service = None


class Gate:
    """What a build waits at, until it is opened."""

    def __init__(self, trial: Trial) -> None:
        folder = trial.root / "gates"
        folder.mkdir()
        self.pipe = folder / "gate"
        os.mkfifo(self.pipe)
        with (trial.store.root / "conf/nix.conf").open("a") as file:
            file.write(f"extra-sandbox-paths = {folder}\n")

    @property
    def jobs(self) -> str:
        """A job that ends when the gate opens, and one that needs it."""
        return f"""
        rec {{
          long = job "long" "read line < {self.pipe}; echo $line > $out";
          above = job "above" "cat ${{long}} > $out";
        }}
        """

    def open(self) -> None:
        """Let whoever waits pass; waits for somebody to come."""
        self.pipe.write_text("open\n")


@pytest.fixture
def gate(trial: Trial) -> Gate:
    return Gate(trial)


def builds(trial: Trial, **states: str) -> bool:
    """Whether builds are in these states."""
    return {name: trial.builds().get(name) for name in states} == states


def lines(messages: list[tuple[str, ...]], start: str) -> list[str]:
    return [line for message in messages for line in message if line.startswith(start)]


# --- Readiness, status, watchdog ------------------------------------------------------------------


def test_it_is_ready_after_the_first_tick(trial: Trial, systemd: Manager) -> None:
    declare(trial, ONE)  # the key is not there, and the first tick to end says so
    with running(trial, systemd):
        heard = systemd.until("READY=1")
        assert trial.conditions().keys() == {("cache", "main", "secret-missing")}
        assert lines(heard, "READY") == ["READY=1"]
        assert lines(heard, "STATUS=")[-1].endswith("(1 problem: reconciler status)")


def test_it_is_not_ready_if_it_cannot_start(trial: Trial, systemd: Manager) -> None:
    trial.document({"jobsets": {"one": {"sauce": 1}}})
    places = [str(trial.config), str(trial.state_dir)]
    argv = [sys.executable, "-m", "tests.support.run_daemon", *places]
    ended = subprocess.run(argv, check=False, env=trial.env, cwd=PROJECT, capture_output=True)
    assert ended.returncode == 2
    assert b"sauce" in ended.stdout
    assert systemd.waiting() == []


def test_it_tells_what_it_does_and_nobody_else_can(
    trial: Trial, systemd: Manager, gate: Gate
) -> None:
    trial.environment["WATCHDOG_USEC"] = "3600000000"
    trial.declare({"it": gate.jobs})
    with running(trial, systemd) as daemon:
        systemd.until("STATUS=building 1 on local")
        daemon.eventually(lambda: builds(trial, long="building"))
        theirs = processes_with(trial.environment["NOTIFY_SOCKET"])
        assert [each.split(":")[0] for each in theirs] == [str(daemon.process.pid)]
        gate.open()
        systemd.until("STATUS=idle")
    assert lines(systemd.waiting(), "STOPPING") == ["STOPPING=1"]
    said = lines(systemd.heard, "STATUS=")
    assert all(first != second for first, second in pairwise(said))


def test_a_run_until_converged_is_no_service(trial: Trial, systemd: Manager) -> None:
    trial.declare({"it": ONE})
    assert trial.once()
    assert systemd.waiting() == []


def test_signs_of_life_come_while_it_idles_builds_and_winds_down(
    trial: Trial, systemd: Manager, gate: Gate
) -> None:
    trial.environment |= {"WATCHDOG_USEC": "300000", SECONDS: "3600"}
    trial.declare({"it": ONE})
    with running(trial, systemd) as daemon:
        systemd.until("STATUS=idle")
        for _ in range(3):
            systemd.until("WATCHDOG=1")
        trial.declare({"it": gate.jobs})
        systemd.until("STATUS=building 1 on local")
        for _ in range(3):
            systemd.until("WATCHDOG=1")
        daemon.process.terminate()
        systemd.until("STATUS=stopping: 1 build may still end")
        for _ in range(3):
            systemd.until("WATCHDOG=1")
        gate.open()


# --- Reload ---------------------------------------------------------------------------------------


def reload(daemon: Daemon, systemd: Manager) -> None:
    """Ask for it, and wait until it is done."""
    systemd.waiting()
    daemon.process.send_signal(signal.SIGHUP)
    systemd.until("RELOADING=1")
    systemd.until("READY=1")


def test_a_reload_takes_up_the_document_while_a_build_goes_on(
    trial: Trial, systemd: Manager, gate: Gate
) -> None:
    trial.declare({"long": gate.jobs, "stays": ONE, "goes": ONE})
    with running(trial, systemd) as daemon:
        daemon.eventually(lambda: builds(trial, long="building", one="succeeded"))
        two = '{ two = job "two" "echo two > $out"; }'
        trial.declare({"long": gate.jobs, "stays": ONE, "comes": two})
        reload(daemon, systemd)
        removed = trial.query("SELECT name FROM jobset WHERE removed_at IS NOT NULL")
        assert removed == [("goes",)]
        daemon.eventually(lambda: builds(trial, two="succeeded", one="succeeded"))
        assert trial.attempts("long") == [None]
        gate.open()
        daemon.eventually(lambda: builds(trial, long="succeeded", above="succeeded"))
        assert trial.attempts("long") == ["succeeded"]
    pruned = trial.query("SELECT subject FROM event WHERE kind = 'jobset' AND after = 'pruned'")
    assert pruned == [("goes",)]


def test_a_reload_keeps_the_last_good_document_and_says_so(
    trial: Trial, systemd: Manager, gate: Gate
) -> None:
    trial.declare({"it": gate.jobs})
    right = trial.config.read_text()
    condition = ("document", str(trial.config), "invalid")
    with running(trial, systemd) as daemon:
        daemon.eventually(lambda: builds(trial, long="building"))
        trial.document({"jobsets": {"it": {"sauce": 1}}})
        reload(daemon, systemd)
        assert "sauce" in trial.conditions()[condition]
        # One that changes nothing takes nothing back.
        reload(daemon, systemd)
        assert condition in trial.conditions()
        gate.open()
        daemon.eventually(lambda: builds(trial, long="succeeded", above="succeeded"))
        trial.config.write_text(right)
        reload(daemon, systemd)
        assert trial.conditions() == {}
    assert trial.attempts("long") == ["succeeded"]


@pytest.mark.parametrize("given", [None, "missing\n"], ids=["no file", "systemd's stand-in"])
def test_a_cache_waits_for_its_secret(trial: Trial, systemd: Manager, given: str | None) -> None:
    declare(trial, ONE)
    if given is not None:
        (trial.root / "key").write_text(given)
    condition = ("cache", "main", "secret-missing")
    with running(trial, systemd) as daemon:
        waiting = "SELECT state, failures FROM push"
        daemon.eventually(lambda: trial.query(waiting) == [("pending", 0)])
        # Whatever that woke is over; it was not tried.
        reload(daemon, systemd)
        assert trial.query(waiting) == [("pending", 0)]
        assert "signingKeyFile: " in trial.conditions()[condition]
        assert str(trial.root / "key") in trial.conditions()[condition]
        keys(trial)
        reload(daemon, systemd)
        assert condition not in trial.conditions()
        daemon.eventually(lambda: trial.query(waiting) == [("pushed", 0)])
    assert cached(trial) == {"one"}


def test_a_builder_without_its_key_is_given_nothing(trial: Trial, systemd: Manager) -> None:
    key = trial.root / "ssh-key"
    big = {"uri": "ssh-ng://127.0.0.1:9", "sshKeyFile": str(key)}
    condition = ("builder", "big", "secret-missing")
    trial.declare({"it": ONE}, builders={"big": big})
    with running(trial, systemd) as daemon:
        daemon.eventually(lambda: [s for s, _ in trial.evaluations("it")] == ["succeeded"])
        reload(daemon, systemd)
        assert str(key) in trial.conditions()[condition]
        assert trial.builds() == {"one": "queued"}
        assert trial.attempts("one") == []
        key.write_text("some key")
        reload(daemon, systemd)
        assert condition not in trial.conditions()
        daemon.eventually(lambda: trial.attempts("one"))


# --- Back-offs ------------------------------------------------------------------------------------


def test_a_reload_ends_the_wait_of_failed_pushes(trial: Trial, systemd: Manager) -> None:
    keys(trial)
    declare(trial, ONE)
    (trial.root / "cache").write_text("a file where a folder is to be")
    with running(trial, systemd) as daemon:
        daemon.eventually(lambda: trial.value("SELECT max(failures) FROM push"))
    with closing(sqlite3.connect(database_path(trial.state_dir))) as database:
        # It has failed so often that nothing but a person would have it tried again.
        database.execute("UPDATE push SET failures = 99, not_before = 4e9")
        database.commit()
    (trial.root / "cache").unlink()
    systemd.waiting()
    with running(trial, systemd) as daemon:
        systemd.until("READY=1")
        reload(daemon, systemd)
        daemon.eventually(lambda: trial.query("SELECT state FROM push") == [("pushed",)])


def test_a_reload_ends_the_quarantine_of_a_builder(trial: Trial, systemd: Manager) -> None:
    key = trial.root / "ssh-key"
    key.write_text("no key, and so it fails each time")
    big = {"uri": "ssh-ng://127.0.0.1:9", "sshKeyFile": str(key)}
    jobset = {
        "source": trial.source("it", ONE),
        "retry": {"attempts": 9, "backoff": "1ms"},
    }
    trial.declare({"it": jobset}, builders={"big": big})
    quarantined = ("builder", "big", "quarantined")
    # It builds nothing, so nothing but the reload ends the quarantine.
    over = "SELECT 1 FROM event WHERE kind = 'builder' AND before = 'quarantined' AND after IS NULL"
    with running(trial, systemd) as daemon:
        daemon.eventually(lambda: quarantined in trial.conditions())
        assert trial.query(over) == []
        before = len(trial.attempts("one"))
        reload(daemon, systemd)
        assert trial.query(over) != []
        daemon.eventually(lambda: len(trial.attempts("one")) > before)


# --- Stop -----------------------------------------------------------------------------------------


def test_what_is_being_built_may_come_to_its_end(
    trial: Trial, systemd: Manager, gate: Gate
) -> None:
    trial.environment[SECONDS] = "3600"
    trial.declare({"it": gate.jobs})
    with running(trial, systemd) as daemon:
        daemon.eventually(lambda: builds(trial, long="building"))
        daemon.process.terminate()
        systemd.until("STOPPING=1")
        gate.open()
        assert daemon.process.wait(120) == 0
    # What it unlocked is for the next start.
    assert trial.builds() == {"long": "succeeded", "above": "queued"}
    assert trial.attempts("above") == []
    assert trial.once()
    assert trial.attempts("long") == ["succeeded"]


@pytest.mark.parametrize(("patience", "signals"), [("3600", 2), ("0.001", 1), ("0", 1)])
def test_what_takes_too_long_is_built_by_the_next_start(
    trial: Trial, systemd: Manager, gate: Gate, patience: str, signals: int
) -> None:
    trial.environment[SECONDS] = patience
    trial.declare({"it": gate.jobs})
    with running(trial, systemd) as daemon:
        daemon.eventually(lambda: builds(trial, long="building"))
        for _ in range(signals):
            daemon.process.terminate()
            systemd.until("STOPPING=1")
        assert daemon.process.wait(120) == 0
    assert trial.builds()["long"] == "queued"
    assert trial.attempts("long") == ["interrupted"]
    trial.declare({"it": ONE})
    assert trial.once()
