"""The kept connections that attempts are made over: to each builder no more than it has slots.

Opening one to a builder elsewhere costs as much as many small builds. What is asked over them, and
who gets a slot, is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.build.place import Here, Place
from reconciler.errors import NixError
from reconciler.model import Builder, BuilderName
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import OPEN_TIMEOUT, Endpoint
from reconciler.nix.protocol import ClientOptions

if TYPE_CHECKING:
    from reconciler.build.remote import RemoteBuilder

MAX_AGE = 3600.0
"""Seconds for which a connection to a builder elsewhere is used: what was brought there over it is
kept from collection as long as it lasts."""

LOCAL_OPTIONS = ClientOptions(
    # Without it each connection starts `nix __build-remote` before its first build, which has
    # nothing to offer: where a build runs is decided here.
    settings={"build-hook": ""},
)


class Pool:
    """See the module's text."""

    def __init__(self, local: Endpoint, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        """Where the pinned host keys are kept."""
        self._environment = environment
        self._here = _Kept(
            lambda: Connection.open(local, options=LOCAL_OPTIONS, patience=OPEN_TIMEOUT),
            max_age=math.inf,
        )
        self._there: dict[BuilderName, tuple[RemoteBuilder, _Kept]] = {}

    @contextlib.asynccontextmanager
    async def place(self, builder: Builder) -> AsyncIterator[Place]:
        """A place for one attempt. Raises NixError where it cannot be reached, or UsageError."""
        if builder.uri is None:
            async with self._here.borrowed() as here:
                yield Here(here)
            return
        remote, kept = await self._remote(builder)
        async with kept.borrowed() as there, self._here.borrowed() as here:
            yield remote.place(there, here)

    async def warm(self) -> None:
        """Have a connection to the local store at hand; a first build would wait for it."""
        with contextlib.suppress(NixError):  # which a build that asks for one is told
            async with self._here.borrowed():
                pass

    async def rest(self) -> None:
        """Nothing is to be done: end what is idle, and with it the daemons."""
        kept = (self._here, *(each for _, each in self._there.values()))
        await asyncio.gather(*(each.rest() for each in kept))

    async def _remote(self, builder: Builder) -> tuple[RemoteBuilder, _Kept]:
        # Only a farm with builders elsewhere waits for it to be loaded.
        from reconciler.build.remote import RemoteBuilder  # noqa: PLC0415

        found = self._there.get(builder.name)
        if found is not None and found[0].builder == builder:
            return found
        remote = RemoteBuilder(builder, self._folder, self._environment)
        self._there[builder.name] = remote, _Kept(remote.connect, max_age=MAX_AGE)
        if found is not None:
            await found[1].retire()  # it was declared otherwise then
        return self._there[builder.name]


class _Kept:
    """Connections to one daemon, and those of them that nobody uses now."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], *, max_age: float) -> None:
        self._connect = connect
        self._max_age = max_age
        self._idle: list[tuple[Connection, float]] = []
        """Each with the loop's time when it is to be closed."""

    @contextlib.asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Connection]:
        """One of them, or a new one, until the end of the block."""
        clock = asyncio.get_running_loop().time
        while self._idle:
            connection, until = self._idle.pop()
            if connection.alive:
                break
        else:
            connection, until = await self._connect(), clock() + self._max_age
        try:
            yield connection
        finally:
            if clock() >= until or self._max_age == 0:
                await connection.close()
            if connection.alive:
                self._idle.append((connection, until))

    async def rest(self) -> None:
        """Close those that nobody uses."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.close() for connection, _ in idle))

    async def retire(self) -> None:
        """Keep none any more."""
        self._max_age = 0
        await self.rest()
