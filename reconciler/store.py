"""The local store as the reconciler sees it: what exists, closures, GC roots.

One kept connection, opened anew when it was lost. Its temporary roots protect what is on its way
(built, not yet pushed); permanent roots are links below the state directory, a folder for each
evaluation, so that releasing an evaluation is removing a folder.
"""

from __future__ import annotations

import asyncio
import binascii
import os
import shutil
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from reconciler.errors import ConnectionLostError, NixError
from reconciler.model import DrvPath, PathInfo, StorePath
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import OPEN_TIMEOUT, Endpoint
from reconciler.nix.hashes import from_base32
from reconciler.nix.logs import LogRecord, Message
from reconciler.nix.nar_dump import dump
from reconciler.nix.protocol import ClientOptions, GarbageAction, GarbageOptions
from reconciler.source import LockedTree

T = TypeVar("T")

_SMALL = 4 * 1024 * 1024
"""Bytes of a folder that others may wait for."""
_BASES = "bases"
"""The folder of their roots: no evaluation has such a number."""


class Whereabouts(Struct, frozen=True, kw_only=True):
    """Where store paths are; those that are nowhere are in neither."""

    here: frozenset[StorePath] = frozenset()
    away: frozenset[StorePath] = frozenset()
    """Substituters can give them."""


class Store:
    """See the module's text. Every operation raises NixError where Nix refuses."""

    def __init__(self, endpoint: Endpoint, roots: Path) -> None:
        self.endpoint = endpoint
        self._roots = roots
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._protected: set[StorePath] = set()

    async def connection(self) -> Connection:
        """The kept connection; opened if need be, with all that it protects."""
        async with self._opening:
            if self._connection is None or not self._connection.alive:
                connection = await Connection.open(
                    self.endpoint, options=ClientOptions(), patience=OPEN_TIMEOUT
                )
                await connection.add_temp_roots(self._protected)
                self._connection = connection
            return self._connection

    async def _ask(self, question: Callable[[Connection], Awaitable[T]]) -> T:
        """Ask once more over a new connection if the kept one turns out to be lost."""
        try:
            return await question(await self.connection())
        except ConnectionLostError:
            return await question(await self.connection())

    async def close(self) -> None:
        """End the connection, and with it the temporary roots."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    # --- What exists -----------------------------------------------------------------------

    async def valid(self, paths: Collection[StorePath]) -> frozenset[StorePath]:
        """Those of the paths that the store has."""
        return await self._ask(lambda c: c.query_valid_paths(paths))

    async def locate(self, paths: Collection[StorePath]) -> Whereabouts:
        """Which of the paths the store has, and which of the others its substituters can give."""
        here = await self.valid(paths)
        rest = [path for path in paths if path not in here]
        if not rest:
            return Whereabouts(here=here)
        away = await self._ask(lambda c: c.query_substitutable_paths(rest))
        return Whereabouts(here=here, away=away)

    async def available(self, paths: Collection[StorePath]) -> frozenset[StorePath]:
        """Those of the paths that the store has or its substituters can give."""
        found = await self.locate(paths)
        return found.here | found.away

    async def fetch(self, paths: Collection[StorePath]) -> tuple[frozenset[StorePath], str]:
        """Fetch paths from substituters; those that exist now, and what Nix said of the others.

        Over a connection of its own: it may take long.
        """
        said: list[str] = []

        def listen(record: LogRecord) -> None:
            if isinstance(record, Message):
                said.append(record.text)

        connection = await Connection.open(
            self.endpoint, options=ClientOptions(keep_going=True), patience=OPEN_TIMEOUT
        )
        async with connection:
            there = await connection.query_valid_paths(paths, substitute=True, on_log=listen)
        return there, "\n".join(said)

    async def known_outputs(self, drv: DrvPath) -> Mapping[str, StorePath | None]:
        """Where a derivation's outputs are; None for one whose path is not known yet."""
        return await self._ask(lambda c: c.query_derivation_output_map(drv))

    async def path_info(self, path: StorePath) -> PathInfo | None:
        """What the store says of a path; None if it does not have it."""
        return (await self.path_infos((path,))).get(path)

    async def path_infos(self, paths: Sequence[StorePath]) -> dict[StorePath, PathInfo]:
        """The same for many, asked at once; those that the store does not have are left out."""
        return await self._ask(lambda c: c.query_path_infos(paths))

    async def closure(self, paths: Iterable[StorePath]) -> dict[StorePath, PathInfo]:
        """The runtime closure of those of the paths that the store has."""
        found: dict[StorePath, PathInfo] = {}
        asked: set[StorePath] = set()
        wave = dict.fromkeys(paths)
        while wave:
            asked.update(wave)
            infos = await self.path_infos(tuple(wave))
            found |= infos
            references = (path for info in infos.values() for path in info.references)
            wave = dict.fromkeys(path for path in references if path not in asked)
        return found

    async def add_folder(
        self, folder: Path, *, wanted: Callable[[os.DirEntry[bytes]], bool]
    ) -> LockedTree:
        """Copy what is `wanted` of a folder, and protect the copy. OSError where it cannot be read.

        What is large goes over a connection of its own: all else would wait for it.
        """
        chunks = dump(folder, wanted=wanted)
        start = await asyncio.to_thread(_first, chunks)
        if len(start) < _SMALL:
            info = await self._ask(lambda c: c.add_nar("source", _stream(start, iter(()))))
            await self.protect([info.path])
        else:
            async with await Connection.open(
                self.endpoint, options=ClientOptions(), patience=OPEN_TIMEOUT
            ) as connection:
                info = await connection.add_nar("source", _stream(start, chunks))
                await self.protect([info.path])
        digest = from_base32(info.nar_hash.removeprefix("sha256:"))
        return LockedTree(
            info.path, f"sha256-{binascii.b2a_base64(digest, newline=False).decode()}"
        )

    async def discard(self, paths: Collection[StorePath]) -> None:
        """Delete paths, which nothing but our own roots may keep; NixError where something does."""
        wanted = frozenset(paths)
        async with self._opening:
            self._protected -= wanted
            before, self._connection = self._connection, None
        await self.connection()  # the rest is protected on
        if before is not None:
            await before.close()
        names = {Path(path).name for path in wanted}
        for folder in self._roots.iterdir() if self._roots.is_dir() else ():
            _remove(str(folder / name) for name in names)
        connection = await Connection.open(
            self.endpoint, options=ClientOptions(), patience=OPEN_TIMEOUT
        )
        async with connection:
            here = await connection.query_valid_paths(wanted)
            await connection.collect_garbage(
                GarbageOptions(action=GarbageAction.DELETE_SPECIFIC, paths=here)
            )

    # --- Roots -----------------------------------------------------------------------------

    async def protect(self, paths: Iterable[StorePath]) -> None:
        """Keep paths from the garbage collector until `release_protected` or a stop."""
        if new := set(paths) - self._protected:
            self._protected |= new
            try:
                await self._ask(lambda c: c.add_temp_roots(new))
            except ConnectionLostError:
                raise
            except NixError:
                self._protected -= new  # or no connection could be opened any more
                raise

    async def release_protected(self) -> None:
        """Let go of what `protect` holds. Nix ties temporary roots to the connection."""
        if self._protected:
            self._protected.clear()
            await self.close()

    async def hold(self, evaluation: int, paths: Iterable[StorePath | DrvPath]) -> None:
        """Make permanent roots for an evaluation."""
        await self._link(self._roots / str(evaluation), paths)

    async def hold_bases(self, paths: Collection[StorePath]) -> None:
        """Make permanent roots for the bases of incremental builds: for these and no others."""
        await self._link(self._roots / _BASES, paths)
        release_bases(self._roots, keep=paths)

    async def _link(self, folder: Path, paths: Iterable[StorePath | DrvPath]) -> None:
        new = _make_links(folder, paths)
        if not new:
            return
        try:
            await self._ask(lambda c: c.add_indirect_roots(new))
        except BaseException:
            _remove(new)  # a link that is there counts as a root that Nix knows
            raise

    def held(self) -> frozenset[int]:
        """The evaluations that have permanent roots."""
        if not self._roots.is_dir():
            return frozenset()
        names = (entry.name for entry in self._roots.iterdir())
        return frozenset(int(name) for name in names if name.isdigit())

    def release(self, evaluation: int) -> None:
        """Remove an evaluation's permanent roots; Nix drops its own links when it next looks."""
        shutil.rmtree(self._roots / str(evaluation), ignore_errors=True)


def _first(chunks: Iterator[bytes]) -> bytes:
    """All of them, if they are no more than is small."""
    start = bytearray()
    for chunk in chunks:
        start += chunk
        if len(start) >= _SMALL:
            break
    return bytes(start)


async def _stream(start: bytes, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    yield start
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def release_bases(roots: Path, *, keep: Collection[StorePath]) -> None:
    """Remove the permanent roots of all bases but these."""
    folder = roots / _BASES
    names = {Path(path).name for path in keep}
    for link in folder.iterdir() if folder.is_dir() else ():
        if link.name not in names:
            link.unlink()


def _make_links(folder: Path, paths: Iterable[StorePath | DrvPath]) -> list[str]:
    """Have a folder hold a link to each of the paths; those that are new."""
    folder.mkdir(parents=True, exist_ok=True)
    new = []
    for path in paths:
        link = folder / Path(path).name
        if not link.is_symlink():
            link.symlink_to(path)
            new.append(str(link))
    return new


def _remove(links: Iterable[str]) -> None:
    for link in links:
        Path(link).unlink(missing_ok=True)
