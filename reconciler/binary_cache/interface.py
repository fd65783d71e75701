"""What a binary cache is to the rest of the program, and what a kind of it has to provide.

Two seams. `BinaryCache` is what a push or a check speaks to. `ObjectStore` is what a kind made of
files with narinfo has to offer (a folder, S3, an HTTP server): `NarCache` does everything else for
it, so such a kind is one file. A kind that is no set of files (ssh-ng: a store of its own)
implements BinaryCache itself.

Types and protocols only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field

from reconciler.binary_cache.nars import Nars
from reconciler.model import PathInfo, StorePath


class PushReport(Struct, frozen=True, kw_only=True):
    """What became of each path of a batch; every path asked for is in exactly one of the four."""

    sent: Mapping[StorePath, int] = field(default_factory=dict)
    """Bytes written for each path that is there now; 0: it was there before."""
    gone: tuple[StorePath, ...] = ()
    """The store has them no longer."""
    found: tuple[StorePath, ...] = ()
    """Beside the batch: those of which it was only asked, and which are there."""
    waiting: Mapping[StorePath, StorePath] = field(default_factory=dict)
    """Paths kept back, each for a reference that is not in the cache yet: push that first. No
    fault of theirs, and nothing of them is visible."""
    failed: Mapping[StorePath, str] = field(default_factory=dict)
    """Each with what went wrong; worth another attempt."""


class Flaw(StrEnum):
    """What can be wrong with a path in a cache."""

    ABSENT = "absent"
    UNREADABLE = "unreadable"
    UNSIGNED = "unsigned"
    NAR_ABSENT = "nar-absent"
    NAR_DAMAGED = "nar-damaged"
    REFERENCE_ABSENT = "reference-absent"


class Finding(Struct, frozen=True, kw_only=True):
    """One flaw of one path, with a sentence for people."""

    path: StorePath
    flaw: Flaw
    message: str
    reference: StorePath | None = None
    """What is absent, of an absent reference."""


class BinaryCache(Protocol):
    """A cache that is open: reached, its keys read. Every method raises CacheError where the
    cache as a whole does not work: no answer is never taken for 'it is not there'.
    """

    async def missing(self, paths: Collection[StorePath]) -> set[StorePath]:
        """Those of the paths that the cache does not have, asked in bulk."""
        ...

    async def push(
        self,
        infos: Sequence[PathInfo],
        nars: Nars,
        *,
        elsewhere: Collection[StorePath] = (),
        replace: Collection[StorePath] = (),
        alone: Collection[StorePath] = (),
        absent: Collection[StorePath] = (),
    ) -> PushReport:
        """Bring paths into the cache; what is there already costs a question. Those to `replace`
        are sent although something is there, which is of no use. What is `absent`, as `missing` has
        just said, need not be asked for again.

        At no moment does a reader see a path whose NAR is not whole or, unless it goes there
        `alone`, whose references are neither there nor `elsewhere` (in an upstream of the cache,
        say).
        """
        ...

    async def verify(self, path: StorePath) -> tuple[Finding, ...]:
        """Read a path back in full and check it; empty where nothing is wrong with it."""
        ...

    async def examine(
        self,
        paths: Collection[StorePath],
        *,
        foreign: Collection[StorePath] = (),
        alone: Collection[StorePath] = (),
        read_up_to: int | None = None,
    ) -> tuple[Finding, ...]:
        """Read many paths back and check them; empty where nothing is wrong with any.

        NARs of `read_up_to` bytes together (None: all) are read in full, of the others it is only
        asked whether they are there. `foreign` are those of the paths that somebody else may have
        pushed: a signature of theirs satisfies. Of such a path only the hash need be right. What
        those refer to that went there `alone` need not be there.
        """
        ...

    async def accompany(self, objects: Mapping[str, bytes]) -> Mapping[str, str]:
        """Put build logs (`log/…`) and realisations (`realisations/….doi`) beside the paths; what
        was not put there, with the reason. Realisations are signed on the way.
        """
        ...

    async def withdraw(self, names: Collection[str]) -> None:
        """Delete such; CacheError where not all of them could be."""
        ...

    async def hashes(self) -> frozenset[str] | None:
        """The hash parts of all paths that the cache has; None: its kind cannot list them."""
        ...

    async def unneeded(
        self, *, ours: Collection[StorePath], wanted: Collection[StorePath]
    ) -> frozenset[StorePath]:
        """Those of our paths that neither a wanted one nor anything that others pushed needs."""
        ...

    async def give_up_unfinished(self) -> None:
        """Remove what was being written a day ago and more, and never came to its end, where the
        cache keeps such. Nothing where it does not let us.
        """
        ...

    async def delete(
        self, paths: Collection[StorePath], *, keep: Collection[StorePath]
    ) -> frozenset[StorePath]:
        """Delete those of the paths that nothing else in the cache needs, nor any to `keep`; what
        is gone now. At no moment does a reader see a path without its NAR or its references.
        """
        ...

    async def close(self) -> None:
        """Let go of what the cache holds open."""
        ...


class Source(Protocol):
    """An object's bytes, made while they are read."""

    async def read(self, size: int, /) -> bytes | bytearray:
        """The next bytes, so many unless the object ends before; none at its end."""
        ...


class ObjectStore(Protocol):
    """Named bytes, written once and whole. Names are relative paths (`nar/….nar.zst`)."""

    @property
    def staging(self) -> Path:
        """A local folder, this process's own, where large objects are prepared before `put`."""
        ...

    @property
    def shows_whole(self) -> bool:
        """What is present is whole, whoever put it there and whatever died meanwhile."""
        ...

    async def present(self, names: Collection[str]) -> set[str]:
        """Those of the names that exist, asked in bulk."""
        ...

    async def names(self, folder: str) -> Mapping[str, float] | None:
        """All objects in a folder (`nar/`; empty: the topmost), not those below it, each with the
        time when it was written; None: this kind cannot list.
        """
        ...

    async def read(self, name: str) -> bytes | None:
        """A small object in whole; None where there is none."""
        ...

    def stream(self, name: str) -> AsyncIterator[bytes]:
        """An object in chunks; raises FileNotFoundError where there is none."""
        ...

    async def put(self, objects: Mapping[str, bytes | Path]) -> dict[str, str]:
        """Write objects, from memory or from files in `staging`, which are consumed.

        Each appears under its name in whole or not at all, and is durable when this returns.
        Returns what was not written, with the reason.
        """
        ...

    @property
    def for_sources(self) -> SourceStore | None:
        """Itself, where it can write an object while that is made."""
        ...

    async def delete(self, names: Collection[str]) -> dict[str, str]:
        """Delete objects, if they are there; what could not be deleted, with the reason."""
        ...

    async def close(self) -> None:
        """Remove `staging` and let go of connections."""
        ...


class SourceStore(Protocol):
    """What more a store of objects can do that takes them in parts."""

    async def put_source(self, name: str, source: Source, *, at_most: int) -> None:
        """Write an object of at most so many bytes while it is made: it appears in whole or not at
        all, and is durable when this returns. Memory stays bounded.

        Raises CacheError where it cannot be written, and whatever the source raises.
        """
        ...

    async def give_up(self, *, before: float) -> None:
        """Remove what is there of objects whose writing began before that time, in seconds since
        1970, and never ended. CacheError where that fails.
        """
        ...
