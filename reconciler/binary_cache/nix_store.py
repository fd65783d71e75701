"""The `ssh-ng:` kind: the Nix store of another machine as a cache, over the worker protocol.

That store registers a path only after it has read all of it and found its hash right, and only
when all that it refers to is registered: whatever breaks off, what is there is whole. What it
deletes is its own collector's business, and nothing is deleted from here.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager

from msgspec import Struct, field
from msgspec.structs import replace as changed

from reconciler.binary_cache import realisation
from reconciler.binary_cache.interface import Finding, Flaw, PushReport
from reconciler.binary_cache.lines import Line, Lines
from reconciler.binary_cache.nars import GoneError, Nars
from reconciler.binary_cache.order import hold_back, reference_levels
from reconciler.binary_cache.packing import damaged
from reconciler.binary_cache.refusals import told_apart
from reconciler.binary_cache.signing import SecretKey, signatures
from reconciler.binary_cache.traffic import Traffic
from reconciler.binary_cache.verification import batches, dangling, unsigned
from reconciler.errors import CacheError, ConnectionLostError, NixError, UsageError
from reconciler.model import Cache, PathInfo, StorePath
from reconciler.nix import ssh
from reconciler.nix.connection import Connection
from reconciler.nix.hashes import to_base32

_MAX_REFUSALS = 3
"""Paths that the store may refuse of one batch, each at the cost of a new connection; after that it
is not the paths' fault."""
_NO_ROOM = ("No space left on device", "database or disk is full", "Disk quota exceeded")
_NO_TRUST = "lacks a signature by a trusted key"
_NO_LOGS = "not privileged to add logs"
_NO_REALISATIONS = "Nix feature 'ca-derivations' is disabled"
_NO_FILE = ("does not exist", "No such file")
_OTHER_STORE = "is not in the Nix store"


class _Batch(Struct, frozen=True, kw_only=True):
    """What is known of a batch while it is sent."""

    there: set[StorePath]
    """What is registered there, of the batch and of what that refers to."""
    sent: dict[StorePath, int] = field(default_factory=dict)
    gone: list[StorePath] = field(default_factory=list)
    waiting: dict[StorePath, StorePath] = field(default_factory=dict)
    failed: dict[StorePath, str] = field(default_factory=dict)

    def fail(self, path: StorePath, error: Exception) -> None:
        """Record a fault of one path."""
        if isinstance(error, GoneError):
            self.gone.append(path)
        else:
            self.failed[path] = str(error)


class NixStoreCache:
    """See the module's text, and BinaryCache for the methods."""

    def __init__(
        self,
        cache: Cache,
        keys: Sequence[SecretKey],
        store_dir: str,
        traffic: Traffic,
        lines: Lines,
    ) -> None:
        self._cache = cache
        self._traffic = traffic
        self._keys = keys
        self._store_dir = store_dir
        self._lines = lines
        self._line: Line | None = None

    @classmethod
    async def open(
        cls,
        cache: Cache,
        *,
        keys: Sequence[SecretKey],
        store_dir: str,
        lines: Lines,
        traffic: Traffic | None = None,
    ) -> NixStoreCache:
        """Connect; CacheError where that fails."""
        opened = cls(cache, keys, store_dir, traffic or Traffic(), lines)
        try:
            with opened._faults():
                await opened._peer()
        except BaseException:
            await opened.close()
            raise
        return opened

    async def close(self) -> None:
        """Leave the connection to others."""
        if self._line is not None:
            await self._lines.leave(self._line)

    async def _peer(self) -> Connection:
        """The connection; a new one where it was lost, as after each refusal in mid-transfer."""
        if self._line is None or not self._line.connection.alive:
            self._line = await self._lines.take(ssh.peer_of(self._cache))
        return self._line.connection

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Raise what went wrong as the cache's fault, with the mend."""
        try:
            with ssh.explained(f"cache {self._cache.name} ({self._cache.uri})"):
                yield
        except OSError as error:
            raise CacheError(f"{self._cache.uri}: no room for its host key: {error}") from error
        except (NixError, UsageError) as error:
            raise CacheError(self._told(str(error))) from error

    def _told(self, text: str) -> str:
        if any(words in text for words in _NO_ROOM):
            return f"{self._cache.uri}: the store has no room left: make room there ({text})"
        if _NO_TRUST in text:
            return f"{self._cache.uri} does not trust what we push: {self._trust()} ({text})"
        if _NO_LOGS in text:
            return (
                f"{self._cache.uri} takes logs of those alone whom it trusts: name our user in its"
                f" trusted-users, or set logs to false ({text})"
            )
        if _NO_REALISATIONS in text:
            return (
                f"{self._cache.uri} knows no content-addressed derivations: add ca-derivations to"
                f" its experimental-features ({text})"
            )
        if _OTHER_STORE in text:
            return (
                f"{self._cache.uri} is another store than {self._store_dir}: no Nix could use both;"
                " give this store a cache of its own"
            )
        return text

    def _trust(self) -> str:
        keys = " ".join(str(key.public) for key in self._keys)
        what = f"put {keys} into" if keys else "declare a signingKeyFile, with its public key in"
        return f"{what} its trusted-public-keys, or name our user in its trusted-users"

    # --- Asking ----------------------------------------------------------------------------

    async def describe(self) -> str:
        """Ask it for something; a sentence for people. CacheError where it would refuse us."""
        with self._faults():
            peer = await self._peer()
            await peer.query_valid_paths([StorePath(f"{self._store_dir}/{'0' * 32}-x")])
        said = f"{self._cache.uri} answers: Nix {peer.nix_version}"
        if peer.trusted is not False:
            return f"{said}, trusts us"
        if not self._keys:
            raise CacheError(f"{said}, and does not trust us: {self._trust()}")
        names = ", ".join(key.public.name for key in self._keys)
        return f"{said}, does not trust us: {names} must be among its trusted-public-keys"

    async def missing(self, paths: Collection[StorePath]) -> set[StorePath]:
        """One question for all."""
        with self._faults():
            return set(paths) - await (await self._peer()).query_valid_paths(paths)

    async def verify(self, path: StorePath) -> tuple[Finding, ...]:
        """Read a path back and check it against our keys."""
        return await self.examine([path])

    async def examine(
        self,
        paths: Collection[StorePath],
        *,
        foreign: Collection[StorePath] = (),
        alone: Collection[StorePath] = (),
        read_up_to: int | None = None,
    ) -> tuple[Finding, ...]:
        """What the store has registered, and whether that is what is on its disk."""
        del foreign, alone  # of a store that is not listed, and keeps closures, there are none
        found: list[Finding] = []
        left = read_up_to
        keys = [key.public for key in self._keys]
        with self._faults():
            for batch in batches(paths):
                infos, refused = await self._described(batch)
                found += [_undescribed(path, why) for path, why in refused.items()]
                found += [_absent(p) for p in batch if p not in infos and p not in refused]
                found += unsigned(infos.values(), keys)
                references = {path for info in infos.values() for path in info.references}
                found += dangling(infos.values(), await self.missing(references))
                for info in infos.values():
                    if left is not None:
                        left -= info.nar_size
                    if left is None or left >= 0:
                        flaw = await self._flaw(info)
                        found += [] if flaw is None else [flaw]
        return tuple(found)

    async def _described(
        self, paths: Sequence[StorePath]
    ) -> tuple[Mapping[StorePath, PathInfo], Mapping[StorePath, NixError]]:
        """What it says of paths, and of which it refuses to, however many these are."""

        async def ask(some: Sequence[StorePath]) -> Mapping[StorePath, PathInfo]:
            return await (await self._peer()).query_path_infos(some)

        infos, refused = await told_apart(ask, paths, at_most=len(paths))
        for why in refused.values():
            if isinstance(why, ConnectionLostError):
                raise why
        return infos, refused

    async def _flaw(self, info: PathInfo) -> Finding | None:
        """Read a path as the store has it on its disk."""
        try:
            return await self._read(info)
        except ConnectionLostError:
            # Nix hangs up on what it cannot send to its end. A line that breaks does so once.
            try:
                return await self._read(info)
            except ConnectionLostError as error:
                await (await self._peer()).query_valid_paths([info.path])  # or it is not the path's
                message = f"{info.path} cannot be read there: {error}"
                return Finding(path=info.path, flaw=Flaw.NAR_DAMAGED, message=message)

    async def _read(self, info: PathInfo) -> Finding | None:
        peer = await self._peer()
        try:
            async with aclosing(peer.nar_from_path(info.path)) as chunks:
                async for _ in _checked(info, chunks):
                    pass
        except _DamagedError as error:
            flaw, message = Flaw.NAR_DAMAGED, f"{info.path} is damaged there: its NAR {error}"
        except ConnectionLostError:
            raise
        except NixError as error:
            message = str(error)
            lost = any(words in message for words in _NO_FILE)
            flaw = Flaw.NAR_ABSENT if lost else Flaw.NAR_DAMAGED
        else:
            return None
        return Finding(path=info.path, flaw=flaw, message=message)

    async def accompany(self, objects: Mapping[str, bytes]) -> Mapping[str, str]:
        """Have it take them as its own: logs only where it trusts us, realisations only where it
        knows what such are.
        """
        failed: dict[str, str] = {}
        for name in realisation.in_order(objects):
            folder, _, rest = name.partition("/")
            try:
                with self._faults():
                    peer = await self._peer()
                    if folder == "log":
                        await peer.add_build_log(rest, objects[name])
                    else:
                        signed = realisation.signed(objects[name], self._keys)
                        await peer.register_realisation(signed.decode())
            except CacheError as error:
                failed[name] = str(error)
        return failed

    async def withdraw(self, names: Collection[str]) -> None:
        """Not done: what that store took is its own."""
        del names

    async def hashes(self) -> frozenset[str] | None:
        """Not to be had: what else is in that store is no cache of ours."""
        return None

    async def unneeded(
        self, *, ours: Collection[StorePath], wanted: Collection[StorePath]
    ) -> frozenset[StorePath]:
        """Refused."""
        del ours, wanted
        raise self._has_a_collector()

    async def give_up_unfinished(self) -> None:
        """Nothing: that store does it itself."""

    async def delete(
        self, paths: Collection[StorePath], *, keep: Collection[StorePath]
    ) -> frozenset[StorePath]:
        """Refused."""
        del paths, keep
        raise self._has_a_collector()

    def _has_a_collector(self) -> CacheError:
        return CacheError(
            f"{self._cache.uri} is a Nix store, which has a garbage collector of its own: "
            "set gc to false"
        )

    # --- Pushing ---------------------------------------------------------------------------

    async def push(
        self,
        infos: Sequence[PathInfo],
        nars: Nars,
        *,
        elsewhere: Collection[StorePath] = (),
        replace: Collection[StorePath] = (),
        alone: Collection[StorePath] = (),  # noqa: ARG002 a store takes nothing that is
        absent: Collection[StorePath] = (),  # noqa: ARG002 asking keeps paths from collection
    ) -> PushReport:
        """Send what is missing, references first; see BinaryCache."""
        by_path = {info.path: info for info in infos}
        outside = {path for info in infos for path in info.references} - by_path.keys()
        with self._faults():
            there = await self._keep(by_path.keys() | outside, outside.intersection(elsewhere))
            batch = _Batch(there=there, sent=dict.fromkeys(by_path.keys() & there, 0))
            for info in await self._mend([by_path[path] for path in {*replace} & there], batch):
                await self._send([info], nars, batch, repair=True)
            levels = reference_levels(info for info in infos if info.path not in there)
            await self._send([info for level in levels for info in level], nars, batch)
        for path in [path for path, lacks in batch.waiting.items() if lacks in {*elsewhere}]:
            batch.failed[path] = self._cannot_fetch(batch.waiting.pop(path))
        return PushReport(
            sent=batch.sent, gone=tuple(batch.gone), waiting=batch.waiting, failed=batch.failed
        )

    async def _keep(
        self, paths: Collection[StorePath], elsewhere: Collection[StorePath]
    ) -> set[StorePath]:
        """Those of the paths that are there, kept from collection; what is `elsewhere` and not
        there is fetched by that store, if it can.
        """
        peer = await self._peer()
        await peer.add_temp_roots(paths)
        there = {*await peer.query_valid_paths(paths)}
        away = {*elsewhere} - there
        if away:
            there |= await peer.query_valid_paths(away, substitute=True)
        return there

    def _cannot_fetch(self, path: StorePath) -> str:
        return (
            f"it refers to {path}, which an upstream has, but which {self._cache.uri} can fetch"
            " from none of its substituters: name the upstream among them, or remove it here"
        )

    async def _mend(self, infos: Iterable[PathInfo], batch: _Batch) -> list[PathInfo]:
        """Of paths that are there, and something is wrong with: sign those that are whole; the
        others, which are to be sent again.
        """
        again = []
        for info in infos:
            known, _ = await self._described([info.path])
            theirs = known.get(info.path)
            if theirs is None or await self._flaw(theirs) is not None:
                again.append(info)
            elif theirs.nar_hash == info.nar_hash:
                peer = await self._peer()
                await peer.add_signatures(info.path, signatures(info, self._keys))
                continue
            else:
                batch.failed[info.path] = (
                    f"{self._cache.uri} has another build of {info.path}, which is left alone:"
                    " delete it there, and ours is pushed"
                )
            del batch.sent[info.path]
        return again

    async def _send(
        self, infos: Sequence[PathInfo], nars: Nars, batch: _Batch, *, repair: bool = False
    ) -> None:
        """Send paths, references first, in one go; what cannot be sent is left out, and what refers
        to it waits.
        """
        refusals = 0
        while infos:
            infos, waiting = hold_back([infos], batch.there)
            batch.waiting.update(waiting)
            fault = await self._add(infos, nars, repair=repair)
            arrived = await self._arrived(infos, fault, repair=repair)
            batch.there.update(arrived)
            batch.sent.update({info.path: info.nar_size for info in infos if info.path in arrived})
            infos = [info for info in infos if info.path not in arrived]
            if fault is not None and infos:
                # They are taken one after the other: the first that is not there was refused.
                path = fault.path or infos[0].path
                refusals += fault.path is None
                if refusals > _MAX_REFUSALS:
                    raise fault.reason
                batch.fail(path, fault.reason)
                infos = [info for info in infos if info.path != path]

    async def _add(
        self, infos: Sequence[PathInfo], nars: Nars, *, repair: bool
    ) -> _UnsendableError | None:
        """Send paths; a fault of one of them is returned, any other raised."""
        peer = await self._peer()
        try:
            await peer.add_multiple_to_store(
                await asyncio.to_thread(self._signed, infos),
                lambda info: _sendable(info, nars, self._traffic),
                check_signatures=peer.trusted is False,
                repair=repair,
            )
        except _UnsendableError as error:
            return error
        except ConnectionLostError:
            raise
        except NixError as error:
            if any(words in str(error) for words in (*_NO_ROOM, _NO_TRUST, _OTHER_STORE)):
                raise
            return _UnsendableError(None, error)
        return None

    def _signed(self, infos: Iterable[PathInfo]) -> list[PathInfo]:
        # Only where a path was built is it `ultimate`.
        return [
            changed(info, signatures=signatures(info, self._keys), ultimate=False) for info in infos
        ]

    async def _arrived(
        self, infos: Sequence[PathInfo], fault: _UnsendableError | None, *, repair: bool
    ) -> Collection[StorePath]:
        paths = [info.path for info in infos]
        if fault is None:
            return paths
        # A path that is to be repaired was registered before.
        return () if repair else await (await self._peer()).query_valid_paths(paths)


class _UnsendableError(Exception):
    """A path, if it is known which, that cannot be sent: found out in mid-transfer."""

    def __init__(self, path: StorePath | None, reason: NixError | CacheError) -> None:
        super().__init__(str(reason))
        self.path = path
        self.reason = reason


class _DamagedError(Exception):
    """What is wrong with a NAR."""


async def _sendable(info: PathInfo, nars: Nars, traffic: Traffic) -> AsyncGenerator[bytes, None]:
    """A NAR of ours, as fast as the cache allows; ends by _UnsendableError rather than with what is
    not as it was registered.
    """
    try:
        async with aclosing(nars.stream(info.path)) as chunks:
            async for chunk in _checked(info, chunks):
                for start in range(0, len(chunk), traffic.piece):
                    piece = chunk[start : start + traffic.piece]
                    await asyncio.sleep(traffic.admit(len(piece), now=time.monotonic()))
                    yield piece
    except _DamagedError as error:
        raise _UnsendableError(info.path, damaged(info.path, str(error))) from error
    except NixError as error:
        raise _UnsendableError(info.path, error) from error


async def _checked(info: PathInfo, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A NAR, its last chunk only when all of it is found to be right; _DamagedError otherwise."""
    digest, size, held = hashlib.sha256(), 0, b""
    async for chunk in chunks:
        yield held
        held = chunk
        digest.update(chunk)
        size += len(chunk)
        if size > info.nar_size:
            raise _DamagedError(f"is longer than {info.nar_size} bytes")
    if size != info.nar_size:
        raise _DamagedError(f"has {size} bytes, not {info.nar_size}")
    found = f"sha256:{to_base32(digest.digest())}"
    if found != info.nar_hash:
        raise _DamagedError(f"has the hash {found}, not {info.nar_hash}")
    yield held


def _undescribed(path: StorePath, why: NixError) -> Finding:
    message = f"that store does not describe {path}: {why}"
    return Finding(path=path, flaw=Flaw.UNREADABLE, message=message)


def _absent(path: StorePath) -> Finding:
    return Finding(path=path, flaw=Flaw.ABSENT, message=f"{path} is not in that store")
