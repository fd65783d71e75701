"""What a whole test session stands on: a Nix on PATH, and one folder that holds its private stores.

The folder is removed at the end of the session; what killed sessions left behind, at the start of
the next one.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.private_store import PrivateStore, stores_root

PROJECT = Path(__file__).parents[2]

NO_NIX = (
    "the tests need Nix, and there is none: run `make nix`, or put a Nix of 2.24 or later on PATH, "
    "or name its folder in RECONCILER_NIX_BIN"
)


def find_nix() -> Path | None:
    """The folder of the Nix to test with: what `make` found, else what it would find."""
    named = os.environ.get("RECONCILER_NIX_BIN")
    if named:
        return Path(named) if os.access(Path(named) / "nix", os.X_OK) else None
    # The Makefile's NIX_PREFIX.
    share = Path("/opt") if os.geteuid() == 0 else Path.home() / ".local/share"
    found = subprocess.run(
        [PROJECT / "scripts/find-nix.sh", share / "nix-reconciler/nix"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return Path(found) if found else None


def use_nix(folder: Path) -> None:
    """Put a Nix first on PATH, for this process and all that it starts."""
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def _remove_if_abandoned(folder: Path) -> None:
    """Remove the folder of a session that is gone: the kernel drops a lock with its process."""
    try:
        lock = (folder / "lock").open("a")
    except FileNotFoundError:  # a session that ended just now
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        PrivateStore(folder).destroy()


@contextmanager
def stores_of_a_session() -> Iterator[Path]:
    """A folder for the private stores of this session; its lock says that the session is alive."""
    root = stores_root()
    with (root / "lock").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for folder in root.glob("run-*"):
            _remove_if_abandoned(folder)
        # A short name: a daemon's socket lies below, and a socket's path has 107 bytes at most.
        path = Path(tempfile.mkdtemp(prefix="run-", dir=root))
        alive = (path / "lock").open("a")
        fcntl.flock(alive, fcntl.LOCK_EX)
    path.chmod(0o755)
    os.environ["RECONCILER_TEST_STORES"] = str(path)
    with alive:
        yield path
        PrivateStore(path).destroy()
