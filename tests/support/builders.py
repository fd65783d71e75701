"""Builders as they are reached in earnest: a real sshd on loopback, and behind it a Nix of its own.

Each builder's store holds the same store paths as the client's (they contain the store's folder)
in a folder of its own: Nix calls that a store with a `root`. sshd serves each connection as inetd
would have it, on a socket that is accepted here: there is a port without a race for it, and the
processes of a builder's connections are known, to be killed or stopped.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from reconciler.model import Builder, BuilderName
from tests.support.private_store import PrivateStore

CONFIGURATION = """
AuthorizedKeysFile {folder}/authorized_keys
HostKey {folder}/host_key
KbdInteractiveAuthentication no
PasswordAuthentication no
PermitRootLogin prohibit-password
PrintLastLog no
PrintMotd no
SetEnv {environment}
StrictModes no
UseDNS no
UsePAM no
"""


DEADLINE = 120.0
"""Seconds."""


def sshd_program() -> str:
    """The server's full path, which it needs to start itself anew."""
    found = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.fail("there is no sshd: run `make tools`, or install OpenSSH's server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True, mode=0o755)  # as root it insists on this folder
    return found


def make_key(file: Path) -> str:
    """Make a key pair; the public key as one line."""
    argv = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(file))
    subprocess.run(argv, check=True, input="y\n", text=True, stdout=subprocess.DEVNULL)
    return file.with_name(f"{file.name}.pub").read_text().strip()


def declared(name: str, uri: str, *, key_file: Path, host_key: str) -> Builder:
    """A builder elsewhere as a document declares it, all else being as it is by default."""
    return Builder(
        name=BuilderName(name),
        uri=uri,
        systems=None,
        max_jobs=2,
        speed_factor=1,
        supported_features=(),
        mandatory_features=(),
        drain=False,
        ssh_key_file=str(key_file),
        public_host_key=host_key,
    )


class Sshd:
    """A builder's ssh server. `host_key` is its public key."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.host_key = make_key(folder / "host_key")
        self.key_file = folder / "client_key"
        (folder / "authorized_keys").write_text(make_key(self.key_file) + "\n")
        self.set_environment(environment)
        self._program = sshd_program()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sessions: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self.connections = 0
        """How many were taken, ever."""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def set_environment(self, environment: Mapping[str, str]) -> None:
        """What the next connections find in their environment."""
        (self.folder / "sshd_config").write_text(
            CONFIGURATION.format(
                folder=self.folder,
                environment=" ".join(f'"{name}={value}"' for name, value in environment.items()),
            )
        )

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # shut down
                return
            with connection, self._lock:
                argv = (self._program, "-i", "-f", f"{self.folder}/sshd_config")
                log = f"{self.folder}/sshd.log"
                self.connections += 1
                theirs = connection.fileno()
                session = subprocess.Popen((*argv, "-E", log), stdin=theirs, stdout=theirs)
                self._sessions.append(session)

    def signal_sessions(self, number: signal.Signals) -> None:
        """Signal the servers of all connections; what they started is left to find out."""
        with self._lock:
            for session in self._sessions:
                session.send_signal(number)

    def hang_up(self) -> None:
        """Kill the servers of all connections."""
        self.signal_sessions(signal.SIGKILL)
        with self._lock:
            for session in self._sessions:
                session.wait()
            self._sessions.clear()

    def shut(self) -> None:
        """Listen no more: who connects is refused."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def close(self) -> None:
        """End it, with all connections."""
        if self._thread.is_alive():
            self.shut()
        self.hang_up()


class TestBuilder:
    """A builder with its own store, of one version of Nix."""

    __test__ = False  # not a test, whatever its name says to pytest

    def __init__(self, client: PrivateStore, nix: Path, *, settings: str = "") -> None:
        self.store = PrivateStore.create(settings=settings)
        self.environment = {
            **self.store.environment,
            "NIX_STORE_DIR": str(client.store_dir),
            "NIX_REMOTE": f"local?root={self.store.root}/root",
            "PATH": f"{nix}:/usr/bin:/bin",
        }
        self.sshd = Sshd(self.store.root / "conf", self.environment)

    @property
    def store_dir(self) -> Path:
        """Where its store's paths are in truth."""
        return self.store.root / "root/nix/store"

    def declared(self, name: str = "big") -> Builder:
        """As a document declares it."""
        user = pwd.getpwuid(os.geteuid()).pw_name
        uri = f"ssh-ng://{user}@127.0.0.1:{self.sshd.port}"
        return declared(name, uri, key_file=self.sshd.key_file, host_key=self.sshd.host_key)

    @property
    def substituter(self) -> str:
        """As Nix is told of it, where it is to fetch from there."""
        key = base64.b64encode(" ".join(self.sshd.host_key.split()[:2]).encode()).decode()
        return (
            f"{self.declared().uri}?ssh-key={self.sshd.key_file}&base64-ssh-public-host-key={key}"
        )

    def shrink(self, size: str) -> None:
        """Give the store, from the next connection on, a disk of its own that is so small."""
        folder = self.store.root / "bin"
        folder.mkdir()
        unshare = "unshare --mount" if os.geteuid() == 0 else "unshare --mount -r"
        self.store_dir.mkdir(parents=True, exist_ok=True)
        daemon = shutil.which("nix-daemon", path=self.environment["PATH"])
        script = folder / "nix-daemon"
        mount = f"mount -t tmpfs -o size={size} none {self.store_dir}"
        script.write_text(
            f'#!/bin/sh\nexec {unshare} sh -euc \'{mount}; exec {daemon} "$@"\' sh "$@"\n'
        )
        script.chmod(0o755)
        self.sshd.set_environment(
            {**self.environment, "PATH": f"{folder}:{self.environment['PATH']}"}
        )

    def kill_daemons(self) -> None:
        """Kill what was started for connections, daemons and builds, but not sshd."""
        for process in self._processes():
            signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)

    def run(self, *argv: str) -> str:
        """What a command prints on the builder."""
        return subprocess.run(
            argv,
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def holds(self, path: str) -> bool:
        """Whether a store path is there, valid or not."""
        return os.path.lexists(self.stored(path))

    def stored(self, path: str) -> Path:
        """Where a store path is in truth."""
        return self.store_dir / Path(path).name

    @contextlib.contextmanager
    def behind_a_daemon(self, **settings: str) -> Iterator[None]:
        """Let connections be handed on to a daemon on the builder, as where Nix is not root's own.

        `settings` are of the daemon's nix.conf, with underscores for hyphens.
        """
        text = "".join(f"{key.replace('_', '-')} = {value}\n" for key, value in settings.items())
        conf = self.store.root / "daemon-conf"
        conf.mkdir()
        base = (self.store.root / "conf/nix.conf").read_text()
        (conf / "nix.conf").write_text(base + text)
        path = self.store.root / "socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            daemon = subprocess.Popen(
                ("python3", "-c", _HAND_OVER, str(listener.fileno())),
                env={**self.environment, "NIX_CONF_DIR": str(conf)},
                pass_fds=(listener.fileno(),),
                stderr=subprocess.DEVNULL,
            )
        # It reads contents from the store's folder itself, and so must know where that is.
        front = f"unix://{path}?root={self.store.root}/root"
        self.sshd.set_environment({**self.environment, "NIX_REMOTE": front})
        try:
            yield
        finally:
            self.sshd.hang_up()
            daemon.terminate()
            daemon.wait()

    def close(self) -> None:
        """End it, wait for what still tidies up there, and remove its store."""
        self.sshd.close()
        self.settle()
        self.store.destroy()

    def settle(self) -> None:
        """Wait until nothing runs there; AssertionError if something does for too long."""
        while busy := self._processes():
            for process in busy:
                ended, _, _ = select.select((process,), (), (), DEADLINE)
                os.close(process)
                assert ended, "something still runs on the builder"

    def _processes(self) -> list[int]:
        """Handles of the processes that were started with this builder's environment."""
        mark = f"NIX_REMOTE=local?root={self.store.root}/root\0".encode()
        handles = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is not ours
                if mark in (folder / "environ").read_bytes():
                    handles.append(os.pidfd_open(int(folder.name)))
        return handles


# A listening socket is handed over as systemd does it: it takes connections before the daemon runs.
_HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execvp("nix-daemon", ["nix-daemon"])
"""
