"""Connections to caches that are Nix stores, kept from one use to the next for a short while.

To open one takes as long as to send many small paths. What was sent over one is kept from
collection there as long as it lasts: none gets old.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

from msgspec import Struct

from reconciler.binary_cache.staging import Staging
from reconciler.errors import ConnectionLostError
from reconciler.nix import ssh
from reconciler.nix.connection import Connection
from reconciler.nix.protocol import ClientOptions

MAX_AGE = 60.0
"""Seconds for which one is worth keeping: while builds end, batches follow each other closely."""


class Line(Struct, frozen=True, kw_only=True):
    """An open connection, whose it is, and the loop's time when it is to be closed."""

    peer: ssh.Peer
    connection: Connection
    until: float


class Lines:
    """See the module's text. Of `max_age` 0, seconds, none is kept."""

    def __init__(self, *, max_age: float = 0.0) -> None:
        self._max_age = max_age
        self._idle: list[Line] = []
        self._staging: Staging | None = None
        """Pinned host keys lie there."""
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    async def take(self, peer: ssh.Peer) -> Line:
        """One that nobody uses, or a new one; to be given back by `leave`.

        Raises what `ssh.connect` does, and OSError where there is no room for a host key.
        """
        while (kept := self._pop(peer)) is not None:
            with suppress(ConnectionLostError):  # which nobody would have noticed so far
                await kept.connection.query_valid_paths(())
                return kept
        if self._staging is None:
            parent = Path(gettempdir())
            self._staging = await asyncio.to_thread(Staging, parent, prefix="nix-reconciler-ssh-")
        connection = await ssh.connect(peer, self._staging.folder, options=ClientOptions())
        until = asyncio.get_running_loop().time() + self._max_age
        return Line(peer=peer, connection=connection, until=until)

    def _pop(self, peer: ssh.Peer) -> Line | None:
        for place, line in enumerate(self._idle):
            if line.peer == peer:
                return self._idle.pop(place)
        return None

    async def leave(self, line: Line) -> None:
        """It is no longer used."""
        if self._is_old(line):
            await line.connection.close()
        elif line.connection.alive:
            self._idle.append(line)
            self._watch()

    async def rest(self) -> None:
        """Close those that nobody uses."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ending is not None:
            await self._ending
        idle, self._idle = self._idle, []
        await asyncio.gather(*(line.connection.close() for line in idle))
        if self._staging is not None:
            staging, self._staging = self._staging, None
            await asyncio.to_thread(staging.close)

    # --- Age -------------------------------------------------------------------------------

    def _is_old(self, line: Line) -> bool:
        return asyncio.get_running_loop().time() >= line.until

    def _watch(self) -> None:
        if self._timer is None and self._idle:
            first = min(line.until for line in self._idle)
            self._timer = asyncio.get_running_loop().call_at(first, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._ending = asyncio.get_running_loop().create_task(self._end_old())

    async def _end_old(self) -> None:
        old = [line for line in self._idle if self._is_old(line)]
        self._idle = [line for line in self._idle if line not in old]
        self._watch()
        for line in old:
            await line.connection.close()
