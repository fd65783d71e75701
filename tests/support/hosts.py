"""Builders as machines: each has a network, processes and mounts of its own, an address, an sshd
that listens there, and a Nix store at the same place as the client's, which it hides.

A farm has a network of its own too, from which alone its hosts are reached: nothing of it is seen
in the machine's, and several farms have the same addresses without knowing of each other. The
kernel's namespaces do this for root only; all is gone with the processes that hold them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.model import Builder
from tests.support.builders import DEADLINE, declared, make_key, sshd_program
from tests.support.private_store import PrivateStore

CONFIGURATION = """
ListenAddress {address}
AuthorizedKeysFile {folder}/authorized_keys
HostKey {folder}/host_key
KbdInteractiveAuthentication no
PasswordAuthentication no
PermitRootLogin prohibit-password
PidFile none
PrintLastLog no
PrintMotd no
SetEnv {environment}
StrictModes no
UseDNS no
UsePAM no
ClientAliveInterval 1
ClientAliveCountMax 2
"""
"""The last two are what README advises, so that a builder notices a farm that is gone; sooner."""

HOLD = "echo up; while :; do sleep 3600 & wait $!; done"
"""What keeps namespaces there. A shell that waits reaps those whose parents are gone."""


class Network:
    """What a farm's client and hosts have in common."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            pytest.fail("this test makes network namespaces, as root only can: run it as root")
        self._holder = _hold(
            ("unshare", "--net"), "ip link set lo up; echo up; exec sleep infinity"
        )
        self.within = ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--")
        """What a command begins with that runs in the farm's network."""

    def join(self, number: int, process: int) -> str:
        """Connect the network of a process by a line of its own; the address it gets."""
        subnet, here = f"10.213.{number}", f"line{number}"
        _run(*self.within, "ip", "link", "add", here, "type", "veth", "peer", "name", "eth0",
             "netns", str(process))  # fmt: skip
        _run(*self.within, "ip", "addr", "add", f"{subnet}.1/24", "dev", here)
        _run(*self.within, "ip", "link", "set", here, "up")
        there = ("nsenter", f"--net=/proc/{process}/ns/net", "--")
        _run(*there, "ip", "addr", "add", f"{subnet}.2/24", "dev", "eth0")
        _run(*there, "ip", "link", "set", "eth0", "up")
        return f"{subnet}.2"

    def set_line(self, number: int, state: str) -> None:
        """Take the farm's end of a line `up` or `down`."""
        _run(*self.within, "ip", "link", "set", f"line{number}", state)

    def close(self) -> None:
        """End it."""
        self._holder.kill()
        self._holder.wait()


class Host:
    """A machine that builds. `number` is its own within the farm."""

    def __init__(
        self,
        network: Network,
        client: PrivateStore,
        nix: Path,
        *,
        number: int,
        settings: str = "",
        disk: str | None = None,
    ) -> None:
        """`settings` are further lines of its nix.conf; `disk` is the size of the store's own."""
        self._network, self._number, self._nix, self._disk = network, number, nix, disk
        self.store = PrivateStore.create(settings=settings)
        self._client = client
        self._folder = self.store.root / "conf"
        self.key_file = self._folder / "client_key"
        (self._folder / "authorized_keys").write_text(make_key(self.key_file) + "\n")
        self.host_key = make_key(self._folder / "host_key")
        self._sshd: subprocess.Popen[bytes] | None = None
        self.switch_on()

    # --- The machine ---------------------------------------------------------------------------

    def switch_on(self) -> None:
        """Start it. What was on its disk is there again, unless that has a size."""
        there = self._client.store_dir
        mount = (
            f"mount --bind {self.store.store_dir} {there}"
            if self._disk is None
            else f"mount -t tmpfs -o size={self._disk} none {there}"
        )
        namespaces = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._outer = _hold(("unshare", *namespaces), f"ip link set lo up; {mount}; {HOLD}")
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text()
        self._first = int(children)
        self.address = self._network.join(self._number, self._first)
        self.start_sshd()

    def switch_off(self) -> None:
        """Cut its power: all of its processes are gone at once, and nobody is told."""
        os.kill(self._first, signal.SIGKILL)
        self._outer.wait()
        assert self._sshd is not None
        self._sshd.wait()

    def close(self) -> None:
        """End it, and remove its store."""
        if self._outer.poll() is None:
            self.switch_off()
        self.store.destroy()

    # --- Its server ----------------------------------------------------------------------------

    def start_sshd(self) -> None:
        """Have it be reached; its configuration and host key are read now."""
        variables = {
            **self.store.environment,
            "NIX_STORE_DIR": str(self._client.store_dir),
            "PATH": f"{self._nix}:/usr/bin:/bin",
        }
        environment = " ".join(f'"{name}={value}"' for name, value in variables.items())
        file = self._folder / "sshd_config"
        file.write_text(
            CONFIGURATION.format(address=self.address, folder=self._folder, environment=environment)
        )
        log = str(self._folder / "sshd.log")
        argv = (sshd_program(), "-D", "-f", str(file), "-E", log)
        self._sshd = subprocess.Popen((*self._within(), *argv))

    def kill_sshd(self) -> None:
        """Kill it with all sessions, and see that nobody is let in any more."""
        assert self._sshd is not None
        self.kill("sshd")
        self._sshd.wait()

    def change_host_key(self) -> None:
        """Be installed anew: whoever connects from now on sees another key."""
        self.kill_sshd()
        self._keep("host_key", "old_key")
        make_key(self._folder / "host_key")
        self.start_sshd()

    def restore_host_key(self) -> None:
        """Be what it was."""
        self.kill_sshd()
        self._keep("old_key", "host_key")
        self.start_sshd()

    def _keep(self, name: str, other: str) -> None:
        for suffix in ("", ".pub"):
            (self._folder / f"{name}{suffix}").replace(self._folder / f"{other}{suffix}")

    # --- Faults --------------------------------------------------------------------------------

    def set_line(self, state: str) -> None:
        """Take its own end of the line `up` or `down`."""
        _run("nsenter", f"--net=/proc/{self._first}/ns/net", "--", "ip", "link", "set", "eth0",
             state)  # fmt: skip

    def set_farms_line(self, state: str) -> None:
        """Take the farm's end of it `up` or `down`."""
        self._network.set_line(self._number, state)

    def fill_disk(self) -> None:
        """Leave no space where its store is."""
        script = 'head -c 1000000000 /dev/zero > "$1" 2>&-; test -s "$1"'
        _run(*self._within(), "sh", "-c", script, "sh", str(self._ballast))

    def empty_disk(self) -> None:
        """Give the space back."""
        _run(*self._within(), "rm", str(self._ballast))

    @property
    def _ballast(self) -> Path:
        return self._client.store_dir / ".ballast"

    def kill(self, program: str) -> None:
        """Kill its processes of a program, of which there must be some."""
        found = [each for each, name in self._processes() if name.startswith(program)]
        assert found, f"no {program} runs there"
        for process in found:
            with contextlib.suppress(ProcessLookupError):  # it ended with another
                os.kill(process, signal.SIGKILL)

    # --- Looking -------------------------------------------------------------------------------

    def builds(self) -> list[str]:
        """What runs there of Nix and of builds."""
        return [name for _, name in self._processes() if not name.startswith("sshd")]

    def until_nothing_runs(self) -> None:
        """Wait until no build and no daemon is left; AssertionError if one stays."""
        until = time.monotonic() + DEADLINE
        while left := self.builds():
            assert time.monotonic() < until, left
            time.sleep(0.02)

    def _processes(self) -> Iterator[tuple[int, str]]:
        """Its living processes, with the names of their programs; not what only keeps it there."""
        assert self._sshd is not None
        parents, names = dict[int, int](), dict[int, str]()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
                state, parent = rest.split()[:2]
                if state != "Z":
                    parents[int(folder.name)], names[int(folder.name)] = int(parent), name
        for process, name in names.items():
            above = parents[process]
            if (above, name) == (self._first, "sleep"):
                continue
            # What lost its parent has the first process instead, as everywhere.
            while above not in (self._first, self._sshd.pid) and above in parents:
                above = parents[above]
            if above in (self._first, self._sshd.pid):
                yield process, name

    def _within(self) -> tuple[str, ...]:
        namespaces = (f"--{each}=/proc/{self._first}/ns/{each}" for each in ("net", "pid"))
        return ("nsenter", *namespaces, f"--mount=/proc/{self._first}/ns/mnt", "--")

    def declared(self, name: str) -> Builder:
        """As a document declares it."""
        uri = f"ssh-ng://root@{self.address}"
        return declared(name, uri, key_file=self.key_file, host_key=self.host_key)


def _hold(command: tuple[str, ...], script: str) -> subprocess.Popen[bytes]:
    """Start what holds namespaces, and wait until they are ready."""
    process = subprocess.Popen(
        (*command, "sh", "-euc", script), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    if process.stdout.readline() != b"up\n":
        _, said = process.communicate()
        pytest.fail(
            f"{' '.join(command)} does not work here: {said.decode().strip()}. This test makes"
            " namespaces of networks, processes and mounts (CAP_SYS_ADMIN, CAP_NET_ADMIN), and"
            " needs unshare, nsenter and ip: run `make tools`"
        )
    process.stdout.close()
    if process.stderr is not None:
        process.stderr.close()
    return process


def _run(*argv: str) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
