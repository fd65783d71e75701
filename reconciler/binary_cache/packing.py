"""From a NAR's bytes to a compressed file for a cache, hashed on the way.

Blocking code for worker threads. A NAR that is not what the store says of it is refused here:
nothing damaged gets as far as a cache.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from msgspec import Struct

from reconciler.binary_cache.compression import Encoder, suffix
from reconciler.errors import CacheError
from reconciler.model import Compression, PathInfo, StorePath
from reconciler.nix.hashes import to_base32


class PackedNar(Struct, frozen=True, kw_only=True):
    """A NAR as it is, or will be, in a cache. Sizes in bytes."""

    info: PathInfo
    name: str
    """Its name in the cache."""
    file_hash: str
    file_size: int


class StagedNar(PackedNar, frozen=True, kw_only=True):
    """One that is ready for upload, named by its own hash as Nix does."""

    file: Path


class Packer:
    """Packs one NAR: `feed` its bytes, then `finish`; each gives what is ready of the file."""

    def __init__(self, info: PathInfo, encoder: Encoder) -> None:
        self._info = info
        self._compression = encoder.compression
        self._compressor = encoder.begin(info.nar_size)
        self._nar_hash = hashlib.sha256()
        self._nar_size = 0
        self._file_hash = hashlib.sha256()
        self._file_size = 0

    def feed(self, data: bytes) -> bytes:
        """Take more of the NAR; CacheError as soon as it is longer than it should be."""
        self._nar_size += len(data)
        if self._nar_size > self._info.nar_size:
            raise damaged(self._info.path, f"is longer than {self._info.nar_size} bytes")
        self._nar_hash.update(data)
        return self._counted(self._compressor.compress(data))

    def finish(self) -> bytes:
        """The file's end; CacheError where the NAR is not the one that the store registered."""
        if self._nar_size != self._info.nar_size:
            raise damaged(self._info.path, f"has {self._nar_size} bytes, not {self._info.nar_size}")
        found = f"sha256:{to_base32(self._nar_hash.digest())}"
        if found != self._info.nar_hash:
            raise damaged(self._info.path, f"has the hash {found}, not {self._info.nar_hash}")
        return self._counted(self._compressor.flush())

    def _counted(self, data: bytes) -> bytes:
        self._file_size += len(data)
        if self._compression is not Compression.NONE:
            self._file_hash.update(data)
        return data

    @property
    def file_size(self) -> int:
        """Bytes so far."""
        return self._file_size

    @property
    def file_hash(self) -> str:
        """Of the file so far."""
        if self._compression is Compression.NONE:
            return f"sha256:{to_base32(self._nar_hash.digest())}"
        return f"sha256:{to_base32(self._file_hash.digest())}"


class StagingPacker:
    """Packs one NAR into a file: `feed` its bytes, then `finish`. Left early, nothing of it
    remains.
    """

    def __init__(self, info: PathInfo, staging: Path, encoder: Encoder) -> None:
        self._info = info
        self._packer = Packer(info, encoder)
        self._suffix = suffix(encoder.compression)
        self._file = staging / f"{info.path.rpartition('/')[2]}.nar"
        self._out = self._file.open("xb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        self._out.close()
        if kind is not None:
            self._file.unlink(missing_ok=True)

    def feed(self, data: bytes) -> None:
        """Take more of the NAR; CacheError as of a Packer."""
        self._write(self._packer.feed(data))

    def finish(self) -> StagedNar:
        """The packed NAR; CacheError as of a Packer."""
        self._write(self._packer.finish())
        file_hash = self._packer.file_hash
        return StagedNar(
            info=self._info,
            file=self._file,
            name=f"nar/{file_hash.partition(':')[2]}.nar{self._suffix}",
            file_hash=file_hash,
            file_size=self._packer.file_size,
        )

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:  # a raw file may take less than it is given
            view = view[self._out.write(view) :]


def damaged(path: StorePath, what: str) -> CacheError:
    """The fault of a path whose NAR is not the one that the store registered."""
    return CacheError(
        f"{path} is damaged in the store: its NAR {what}; run `nix store repair {path}`"
    )


def pack(
    chunks: Iterable[bytes],
    info: PathInfo,
    staging: Path,
    encoder: Encoder,
    stop: threading.Event,
) -> StagedNar:
    """Pack a whole NAR into a file; ends early, with CacheError, when `stop` is set."""
    with StagingPacker(info, staging, encoder) as packer:
        for chunk in chunks:
            if stop.is_set():
                raise CacheError(f"{info.path}: stopped")
            packer.feed(chunk)
        return packer.finish()
