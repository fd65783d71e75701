"""Several builders: what is built where, and what becomes of one that is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict

from reconciler import quarantine
from reconciler.model import Builder
from reconciler.nix import ssh
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


def test_what_somebody_has_to_mend_is_a_condition_of_that_builder_at_once(
    trial: Trial, big: TestBuilder, old: TestBuilder
) -> None:
    builders = {
        "big": declared(big.declared(), speedFactor=100, publicHostKey=old.sshd.host_key),
        "old": declared(old.declared()),
    }
    trial.declare({"it": diamond()}, builders=builders)
    assert trial.once()
    assert set(trial.builds().values()) == {"succeeded"}
    assert where(trial)["base"] == ["big", "old"]
    ((kind, name, reason),) = trial.conditions()
    assert (kind, name, reason) == ("builder", "big", "quarantined")
    message = trial.conditions()["builder", "big", "quarantined"]
    assert "it shows another host key than the declared one" in message
    assert big.sshd.connections == 1, "it is left alone"


GATED = "until test -e {gate}/open; do :; done; echo good > $out"


@contextmanager
def gated(trial: Trial) -> Iterator[tuple[TestBuilder, Path]]:
    """A builder on which builds can wait for a file in a folder."""
    gate = trial.root / "gate"
    gate.mkdir()
    lines = f"extra-sandbox-paths = {gate}\n"
    here = trial.store.root / "conf/nix.conf"
    here.write_text(here.read_text() + lines)
    with closing(TestBuilder(trial.store, newer_nix(), settings=lines)) as big:
        yield big, gate


@pytest.mark.parametrize("loss", ["of the connection", "of the daemon there"])
def test_a_builder_lost_in_the_middle_of_a_build_costs_only_time(trial: Trial, loss: str) -> None:
    with gated(trial) as (big, gate):
        script = GATED.format(gate=gate)
        builders = {"big": declared(big.declared())}
        trial.declare({"it": f'{{ it = job "it" "{script}"; }}'}, builders=builders)
        with trial.running() as daemon:
            daemon.eventually(lambda: processes_with(f"{gate}/open"))
            if loss == "of the connection":
                big.sshd.hang_up()
            else:
                big.kill_daemons()
            daemon.eventually(lambda: len(where(trial).get("it", ())) > 1)
            (gate / "open").touch()
            daemon.eventually(lambda: trial.builds() == {"it": "succeeded"})
    assert trial.attempts("it") == ["infrastructure", "succeeded"]
    assert trial.conditions() == {}


def test_a_builder_that_hangs_is_noticed(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "ALIVE_INTERVAL", 1)
    monkeypatch.setattr(ssh, "ALIVE_COUNT", 1)
    with gated(trial) as (big, gate):
        builders = {"big": declared(big.declared(), speedFactor=100), "local": {}}
        script = GATED.format(gate=gate)
        trial.declare({"it": f'{{ it = job "it" "{script}"; }}'}, builders=builders)
        stopped = threading.Event()

        def stop() -> None:
            while not processes_with(f"{gate}/open"):
                stopped.wait(0.02)
            big.sshd.signal_sessions(signal.SIGSTOP)
            stopped.set()
            (gate / "open").touch()

        thread = threading.Thread(target=stop)
        thread.start()
        assert trial.once()
        thread.join()
    assert stopped.is_set()
    assert where(trial) == {"it": ["big", "local"]}
    assert trial.attempts("it") == ["infrastructure", "succeeded"]


def test_a_builder_without_space_is_not_the_builds_fault(trial: Trial, big: TestBuilder) -> None:
    big.shrink("4m")
    builders = {"big": declared(big.declared(), speedFactor=100), "local": {}}
    script = "head -c 9000000 /dev/zero > $out || exit 7"
    trial.declare({"it": f'{{ it = job "it" "{script}"; }}'}, builders=builders)
    assert trial.once()
    assert where(trial) == {"it": ["big", "local"]}
    assert trial.attempts("it") == ["infrastructure", "succeeded"]
    assert trial.builds() == {"it": "succeeded"}
    said = trial.value("SELECT message FROM attempt ORDER BY id")
    assert said.startswith("no space left: ")


def test_a_reconciler_that_is_killed_leaves_nothing_running_there_and_goes_on(
    trial: Trial,
) -> None:
    with gated(trial) as (big, gate):
        base = f'base = job "base" "{GATED.format(gate=gate)}";'
        rest = """
          left = with_ { inherit base; } "left" "cat $base > $out";
          right = with_ { inherit base; } "right" "cat $base > $out";
          top = with_ { inherit left right; } "top" "cat $left $right > $out";
        """
        builders = {"big": declared(big.declared())}
        trial.declare({"it": f"rec {{ {base} {rest} }}"}, builders=builders)
        with trial.running() as daemon:
            daemon.eventually(lambda: processes_with(f"{gate}/open"))
            daemon.kill()
        big.settle()
        (gate / "open").touch()
        assert trial.once()
        assert trial.attempts("base") == ["interrupted", "succeeded"]
        assert [trial.attempts(each) for each in ("left", "right", "top")] == [["succeeded"]] * 3
        assert output(trial, "top").read_text() == "good\ngood\n"
        assert {each for attempts in where(trial).values() for each in attempts} == {"big"}


def test_a_drained_builder_finishes_what_it_builds_and_takes_nothing_new(trial: Trial) -> None:
    with gated(trial) as (big, gate):
        early = f'early = job "early" "{GATED.format(gate=gate)}";'
        late = 'late = job "late" "echo > $out";'
        trial.declare({"it": f"{{ {early} }}"}, builders={"big": declared(big.declared())})
        with trial.running() as daemon:
            daemon.eventually(lambda: processes_with(f"{gate}/open"))
            builders = {"big": declared(big.declared(), drain=True, speedFactor=100), "local": {}}
            trial.declare({"it": f"{{ {early} {late} }}"}, builders=builders)
            daemon.eventually(lambda: trial.builds().get("late") == "succeeded")
            assert trial.builds()["early"] == "building"
            (gate / "open").touch()
            daemon.eventually(lambda: trial.builds()["early"] == "succeeded")
    assert where(trial) == {"early": ["big"], "late": ["local"]}


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


def test_what_a_fast_builder_built_is_expected_to_take_a_slow_one_longer(
    trial: Trial, big: TestBuilder
) -> None:
    builders = {"big": declared(big.declared(), speedFactor=1000)}
    trial.declare({"it": '{ it = job "it-1.0" "echo > $out"; }'}, builders=builders)
    assert trial.once()
    ((name, work),) = trial.query("SELECT name, seconds FROM duration")
    assert name == "it"
    took = trial.value("SELECT finished_at - started_at FROM attempt")
    assert 0 < work / 1000 < took, "copying is no work of the build's"
    assert work > took


def test_a_builder_that_takes_only_what_nothing_asks_for_says_so(trial: Trial) -> None:
    picky = {"uri": "ssh-ng://nobody@127.0.0.1:1", "mandatoryFeatures": ["kvm"]}
    builders = {"local": {}, "picky": picky}
    # Nothing is known before something was evaluated.
    trial.declare({"it": 'throw "not yet"'}, builders=builders)
    trial.once()
    assert not [each for each in trial.conditions() if each[0] == "builder"]
    trial.declare({"it": '{ it = job "it" "echo > $out"; }'}, builders=builders)
    assert trial.once()
    assert trial.builds() == {"it": "succeeded"}
    assert trial.conditions() == {
        ("builder", "picky", "not-asked-for"): (
            "nothing that is evaluated asks for its mandatory feature kvm: it gets no work"
        )
    }
    # What a job needs may ask for it.
    asking = 'with_ { requiredSystemFeatures = [ "kvm" ]; } "below" "echo > $out"'
    trial.declare({"it": f'{{ it = job "top" "cat ${{{asking}}} > $out"; }}'}, builders=builders)
    with trial.running() as daemon:
        daemon.eventually(lambda: "below" in trial.builds())
        daemon.eventually(lambda: ("builder", "picky", "not-asked-for") not in trial.conditions())
