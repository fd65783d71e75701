"""Build logs on disk: one file an attempt, bounded, readable while it grows.

A live log is `ATTEMPT.log`; when the attempt ends it becomes `ATTEMPT.log.zst`. Of a log larger
than the bound its head and its tail are kept, with a line between that says how much is missing.
Bytes are kept as they came: making them safe for a terminal is the printer's business.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import zstandard

HEAD_BYTES = 8 * 1024 * 1024
TAIL_BYTES = 8 * 1024 * 1024
FOLDER_SIZE = 1000
"""Attempts to a folder, so that none grows without bound."""
_CHUNK = 256 * 1024


def live_path(logs: Path, attempt: int) -> Path:
    """Where an attempt's log grows."""
    return logs / str(attempt // FOLDER_SIZE) / f"{attempt}.log"


def stored_path(logs: Path, attempt: int) -> Path:
    """Where an attempt's log ends up."""
    return logs / str(attempt // FOLDER_SIZE) / f"{attempt}.log.zst"


class LogWriter:
    """Writes one attempt's log, from its first byte on: one that prints nothing has no file.

    OSError where the disk is full or the folder not writable.
    """

    def __init__(self, logs: Path, attempt: int) -> None:
        self._logs = logs
        self._attempt = attempt
        self._file: FileIO | None = None
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.bytes = 0
        """All bytes that came, kept or not."""

    def write(self, data: bytes) -> None:
        """Append."""
        room = HEAD_BYTES - self.bytes
        self.bytes += len(data)
        if self._file is None:
            self._file = self._open()
        if room > 0:
            self._file.write(data[:room])
            data = data[room:]
        if data:
            self._tail.append(data)
            self._tail_bytes += len(data)
            while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
                self._tail_bytes -= len(self._tail.popleft())

    def close(self) -> None:
        """Compress into the stored file and remove the live one.

        A small log is compressed at once; the write is atomic, so that a killed process leaves
        either the live or the stored file whole.
        """
        if self._file is None:
            return
        missing = self.bytes - HEAD_BYTES - self._tail_bytes
        if missing > 0:
            self._file.write(b"\n[... %d bytes of this log were not kept ...]\n" % missing)
        for data in self._tail:
            self._file.write(data)
        self._file.close()
        compress(self._logs, self._attempt)

    def _open(self) -> FileIO:
        live = live_path(self._logs, self._attempt)
        live.parent.mkdir(parents=True, exist_ok=True)
        return live.open("wb", buffering=0)


def compress(logs: Path, attempt: int) -> None:
    """Turn a live log into a stored one."""
    source, target = live_path(logs, attempt), stored_path(logs, attempt)
    temporary = target.with_suffix(".tmp")
    compressor = zstandard.ZstdCompressor(level=3)
    with source.open("rb") as reader, temporary.open("wb") as writer:
        compressor.copy_stream(reader, writer)
    temporary.rename(target)
    source.unlink()


def compress_orphans(logs: Path) -> None:
    """Compress the live logs that a killed daemon left, and remove half-written files."""
    for leftover in logs.glob("*/*.tmp"):
        leftover.unlink()
    for live in logs.glob("*/*.log"):
        compress(logs, int(live.stem))


def read(logs: Path, attempt: int) -> Iterator[bytes]:
    """An attempt's log in chunks, as far as it is written; FileNotFoundError if there is none."""
    with contextlib.suppress(FileNotFoundError), live_path(logs, attempt).open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
        return
    with stored_path(logs, attempt).open("rb") as file:
        yield from zstandard.ZstdDecompressor().read_to_iter(file)


def remove(logs: Path, attempt: int) -> None:
    """Remove an attempt's log, if there is one."""
    live_path(logs, attempt).unlink(missing_ok=True)
    stored_path(logs, attempt).unlink(missing_ok=True)
