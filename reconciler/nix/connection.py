"""One kept connection to a Nix daemon: the operations of the worker protocol, typed.

A connection does one operation at a time; tasks that share it take turns. What goes wrong falls
into two kinds. Nix refuses or fails an operation: NixError with Nix's own message, and the
connection goes on. The peer goes away, stalls or speaks garbage (ConnectionLostError), or we stop
in the middle of an operation (a cancelled task, an exception in a log handler): nobody knows
where the next answer would begin, so the connection is closed, `alive` is false, and its daemon
stops what it did for us. That is how a build is cancelled. Nothing is retried here.

A command is ended for certain. A daemon behind a socket hears of the hang-up from the kernel; if
that meets it in the instant before it waits for a builder's output, Nix (2.34 at least) takes
notice only with the next output, or with the build's `max_silent` or `timeout`: set one of them.

Temporary roots belong to the connection that asked for them and end with it.

Source: the worker-protocol chapter of the Nix manual, and Nix's own client and daemon.
"""

from __future__ import annotations

import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from pathlib import PurePosixPath
from typing import Self, TypeVar

from reconciler.model import DrvPath, PathInfo, StorePath
from reconciler.nix import protocol
from reconciler.nix.basic_derivation import BasicDerivation
from reconciler.nix.endpoint import Endpoint
from reconciler.nix.handshake import Greeting
from reconciler.nix.logs import LogHandler, RefusedError, StderrTag, ignore, read_error
from reconciler.nix.nar import NarScanner, NotNarError
from reconciler.nix.protocol import (
    BuildResult,
    ClientOptions,
    Garbage,
    GarbageOptions,
    Missing,
    Operation,
)
from reconciler.nix.session import Session
from reconciler.nix.wire import PeerError, Reader, string, strings, word

T = TypeVar("T")

_AT_ONCE = 200
"""Questions sent before the first answer is read. More than a pipe holds (64 KiB, a few hundred of
them), and both sides would wait for the other to read."""
_ABOUT_ONE = 16 * 1024 * 1024
"""Bytes an answer about one path or one build may take."""
_ABOUT_ALL = 512 * 1024 * 1024
"""Bytes an answer about a whole store may take: roots or garbage by the million."""


class Connection:
    """An open connection.

    `patience`, in seconds, bounds its opening, and afterwards every silence of the peer in
    operations that Nix answers at once; builds and all that may rightly take hours wait.
    """

    def __init__(self, session: Session, greeting: Greeting) -> None:
        self.nix_version = greeting.nix_version
        self.protocol_version = greeting.version
        self.features = greeting.features
        """What both sides have of the protocol's optional features."""
        self.trusted = greeting.trusted
        """Whether the daemon accepts our settings and unsigned paths; None: it does not say."""
        self._session = session

    @classmethod
    async def open(
        cls,
        endpoint: Endpoint,
        *,
        options: ClientOptions | None = None,
        patience: float,
        on_log: LogHandler = ignore,
    ) -> Self:
        """Connect, agree on a version, send the options; the log tells which were ignored."""
        session, greeting = await Session.open(endpoint, patience=patience)
        connection = cls(session, greeting)
        await connection.set_options(options or ClientOptions(), on_log=on_log)
        return connection

    @property
    def endpoint(self) -> Endpoint:
        """Where its peer is."""
        return self._session.endpoint

    @property
    def alive(self) -> bool:
        """Whether it can still be used."""
        return self._session.alive

    async def close(self) -> None:
        """Close it; what its daemon still does for us is stopped."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def set_options(self, options: ClientOptions, *, on_log: LogHandler = ignore) -> None:
        """Change the settings that hold from the next operation on."""
        body = protocol.write_options(options)
        await self._call("take our settings", Operation.SET_OPTIONS, body, _nothing, log=on_log)

    # --- Questions ---------------------------------------------------------------------------

    async def query_valid_paths(
        self, paths: Iterable[StorePath], *, substitute: bool = False, on_log: LogHandler = ignore
    ) -> frozenset[StorePath]:
        """Which of the paths exist; with `substitute`, those that can be fetched are, before.

        Why one could not be fetched is only in the log.
        """
        body = strings(paths)
        return await self._call(
            "tell which paths are valid",
            Operation.QUERY_VALID_PATHS,
            body + word(substitute),
            protocol.read_paths,
            log=on_log,
            allowance=len(body),
            unhurried=substitute,
        )

    async def query_substitutable_paths(self, paths: Iterable[StorePath]) -> frozenset[StorePath]:
        """Which of the paths a substituter has.

        Nix asks only those that say they can bear it (WantMassQuery of their nix-cache-info);
        `query_missing` asks all, one path after the other.
        """
        body = strings(paths)
        return await self._call(
            "tell which paths can be substituted",
            Operation.QUERY_SUBSTITUTABLE_PATHS,
            body,
            protocol.read_paths,
            allowance=len(body),
            unhurried=True,
        )

    async def query_path_info(self, path: StorePath) -> PathInfo | None:
        """What is known of a path; None if it is not valid."""
        return (await self.query_path_infos((path,))).get(path)

    async def query_path_infos(self, paths: Sequence[StorePath]) -> dict[StorePath, PathInfo]:
        """The same for many, asked at once; those that are not valid are left out."""
        asked = iter(paths)

        async def read(reader: Reader) -> PathInfo | None:
            path = next(asked)
            return await protocol.read_path_info(reader, path) if await reader.word() else None

        found = await self._calls("describe", Operation.QUERY_PATH_INFO, paths, read)
        return {info.path: info for info in found if info is not None}

    async def query_missing(self, targets: Iterable[str]) -> Missing:
        """What it would take to have the targets: store paths, or `DRV!OUTPUT,…` or `DRV!*`."""
        return await self._call(
            "tell what is missing",
            Operation.QUERY_MISSING,
            strings(targets),
            protocol.read_missing,
            allowance=_ABOUT_ALL,
            unhurried=True,
        )

    async def query_derivation_output_map(self, drv: DrvPath) -> dict[str, StorePath | None]:
        """The outputs of a derivation; None where the path is not known before it is built."""
        return await self._call(
            f"list the outputs of {drv}",
            Operation.QUERY_DERIVATION_OUTPUT_MAP,
            string(drv),
            protocol.read_output_map,
        )

    # --- Builds ------------------------------------------------------------------------------

    async def build(
        self,
        drv: DrvPath,
        *,
        outputs: Iterable[str] | None = None,
        on_log: LogHandler = ignore,
    ) -> BuildResult:
        """Build (or fetch) outputs of a derivation, all of them if None are named.

        A build that fails is a result; NixError is for one that could not be tried. Inputs that
        are missing are built or fetched before. What `on_log` raises cancels the build.
        """
        target = f"{drv}!{'*' if outputs is None else ','.join(outputs)}"
        store_dir = str(PurePosixPath(drv).parent)

        async def read(reader: Reader) -> BuildResult:
            if (count := await reader.word()) != 1:
                raise PeerError(f"it sent {count} results of one build")
            await reader.text()  # the target
            return await protocol.read_build_result(reader, self.protocol_version, store_dir)

        return await self._call(
            f"build {drv}",
            Operation.BUILD_PATHS_WITH_RESULTS,
            strings((target,)) + word(0),  # mode: normal
            read,
            log=on_log,
            unhurried=True,
        )

    async def build_derivation(
        self,
        derivation: BasicDerivation,
        inputs: Iterable[StorePath],
        *,
        on_log: LogHandler = ignore,
    ) -> BuildResult:
        """Build all outputs of a derivation whose file the daemon need not have.

        `inputs` are what it uses directly; they must be valid, nothing is built for it. A daemon
        that does not trust us refuses any but a content-addressed one.
        """

        async def read(reader: Reader) -> BuildResult:
            store_dir = str(PurePosixPath(derivation.path).parent)
            return await protocol.read_build_result(reader, self.protocol_version, store_dir)

        return await self._call(
            f"build {derivation.path}",
            Operation.BUILD_DERIVATION,
            string(derivation.path)
            + protocol.write_basic_derivation(derivation, inputs)
            + word(0),  # mode: normal
            read,
            log=on_log,
            unhurried=True,
        )

    async def ensure_path(self, path: StorePath, *, on_log: LogHandler = ignore) -> None:
        """Fetch a path and its closure from a substituter, if it is not there."""
        await self._call(
            f"fetch {path}",
            Operation.ENSURE_PATH,
            string(path),
            Reader.word,
            log=on_log,
            unhurried=True,
        )

    # --- Roots and garbage -------------------------------------------------------------------

    async def add_temp_roots(self, paths: Iterable[StorePath]) -> None:
        """Keep paths, which need not be valid yet, from collection while this connection is open.

        Waits for a collection that is under way.
        """
        await self._calls(
            "keep", Operation.ADD_TEMP_ROOT, tuple(paths), Reader.word, unhurried=True
        )

    async def add_indirect_roots(self, links: Iterable[str]) -> None:
        """Make symbolic links, anywhere, roots for as long as they point into the store."""
        await self._calls(
            "root", Operation.ADD_INDIRECT_ROOT, tuple(links), Reader.word, unhurried=True
        )

    async def find_roots(self) -> list[tuple[str, StorePath]]:
        """All roots with what they keep; their names only if the daemon trusts us."""
        return await self._call(
            "list the roots",
            Operation.FIND_ROOTS,
            b"",
            protocol.read_roots,
            allowance=_ABOUT_ALL,
            unhurried=True,
        )

    async def collect_garbage(
        self, options: GarbageOptions | None = None, *, on_log: LogHandler = ignore
    ) -> Garbage:
        """Delete, or only list, what no root keeps; all that is dead unless the options differ."""
        return await self._call(
            "collect garbage",
            Operation.COLLECT_GARBAGE,
            protocol.write_garbage_options(options or GarbageOptions()),
            protocol.read_garbage,
            log=on_log,
            allowance=_ABOUT_ALL,
            unhurried=True,
        )

    # --- Contents ----------------------------------------------------------------------------

    async def nar_from_path(self, path: StorePath) -> AsyncGenerator[bytes, None]:
        """The NAR of a valid path, in chunks.

        A reader that may stop early closes the generator (`contextlib.aclosing`); that closes the
        connection, for the rest cannot be skipped.
        """
        async with self._session.exchange(f"send {path}") as reader:
            await self._session.send(word(Operation.NAR_FROM_PATH), string(path))
            await self._session.work(ignore)
            async for chunk in _nar(reader):
                yield chunk
            self._session.finish()

    async def add_to_store_nar(
        self,
        info: PathInfo,
        nar: AsyncIterable[bytes],
        *,
        check_signatures: bool = True,
        on_log: LogHandler = ignore,
    ) -> None:
        """Add a path as `info` describes it; its references must be valid.

        Only a daemon that trusts us leaves signatures unchecked.
        """
        async with self._session.exchange(f"add {info.path}", unhurried=True):
            await self._session.send(
                word(Operation.ADD_TO_STORE_NAR),
                protocol.write_path_info(info),
                word(0),  # repair
                word(not check_signatures),
            )
            await self._session.send_framed(nar, on_log)
            self._session.finish()

    async def add_multiple_to_store(
        self,
        infos: Sequence[PathInfo],
        nar: Callable[[PathInfo], AsyncGenerator[bytes, None]],
        *,
        check_signatures: bool = True,
        repair: bool = False,
        on_log: LogHandler = ignore,
    ) -> None:
        """Add paths in one go, references before referrers; `nar` gives the contents of each.

        Only a daemon that trusts us leaves signatures unchecked. What was added before one that is
        refused stays; the refusal closes the connection. What is valid already is left as it is,
        unless it is to `repair`.
        """
        async with self._session.exchange(f"add {len(infos)} paths", unhurried=True):
            await self._session.send(
                word(Operation.ADD_MULTIPLE_TO_STORE),
                word(repair),
                word(not check_signatures),
            )
            async with contextlib.aclosing(_one_after_the_other(infos, nar)) as source:
                await self._session.send_framed(source, on_log)
            self._session.finish()

    async def add_signatures(self, path: StorePath, signatures: Iterable[str]) -> None:
        """Add to what a valid path is signed with; nobody checks them here."""
        body = string(path) + strings(signatures)
        await self._call(f"sign {path}", Operation.ADD_SIGNATURES, body, Reader.word)

    async def register_realisation(self, realisation: str) -> None:
        """Tell, as JSON, where an output of a content-addressed derivation is; it must be valid."""
        body = string(realisation)
        await self._call("take a realisation", Operation.REGISTER_DRV_OUTPUT, body, _nothing)

    async def add_build_log(self, drv: str, log: bytes) -> None:
        """Give the log of a build, by the derivation's name without folder. Needs to trust us; the
        refusal closes the connection.
        """
        async with self._session.exchange(f"take the log of {drv}", unhurried=True) as reader:
            await self._session.send(word(Operation.ADD_BUILD_LOG), string(drv))
            try:
                await self._session.send_framed(_one(log), ignore)
            except RefusedError:
                # Nix says so before it reads the frames, and would take them for operations.
                await self._session.close()
                raise
            reader.allow(_ABOUT_ONE)
            await reader.word()
            self._session.finish()

    async def add_nar(
        self, name: str, nar: AsyncIterable[bytes], references: Iterable[StorePath] = ()
    ) -> PathInfo:
        """Add a file or a folder, given as NAR, under the path that its content and name make."""
        return await self._add_by_content(name, "fixed:r:sha256", nar, references)

    async def add_text(
        self, name: str, text: bytes, references: Iterable[StorePath] = ()
    ) -> PathInfo:
        """Add a plain file, as `builtins.toFile` does."""
        return await self._add_by_content(name, "text:sha256", _one(text), references)

    async def _add_by_content(
        self, name: str, method: str, dump: AsyncIterable[bytes], references: Iterable[StorePath]
    ) -> PathInfo:
        async with self._session.exchange(f"add {name!r}", unhurried=True) as reader:
            await self._session.send(
                word(Operation.ADD_TO_STORE),
                string(name),
                string(method),
                strings(references),
                word(0),  # repair
            )
            await self._session.send_framed(dump, ignore)
            reader.allow(_ABOUT_ONE)
            info = await protocol.read_path_info(reader, await protocol.read_path(reader))
            self._session.finish()
            return info

    async def _call(
        self,
        request: str,
        operation: Operation,
        body: bytes,
        decode: Callable[[Reader], Awaitable[T]],
        *,
        log: LogHandler = ignore,
        allowance: int = _ABOUT_ONE,
        unhurried: bool = False,
    ) -> T:
        async with self._session.exchange(request, unhurried=unhurried) as reader:
            await self._session.send(word(operation), body)
            await self._session.work(log)
            reader.allow(allowance)
            answer = await decode(reader)
            self._session.finish()
            return answer

    async def _calls(
        self,
        verb: str,
        operation: Operation,
        subjects: Sequence[str],
        decode: Callable[[Reader], Awaitable[T]],
        *,
        unhurried: bool = False,
    ) -> list[T]:
        """One operation for each of the subjects: sent at once, then answered one by one."""
        answers: list[T] = []
        for start in range(0, len(subjects), _AT_ONCE):
            some = subjects[start : start + _AT_ONCE]
            request = f"{verb} {some[0] if len(some) == 1 else f'{len(some)} paths'}"
            async with self._session.exchange(request, unhurried=unhurried) as reader:
                questions = [word(operation) + string(each) for each in some]
                await self._session.send(*questions, several=len(some) > 1)
                for _ in some:
                    await self._session.work(ignore)
                    reader.allow(_ABOUT_ONE)
                    answers.append(await decode(reader))
                self._session.finish()
        return answers


async def _nothing(_reader: Reader) -> None:
    """Decodes the answer that consists in having answered."""


async def _one_after_the_other(
    infos: Sequence[PathInfo], nar: Callable[[PathInfo], AsyncGenerator[bytes, None]]
) -> AsyncGenerator[bytes, None]:
    """What ADD_MULTIPLE_TO_STORE takes: how many, and of each its information and its contents."""
    yield word(len(infos))
    for info in infos:
        yield protocol.write_path_info(info)
        async with contextlib.aclosing(nar(info)) as chunks:
            async for chunk in chunks:
                yield chunk


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _nar(reader: Reader) -> AsyncIterator[bytes]:
    """What is to be read, up to the end of a NAR."""
    scanner = NarScanner()
    while not scanner.finished:
        data = await reader.peek()
        try:
            used = scanner.feed(data)
        except NotNarError as error:
            if error.word != StderrTag.ERROR:
                raise PeerError(f"it sent what is {error}") from None
            # Nix finds out too late that it cannot send a path: it says so amid the archive, and
            # hangs up.
            reader.advance(error.end)
            raise RefusedError(await read_error(reader)) from None
        reader.advance(used)
        yield data[:used]
