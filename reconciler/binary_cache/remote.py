"""What stores of objects on other machines share: threads, retries, and reading on after a break.

The stores' requests block, so each store has a few threads of its own. A request that fails for
the moment is made again here, so its author has only to say so with TransientError; how long the
server asks to be left alone counts for all requests to it.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol, TypeVar

from reconciler.binary_cache.staging import Staging
from reconciler.binary_cache.traffic import Traffic
from reconciler.errors import CacheError
from reconciler.quantities import time_of_day

T = TypeVar("T")

THREADS = 16
"""Requests under way at once. Over a line with 20 ms of delay that is some 700 a second, about what
one processor can sign and send."""
PATIENCE = 30.0
"""Seconds without a byte after which a connection is given up."""
_ATTEMPTS = 6
_FIRST_PAUSE = 0.1
"""Seconds, doubled with each further attempt: about three in all."""
_LONGEST_PAUSE = 2.0
"""So many times as long as for a byte a request waits where the server asks for it, all pauses
together: a minute. What asks for more is given up for now, and the queue of the pushes comes back
to it at the time that was said."""
LONGEST_BELIEVED = 3600.0
"""Seconds of a pause that a server asks for, at most: as long as our own become."""
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL")
"""What OpenSSL, of one version or another, says of a server that answers in the clear."""
_CHUNK = 1024 * 1024
_PREFIX = "nix-reconciler-staging-"
_CONTENT_TYPES = {
    ".narinfo": "text/x-nix-narinfo",
    "nix-cache-info": "text/x-nix-cache-info",
    ".html": "text/html; charset=utf-8",
    ".doi": "application/json",
}


class TransientError(Exception):
    """A request that failed for the moment, and why; `retry_after` in seconds."""

    def __init__(self, reason: str, *, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class UnreachableError(TransientError):
    """No connection came about."""


class UnusableError(CacheError):
    """The cache does not work: the next request would fail as this one did."""


class LeftAloneError(UnusableError):
    """The server asks for a pause, which its Traffic knows."""


class Reader(Protocol):
    """An answer's body."""

    def read(self, amount: int, /) -> bytes:
        """At most so many bytes; none at the end. Raises TransientError where it breaks."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class Remote:
    """The threads of one store, its staging folder, and how its requests are repeated.

    `name` begins the messages; `patience` is as in PATIENCE.
    """

    def __init__(
        self, name: str, traffic: Traffic | None = None, *, patience: float = PATIENCE
    ) -> None:
        self._name = name
        self._longest_pause = _LONGEST_PAUSE * patience
        self.traffic = traffic or Traffic()
        try:
            self._staging = Staging(_scratch(), prefix=_PREFIX)
        except OSError as error:
            raise CacheError(
                f"{name}: nothing can be prepared in {_scratch()}: {error.strerror}; "
                "make room, or name another folder in the variable TMPDIR"
            ) from error
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="cache")
        self._slots = asyncio.Semaphore(THREADS)
        self._stop = threading.Event()
        self._not_before = 0.0

    @property
    def staging(self) -> Path:
        """A folder on this machine."""
        return self._staging.folder

    @property
    def stop(self) -> threading.Event:
        """Set when the store is closed: long work in threads should end."""
        return self._stop

    async def close(self) -> None:
        """End the threads' work and remove the staging folder; a request under way is not waited
        for.
        """
        self._stop.set()
        self._executor.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._staging.close)

    def admit(self, amount: int) -> None:
        """Wait until so many bytes may be sent. Blocking."""
        pause = self.traffic.admit(amount, now=time.monotonic())
        if self._stop.wait(pause) if pause > 0 else self._stop.is_set():
            raise UnusableError(f"{self._name}: stopped")

    async def run(self, request: Callable[[], T]) -> T:
        """Make a request in a thread, again if need be."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._repeated, request)

    def _repeated(self, request: Callable[[], T]) -> T:
        asked = 0.0
        for attempt in range(1, _ATTEMPTS + 1):
            self._stop.wait(self._not_before - time.monotonic())
            if self._stop.is_set():
                raise UnusableError(f"{self._name}: stopped")
            try:
                return request()
            except TransientError as error:
                asked += error.retry_after
                self._give_up_or_pause(error, attempt, asked=asked)
        raise AssertionError

    def _give_up_or_pause(self, error: TransientError, attempt: int, *, asked: float) -> None:
        """Pause, unless it is of no use; `asked`: for how many seconds in all the server did."""
        if error.retry_after and (asked > self._longest_pause or attempt == _ATTEMPTS):
            until = time.time() + error.retry_after
            self.traffic.leave_alone(until=until)
            raise LeftAloneError(
                f"{self._name}: {error}; it asks to be left alone until {time_of_day(until)}"
            ) from error
        if attempt == _ATTEMPTS:
            kind = UnusableError if isinstance(error, UnreachableError) else CacheError
            raise kind(f"{self._name}: {error} ({attempt} attempts)") from error
        if error.retry_after:
            self._not_before = max(self._not_before, time.monotonic() + error.retry_after)
        pause = _FIRST_PAUSE * 2 ** (attempt - 1)
        self._stop.wait(pause * random.uniform(0.5, 1.5))  # noqa: S311 no secret depends on it

    async def filter(self, names: Iterable[str], exists: Callable[[str], bool]) -> set[str]:
        """Those of the names that exist, asked one by one."""
        found: set[str] = set()

        async def ask(name: str) -> None:
            async with self._slots:
                if await self.run(lambda: exists(name)):
                    found.add(name)

        await together(ask(name) for name in names)
        return found

    async def each(
        self, names: Iterable[str], act: Callable[[str], Awaitable[None]]
    ) -> dict[str, str]:
        """Do something for each of the names, several at once; those that failed, with the reason.
        Where the cache proves unusable, those that are not under way yet are not tried.
        """
        failed: dict[str, str] = {}
        fault: list[UnusableError] = []

        async def one(name: str) -> None:
            async with self._slots:
                try:
                    if fault:
                        raise fault[0]
                    await act(name)
                except UnusableError as error:
                    fault.append(error)
                    failed[name] = str(error)
                except CacheError as error:
                    failed[name] = str(error)

        await together(one(name) for name in names)
        return failed

    async def put(
        self,
        objects: Mapping[str, bytes | Path],
        send: Callable[[str, bytes | Path], Awaitable[None]],
    ) -> dict[str, str]:
        """Send objects; what was not sent, with the reason."""

        async def one(name: str) -> None:
            content = objects[name]
            try:
                await send(name, content)
            except OSError as error:
                raise CacheError(
                    f"{self._name}: {content!r} cannot be read: {error.strerror}"
                ) from error

        try:
            return await self.each(objects, one)
        finally:
            await asyncio.to_thread(_remove, objects.values())

    async def stream(self, open_at: Callable[[int], Reader]) -> AsyncIterator[bytes]:
        """An object in chunks. After a break it is opened again where it broke off."""
        pieces = _Pieces(open_at)
        try:
            while chunk := await self.run(pieces.next):
                yield chunk
        finally:
            pieces.close()


class RemoteStore(ABC):
    """What the kinds of ObjectStore on other machines have in common."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    @property
    def staging(self) -> Path:
        """On this machine."""
        return self._remote.staging

    async def close(self) -> None:
        """Let go of threads and connections."""
        await self._remote.close()
        self._disconnect()

    async def read(self, name: str) -> bytes | None:
        """Read it in one go."""
        try:
            return b"".join([chunk async for chunk in self.stream(name)])
        except FileNotFoundError:
            return None

    def stream(self, name: str) -> AsyncIterator[bytes]:
        """Read it chunk by chunk; a connection that breaks is made anew where it broke."""
        return self._remote.stream(lambda offset: self._open_at(name, offset))

    async def put(self, objects: Mapping[str, bytes | Path]) -> dict[str, str]:
        """Send them."""
        return await self._remote.put(objects, self._send)

    async def delete(self, names: Collection[str]) -> dict[str, str]:
        """One by one: not every server knows how to delete many at once."""
        return await self._remote.each(names, self._remove)

    @abstractmethod
    def _open_at(self, name: str, offset: int) -> Reader:
        """An object from a byte on; FileNotFoundError where there is none. Blocking."""

    @abstractmethod
    async def _send(self, name: str, content: bytes | Path) -> None:
        """Write one object."""

    @abstractmethod
    async def _remove(self, name: str) -> None:
        """Delete one object, if it is there."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connections."""


class _Pieces:
    """Reads an object piece by piece; `next` may be called again after it failed."""

    def __init__(self, open_at: Callable[[int], Reader]) -> None:
        self._open_at = open_at
        self._offset = 0
        self._reader: Reader | None = None

    def next(self) -> bytes:
        if self._reader is None:
            self._reader = self._open_at(self._offset)
        try:
            chunk = self._reader.read(_CHUNK)
        except TransientError:
            self.close()
            raise
        self._offset += len(chunk)
        return chunk

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _remove(contents: Iterable[bytes | Path]) -> None:
    for content in contents:
        if isinstance(content, Path):
            content.unlink(missing_ok=True)


async def together(work: Iterable[Awaitable[None]]) -> None:
    """Do all of it; the first fault ends the rest and is raised by itself, not in a group."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def retry_after(header: str | None, *, date: str | None = None) -> float:
    """What a Retry-After header says, in seconds: a number or a date; 0 for none or nonsense.

    `date` is the header that tells the server's time: a date of its own is by that.
    """
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return min(float(header), LONGEST_BELIEVED)
    then, now = http_time(header), http_time(date)
    if then is None:
        return 0.0
    return min(max(0.0, then - (time.time() if now is None else now)), LONGEST_BELIEVED)


def http_time(date: str | None) -> float | None:
    """A date of HTTP's, which is of UTC even where it does not say so; None: it is none."""
    try:
        found = parsedate_to_datetime(date or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def content_type(name: str) -> str:
    """What a web server in front should say of an object; the words are Nix's own."""
    if name.startswith("log/"):
        return "text/plain; charset=utf-8"
    for end, kind in _CONTENT_TYPES.items():
        if name.endswith(end):
            return kind
    return "application/x-nix-nar"


def authorities() -> str | None:
    """The file of certificate authorities that Nix is told to use, if it is."""
    return os.environ.get("NIX_SSL_CERT_FILE") or os.environ.get("SSL_CERT_FILE")


def _scratch() -> Path:
    """Where large files may lie for a while: by custom /var/tmp is on a disk, /tmp in memory."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 Staging makes its own folder
