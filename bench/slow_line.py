"""A line with delay before a server: what either side sends arrives later, and at any rate.

    python -m bench.slow_line HOST:PORT SECONDS

Passes connections on, whatever they carry; each direction takes half of the delay. Prints its own
HOST:PORT, and ends with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

PIECE = 256 * 1024
WINDOW = 64
"""Pieces on their way at most."""


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass on what is read, each piece when its time has come."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WINDOW)

    async def deliver() -> None:
        while True:
            due, piece = await under_way.get()
            await asyncio.sleep(due - loop.time())
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(deliver())
        piece = b"anything"
        while piece:
            piece = await reader.read(PIECE)
            await under_way.put((loop.time() + delay, piece))


async def _serve(upstream: str, delay: float) -> None:
    host, _, port = upstream.rpartition(":")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, BaseExceptionGroup):
            there, back = await asyncio.open_connection(host, int(port))
            with contextlib.closing(back), contextlib.closing(writer):
                await asyncio.gather(
                    _carry(reader, back, delay / 2), _carry(there, writer, delay / 2)
                )

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=PIECE)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], float(sys.argv[2])))
