from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from reconciler.binary_cache.compression import Encoder
from reconciler.binary_cache.packing import pack
from reconciler.errors import CacheError
from reconciler.model import Compression, PathInfo, StorePath
from reconciler.nix.hashes import to_base32

DATA = b"any bytes serve here " * 10_000
HASH = to_base32(hashlib.sha256(DATA).digest())


def info(*, nar_hash: str = HASH, nar_size: int = len(DATA)) -> PathInfo:
    return PathInfo(
        path=StorePath("/nix/store/0123-name"),
        deriver=None,
        nar_hash=f"sha256:{nar_hash}",
        nar_size=nar_size,
        references=(),
    )


@pytest.mark.parametrize("compression", Compression)
def test_a_packed_nar_is_named_by_its_files_hash(tmp_path: Path, compression: Compression) -> None:
    packed = pack([DATA[:7], DATA[7:]], info(), tmp_path, Encoder(compression), threading.Event())
    content = packed.file.read_bytes()
    digits = to_base32(hashlib.sha256(content).digest())
    assert packed.file_hash == f"sha256:{digits}"
    assert packed.file_size == len(content)
    assert packed.name.startswith(f"nar/{digits}.nar")
    assert (packed.file_size == len(DATA)) == (compression is Compression.NONE)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (info(nar_hash="0" * 52), "has the hash"),
        (info(nar_size=len(DATA) - 1), "is longer than"),
        (info(nar_size=len(DATA) + 1), "has 210000 bytes, not 210001"),
    ],
)
@pytest.mark.parametrize("compression", Compression)
def test_a_nar_that_is_another_leaves_no_file(
    tmp_path: Path, wrong: PathInfo, message: str, compression: Compression
) -> None:
    with pytest.raises(CacheError, match=message):
        pack([DATA], wrong, tmp_path, Encoder(compression), threading.Event())
    assert not list(tmp_path.iterdir())


def test_stopped_it_leaves_no_file(tmp_path: Path) -> None:
    stop = threading.Event()

    def chunks() -> list[bytes]:
        stop.set()
        return [DATA]

    with pytest.raises(CacheError, match="stopped"):
        pack(chunks(), info(), tmp_path, Encoder(Compression.ZSTD), stop)
    assert not list(tmp_path.iterdir())
