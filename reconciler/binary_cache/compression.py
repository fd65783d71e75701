"""Compressing and decompressing NARs as streams, in bounded memory, in the kinds Nix reads.

Knows no file and no hash.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from typing import Protocol, assert_never

import zstandard

from reconciler.errors import CacheError
from reconciler.model import Compression

_PIECE = 1024
"""How much is decompressed at once: a block of zstd may grow to 128 KiB out of 4 bytes."""
_GROWN = 1024 * 1024
_LEVEL = 3
"""Of zstd: its own default, which is Nix's too."""


class Compressor(Protocol):
    """One stream under way."""

    def compress(self, data: bytes, /) -> bytes:
        """What is ready after `data`."""
        ...

    def flush(self) -> bytes:
        """The rest; the stream is closed."""
        ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class Encoder:
    """Begins streams, one after the other; zstd's tables, which are large, are kept between them.

    Not for two threads at once.
    """

    def __init__(self, compression: Compression) -> None:
        self.compression = compression
        self._zstd = None
        if compression is Compression.ZSTD:
            self._zstd = zstandard.ZstdCompressor(level=_LEVEL)

    @property
    def recipe(self) -> str | None:
        """What decides, beside the bytes that go in, on those that come out.

        None: that is not known. Each version of liblzma may pack otherwise, and Python does not
        tell which it has.
        """
        match self.compression:
            case Compression.NONE:
                return "as it is"
            case Compression.ZSTD:
                version = ".".join(map(str, zstandard.ZSTD_VERSION))
                return f"zstd {version} level {_LEVEL}"
            case Compression.XZ:
                return None
            case _:
                assert_never(self.compression)

    def at_most(self, size: int) -> int:
        """How long a stream of `size` bytes may become: what does not compress is put between
        marks, a few bytes for each 64 KiB at the least.
        """
        return size + size // 4096 + 4096

    def begin(self, size: int) -> Compressor:
        """A new stream of exactly `size` bytes: a short one needs short tables only."""
        if self._zstd is not None:
            return self._zstd.compressobj(size=size)
        match self.compression:
            case Compression.XZ:
                return lzma.LZMACompressor()
            case Compression.NONE | Compression.ZSTD:
                return _Plain()
            case _:
                assert_never(self.compression)


def suffix(compression: Compression) -> str:
    """What Nix adds to the name of a NAR."""
    match compression:
        case Compression.NONE:
            return ""
        case Compression.ZSTD:
            return ".zst"
        case Compression.XZ:
            return ".xz"
        case _:
            assert_never(compression)


class Decompressor:
    """Undoes one stream; `kind` as a narinfo has it. CacheError where the bytes are no such."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._xz: lzma.LZMADecompressor | None = None
        self._zstd: zstandard.ZstdDecompressionObj | None = None
        if kind == Compression.XZ:
            self._xz = lzma.LZMADecompressor()
        elif kind == Compression.ZSTD:
            self._zstd = zstandard.ZstdDecompressor().decompressobj()
        elif kind != Compression.NONE:
            raise CacheError(f"compressed with {kind}, which is not one of none, xz, zstd")

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes out of `data`, in pieces."""
        try:
            if self._xz is not None:
                yield from _unpack_xz(self._xz, data)
            elif self._zstd is not None:
                for start in range(0, len(data), _PIECE):
                    yield self._zstd.decompress(data[start : start + _PIECE])
            else:
                yield data
        except (lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
            raise CacheError(f"not {self._kind}: {error}") from error


def _unpack_xz(decompressor: lzma.LZMADecompressor, data: bytes) -> Iterator[bytes]:
    yield decompressor.decompress(data, _GROWN)
    while not decompressor.needs_input and not decompressor.eof:
        yield decompressor.decompress(b"", _GROWN)
