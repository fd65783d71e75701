"""Folders where objects are prepared before they get to their places.

Each belongs to one process, which holds a lock on it while it lives; what a killed one left behind
goes when the next is made beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path


class Staging:
    """A fresh folder below `parent`; OSError where none can be made. Blocking."""

    def __init__(self, parent: Path, *, prefix: str) -> None:
        _remove_abandoned(parent, prefix)
        self.folder, self._lock = _make(parent, prefix)

    def close(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def _make(parent: Path, prefix: str) -> tuple[Path, int]:
    """The folder, and the descriptor that locks it while this process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Until it is locked, another process may take it for abandoned.
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder, lock
        os.close(lock)


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove those whose processes were killed: nobody holds their locks."""
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # in use, someone else's, or just removed
            descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(descriptor)
