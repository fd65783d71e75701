"""One attempt on a builder elsewhere: its inputs there, the build, its outputs back.

Over kept connections, one to the builder and one to the local store. Where a build is made, and
what its failure means, is decided elsewhere. Nix's own way of giving work to a builder is kept to:
the derivation itself is sent (BuildDerivation), with its inputs' closure and not that of its file,
which for a deep graph are thousands of derivations and sources. A builder that does not trust its
user refuses this of all but content-addressed derivations, since nothing proves to it that the
output paths are the right ones; it is sent the closure of the file too, which is such a proof, and
told to build that.

Outputs come back with the attempt, whatever their size. Left there to be read when a push wants
them they would save a third of the copying (of 100 MiB 0.19 of 0.56 s), once; but a root here, a
build elsewhere and a push need them, and whatever is only there is lost with the builder.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
)
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from reconciler.binary_cache.order import reference_levels
from reconciler.build import sending
from reconciler.errors import NixError
from reconciler.model import Builder, DrvPath, PathInfo, StorePath
from reconciler.nix import basic_derivation, nar_dump, ssh
from reconciler.nix.basic_derivation import BasicDerivation
from reconciler.nix.connection import Connection
from reconciler.nix.logs import LogHandler
from reconciler.nix.protocol import BuildResult, ClientOptions

OPTIONS = ClientOptions(
    # The builder is to build by itself: neither of what it may know of further builders counts.
    # One that does not trust us lets us set the second only.
    settings={"build-hook": "", "builders": ""},
)

MAX_OPENING = 4
"""Connections opened at once to one builder: sshd drops some of more than ten (MaxStartups)."""

_NO_TRUST = "lacks a signature by a trusted key"


class Uploads:
    """What is on its way to one builder, so that no path is sent to it twice at a time."""

    def __init__(self) -> None:
        self._under_way: dict[StorePath, asyncio.Event] = {}

    @asynccontextmanager
    async def claim(
        self, missing: Callable[[], Awaitable[Collection[StorePath]]]
    ) -> AsyncIterator[Collection[StorePath]]:
        """Wait until nothing of what is `missing` is under way; the rest is the caller's to send.

        Nothing is held while waiting, so that two never wait for each other. Asked again after
        each wait, for who was to send something may have failed.
        """
        while True:
            paths = await missing()
            others = {self._under_way[path] for path in paths if path in self._under_way}
            if not others:
                break
            for other in others:
                await other.wait()
        done = asyncio.Event()
        self._under_way |= dict.fromkeys(paths, done)
        try:
            yield paths
        finally:
            for path in paths:
                del self._under_way[path]
            done.set()


class RemoteBuilder:
    """What the attempts on one builder share."""

    def __init__(
        self, builder: Builder, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.builder = builder
        self._folder = folder
        """Where its pinned host key is kept."""
        self._environment = environment
        self._uploads = Uploads()
        self._opening = asyncio.Semaphore(MAX_OPENING)

    async def connect(self) -> Connection:
        """Open a connection. Raises SshError, of the builder's condition, or UsageError."""
        async with self._opening:
            peer = ssh.peer_of(self.builder)
            return await ssh.connect(
                peer, self._folder, options=OPTIONS, environment=self._environment
            )

    def place(self, connection: Connection, local: Connection) -> There:
        """The builder as the place of one attempt, which has these connections to itself."""
        return There(connection, local, self._uploads)


class There:
    """A builder as an attempt's place: see `place.Place`."""

    def __init__(self, connection: Connection, local: Connection, uploads: Uploads) -> None:
        self._builder = connection
        self._local = local
        self._uploads = uploads
        self._derivation: BasicDerivation | None = None
        self._infos: Mapping[StorePath, PathInfo] = {}
        self._inputs: frozenset[StorePath] = frozenset()

    async def prepare(self, drv: DrvPath) -> None:
        """Copy what the build needs and the builder neither has nor finds at a substituter.

        What it needs is kept there from collection for as long as the connection lasts.
        """
        self._derivation = basic_derivation.read(drv)
        self._inputs = sending.inputs(self._derivation)
        sent = sending.is_sent(self._builder, self._derivation)
        needed = self._inputs if sent else self._inputs | {StorePath(drv)}
        with ssh.explained(self._builder.endpoint):
            # Direct inputs keep all that they refer to. Those that are valid already are nobody's:
            # unlike what is added, they would not be kept.
            await self._builder.add_temp_roots(needed)
            async with self._uploads.claim(lambda: self._missing(needed)) as missing:
                if missing:
                    await self._copy_there(missing)

    async def _missing(self, needed: Collection[StorePath]) -> Collection[StorePath]:
        """What the builder lacks of a closure. Where a path is valid, all that it refers to is."""
        lacking = {*needed} - await self._builder.query_valid_paths(needed)
        if lacking:
            lacking -= await self._fetched(lacking - await self._local.query_valid_paths(lacking))
        if not lacking:
            return ()
        self._infos = await self._closure(lacking)
        return self._infos.keys() - await self._builder.query_valid_paths(self._infos)

    async def _fetched(self, away: Collection[StorePath]) -> frozenset[StorePath]:
        """Of what is not here, what the builder fetched by itself; the rest is fetched to here.

        What a substituter has was never built, and is fetched only now that it is needed.
        """
        if not away:
            return frozenset()
        there = await self._builder.query_valid_paths(away, substitute=True)
        for path in away:
            if path not in there:
                try:
                    await self._local.ensure_path(path)
                except NixError as error:
                    raise NixError(
                        f"{path} is needed by a build elsewhere, and is not in the store: {error}"
                    ) from None
        return there

    async def _copy_there(self, missing: Collection[StorePath]) -> None:
        found = await self._builder.query_valid_paths(missing, substitute=True)
        rest = [self._infos[path] for path in missing if path not in found]
        if not rest:
            return
        try:
            await self._builder.add_multiple_to_store(
                _in_order(rest), _contents, check_signatures=self._builder.trusted is False
            )
        except NixError as error:
            if _NO_TRUST not in str(error):
                raise
            raise NixError(
                f"{error}. It does not trust its user: name the user in the builder's"
                " trusted-users, or sign what is copied with a key of its trusted-public-keys"
            ) from None

    async def _closure(self, paths: Iterable[StorePath]) -> dict[StorePath, PathInfo]:
        """The paths and all that they refer to, as the local store has them."""
        found: dict[StorePath, PathInfo] = {}
        open_paths = list(paths)
        while open_paths:
            path = open_paths.pop()
            if path not in found:
                info = await self._local.query_path_info(path)
                if info is None:
                    raise NixError(
                        f"{path} is needed by a build elsewhere, and is not in the store"
                    )
                found[path] = info
                open_paths += info.references
        return found

    async def build(self, drv: DrvPath, *, on_log: LogHandler) -> BuildResult:
        """Build all outputs there."""
        whole = self._derivation
        if whole is None or whole.path != drv:
            raise RuntimeError(f"{drv} was not prepared")
        with ssh.explained(self._builder.endpoint):
            return await sending.build(self._builder, whole, self._inputs, on_log=on_log)

    async def outputs(self, result: BuildResult) -> Mapping[str, PathInfo]:
        """What a good build made, as the builder has it."""
        found = {}
        with ssh.explained(self._builder.endpoint):
            for name, path in result.outputs.items():
                info = await self._builder.query_path_info(path)
                if info is None:
                    raise NixError(f"{self._builder.endpoint} says it built {path}, and lacks it")
                found[name] = info
        return found

    async def bring(self, outputs: Mapping[str, PathInfo]) -> None:
        """Copy the outputs here.

        The local daemon must trust us, or a key with which the builder signs what it builds.
        """
        here = await self._local.query_valid_paths({info.path for info in outputs.values()})
        rest = [info for info in outputs.values() if info.path not in here]
        if not rest:
            return
        try:
            with ssh.explained(self._builder.endpoint):
                await self._local.add_multiple_to_store(
                    _in_order(rest),
                    lambda info: self._builder.nar_from_path(info.path),
                    check_signatures=self._local.trusted is False,
                )
        except NixError as error:
            if _NO_TRUST not in str(error):
                raise
            raise NixError(
                f"{error}. It does not trust the user we run as: name that user in the"
                " trusted-users here, or let the builder sign what it builds (secret-key-files)"
                " with a key of the trusted-public-keys here"
            ) from None


def _in_order(infos: Iterable[PathInfo]) -> list[PathInfo]:
    """References before what refers to them. Only where a path was built is it `ultimate`."""
    return [replace(info, ultimate=False) for level in reference_levels(infos) for info in level]


async def _contents(info: PathInfo) -> AsyncGenerator[bytes, None]:
    """A local path's archive, read beside what else is going on."""
    chunks = nar_dump.dump(info.path)
    try:
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield chunk
    except OSError as error:
        raise NixError(f"cannot read {info.path}: {error.strerror}") from None
