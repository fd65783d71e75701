"""Reading a path back out of a cache and judging it: narinfo, signature, NAR, references.

Changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.binary_cache.compression import Decompressor
from reconciler.binary_cache.interface import Finding, Flaw, ObjectStore
from reconciler.binary_cache.narinfo import NarInfo, fingerprint, narinfo_name, parse
from reconciler.binary_cache.signing import PublicKey
from reconciler.errors import CacheError
from reconciler.model import StorePath
from reconciler.nix.hashes import to_base32


async def read_narinfo(store: ObjectStore, path: StorePath) -> NarInfo | None:
    """A path's narinfo; None where there is none, CacheError where it is of no use."""
    raw = await store.read(narinfo_name(path))
    if raw is None:
        return None
    try:
        info = parse(raw.decode())
    except UnicodeDecodeError as error:
        raise CacheError(f"not a narinfo: {error}") from error
    if info.path != path:
        raise CacheError(f"it describes {info.path}")
    return info


@dataclass(frozen=True, slots=True)
class Verifier:
    """Checks paths of a store of objects; signatures of any one of `keys` satisfy it."""

    store: ObjectStore
    keys: Sequence[PublicKey]
    keeps_closures: bool

    async def verify(self, path: StorePath) -> tuple[Finding, ...]:
        """All that is wrong with a path."""
        try:
            info = await read_narinfo(self.store, path)
        except CacheError as error:
            message = f"the narinfo of {path} is unreadable: {error}"
            return (Finding(path=path, flaw=Flaw.UNREADABLE, message=message),)
        if info is None:
            return (Finding(path=path, flaw=Flaw.ABSENT, message=f"{path} has no narinfo"),)
        return (
            *self._signature(info),
            *await self._references(info),
            *await self._nar(info),
        )

    def _signature(self, info: NarInfo) -> tuple[Finding, ...]:
        text = fingerprint(
            info.path,
            nar_hash=info.nar_hash,
            nar_size=info.nar_size,
            references=info.references,
        )
        if not self.keys or any(key.signed(text, info.signatures) for key in self.keys):
            return ()
        names = ", ".join(key.name for key in self.keys)
        message = f"{info.path} has no right signature of {names}"
        return (Finding(path=info.path, flaw=Flaw.UNSIGNED, message=message),)

    async def _references(self, info: NarInfo) -> tuple[Finding, ...]:
        if not self.keeps_closures:
            return ()
        wanted = {each: narinfo_name(each) for each in info.references}
        present = await self.store.present(wanted.values())
        return tuple(
            Finding(
                path=info.path,
                flaw=Flaw.REFERENCE_ABSENT,
                message=f"{info.path} refers to {reference}, which is not in the cache",
            )
            for reference, name in wanted.items()
            if name not in present
        )

    async def _nar(self, info: NarInfo) -> tuple[Finding, ...]:
        try:
            check = _NarCheck(info)
            async for chunk in self.store.stream(info.url):
                await asyncio.to_thread(check.feed, chunk)
            check.finish()
        except FileNotFoundError:
            message = f"the NAR of {info.path}, {info.url}, is not in the cache"
            return (Finding(path=info.path, flaw=Flaw.NAR_ABSENT, message=message),)
        except _DamagedError as error:
            message = f"the NAR of {info.path}, {info.url}, is damaged: {error}"
            return (Finding(path=info.path, flaw=Flaw.NAR_DAMAGED, message=message),)
        return ()


class _DamagedError(Exception):
    """What is wrong with a NAR."""


class _NarCheck:
    """Follows a compressed NAR; both hashes and both sizes must be those of the narinfo."""

    def __init__(self, info: NarInfo) -> None:
        self._info = info
        try:
            self._decompressor = Decompressor(info.compression)
        except CacheError as error:
            raise _DamagedError(error) from error
        self._file_hash, self._file_size = hashlib.sha256(), 0
        self._nar_hash, self._nar_size = hashlib.sha256(), 0

    def feed(self, data: bytes) -> None:
        self._file_hash.update(data)
        self._file_size += len(data)
        try:
            for piece in self._decompressor.feed(data):
                self._nar_hash.update(piece)
                self._nar_size += len(piece)
        except CacheError as error:
            raise _DamagedError(error) from error

    def finish(self) -> None:
        info = self._info
        _expect("file", size=self._file_size, of=info.file_size)
        _expect_hash("file", self._file_hash.digest(), info.file_hash)
        _expect("NAR", size=self._nar_size, of=info.nar_size)
        _expect_hash("NAR", self._nar_hash.digest(), info.nar_hash)


def _expect(what: str, *, size: int, of: int) -> None:
    if size != of:
        raise _DamagedError(f"the {what} has {size} bytes, not {of}")


def _expect_hash(what: str, digest: bytes, recorded: str) -> None:
    digits = recorded.partition(":")[2]
    if digits not in (to_base32(digest), digest.hex()):
        raise _DamagedError(f"the {what} has the hash sha256:{to_base32(digest)}, not {recorded}")
