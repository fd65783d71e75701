"""A farm of machines with their own networks: each fault in mid-build costs time and nothing else.

Two builders with different features and slots, one that is slow, one that is dead. However it is
disturbed, in the end all is there as if it had not been, built once to success, and nothing runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.nix.connection_daemons import newer_nix, older_nix
from tests.support.hosts import Host, Network
from tests.support.trial import Daemon, Trial, processes_with
from tests.system.test_builders import declared, output, where

IMPATIENT = """
reconciler.nix.ssh:ALIVE_INTERVAL=1 reconciler.nix.ssh:ALIVE_COUNT=1
reconciler.nix.ssh:CONNECT_TIMEOUT=1 reconciler.quarantine:FIRST_PAUSE=0.5
reconciler.quarantine:LONGEST_PAUSE=1
"""
"""A farm notices and forgives within seconds, as it otherwise does within a minute."""

JOBS = """
let asking = feature: with_ {{ requiredSystemFeatures = [ feature ]; }}; in
rec {{
  base = job "base" "read -r line < {gate}; head -c 200000 /dev/zero > $out";
  left = job "left" "test -s ${{base}}; echo left > $out";
  right = asking "beta" "right" "test -s ${{base}}; echo right > $out";
  top = job "top" "cat ${{left}} ${{right}} > $out";
  back = asking "alpha" "back" "cat ${{top}} > $out; head -c 200000 /dev/zero >> $out";
}}
"""
ALL = ("base", "left", "right", "top", "back")


@dataclass
class Farm:
    """See the module's text. `a` is the fastest, and alone has the feature alpha."""

    trial: Trial
    network: Network
    a: Host
    b: Host
    slow: Host
    gate: Path
    """A pipe from which the first build reads a line before it goes on."""
    writer: int

    def declare(self) -> None:
        """All builders, none of them this machine; and what is to be built."""
        settings = {
            "source": self.trial.source("it", JOBS.format(gate=self.gate)),
            "retry": {"attempts": 100, "backoff": "100ms"},
        }
        # On the line of another, where nobody answers.
        dead = {"uri": "ssh-ng://root@10.213.3.9", "sshKeyFile": str(self.a.key_file)}
        self.trial.declare(
            {"it": settings},
            builders={
                "a": declared(self.a.declared("a"), speedFactor=8, supportedFeatures=["alpha"]),
                "b": declared(self.b.declared("b"), supportedFeatures=["beta"], maxJobs=1),
                "slow": declared(self.slow.declared("slow"), speedFactor=0.1, maxJobs=1),
                "dead": dead | {"speedFactor": 2},
            },
        )

    def opened(self) -> None:
        """Let what waits in the first build go on, and whatever comes to wait there."""
        for _ in range(100):
            os.write(self.writer, b"\n")

    def is_building(self) -> bool:
        """Whether the first build is under way, on the fastest."""
        return bool(processes_with(str(self.gate))) and where(self.trial) == {"base": ["a"]}

    def lost(self) -> bool:
        """Whether the first attempt came to nothing."""
        return self.trial.attempts("base")[0] == "infrastructure"

    def done(self, *names: str) -> bool:
        """Whether these are built."""
        builds = self.trial.builds()
        return all(builds.get(each) == "succeeded" for each in names)

    def contents(self) -> dict[str, bytes]:
        """What was built, by name."""
        return {name: output(self.trial, name).read_bytes() for name in self.trial.builds()}


@pytest.fixture
def farm(trial: Trial) -> Iterator[Farm]:
    gate = trial.root / "gate"
    os.mkfifo(gate)
    writer = os.open(gate, os.O_RDWR)
    settings = f"extra-sandbox-paths = {gate}\n"
    with ExitStack() as stack:
        network = stack.enter_context(closing(Network()))

        def host(number: int, nix: Path, feature: str, disk: str | None = None) -> Host:
            lines = f"{settings}system-features = {feature}\n"
            made = Host(network, trial.store, nix, number=number, settings=lines, disk=disk)
            return stack.enter_context(closing(made))

        a = host(1, newer_nix(), "alpha", disk="64m")
        b = host(2, older_nix(), "beta")
        slow = host(3, newer_nix(), "")
        trial.within = network.within
        trial.environment["RECONCILER_TEST_SETTINGS"] = IMPATIENT
        stack.callback(os.close, writer)
        yield Farm(trial, network, a, b, slow, gate, writer)


@contextmanager
def building(farm: Farm) -> Iterator[Daemon]:
    """A daemon that is at the first build; at the end all is there, once, and nothing runs."""
    farm.declare()
    with farm.trial.running() as daemon:
        daemon.eventually(farm.is_building)
        yield daemon
        daemon.eventually(lambda: farm.done(*ALL))
    for each in ALL:
        outcomes = farm.trial.attempts(each)
        assert outcomes.count("succeeded") == 1, (each, outcomes)
        assert {*outcomes} <= {"succeeded", "infrastructure"}, (each, outcomes)
    zeros = bytes(200_000)
    top = b"left\nright\n"
    assert farm.contents() == {
        "base": zeros, "left": b"left\n", "right": b"right\n", "top": top, "back": top + zeros,
    }  # fmt: skip
    assert where(farm.trial)["right"][-1] == "b"
    assert where(farm.trial)["back"][-1] == "a", "it is back"
    assert {name for _, name, _ in farm.trial.conditions()} <= {"dead"}
    for host in (farm.a, farm.b, farm.slow):
        host.until_nothing_runs()


def test_undisturbed(farm: Farm) -> None:
    with building(farm):
        farm.opened()
    assert all(outcomes == ["succeeded"] for outcomes in map(farm.trial.attempts, ALL))
    assert where(farm.trial)["base"] == ["a"]


Act = Callable[[Host], None]
LOSSES: dict[str, tuple[Act, Act]] = {
    "sshd is killed": (Host.kill_sshd, Host.start_sshd),
    "its end of the line is down": (lambda a: a.set_line("down"), lambda a: a.set_line("up")),
    "our end of the line is down": (
        lambda a: a.set_farms_line("down"),
        lambda a: a.set_farms_line("up"),
    ),
    "its power is cut": (Host.switch_off, Host.switch_on),
    "it is installed anew": (Host.change_host_key, Host.restore_host_key),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_builder(farm: Farm, loss: str) -> None:
    lose, mend = LOSSES[loss]
    with building(farm) as daemon:
        lose(farm.a)
        daemon.eventually(farm.lost)
        farm.opened()
        # Others go on with it, and what only this one can do waits for it.
        daemon.eventually(lambda: farm.done("base", "left", "right", "top"))
        assert where(farm.trial)["base"][-1] != "a"
        daemon.eventually(lambda: ("builder", "a", "quarantined") in farm.trial.conditions())
        assert not farm.done("back")
        if loss != "its power is cut":
            farm.a.until_nothing_runs()
        mend(farm.a)


def test_its_daemon_is_killed(farm: Farm) -> None:
    with building(farm) as daemon:
        farm.a.kill("nix-daemon")
        daemon.eventually(farm.lost)
        farm.opened()


def test_its_disk_is_full(farm: Farm) -> None:
    with building(farm) as daemon:
        farm.a.fill_disk()
        farm.opened()
        daemon.eventually(farm.lost)
        assert "no space left" in farm.trial.value("SELECT message FROM attempt ORDER BY id")
        daemon.eventually(lambda: farm.done("base", "left", "right", "top"))
        daemon.eventually(lambda: ("builder", "a", "quarantined") in farm.trial.conditions())
        farm.a.empty_disk()


def test_ours_is_killed_while_the_line_is_down(farm: Farm) -> None:
    farm.declare()
    with farm.trial.running() as daemon:
        daemon.eventually(farm.is_building)
        farm.a.set_line("down")
        daemon.kill()
    farm.a.until_nothing_runs()
    farm.a.set_line("up")
    farm.opened()
    with farm.trial.running() as daemon:
        daemon.eventually(lambda: farm.done(*ALL))
    first, *rest = farm.trial.attempts("base")
    assert (first, rest.count("succeeded")) == ("interrupted", 1)
    assert [farm.trial.attempts(each) for each in ALL[1:]] == [["succeeded"]] * 4
