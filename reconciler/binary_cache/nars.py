"""Where NARs come from: the local store's files, or a daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

from reconciler.errors import NixError
from reconciler.model import StorePath
from reconciler.nix.nar_dump import dump

HOP = 1024 * 1024
"""Bytes of a NAR that are worth a hop to a thread."""


class GoneError(NixError):
    """The store has a path no longer."""


class LocalNars:
    """Reads the files of a store on this machine, whose real place is `store_dir`."""

    def __init__(self, store_dir: Path) -> None:
        self._store_dir = store_dir

    def read(self, path: StorePath) -> Iterator[bytes]:
        """The NAR in chunks, by blocking reads; raises GoneError, or NixError where it cannot be
        read.
        """
        file = self._store_dir / path.rpartition("/")[2]
        try:
            yield from dump(file)
        except OSError as error:
            # Only of a store that is there may it be said that it lacks a path.
            if self._store_dir.is_dir() and not os.path.lexists(file):
                raise GoneError(f"{path} is not in the store any more") from error
            raise NixError(f"{path} cannot be read: {error}") from error

    async def stream(self, path: StorePath) -> AsyncGenerator[bytes, None]:
        """The same, read beside what else is going on."""
        chunks = self.read(path)
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield chunk


class StreamedNars:
    """Takes them from whatever streams them, `Connection.nar_from_path` for instance.

    The stream raises NixError where a NAR cannot be had.
    """

    def __init__(self, open_stream: Callable[[StorePath], AsyncGenerator[bytes, None]]) -> None:
        self._open_stream = open_stream

    def stream(self, path: StorePath) -> AsyncGenerator[bytes, None]:
        """The NAR in chunks."""
        return self._open_stream(path)

    async def hops(self, path: StorePath) -> AsyncGenerator[bytes, None]:
        """The NAR in pieces of a hop's size; the last one is smaller, and may be empty."""
        buffer = bytearray()
        async with aclosing(self.stream(path)) as chunks:
            async for chunk in chunks:
                buffer += chunk
                if len(buffer) >= HOP:
                    yield bytes(buffer)
                    buffer.clear()
        yield bytes(buffer)


Nars = LocalNars | StreamedNars
