"""Whether two builds came to the same: an incremental one, and its twin without a base.

Their outputs have other paths, since the base is among the inputs of one. So the twin's contents
are read with the paths of the other in place of its own, which have the same length. Whatever is
compressed or otherwise encoded in a file with a path in it is told as a difference: rather a false
alarm than a wrong result.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from reconciler.model import StorePath

_CHUNK = 1024 * 1024
_HASH = 32
"""Digits of a store path's hash: what is put in place, wherever it stands."""

_Rewrite = Callable[[bytes], bytes]


def difference(
    built: Mapping[str, StorePath],
    clean: Mapping[str, StorePath],
    renamed: Mapping[StorePath, StorePath],
) -> str | None:
    """What differs between the outputs of a build and of its clean twin; None: nothing.

    `renamed` are the outputs of further builds with a twin that both may refer to: the clean one's
    path to the other's. Reads all files, which blocks; OSError where one cannot be read.
    """
    if built.keys() != clean.keys():
        return "the outputs are others"
    pairs = {**renamed, **{clean[name]: path for name, path in built.items()}}
    rewrite = _rewriting(pairs)
    for name, path in sorted(built.items()):
        found = _differs(path.encode(), clean[name].encode(), rewrite)
        if found is not None:
            inside = os.fsdecode(found)
            return f"the output {name} differs" + (f" in {inside}" if inside else "")
    return None


def _rewriting(pairs: Mapping[StorePath, StorePath]) -> _Rewrite:
    hashes = {_hash_part(old): _hash_part(new) for old, new in pairs.items() if old != new}
    if not hashes:
        return lambda data: data
    pattern = re.compile(b"|".join(map(re.escape, hashes)))
    return lambda data: pattern.sub(lambda found: hashes[found[0]], data)


def _hash_part(path: StorePath) -> bytes:
    return Path(path).name[:_HASH].encode()


def _differs(built: bytes, clean: bytes, rewrite: _Rewrite) -> bytes | None:
    """Where two trees differ, below them; None: nowhere."""
    todo = [(b"", built, clean)]  # a stack: nesting has no limit of Python's
    while todo:
        where, mine, twin = todo.pop()
        if not _same(mine, twin, rewrite):
            return where
        if stat.S_ISDIR(os.lstat(mine).st_mode):
            # In bytes, which pathlib lacks: names need not be text.
            names = os.listdir(mine)  # noqa: PTH208
            twins = {rewrite(name): name for name in os.listdir(twin)}  # noqa: PTH208
            others = twins.keys() ^ set(names)
            if others:
                return _below(where, min(others))
            todo += [
                (_below(where, name), _below(mine, name), _below(twin, twins[name]))
                for name in sorted(names, reverse=True)
            ]
    return None


def _below(folder: bytes, name: bytes) -> bytes:
    return b"%b/%b" % (folder, name) if folder else name


def _same(built: bytes, clean: bytes, rewrite: _Rewrite) -> bool:
    """Whether two are of one kind, and of one content unless they are folders."""
    mine, twin = os.lstat(built).st_mode, os.lstat(clean).st_mode
    if stat.S_IFMT(mine) != stat.S_IFMT(twin):
        return False
    if stat.S_ISLNK(mine):
        return os.readlink(built) == rewrite(os.readlink(clean))  # noqa: PTH115
    if stat.S_ISREG(mine):
        return not (mine ^ twin) & stat.S_IXUSR and _same_file(built, clean, rewrite)
    return True


def _same_file(built: bytes, clean: bytes, rewrite: _Rewrite) -> bool:
    if os.lstat(built).st_size != os.lstat(clean).st_size:
        return False
    with Path(os.fsdecode(built)).open("rb") as mine:
        return all(mine.read(len(data)) == data for data in _rewritten(clean, rewrite))


def _rewritten(file: bytes, rewrite: _Rewrite) -> Iterator[bytes]:
    """A file's contents in pieces, rewritten as if it were one."""
    with Path(os.fsdecode(file)).open("rb") as opened:
        kept = b""
        while data := opened.read(_CHUNK):
            # A hash may begin at the end of what has been read. One that was put in place is none
            # of those that are looked for, so what is kept may well be rewritten again.
            data = rewrite(kept + data)
            kept = data[-(_HASH - 1) :]
            yield data[: -len(kept)]
        yield kept
