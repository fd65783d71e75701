"""Real Nix daemons for tests: two versions of Nix, each behind a socket and behind pipes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.model import DrvPath, StorePath
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import CommandEndpoint, Endpoint, SocketEndpoint
from reconciler.nix.protocol import ClientOptions
from tests.support.private_store import PrivateStore

PATIENCE = 30.0
OPTIONS = ClientOptions(settings={"build-hook": ""})

# A listening socket is handed over as systemd does it: it takes connections before the daemon runs.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execvp("nix-daemon", ["nix-daemon"])
"""


def newer_nix() -> Path:
    """The folder of the Nix that all tests use."""
    found = shutil.which("nix-daemon")
    if found is None:
        pytest.fail("there is no nix-daemon on PATH: run `make nix`")
    return Path(found).parent


def older_nix() -> Path:
    """The folder of the other version, which only these tests use."""
    newer = newer_nix().parent
    default = newer.with_name(f"{newer.name}-2.26") / "bin"
    folder = Path(os.environ.get("RECONCILER_TEST_NIX_OLD") or default)
    if not (folder / "nix-daemon").exists():
        pytest.fail(
            f"there is no older Nix in {folder}: run `make old-nix`, or name the bin folder of a"
            " Nix 2.24 to 2.30 in RECONCILER_TEST_NIX_OLD"
        )
    return folder


@dataclass(frozen=True)
class Daemon:
    """A private store with a way to its daemon."""

    store: PrivateStore
    endpoint: Endpoint
    environment: dict[str, str]

    async def connect(self, options: ClientOptions = OPTIONS) -> Connection:
        return await Connection.open(self.endpoint, options=options, patience=PATIENCE)

    def run(self, *argv: str) -> str:
        """What a command of this version of Nix prints about this store."""
        return subprocess.run(
            argv, env=self.environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    def derivation(self, script: str, *, name: str = "test", attributes: str = "") -> DrvPath:
        """Instantiate a derivation whose builder is a shell script.

        The shell stays to the end: the last of its commands, run in its place, would close its
        output and then exit, and Nix kills a builder that it finds alive behind a closed output.
        """
        whole = f"{script}\nexit $?"
        quoted = whole.replace("''", "'''").replace("${", "''${")
        return DrvPath(
            self.run(
                "nix-instantiate",
                "-E",
                f'derivation {{ name = "{name}"; system = builtins.currentSystem;'
                f' PATH = "/usr/bin"; builder = "/bin/sh";'
                f" args = [ \"-c\" ''{quoted}'' ]; {attributes} }}",
            )
        )

    async def built(self, script: str, *, name: str = "test") -> StorePath:
        """Build a derivation on a connection of its own, which leaves no temporary root."""
        async with await self.connect() as connection:
            result = await connection.build(self.derivation(script, name=name))
        assert result.status.success, result.message
        return result.outputs["out"]


@contextmanager
def daemon(nix: Path, *, behind: str, settings: str = "") -> Iterator[Daemon]:
    """A private store and its daemon, of this Nix, `behind` a "socket" or a "command"."""
    store = PrivateStore.create(settings=settings)
    environment = {**os.environ, **store.environment}
    environment["PATH"] = f"{nix}{os.pathsep}{environment['PATH']}"
    try:
        if behind == "command":
            endpoint = CommandEndpoint(("nix-daemon", "--stdio"), environment)
            yield Daemon(store, endpoint, environment)
        else:
            with listening(store, environment) as path:
                yield Daemon(store, SocketEndpoint(path), environment)
    finally:
        store.destroy()


@contextmanager
def listening(store: PrivateStore, environment: dict[str, str]) -> Iterator[str]:
    """A running nix-daemon; the path of its socket."""
    path = str(store.root / "socket")
    # Each connection is served by a process of its own; what holds this pipe open still works.
    at_work, work = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-c", HAND_OVER, str(listener.fileno())],
            env=environment,
            pass_fds=(listener.fileno(), work),
            stderr=subprocess.DEVNULL,
        )
    os.close(work)
    try:
        yield path
    finally:
        process.terminate()
        process.wait()
        os.read(at_work, 1)
        os.close(at_work)
