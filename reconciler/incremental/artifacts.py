"""What artifact stores hold: intermediates as compressed NARs, each with a description in JSON.

What may serve one build is in one folder, named by its system, fingerprint and slot. A description
is written after its NAR and deleted before it, so that whoever finds one finds all. Nothing of what
is read there is believed before it was held against what is wanted.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from reconciler.binary_cache import open_objects
from reconciler.binary_cache.compression import Decompressor, Encoder
from reconciler.binary_cache.interface import ObjectStore
from reconciler.binary_cache.nars import LocalNars
from reconciler.binary_cache.packing import pack
from reconciler.errors import CacheError, ReconcilerError
from reconciler.model import ArtifactStore, Compression, PathInfo
from reconciler.nix.store_path import digest_of_sri
from reconciler.quantities import format_size

if TYPE_CHECKING:
    from typing import BinaryIO

FORMAT = 1
ANY = "anything"
"""A name that is only asked for to have an answer."""
_DESCRIBED = ".json"
_PACKED = ".nar.zst"
_LONGEST_DESCRIPTION = 64 * 1024
_LOOKED_AT = 20
"""Descriptions that are read of a folder, the newest."""
_SHOWN = 80
"""Characters that a folder's name shows of the names that an expression gives."""
_NAME = re.compile(r"[0-9A-Za-z+_?=-][0-9A-Za-z+._?=-]{0,206}")
_DERIVATION = re.compile(r"/\S+/[0-9a-df-np-sv-z]{32}-\S+\.drv")
_REVISION = re.compile(r"[0-9A-Za-z._+-]{1,100}")


class UnfitError(ReconcilerError):
    """Something in an artifact store is no base to start from."""


class Description(Struct, frozen=True, kw_only=True, rename="camel"):
    """What is said of the intermediates beside it."""

    format: int
    slot: str
    system: str
    fingerprint: str
    name: str
    """Of the store path."""
    nar_hash: str
    """`sha256-…`."""
    nar_size: int
    depth: int
    full_at: float
    created_at: float
    """Both in seconds since the epoch."""
    farm: str
    jobset: str
    job: str
    commit: str | None
    canonical: str
    built: str


class Wanted(Struct, frozen=True, kw_only=True):
    """What is looked for."""

    system: str
    fingerprint: str
    slot: str
    after: float | None
    """What was made before is not wanted."""
    max_size: int


class Found(Struct, frozen=True, kw_only=True):
    """Intermediates that may serve, by what is said of them."""

    stem: str
    description: Description


@asynccontextmanager
async def opened(store: ArtifactStore) -> AsyncIterator[ObjectStore]:
    """A declared store. CacheError where it cannot be used."""
    objects = await open_objects(store.url, credentials_file=store.credentials_file)
    try:
        yield objects
    finally:
        await objects.close()


def folder(*, system: str, fingerprint: str, slot: str) -> str:
    """Where all lies that may serve a build; slots with alike names are told apart."""
    platform, shown = (re.sub(r"[^0-9A-Za-z._-]", "-", each) for each in (system, slot))
    digest = hashlib.sha256(slot.encode()).hexdigest()[:12]
    return f"{platform[:_SHOWN]}-{fingerprint[:32]}-{shown[:_SHOWN]}-{digest}/"


# --- Putting -----------------------------------------------------------------------------------


async def put(
    objects: ObjectStore, stem: str, description: Description, info: PathInfo, nars: LocalNars
) -> None:
    """Put intermediates of the local store there, in place of what has this name.

    CacheError where that fails; GoneError where the store has them no longer.
    """
    stop = threading.Event()
    encoder = Encoder(Compression.ZSTD)
    try:
        packed = await asyncio.to_thread(
            pack, nars.read(info.path), info, objects.staging, encoder, stop
        )
    finally:
        stop.set()
    try:
        for name, content in (
            (stem + _PACKED, packed.file),
            (stem + _DESCRIBED, msgspec.json.format(msgspec.json.encode(description), indent=2)),
        ):
            for reason in (await objects.put({name: content})).values():
                raise CacheError(reason)
    finally:
        packed.file.unlink(missing_ok=True)


async def remove(objects: ObjectStore, stems: Iterable[str]) -> None:
    """Delete what was put there under these names. CacheError."""
    for ending in (_DESCRIBED, _PACKED):
        for reason in (await objects.delete([stem + ending for stem in stems])).values():
            raise CacheError(reason)


# --- Finding -----------------------------------------------------------------------------------


async def find(objects: ObjectStore, wanted: Wanted) -> tuple[list[Found], list[str]]:
    """What may serve, the newest first, and why other things may not. CacheError."""
    inside = folder(system=wanted.system, fingerprint=wanted.fingerprint, slot=wanted.slot)
    names = await objects.names(inside) or {}
    described = [name for name in names if name.endswith(_DESCRIBED)]
    described.sort(key=lambda name: (names[name], name), reverse=True)
    found: list[Found] = []
    unfit: list[str] = []
    for name in described[:_LOOKED_AT]:
        stem = name.removesuffix(_DESCRIBED)
        if stem + _PACKED not in names:
            unfit.append(f"{stem + _PACKED} is missing")
            continue
        try:
            description = _judged(await _read(objects, name), wanted)
        except UnfitError as error:
            unfit.append(str(error))
        else:
            if wanted.after is None or description.created_at > wanted.after:
                found.append(Found(stem=stem, description=description))
    found.sort(key=lambda each: each.description.created_at, reverse=True)
    return found, unfit


async def _read(objects: ObjectStore, name: str) -> Description:
    raw = b""
    try:
        async for chunk in objects.stream(name):
            raw += chunk
            if len(raw) > _LONGEST_DESCRIPTION:
                raise UnfitError(f"{name} is too long for a description")
        return msgspec.json.decode(raw, type=Description)
    except msgspec.DecodeError as error:
        raise UnfitError(f"{name} is no description: {error}") from error
    except OSError as error:
        raise UnfitError(f"{name} cannot be read: {error.strerror}") from error


def _judged(said: Description, wanted: Wanted) -> Description:
    """Refuse what is not of what is wanted, whatever folder it lies in, and what cannot be true."""
    if said.format != FORMAT:
        raise UnfitError(f"its description has the format {said.format}, and {FORMAT} is read here")
    for what, is_, should in (
        ("system", said.system, wanted.system),
        ("fingerprint", said.fingerprint, wanted.fingerprint),
        ("slot", said.slot, wanted.slot),
    ):
        if is_ != should:
            raise UnfitError(f"its description is of the {what} {is_[:100]}, not {should}")
    if said.nar_size > wanted.max_size:
        raise UnfitError(
            f"it has {format_size(said.nar_size)}, more than retention.maxSize allows"
            f" ({format_size(wanted.max_size)})"
        )
    for what, right in (
        ("name", _NAME.fullmatch(said.name)),
        ("narHash", digest_of_sri(said.nar_hash) is not None),
        ("narSize", said.nar_size >= 0),
        ("depth", said.depth >= 0),
        ("commit", said.commit is None or _REVISION.fullmatch(said.commit)),
        ("canonical", _DERIVATION.fullmatch(said.canonical)),
        ("built", _DERIVATION.fullmatch(said.built)),
    ):
        if not right:
            raise UnfitError(f"its description has a {what} that is none")
    return said


# --- Fetching ----------------------------------------------------------------------------------


async def fetch(objects: ObjectStore, found: Found, file: Path) -> None:
    """Write the NAR to a file, if it is the one described. CacheError, UnfitError.

    That it mentions no output was seen to where it was made.
    """
    name = found.stem + _PACKED
    try:
        with file.open("xb") as out:
            receiver = _Receiver(found.description, out)
            async with aclosing(_stream(objects, name)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(receiver.feed, chunk)
            receiver.finish()
    except FileNotFoundError as error:
        raise UnfitError(f"{name} is missing") from error
    except OSError as error:
        raise UnfitError(f"{name} cannot be fetched: {error.strerror}") from error


async def _stream(objects: ObjectStore, name: str) -> AsyncGenerator[bytes, None]:
    async for chunk in objects.stream(name):
        yield chunk


class _Receiver:
    """A NAR on its way in: decompressed, no longer than was said, and hashed."""

    def __init__(self, description: Description, out: BinaryIO) -> None:
        self._said = description
        self._out = out
        self._decompressor = Decompressor(Compression.ZSTD)
        self._hash = hashlib.sha256()
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take more of the file. Blocking."""
        try:
            for piece in self._decompressor.feed(data):
                self._take(piece)
        except CacheError as error:
            raise UnfitError(f"its NAR is damaged: {error}") from error

    def _take(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._said.nar_size:
            raise UnfitError(f"its NAR is longer than the {self._said.nar_size} bytes it should be")
        self._hash.update(piece)
        self._out.write(piece)

    def finish(self) -> None:
        """The file has ended."""
        if self._size < self._said.nar_size:
            size = self._said.nar_size
            raise UnfitError(f"its NAR has {self._size} bytes, not the {size} it should have")
        if self._hash.digest() != digest_of_sri(self._said.nar_hash):
            raise UnfitError("its NAR has another hash than its description says")
