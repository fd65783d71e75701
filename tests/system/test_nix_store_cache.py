"""The store of another machine as one of two caches."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.model import StorePath
from reconciler.upkeep import SAMPLE_INTERVAL
from tests.binary_cache.support import damage, spoil
from tests.binary_cache.test_nix_store import DATABASE_THERE
from tests.nix.connection_daemons import newer_nix, older_nix
from tests.support.builders import TestBuilder
from tests.support.trial import Trial
from tests.system.test_beside import CONTENT_ADDRESSED, derivation, elsewhere
from tests.system.test_cache import REFERRING, cached, keys
from tests.system.test_drift import pass_time
from tests.system.test_graphs import experimental


@pytest.fixture
def big(trial: Trial) -> Iterator[TestBuilder]:
    with closing(TestBuilder(trial.store, newer_nix())) as builder:
        yield builder


def declare(trial: Trial, big: TestBuilder, *, host_key: str) -> None:
    signing = {"signingKeyFile": str(trial.root / "key")}
    trial.declare(
        {"it": {"source": trial.source("it", REFERRING), "caches": ["main", "there"]}},
        caches={
            "main": {"uri": f"file:{trial.root}/cache", **signing},
            "there": {
                "uri": big.declared().uri,
                "sshKeyFile": str(big.sshd.key_file),
                "publicHostKey": host_key,
                **signing,
            },
        },
    )


def test_both_get_what_is_built(trial: Trial, big: TestBuilder) -> None:
    public = keys(trial)
    declare(trial, big, host_key=big.sshd.host_key)
    assert trial.once()
    assert cached(trial) == {"library", "tool", "program"}
    program = trial.output("program")
    assert big.holds(str(program))
    closure = trial.store.run("nix-store", "--query", "--requisites", str(program)).stdout.split()
    checked = ("nix", "store", "verify", "--trusted-public-keys", public, "--sigs-needed", "1")
    big.run(*checked, *closure)
    assert trial.value("SELECT count(DISTINCT finished_at) FROM push") > 1
    assert big.sshd.connections == 1, "batches share one"


def test_one_that_is_another_machine_keeps_nothing_from_the_other(
    trial: Trial, big: TestBuilder
) -> None:
    keys(trial)
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJhPb0xqvbcAWJv2MvYwwVBsYNlMCrEyRuTRnNvQ4J8Y"
    declare(trial, big, host_key=other)
    assert trial.once()
    trial.settled = False  # pushes are tried again, for ever
    assert cached(trial) == {"library", "tool", "program"}
    said = trial.query(
        "SELECT DISTINCT c.name, p.state, p.error FROM push p JOIN cache c ON c.id = p.cache"
        " WHERE p.error IS NOT NULL"
    )
    assert [(cache, state) for cache, state, _ in said] == [("there", "pending")]
    assert "it shows another host key than the declared one" in said[0][2]
    assert not big.holds(str(trial.output("program")))


def test_what_its_collector_deletes_is_pushed_again(trial: Trial, big: TestBuilder) -> None:
    keys(trial)
    declare(trial, big, host_key=big.sshd.host_key)
    assert trial.once()
    big.run("nix-store", "--gc")
    paths = [str(trial.output(name)) for name in ("library", "tool", "program")]
    assert not any(big.holds(path) for path in paths)
    assert trial.once()  # nobody looked yet
    assert not any(big.holds(path) for path in paths)
    pass_time(trial, SAMPLE_INTERVAL)
    connections = big.sshd.connections
    assert trial.once()
    assert all(big.holds(path) for path in paths)
    assert big.sshd.connections == connections + 1, "to look, and to push again"
    big.run("nix-store", "--verify", "--check-contents")
    (told,) = trial.query("SELECT after FROM event WHERE after LIKE '%pushed again'")
    assert told == ("3 to be pushed again",)
    assert trial.value("SELECT count(*) FROM attempt") == 3  # nothing was built for it


def test_a_person_is_told_of_what_it_cannot_describe_and_has_it_mended(
    trial: Trial, big: TestBuilder
) -> None:
    keys(trial)
    declare(trial, big, host_key=big.sshd.host_key)
    assert trial.once()
    spoil(big.store, StorePath(str(trial.output("tool"))), folder=DATABASE_THERE)
    damage(big.stored(str(trial.output("library"))))
    where = ("--config", str(trial.config), "--state-dir", str(trial.state_dir))
    verify = (sys.executable, "-m", "reconciler", *where, "caches", "verify", "there", "--json")
    found = trial.store.run(*verify, check=False)
    assert found.returncode == 1, found.stderr
    flaws = {
        Path(each["path"]).name.split("-", 1)[1]: each["flaw"]
        for each in json.loads(found.stdout)["findings"]
    }
    assert flaws == {"tool": "unreadable", "library": "nar-damaged"}
    assert trial.store.run(*verify, "--heal", check=False).returncode == 0
    assert json.loads(trial.store.run(*verify).stdout)["findings"] == []
    big.run("nix-store", "--verify", "--check-contents")


@pytest.mark.parametrize("there", ["newer", "older"])
def test_logs_and_realisations_go_there_too(trial: Trial, there: str) -> None:
    public = keys(trial)
    experimental(trial, "ca-derivations")
    feature = "extra-experimental-features = ca-derivations\n"
    nix = newer_nix() if there == "newer" else older_nix()
    with closing(TestBuilder(trial.store, nix, settings=feature)) as store:
        trial.declare(
            {"it": {"source": trial.source("it", CONTENT_ADDRESSED), "caches": ["there"]}},
            caches={
                "there": {
                    "uri": store.declared().uri,
                    "sshKeyFile": str(store.sshd.key_file),
                    "publicHostKey": store.sshd.host_key,
                    "signingKeyFile": str(trial.root / "key"),
                    "logs": True,
                },
            },
        )
        assert trial.once()
        logs = [store.run("nix-store", "--read-log", path) for path in sent_logs(trial)]
        assert sorted(logs) == ["I am above", "I am below"]
        output = str(trial.output("above"))
        fetched = elsewhere(
            trial,
            *("nix-build", str(trial.root / "sources/it/release.nix"), "-A", "above"),
            *("--no-out-link", "--max-jobs", "0"),
            *("--option", "substituters", store.substituter),
            *("--option", "trusted-public-keys", public),
        )
        assert fetched.stdout.strip() == output, fetched.stderr
        assert Path(output).exists()


def sent_logs(trial: Trial) -> list[str]:
    """The derivations under which logs were sent."""
    folder = derivation(trial, "above").rpartition("/")[0]
    rows = trial.query("SELECT name FROM companion WHERE name LIKE 'log/%' AND state = 'pushed'")
    return [f"{folder}/{name.removeprefix('log/')}" for (name,) in rows]
