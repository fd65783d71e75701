"""The primitives of Nix's worker protocol: what integers and strings look like on the wire.

Everything is a little-endian 64-bit word, or a length followed by that many bytes and zeros up to
a multiple of eight. Encoding is plain functions; decoding is `Reader`, which believes nothing: a
peer that stalls, stops in mid-word or announces more than was allowed raises PeerError.
It knows no operation and no structure of the protocol.

Source: the worker-protocol and serialisation chapters of the Nix manual, "Protocols".
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable

CHUNK = 64 * 1024
"""How much is read from the peer, and handed on of a long string, at once."""
LONGEST_QUOTED = 1024 * 1024 * 1024
"""Bytes that are read of a string of which an excerpt is enough."""

_WORD = struct.Struct("<Q")
WORD_SIZE = 8


class PeerError(Exception):
    """What a peer did wrong, as a clause that begins with "it": a session tells the story."""


def word(value: int) -> bytes:
    """One unsigned integer; booleans are 0 and 1."""
    return _WORD.pack(value)


def string(value: str | bytes) -> bytes:
    """One string with its length before and its padding behind."""
    raw = value.encode() if isinstance(value, str) else value
    return b"".join((_WORD.pack(len(raw)), raw, bytes(-len(raw) % WORD_SIZE)))


def strings(values: Iterable[str]) -> bytes:
    """A list or set of strings; Nix reads sets in any order."""
    encoded = [string(value) for value in values]
    return b"".join((_WORD.pack(len(encoded)), *encoded))


class Reader:
    """Decodes what a peer sends, from its own buffer: a value that has arrived costs no wait.

    `allow` sets how many bytes the next values may take all together, so that no answer, however
    deep its lists, can fill the memory. `patience` is the longest silence borne, in seconds; None
    waits for ever (a build may say nothing for hours).
    """

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self.patience: float | None = None
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self._allowance = 0

    def allow(self, size: int) -> None:
        """Let the values that follow take `size` bytes of the wire."""
        self._allowance = size

    async def word(self) -> int:
        """An unsigned integer."""
        self._charge(WORD_SIZE)
        at = self._at
        if len(self._buffer) - at < WORD_SIZE:
            return int.from_bytes(await self._take(WORD_SIZE), "little")
        self._at = at + WORD_SIZE
        return int(_WORD.unpack_from(self._buffer, at)[0])

    def arrived(self, count: int) -> tuple[int, ...] | None:
        """The next words, not taken, if so many have arrived."""
        if len(self._buffer) - self._at < count * WORD_SIZE:
            return None
        return struct.unpack_from(f"<{count}Q", self._buffer, self._at)

    def skip(self, count: int) -> None:
        """Take words that `arrived` showed."""
        self._charge(count * WORD_SIZE)
        self._at += count * WORD_SIZE

    async def string(self) -> bytes:
        """A string, whole."""
        length = await self.word()
        self._charge(length)
        value = await self._take(length)
        await self._padding(length)
        return value

    async def text(self) -> str:
        """A string that must be UTF-8."""
        value = await self.string()
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise PeerError(f"it sent text that is not UTF-8: {value[:80]!r}") from None

    async def texts(self) -> list[str]:
        """A list or set of strings."""
        return [await self.text() for _ in range(await self.word())]

    async def pieces(self) -> AsyncIterator[bytes]:
        """A string of any length in pieces of at most CHUNK bytes; an empty one yields nothing.

        Must be read to its end before anything else is read.
        """
        length = await self.word()
        left = length
        while left:
            piece = await self._take(min(left, CHUNK))
            left -= len(piece)
            if not left:
                await self._padding(length)
            yield piece

    async def excerpt(self) -> bytes:
        """A string of which only the beginning and the end are kept if it is long.

        Nix quotes what a builder printed last, by lines, and a line may have many MiB.
        """
        length = await self.word()
        if length <= 2 * CHUNK or length > LONGEST_QUOTED:
            self._charge(length)
            value = await self._take(length)
        else:
            head = await self._take(CHUNK)
            for skipped in range(CHUNK, length - CHUNK, CHUNK):
                await self._take(min(CHUNK, length - CHUNK - skipped))
            value = b"\n[...]\n".join((head, await self._take(CHUNK)))
        await self._padding(length)
        return value

    async def peek(self) -> bytes:
        """All that has arrived, at least one byte, without taking it; see `advance`."""
        if self._at == len(self._buffer):
            self._buffer, self._at = await self._receive(), 0
        elif self._at:
            self._buffer, self._at = self._buffer[self._at :], 0
        return self._buffer

    def advance(self, size: int) -> None:
        """Take `size` bytes of what `peek` showed."""
        self._at += size

    def _charge(self, size: int) -> None:
        self._allowance -= size
        if self._allowance < 0:
            raise PeerError(f"it sent more than is sensible here (a length of {size})")

    async def _padding(self, length: int) -> None:
        if any(await self._take(-length % WORD_SIZE)):
            raise PeerError("it padded a string with other bytes than zeros")

    async def _take(self, size: int) -> bytes:
        end = self._at + size
        if end <= len(self._buffer):
            value = self._buffer[self._at : end]
            self._at = end
            return value
        parts = [self._buffer[self._at :]]
        missing = size - len(parts[0])
        self._buffer, self._at = b"", 0
        while missing > 0:
            chunk = await self._receive()
            parts.append(chunk[:missing])
            if missing < len(chunk):
                self._buffer, self._at = chunk, missing
            missing -= len(chunk)
        return b"".join(parts)

    async def _receive(self) -> bytes:
        try:
            if self.patience is None:
                chunk = await self._stream.read(CHUNK)
            else:
                async with asyncio.timeout(self.patience):
                    chunk = await self._stream.read(CHUNK)
        except TimeoutError:
            raise PeerError(f"it has said nothing for {self.patience:g} s") from None
        except OSError as error:
            raise PeerError(f"reading from it failed: {error}") from None
        if not chunk:
            raise PeerError("it closed the connection")
        return chunk
