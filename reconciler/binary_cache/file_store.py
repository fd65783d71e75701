"""The `file:` kind: objects as files below a folder.

An object is written to the staging folder, brought to disk (fsync), then renamed: whatever dies
at whatever moment, power included, no name ever stands for less than its whole content. It knows
nothing of what the objects mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from reconciler.binary_cache.staging import Staging
from reconciler.binary_cache.traffic import Traffic
from reconciler.errors import CacheError

T = TypeVar("T")

_STAGING = ".staging-"
_CHUNK = 1024 * 1024
_LIBC = ctypes.CDLL(None, use_errno=True)
_MANY = 16
"""From so many files on, one syncfs costs less than an fsync for each: measured, a thousand files
of 8 KiB take 0.2 s and 0.02 s."""
_FILE_MODE = 0o644
"""A web server of another user is often what serves the folder."""


def folder_of(uri: str) -> Path:
    """The folder that a `file:` URI names."""
    parts = urlsplit(uri)
    if parts.query or parts.fragment:
        raise CacheError(
            f"{uri}: a file: cache takes no parameters after the path; "
            "compression and signingKeyFile are properties of the cache"
        )
    if parts.netloc not in ("", "localhost"):
        raise CacheError(f"{uri} names the host {parts.netloc}: write file:///FOLDER")
    path = Path(unquote(parts.path))
    if not path.is_absolute():
        raise CacheError(f"{uri}: the path must be absolute: write file:///FOLDER")
    return path


class FileStore:
    """See the module's text, and ObjectStore for the methods."""

    def __init__(self, folder: Path, staging: Staging, traffic: Traffic) -> None:
        self._folder = folder
        self._staging = staging
        self._traffic = traffic
        self._serial = itertools.count()

    @classmethod
    async def open(cls, folder: Path, traffic: Traffic | None = None) -> FileStore:
        """Make the folder if need be; CacheError where it cannot be written."""
        try:
            return await asyncio.to_thread(cls._open, folder, traffic or Traffic())
        except OSError as error:
            raise _unusable(folder, error) from error

    @classmethod
    def _open(cls, folder: Path, traffic: Traffic) -> FileStore:
        (folder / "nar").mkdir(parents=True, exist_ok=True)
        return cls(folder, Staging(folder, prefix=_STAGING), traffic)

    @property
    def staging(self) -> Path:
        """On the same file system as the objects: a rename is enough to place one."""
        return self._staging.folder

    @property
    def shows_whole(self) -> bool:
        """Everything is renamed to its place."""
        return True

    @property
    def for_sources(self) -> None:
        """An object is a file in `staging` first anyway."""
        return

    async def present(self, names: Collection[str]) -> set[str]:
        """Look for each."""
        return await self._in_thread(lambda: {name for name in names if self._exists(name)})

    def _exists(self, name: str) -> bool:
        try:
            (self._folder / name).stat()
        except FileNotFoundError:
            # Not the same as a folder that went away (an unmounted disk): that is no answer.
            self.staging.stat()
            return False
        return True

    async def names(self, folder: str) -> Mapping[str, float] | None:
        """Look into the folder."""
        return await self._in_thread(lambda: dict(self._names(folder)))

    def _names(self, folder: str) -> Iterator[tuple[str, float]]:
        try:
            entries = os.scandir(self._folder / folder)
        except FileNotFoundError:
            self.staging.stat()  # as above
            return
        with entries:
            for entry in entries:
                if entry.is_file():
                    yield f"{folder}{entry.name}", entry.stat().st_mtime

    async def read(self, name: str) -> bytes | None:
        """Read it in one go."""
        return await self._in_thread(lambda: self._read(name))

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            self.staging.stat()
            return None

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """Read it chunk by chunk."""
        with await asyncio.to_thread((self._folder / name).open, "rb", 0) as file:
            while chunk := await self._in_thread(lambda: file.read(_CHUNK)):
                yield chunk

    async def put(self, objects: Mapping[str, bytes | Path]) -> dict[str, str]:
        """Write and place them, in their order."""
        return await asyncio.to_thread(self._put, objects)

    def _put(self, objects: Mapping[str, bytes | Path]) -> dict[str, str]:
        failed: dict[str, str] = {}
        staged: dict[str, Path] = {}
        for name, content in objects.items():
            with self._judging([name], failed):
                staged[name] = self._stage(content)
                self._traffic.sent += staged[name].stat().st_size
        with self._judging(staged, failed):
            _bring_to_disk(list(staged.values()))
        for name in [name for name in staged if name not in failed]:
            with self._judging([name], failed):
                if "/" in name:
                    (self._folder / name).parent.mkdir(exist_ok=True)
                staged[name].chmod(_FILE_MODE)
                staged[name].rename(self._folder / name)
        placed = [name for name in staged if name not in failed]
        with self._judging(placed, failed):
            # A rename is durable only when its folder is.
            _bring_to_disk(list({(self._folder / name).parent for name in placed}))
        return failed

    @contextlib.contextmanager
    def _judging(self, names: Collection[str], failed: dict[str, str]) -> Iterator[None]:
        """Record a fault as that of some objects."""
        try:
            yield
        except OSError as error:
            failed |= dict.fromkeys(names, str(_unusable(self._folder, error)))

    def _stage(self, content: bytes | Path) -> Path:
        if isinstance(content, Path):
            return content
        file = self.staging / f"object-{next(self._serial)}"
        with file.open("xb") as stream:
            stream.write(content)
        return file

    async def delete(self, names: Collection[str]) -> dict[str, str]:
        """Unlink each."""
        return await asyncio.to_thread(self._delete, names)

    def _delete(self, names: Collection[str]) -> dict[str, str]:
        failed: dict[str, str] = {}
        for name in names:
            with self._judging([name], failed):
                (self._folder / name).unlink(missing_ok=True)
        return failed

    async def close(self) -> None:
        """Remove the staging folder."""
        await asyncio.to_thread(self._staging.close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise CacheError(f"the folder {self._folder} cannot be read: {error}") from error


def _bring_to_disk(paths: Sequence[Path]) -> None:
    """Return when files, or folders as such, are on the disk."""
    descriptors = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths[:_MANY]]
    try:
        if len(descriptors) == _MANY:
            _sync_file_system(descriptors[0])
        else:
            for descriptor in descriptors:
                os.fsync(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _sync_file_system(descriptor: int) -> None:
    """Linux's syncfs, which Python does not offer. It reports failed writes as fsync does."""
    if _LIBC.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _unusable(place: Path, error: OSError) -> CacheError:
    return CacheError(
        f"the folder {place} cannot be written: {error.strerror}; make room, or let the user "
        "that runs the reconciler write it, or name another folder"
    )
