"""A large NAR packed piece by piece, as whoever sends it asks for more: neither waits for the
other, and it lies on no disk in between.

Its name in the cache has to be known before its file's hash is, so it is made of the NAR's hash
and of all else that decides on the file's bytes: one name never stands for two files. Where that is
not known, nothing is packed like this. Sends nothing itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Self, assert_never

from reconciler.binary_cache.compression import Encoder, suffix
from reconciler.binary_cache.nars import HOP, LocalNars, Nars, StreamedNars
from reconciler.binary_cache.packing import PackedNar, Packer
from reconciler.errors import CacheError
from reconciler.model import Compression, PathInfo
from reconciler.nix.hashes import to_base32


def name_of(info: PathInfo, encoder: Encoder) -> str:
    """What a NAR is called in a cache before it is packed, where its recipe is known."""
    assert encoder.recipe is not None
    digits = info.nar_hash.partition(":")[2]
    if encoder.compression is not Compression.NONE:
        recipe = f"{info.nar_hash} {encoder.recipe}"
        digits = to_base32(hashlib.sha256(recipe.encode()).digest())
    return f"nar/{digits}.nar{suffix(encoder.compression)}"


class NarSource:
    """The file of one NAR, read from its beginning to its end; a context, to be left when no more
    is wanted.

    Reading raises GoneError, NixError or CacheError where the NAR is not to be had, or is not the
    one that the store registered: then before its last bytes are given.
    """

    def __init__(self, info: PathInfo, nars: Nars, encoder: Encoder, stop: threading.Event) -> None:
        self._info = info
        self.name = name_of(info, encoder)
        self._packer = Packer(info, encoder)
        self._stop = stop
        self._rest = memoryview(b"")
        self._packing = self._pieces(nars)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._packing.aclose()

    async def read(self, size: int) -> bytearray:
        """The next bytes, so many unless the file ends before; none at its end."""
        data, filled = bytearray(size), 0  # of its size at once: what grows takes twice the memory
        while filled < size:
            if not self._rest:
                piece = await anext(self._packing, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
            some = self._rest[: size - filled]
            data[filled : filled + len(some)] = some
            filled += len(some)
            self._rest = self._rest[len(some) :]
        del data[filled:]
        return data

    async def read_all(self) -> None:
        """Read on to the end, for the hash alone."""
        while await self.read(HOP):
            pass

    def packed(self) -> PackedNar:
        """What was read to its end."""
        return PackedNar(
            info=self._info,
            name=self.name,
            file_hash=self._packer.file_hash,
            file_size=self._packer.file_size,
        )

    # --- Packing -----------------------------------------------------------------------------

    async def _pieces(self, nars: Nars) -> AsyncGenerator[bytes, None]:
        match nars:
            case LocalNars() as local:
                pieces = self._pack(local.read(self._info.path))
                while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                    yield piece
            case StreamedNars() as streamed:
                async with aclosing(streamed.hops(self._info.path)) as hops:
                    async for hop in hops:
                        yield await asyncio.to_thread(self._packer.feed, hop)
                yield self._packer.finish()
            case _:
                assert_never(nars)

    def _pack(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The file in pieces of about a hop's worth of work. Blocking."""
        ready, taken = bytearray(), 0
        for chunk in chunks:
            if self._stop.is_set():
                raise CacheError(f"{self._info.path}: stopped")
            ready += self._packer.feed(chunk)
            taken += len(chunk)
            if taken >= HOP:
                yield bytes(ready)
                ready.clear()
                taken = 0
        yield bytes(ready) + self._packer.finish()
