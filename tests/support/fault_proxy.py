"""An HTTP proxy on loopback that spoils what a test tells it to: for caches, and whatever else
speaks HTTP.

One request a connection; each is held in memory. Without a fault it is transparent, Host included,
so signed requests stay right.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import assert_never

_LIMIT = 1 << 20


@dataclass(frozen=True)
class Request:
    """What a client asks; its `body` is whole."""

    method: str
    path: str
    head: bytes
    body: bytes


@dataclass(frozen=True)
class Answer:
    """The server is not asked; this is said instead."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class CutRequest:
    """The server gets half of the body, then the connection is gone on both sides."""


@dataclass(frozen=True)
class SpoilRequest:
    """A bit of the body is flipped on its way to the server."""


@dataclass(frozen=True)
class LoseAnswer:
    """The server does as asked; nobody learns of it."""


@dataclass(frozen=True)
class CutAnswer:
    """The client gets half of the body, then the connection is gone."""


@dataclass(frozen=True)
class SpoilAnswer:
    """A bit of the body is flipped on its way to the client."""


@dataclass(frozen=True)
class SlowAnswer:
    """The answer comes in so many pieces, with pauses (seconds) between them."""

    pieces: int = 20
    pause: float = 0.01


@dataclass(frozen=True)
class Silence:
    """The connection stays open, and nothing comes."""


Fault = (
    Answer | CutRequest | SpoilRequest | LoseAnswer | CutAnswer | SpoilAnswer | SlowAnswer | Silence
)
Judge = Callable[[Request], Fault | None]


class FaultProxy:
    """Passes requests to a server; `judge` says of each what is to befall it."""

    def __init__(self, upstream: str) -> None:
        self._host, _, port = upstream.rpartition(":")
        self._port = int(port)
        self.judge: Judge = lambda _request: None
        self.address = ""
        self.seen: list[tuple[float, Request]] = []
        """Every request, with the loop's time when it was whole."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Treat one connection."""
        async with _closing(writer):
            # That a connection breaks is no news here.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                request = await _read_request(reader, writer)
                self.seen.append((asyncio.get_running_loop().time(), request))
                await self._treat(request, self.judge(request), writer)

    async def _treat(
        self, request: Request, fault: Fault | None, writer: asyncio.StreamWriter
    ) -> None:
        match fault:
            case None:
                await _send(writer, await self._ask(request, request.body))
            case Answer():
                await _send(writer, _rendered(fault, request))
            case CutRequest():
                await self._ask_half(request)
                writer.transport.abort()
            case SpoilRequest():
                await _send(writer, await self._ask(request, _spoilt(request.body)))
            case LoseAnswer():
                await self._ask(request, request.body)
                writer.transport.abort()
            case CutAnswer():
                head, body = _split(await self._ask(request, request.body))
                await _send(writer, head + body[: len(body) // 2])
            case SpoilAnswer():
                head, body = _split(await self._ask(request, request.body))
                await _send(writer, head + _spoilt(body))
            case SlowAnswer():
                whole = await self._ask(request, request.body)
                size = -(-len(whole) // fault.pieces)
                for start in range(0, len(whole), size):
                    await _send(writer, whole[start : start + size])
                    await asyncio.sleep(fault.pause)
            case Silence():
                await asyncio.Event().wait()
            case _:
                assert_never(fault)

    async def _ask(self, request: Request, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        async with _closing(writer):
            with contextlib.suppress(ConnectionError):  # it may answer before it has heard all
                await _send(writer, request.head + body)
            return await reader.read()

    async def _ask_half(self, request: Request) -> None:
        _, writer = await asyncio.open_connection(self._host, self._port)
        async with _closing(writer):
            await _send(writer, request.head + request.body[: len(request.body) // 2])


@asynccontextmanager
async def fault_proxy(upstream: str) -> AsyncIterator[FaultProxy]:
    """A proxy before HOST:PORT, on a port of its own."""
    proxy = FaultProxy(upstream)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        # A task that is cancelled before it began closes nothing.
        task.add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_LIMIT)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def fault_proxy_beside(upstream: str) -> Iterator[FaultProxy]:
    """The same in a thread of its own, for a test that waits for who speaks to it."""
    made: list[FaultProxy] = []
    ready, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with fault_proxy(upstream) as proxy:
            made.append(proxy)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield made[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close a connection in the end."""
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
    headers = {}
    for line in lines[1:]:
        key, _, value = line.partition(b":")
        headers[key.strip().lower()] = value.strip()
    if headers.pop(b"expect", None):
        await _send(writer, b"HTTP/1.1 100 Continue\r\n\r\n")
    headers[b"connection"] = b"close"  # the end of an answer is the end of its connection
    method, path, _ = lines[0].decode().split(" ")
    head = b"\r\n".join([lines[0], *(key + b": " + value for key, value in headers.items())])
    body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
    return Request(method=method, path=path, head=head + b"\r\n\r\n", body=body)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _rendered(answer: Answer, request: Request) -> bytes:
    headers = {"Content-Length": str(len(answer.body)), "Connection": "close", **answer.headers}
    head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    body = b"" if request.method == "HEAD" else answer.body
    return f"HTTP/1.1 {answer.status} Spoilt\r\n{head}\r\n".encode() + body


def _split(answer: bytes) -> tuple[bytes, bytes]:
    head, end, body = answer.partition(b"\r\n\r\n")
    return head + end, body


def _spoilt(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
