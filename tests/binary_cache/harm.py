"""What can happen to a path in a cache, done by hand to the cache's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reconciler.binary_cache import Flaw
from reconciler.binary_cache.narinfo import narinfo_name, parse
from reconciler.model import StorePath


def narinfo(folder: Path, path: StorePath) -> Path:
    return folder / narinfo_name(path)


def nar(folder: Path, path: StorePath) -> Path:
    return folder / parse(narinfo(folder, path).read_text()).url


def replace(folder: Path, path: StorePath, key: str, value: str) -> None:
    """Set a line of a narinfo."""
    file = narinfo(folder, path)
    lines = file.read_text().splitlines()
    file.write_text(
        "\n".join(f"{key}: {value}" if line.startswith(f"{key}:") else line for line in lines)
    )


def flip(folder: Path, path: StorePath) -> None:
    file = nar(folder, path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(folder: Path, path: StorePath) -> None:
    file = nar(folder, path)
    file.write_bytes(file.read_bytes()[:-10])


HARM: dict[str, tuple[Callable[[Path, StorePath], object], list[Flaw]]] = {
    "nothing": (lambda *_: None, []),
    "narinfo removed": (lambda f, p: narinfo(f, p).unlink(), [Flaw.ABSENT]),
    "narinfo emptied": (lambda f, p: narinfo(f, p).write_bytes(b""), [Flaw.UNREADABLE]),
    "narinfo not text": (
        lambda f, p: narinfo(f, p).write_bytes(b"\xff"),
        [Flaw.UNREADABLE],
    ),
    "narinfo of another path": (
        lambda f, p: replace(f, p, "StorePath", f"{p}-other"),
        [Flaw.UNREADABLE],
    ),
    "signature exchanged": (lambda f, p: replace(f, p, "Sig", "test-1:AAAA"), [Flaw.UNSIGNED]),
    "references taken out": (
        lambda f, p: replace(f, p, "References", Path(p).name),
        [Flaw.UNSIGNED],
    ),
    "NAR removed": (lambda f, p: nar(f, p).unlink(), [Flaw.NAR_ABSENT]),
    "NAR with a bit flipped": (flip, [Flaw.NAR_DAMAGED]),
    "NAR cut short": (cut, [Flaw.NAR_DAMAGED]),
    "NAR empty": (lambda f, p: nar(f, p).write_bytes(b""), [Flaw.NAR_DAMAGED]),
    "compression unknown": (lambda f, p: replace(f, p, "Compression", "br"), [Flaw.NAR_DAMAGED]),
    "NAR size wrong": (
        lambda f, p: replace(f, p, "NarSize", "1"),
        [Flaw.UNSIGNED, Flaw.NAR_DAMAGED],
    ),
}
