"""Serialises a path of the local file system as a NAR (Nix archive), in bounded memory.

Reads only; that the path belongs to a store and that the archive has the registered hash is for
the caller to check. Faster than asking a daemon for the same bytes, which have to be copied
through a socket twice.

Source: the "Nix Archive (NAR) format" chapter of the Nix manual.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator

from reconciler.errors import NixError

CHUNK = 256 * 1024
"""About how many bytes are handed on at once."""


def _string(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw + bytes(-len(raw) % 8)


def _strings(*words: str) -> bytes:
    return b"".join(_string(word.encode()) for word in words)


_BEGIN = _strings("nix-archive-1")
_DIRECTORY = _strings("(", "type", "directory")
_ENTRY = _strings("entry", "(", "name")
_NODE = _strings("node")
_SYMLINK = _strings("(", "type", "symlink", "target")
_CONTENTS = _strings("(", "type", "regular", "contents")
_EXECUTABLE = _strings("(", "type", "regular", "executable", "", "contents")
_CLOSE = _strings(")")


def everything(_entry: os.DirEntry[bytes]) -> bool:
    """Leaves nothing out."""
    return True


def dump(
    path: str | os.PathLike[str], *, wanted: Callable[[os.DirEntry[bytes]], bool] = everything
) -> Iterator[bytes]:
    """The archive of a file, directory or symbolic link, with what is `wanted` of what is in it.

    Raises OSError where it cannot be read, NixError where it is of a kind that no store holds or
    changes while being read.
    """
    buffer = bytearray(_BEGIN)
    folders: list[tuple[bytes, Iterator[bytes]]] = []  # a stack: nesting has no limit of Python's
    current: bytes | None = os.fsencode(path)
    while current is not None:
        mode = os.lstat(current).st_mode
        if stat.S_ISDIR(mode):
            buffer += _DIRECTORY
            # In bytes, which pathlib lacks: Nix refuses an archive in another order than theirs.
            with os.scandir(current) as entries:
                names = sorted(entry.name for entry in entries if wanted(entry))
            folders.append((current, iter(names)))
        else:
            yield from _leaf(current, mode, buffer)
            buffer += _CLOSE * (2 if folders else 1)
        current = _next(folders, buffer)
        if len(buffer) >= CHUNK:
            yield _take(buffer)
    yield _take(buffer)


def _next(folders: list[tuple[bytes, Iterator[bytes]]], buffer: bytearray) -> bytes | None:
    """The next entry, its header written; folders that are through are closed."""
    while folders:
        folder, names = folders[-1]
        for name in names:
            buffer += _ENTRY + _string(name) + _NODE
            return b"%b/%b" % (folder, name)
        folders.pop()
        buffer += _CLOSE * (2 if folders else 1)
    return None


def _leaf(path: bytes, mode: int, buffer: bytearray) -> Iterator[bytes]:
    """A symbolic link or a regular file, all but its closing parenthesis."""
    if stat.S_ISLNK(mode):
        buffer += _SYMLINK + _string(os.readlink(path))  # noqa: PTH115
    elif stat.S_ISREG(mode):
        yield from _file(path, buffer)
    else:
        raise NixError(
            f"{os.fsdecode(path)} is neither file, directory nor symbolic link: it has no NAR"
        )


def _file(path: bytes, buffer: bytearray) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        buffer += _EXECUTABLE if status.st_mode & stat.S_IXUSR else _CONTENTS
        buffer += struct.pack("<Q", status.st_size)
        left = status.st_size
        while left:
            data = os.read(descriptor, min(left, CHUNK))
            if not data:
                raise NixError(f"{os.fsdecode(path)} became shorter while it was read")
            left -= len(data)
            buffer += data
            if len(buffer) >= CHUNK:
                yield _take(buffer)
        buffer += bytes(-status.st_size % 8)
    finally:
        os.close(descriptor)


def _take(buffer: bytearray) -> bytes:
    data = bytes(buffer)
    buffer.clear()
    return data
