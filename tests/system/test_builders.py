"""Several builders: what is built where, and what becomes of one that is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from reconciler import quarantine
from reconciler.model import Builder
from tests.nix.connection_daemons import newer_nix, older_nix
from tests.support.builders import TestBuilder
from tests.support.trial import SYSTEM, Trial, processes_with

KEYS = {"uri": "uri", "ssh_key_file": "sshKeyFile", "public_host_key": "publicHostKey"}


@pytest.fixture
def big(trial: Trial) -> Iterator[TestBuilder]:
    with closing(TestBuilder(trial.store, newer_nix())) as builder:
        yield builder


@pytest.fixture
def old(trial: Trial) -> Iterator[TestBuilder]:
    with closing(TestBuilder(trial.store, older_nix())) as builder:
        yield builder


def declared(builder: Builder, **rest: Any) -> dict[str, Any]:
    """As a document says it."""
    facts = asdict(builder)
    return {key: facts[name] for name, key in KEYS.items()} | {"maxJobs": 2} | rest


def where(trial: Trial) -> dict[str, list[str]]:
    """Each build's builders, in the order of its attempts."""
    found: dict[str, list[str]] = {}
    for name, builder in trial.query(
        "SELECT d.name, a.builder FROM attempt a JOIN derivation d ON d.id = a.derivation"
        " ORDER BY a.id"
    ):
        found.setdefault(name, []).append(builder)
    return found


def output(trial: Trial, name: str) -> Path:
    return Path(
        trial.value(
            "SELECT o.path FROM output o JOIN derivation d ON d.id = o.derivation"
            f" WHERE d.name = '{name}' AND o.name = 'out'"
        )
    )


def diamond(salt: str = "") -> str:
    return f"""
    rec {{
      base = job "base" "echo base{salt} > $out";
      left = job "left" "echo left $(cat ${{base}}) > $out";
      right = job "right" "echo right $(cat ${{base}}) > $out";
      top = job "top" "cat ${{left}} ${{right}} > $out";
    }}
    """


def test_all_is_built_elsewhere_and_comes_back(
    trial: Trial, big: TestBuilder, old: TestBuilder
) -> None:
    builders = {"big": declared(big.declared()), "old": declared(old.declared())}
    trial.declare({"it": diamond()}, builders=builders)
    assert trial.once()
    assert set(trial.builds().values()) == {"succeeded"}
    assert output(trial, "top").read_text() == "left base\nright base\n"
    used = [builder for attempts in where(trial).values() for builder in attempts]
    assert len(used) == 4
    assert set(used) == {"big", "old"}, "equal builders take turns"
    # A connection for each slot that was used, and not for each build.
    assert big.sshd.connections <= 2
    assert old.sshd.connections <= 2


def test_systems_and_features_decide_where(trial: Trial, big: TestBuilder) -> None:
    foreign = "riscv64-linux"
    trial.declare(
        {
            "it": f"""
            {{
              plain = job "plain" "echo plain > $out";
              virtual = with_ {{ requiredSystemFeatures = [ "kvm" ]; }} "virtual" "echo > $out";
              foreign = with_ {{ system = "{foreign}"; }} "foreign" "echo > $out";
              nowhere = with_ {{ system = "sparc-linux"; }} "nowhere" "echo > $out";
            }}
            """
        },
        builders={
            "local": {"maxJobs": 2},
            "big": declared(
                big.declared(),
                systems=[SYSTEM],
                supportedFeatures=["kvm"],
                mandatoryFeatures=["kvm"],
            ),
            "drained": {"uri": "ssh-ng://nobody@127.0.0.1:1", "systems": [foreign], "drain": True},
        },
    )
    trial.once()
    assert where(trial) == {"plain": ["local"], "virtual": ["big"]}


def test_an_unreachable_builder_is_left_alone_until_it_is_back(
    trial: Trial, big: TestBuilder
) -> None:
    nowhere = declared(big.declared(), uri="ssh-ng://nobody@127.0.0.1:1")
    trial.declare({"it": diamond()}, builders={"big": nowhere, "local": {}})
    assert trial.once()
    assert set(trial.builds().values()) == {"succeeded"}
    assert {attempts[-1] for attempts in where(trial).values()} == {"local"}
    # Declared otherwise, it is tried at once.
    trial.declare({"it": diamond("2")}, builders={"big": declared(big.declared())})
    assert trial.once()
    assert set(trial.builds().values()) == {"succeeded"}
    assert trial.conditions() == {}


def test_a_builder_that_never_comes_back_keeps_the_farm_from_converging_and_says_why(
    trial: Trial, big: TestBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "FIRST_PAUSE", 0.1)
    nowhere = declared(big.declared(), uri="ssh-ng://nobody@127.0.0.1:1")
    settings = {"source": trial.source("it", diamond()), "retry": {"backoff": "1s"}}
    trial.declare({"it": settings}, builders={"big": nowhere})
    trial.once()
    assert set(where(trial)) == {"base"}
    message = trial.conditions()["builder", "big", "quarantined"]
    assert "it turns connections away" in message
    assert "quarantined until" in message


def test_a_builder_lost_in_the_middle_of_a_build_costs_only_time(trial: Trial) -> None:
    gate = trial.root / "gate"
    gate.mkdir()
    settings = f"extra-sandbox-paths = {gate}\n"
    with closing(TestBuilder(trial.store, newer_nix(), settings=settings)) as big:
        lose(trial, big, gate)
    assert trial.attempts("it") == ["infrastructure", "succeeded"]
    assert trial.conditions() == {}


def lose(trial: Trial, big: TestBuilder, gate: Path) -> None:
    """Lose the builder while it builds, then let the build end."""
    script = f"until test -e {gate}/open; do :; done; echo good > $out"
    trial.declare(
        {"it": f'{{ it = job "it" "{script}"; }}'}, builders={"big": declared(big.declared())}
    )
    with trial.running() as daemon:
        daemon.eventually(lambda: processes_with(f"{gate}/open"))
        big.sshd.hang_up()
        daemon.eventually(lambda: len(where(trial).get("it", ())) > 1)
        (gate / "open").touch()
        daemon.eventually(lambda: trial.builds() == {"it": "succeeded"})


def test_a_build_that_is_stopped_is_gone_from_the_builder(trial: Trial, big: TestBuilder) -> None:
    limited = {
        "source": trial.source("it", '{ it = job "it" "echo begun; exec sleep 3600"; }'),
        "limits": {"timeout": "1s"},
    }
    trial.declare({"it": limited}, builders={"big": declared(big.declared())})
    assert trial.once()
    assert trial.builds() == {"it": "timed-out"}
    assert where(trial) == {"it": ["big"]}
    big.settle()
