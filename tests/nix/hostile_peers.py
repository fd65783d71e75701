"""Peers that are no honest Nix daemon: a socket behind which a test's own function speaks."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import SocketEndpoint
from reconciler.nix.logs import StderrTag
from reconciler.nix.protocol import CLIENT_MAGIC, DAEMON_MAGIC, Operation
from reconciler.nix.wire import Reader, string, strings, word

Behaviour = Callable[[Reader, asyncio.StreamWriter], Awaitable[None]]

LAST = word(StderrTag.LAST)
UNLIMITED = 2**63


def greeting(
    *, version: tuple[int, int] = (1, 38), nix: str = "2.34.8", features: tuple[str, ...] = ()
) -> bytes:
    """All that an honest daemon says until the connection is open, options included."""
    return b"".join(
        (
            word(DAEMON_MAGIC),
            word(version[0] << 8 | version[1]),
            strings(features) if version >= (1, 38) else b"",
            string(nix),
            word(1) if version >= (1, 35) else b"",
            LAST,
            LAST,  # of the options
        )
    )


async def read_opening(reader: Reader, *, version: tuple[int, int] = (1, 38)) -> None:
    """Read all that a client sends until its connection is open."""
    reader.allow(UNLIMITED)
    assert await reader.word() == CLIENT_MAGIC
    assert await reader.word() == 0x126
    if version >= (1, 38):
        await reader.texts()
    assert [await reader.word(), await reader.word()] == [0, 0]
    assert await reader.word() == Operation.SET_OPTIONS
    for _ in range(12):
        await reader.word()
    for _ in range(await reader.word()):
        await reader.text(), await reader.text()


async def read_to_the_end(reader: Reader) -> None:
    """Read until the client hangs up."""
    while True:
        reader.advance(len(await reader.peek()))


def says(*parts: bytes) -> Behaviour:
    """Says its piece, whatever it hears, and then that there is no more."""

    async def speak(reader: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(parts))
        writer.write_eof()
        await read_to_the_end(reader)

    return speak


def stalls_after(*parts: bytes) -> Behaviour:
    """Says its piece, reads what comes, and is silent for ever."""

    async def stall(reader: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(parts))
        await read_to_the_end(reader)

    return stall


@asynccontextmanager
async def peer(behave: Behaviour) -> AsyncIterator[SocketEndpoint]:
    """A socket with this behaviour behind it; what it gets wrong itself fails the test."""
    failures: list[BaseException] = []
    sessions: set[asyncio.Task[None]] = set()

    async def serve(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        sessions.add(task)
        try:
            await behave(Reader(stream), writer)
            await writer.drain()
        except AssertionError as error:
            failures.append(error)
        except Exception:  # noqa: BLE001, S110 - the client has hung up, as it should
            pass
        finally:
            writer.close()

    with tempfile.TemporaryDirectory() as folder:
        server = await asyncio.start_unix_server(serve, f"{folder}/socket")
        async with server:
            yield SocketEndpoint(f"{folder}/socket")
        for task in sessions:
            task.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)
    assert not failures, failures


async def open_to(endpoint: SocketEndpoint, *, patience: float = 20) -> Connection:
    """Connect to such a peer."""
    return await Connection.open(endpoint, patience=patience)
