"""Reading paths back out of a cache and judging them: narinfo, signature, NAR, references.

Changes nothing. A cache that gives no answer is a CacheError, never a flaw of a path.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from msgspec import Struct

from reconciler.binary_cache.compression import Decompressor
from reconciler.binary_cache.interface import Finding, Flaw, ObjectStore
from reconciler.binary_cache.narinfo import NarInfo, fingerprint, hash_part, narinfo_name, parse
from reconciler.binary_cache.signing import PublicKey
from reconciler.errors import CacheError
from reconciler.model import PathInfo, StorePath
from reconciler.nix.hashes import to_base32

T = TypeVar("T")

BATCH = 256
"""Paths whose narinfo files are held at once."""
PARALLEL_NARS = 4
"""NARs read at once: hashing is for the processor."""
PARALLEL_READS = 16


class Verifier(Struct, frozen=True):
    """Checks paths of a store of objects; signatures of any one of `keys` satisfy it."""

    store: ObjectStore
    keys: Sequence[PublicKey]

    async def examine(
        self,
        paths: Collection[StorePath],
        *,
        foreign: Collection[StorePath] = (),
        alone: Collection[StorePath] = (),
        read_up_to: int | None = None,
    ) -> tuple[Finding, ...]:
        """All that is wrong with paths; see BinaryCache."""
        found: list[Finding] = []
        unknown, apart, left = frozenset(foreign), frozenset(alone), read_up_to
        hashes = {hash_part(path) for path in unknown}
        for batch in batches(paths):
            read = await each_of((self._narinfo(path, unknown) for path in batch), PARALLEL_READS)
            infos = [each for each in read if isinstance(each, NarInfo)]
            found += [each for each in read if isinstance(each, Finding)]
            found += unsigned(infos, self.keys, foreign=hashes)
            found += await self._references([each for each in infos if each.path not in apart])
            number = len(infos) if left is None else _within(infos, left)
            if left is not None:
                left -= sum(info.file_size for info in infos[:number])
            found += await self._nars(infos[:number])
            found += await self._absent_nars(infos[number:])
        return tuple(found)

    async def _narinfo(self, path: StorePath, foreign: Collection[StorePath]) -> NarInfo | Finding:
        raw = await self.store.read(narinfo_name(path))
        if raw is None:
            return Finding(path=path, flaw=Flaw.ABSENT, message=f"{path} has no narinfo")
        try:
            info = parse(raw.decode())
        except (CacheError, UnicodeDecodeError) as error:
            return _unreadable(path, str(error))
        described = hash_part(info.path) if path in foreign else info.path
        expected = hash_part(path) if path in foreign else path
        return info if described == expected else _unreadable(path, f"it describes {info.path}")

    async def _references(self, infos: Sequence[NarInfo]) -> list[Finding]:
        wanted = {reference for info in infos for reference in info.references}
        present = await self.store.present({narinfo_name(each) for each in wanted})
        absent = {each for each in wanted if narinfo_name(each) not in present}
        return dangling(infos, absent)

    async def _absent_nars(self, infos: Sequence[NarInfo]) -> list[Finding]:
        present = await self.store.present({info.url for info in infos})
        return [_nar_absent(info) for info in infos if info.url not in present]

    async def _nars(self, infos: Sequence[NarInfo]) -> list[Finding]:
        found = await each_of(map(self._nar, infos), PARALLEL_NARS)
        return [each for each in found if each is not None]

    async def _nar(self, info: NarInfo) -> Finding | None:
        try:
            check = _NarCheck(info)
            async for chunk in self.store.stream(info.url):
                await asyncio.to_thread(check.feed, chunk)
            check.finish()
        except FileNotFoundError:
            return _nar_absent(info)
        except _DamagedError as error:
            message = f"the NAR of {info.path}, {info.url}, is damaged: {error}"
            return Finding(path=info.path, flaw=Flaw.NAR_DAMAGED, message=message)
        return None


Description = NarInfo | PathInfo
"""What a cache says of a path, in whatever form."""


def unsigned(
    infos: Iterable[Description], keys: Sequence[PublicKey], *, foreign: Collection[str] = ()
) -> Iterator[Finding]:
    """Those that none of the keys signed. The `foreign`, by hash parts, others may have signed."""
    ours = {key.name for key in keys}
    for info in infos:
        text = fingerprint(
            info.path,
            nar_hash=info.nar_hash,
            nar_size=info.nar_size,
            references=info.references,
        )
        if not keys or any(key.signed(text, info.signatures) for key in keys):
            continue
        signers = {signature.partition(":")[0] for signature in info.signatures}
        if hash_part(info.path) in foreign and signers and not signers & ours:
            continue
        message = f"{info.path} has no right signature of {', '.join(key.name for key in keys)}"
        yield Finding(path=info.path, flaw=Flaw.UNSIGNED, message=message)


def dangling(infos: Iterable[Description], absent: Collection[StorePath]) -> list[Finding]:
    """Each reference to what is absent."""
    return [
        Finding(
            path=info.path,
            flaw=Flaw.REFERENCE_ABSENT,
            message=f"{info.path} refers to {reference}, which is not in the cache",
            reference=reference,
        )
        for info in infos
        for reference in info.references
        if reference in absent and reference != info.path
    ]


def _unreadable(path: StorePath, why: str) -> Finding:
    message = f"the narinfo of {path} is unreadable: {why}"
    return Finding(path=path, flaw=Flaw.UNREADABLE, message=message)


def _nar_absent(info: NarInfo) -> Finding:
    message = f"the NAR of {info.path}, {info.url}, is not in the cache"
    return Finding(path=info.path, flaw=Flaw.NAR_ABSENT, message=message)


def batches(paths: Collection[StorePath]) -> Iterator[list[StorePath]]:
    """So many as are held at once."""
    rest = iter(paths)
    while some := list(islice(rest, BATCH)):
        yield some


def _within(infos: Sequence[NarInfo], size: int) -> int:
    """How many of the first NARs have no more than so many bytes together."""
    for number, info in enumerate(infos):
        size -= info.file_size
        if size < 0:
            return number
    return len(infos)


async def each_of(work: Iterable[Awaitable[T]], at_once: int) -> list[T]:
    """Do all of it, so much at once; the results in their order."""
    slots = asyncio.Semaphore(at_once)

    async def bounded(each: Awaitable[T]) -> T:
        async with slots:
            return await each

    tasks = [asyncio.ensure_future(bounded(each)) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
        if self._file_size > self._info.file_size:  # it may be of any length
            raise _DamagedError(f"the file has more than {self._info.file_size} bytes")
        try:
            for piece in self._decompressor.feed(data):
                self._nar_hash.update(piece)
                self._nar_size += len(piece)
                if self._nar_size > self._info.nar_size:
                    raise _DamagedError(f"the NAR has more than {self._info.nar_size} bytes")
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
