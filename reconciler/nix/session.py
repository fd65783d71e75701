"""A conversation with one Nix daemon: a request, its log, its answer, always in step.

Takes care that tasks take turns, that a conversation left in the middle is closed rather than
continued, and that every fault names the peer, what was asked of it and its last words. What the
operations are is `connection`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator

from reconciler.errors import ConnectionLostError, NixError
from reconciler.nix.endpoint import Channel, Endpoint, open_channel
from reconciler.nix.handshake import Greeting, greet
from reconciler.nix.logs import (
    LogHandler,
    RefusedError,
    StderrTag,
    ignore,
    read_error,
    read_record,
    take_numbers,
)
from reconciler.nix.wire import CHUNK, WORD_SIZE, PeerError, Reader, word


class Session:
    """One conversation. After any fault but Nix's own refusals it is over: `alive` is false.

    Of an operation, in this order: `exchange` (the turn, held to the end), `send`, then `work` or
    `send_framed`, reading the answer, `finish`.
    """

    def __init__(self, endpoint: Endpoint, channel: Channel, patience: float) -> None:
        self.endpoint = endpoint
        self.alive = True
        self._channel = channel
        self._patience = patience
        self._turn = asyncio.Lock()
        self._speaker: asyncio.Task[object] | None = None
        self._all_sent = False
        self._in_step = False
        channel.patience = patience

    @classmethod
    async def open(cls, endpoint: Endpoint, *, patience: float) -> tuple[Session, Greeting]:
        """Connect and greet, within `patience` seconds altogether."""
        session: Session | None = None
        try:
            async with asyncio.timeout(patience):
                session = cls(endpoint, await open_channel(endpoint), patience)
                async with session.exchange("speak with us"):
                    greeting = await greet(session._channel)
                    await session.work(ignore)
                    session.finish()
        except TimeoutError:
            words = "" if session is None else session._last_words()
            raise ConnectionLostError(
                f"{endpoint} did not greet us in {patience:g} s{words}"
            ) from None
        return session, greeting

    @contextlib.asynccontextmanager
    async def exchange(self, request: str, *, unhurried: bool = False) -> AsyncIterator[Reader]:
        """Have the turn for one operation; `request` says in words what it is to do.

        `unhurried` lets the daemon be silent for as long as it works. An exchange that ends
        before `finish`, for whatever reason, closes the session.
        """
        if self._speaker is asyncio.current_task():
            raise RuntimeError(f"asked to {request} in the middle of another operation")
        async with self._turn:
            if not self.alive:
                raise ConnectionLostError(f"{self.endpoint} is no longer connected")
            self._speaker = asyncio.current_task()
            self._in_step = self._all_sent = False
            self._channel.reader.patience = None if unhurried else self._patience
            try:
                yield self._channel.reader
            except PeerError as error:
                await self.close()
                raise ConnectionLostError(
                    f"{self.endpoint} was lost when asked to {request}: {error}{self._last_words()}"
                ) from None
            except RefusedError as error:
                raise NixError(f"{self.endpoint} cannot {request}: {error}") from None
            finally:
                self._speaker = None
                if not self._in_step:
                    await self.close()

    async def send(self, *parts: bytes, several: bool = False) -> None:
        """Send a whole request; or `several` at once, the first refusal of which closes the
        session, for it leaves the answers to the others unread.
        """
        await self._channel.send(b"".join(parts))
        self._all_sent = not several

    async def send_framed(self, source: AsyncIterable[bytes], log: LogHandler) -> None:
        """Send a request's data in frames, and do `work` meanwhile.

        The daemon may talk before it has read all; unheard, it would stop reading.
        """
        self._all_sent = False
        work = asyncio.create_task(self.work(log))
        try:
            await self._send_frames(source, work)
            await work
        finally:
            work.cancel()
            await asyncio.wait((work,))

    async def _send_frames(self, source: AsyncIterable[bytes], work: asyncio.Task[None]) -> None:
        async for data in source:
            for at in range(0, len(data), CHUNK):
                if work.done():
                    return
                await self._send_frame(data[at : at + CHUNK], work)
        self._all_sent = True
        await self._send_frame(b"", work)

    async def _send_frame(self, data: bytes, work: asyncio.Task[None]) -> None:
        try:
            await self._channel.send(word(len(data)) + data)
        except PeerError:
            # A daemon that stops reading may have said why.
            await asyncio.wait((work,), timeout=self._patience)
            if work.done():
                await work
            raise

    async def work(self, log: LogHandler) -> None:
        """Read the log until the daemon has done its work.

        It refuses by an error in the log's place; then there is no answer, and the session is in
        step if all of the request was sent.
        """
        reader = self._channel.reader
        while True:
            take_numbers(reader, log)
            reader.allow(WORD_SIZE)
            match StderrTag.of(await reader.word()):
                case StderrTag.LAST:
                    return
                case StderrTag.ERROR:
                    message = await read_error(reader)
                    self._in_step = self._all_sent
                    raise RefusedError(message)
                case tag:
                    await read_record(reader, tag, log)

    def finish(self) -> None:
        """The answer is read to its end: the next operation may begin."""
        self._in_step = True

    async def close(self) -> None:
        """End the conversation, and what the daemon does for it."""
        if self.alive:
            self.alive = False
            await self._channel.close()

    def _last_words(self) -> str:
        words = self._channel.last_words()
        return f"; it last wrote:\n{words}" if words else ""
