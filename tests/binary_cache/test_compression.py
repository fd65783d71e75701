from __future__ import annotations

import os

import pytest

from reconciler.binary_cache.compression import Decompressor, Encoder
from reconciler.errors import CacheError
from reconciler.model import Compression

DATA = os.urandom(70_000) + b"text " * 50_000


def pack(encoder: Encoder, data: bytes, step: int) -> bytes:
    stream = encoder.begin(len(data))
    parts = [stream.compress(data[at : at + step]) for at in range(0, len(data), step)]
    return b"".join([*parts, stream.flush()])


def unpack(kind: str, data: bytes, step: int) -> bytes:
    decompressor = Decompressor(kind)
    return b"".join(
        piece
        for at in range(0, len(data), step)
        for piece in decompressor.feed(data[at : at + step])
    )


@pytest.mark.parametrize("step", [999, 100_000, 10_000_000])
@pytest.mark.parametrize("compression", Compression)
def test_what_goes_in_comes_out(compression: Compression, step: int) -> None:
    encoder = Encoder(compression)
    for data in (DATA, b"", b"short"):  # one encoder serves many streams
        assert unpack(compression, pack(encoder, data, step), step) == data


@pytest.mark.parametrize("compression", [Compression.XZ, Compression.ZSTD])
def test_garbage_is_refused(compression: Compression) -> None:
    with pytest.raises(CacheError, match=f"not {compression}"):
        unpack(compression, b"this is no such stream at all", 1000)


@pytest.mark.parametrize(
    ("compression", "size"), [(Compression.XZ, 32 << 20), (Compression.ZSTD, 256 << 20)]
)
def test_a_bomb_comes_out_in_small_pieces(compression: Compression, size: int) -> None:
    encoder = Encoder(compression)
    stream = encoder.begin(size)
    block = bytes(1024 * 1024)
    packed = b"".join(
        [*(stream.compress(block) for _ in range(0, size, len(block))), stream.flush()]
    )
    assert len(packed) < 100_000
    decompressor, total, largest = Decompressor(compression), 0, 0
    for piece in decompressor.feed(packed):
        total += len(piece)
        largest = max(largest, len(piece))
    assert total == size
    assert largest <= size // 4


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(CacheError, match="bzip2"):
        Decompressor("bzip2")
