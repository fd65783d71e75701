"""The store of another machine as one of two caches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.nix.connection_daemons import newer_nix
from tests.support.builders import TestBuilder
from tests.support.trial import Trial
from tests.system.test_cache import REFERRING, cached, keys


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
