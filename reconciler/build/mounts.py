"""What single builds are shown beside their inputs, by Nix's pre-build-hook.

Before an attempt a file says what its derivation is to see; the hook, which the Nix daemon runs
before each build, looks there and leaves a mark. After the attempt both are removed, so that nobody
else's build of the same derivation sees anything. Decides nothing about who is shown what.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from reconciler.model import DrvPath

STORE_VIEW = Path("/run/nix-reconciler-store")
"""Where the store is seen read-only: Nix binds what the hook names writable, unless it lies on what
is not, and without build users a builder owns what it is shown."""
COMPILER_CACHES = Path("/var/cache/nix-reconciler-compilers")
"""What compilers keep, a folder for each domain of trust. Made by root, of the build users' group:
the hook, which root runs, makes the folders in it."""


CACHES_VARIABLE = "RECONCILER_COMPILER_CACHES"
"""Names another place for them."""


class Kind(StrEnum):
    """What is shown."""

    BASE = "base"
    COMPILER_CACHE = "compiler-cache"


class Mount(Struct, frozen=True, kw_only=True):
    """What a build is to be shown."""

    kind: Kind
    name: str
    """Of the store path, or the folder."""


class Shown(Struct):
    """What became of it; known after the build."""

    refused: str | None = None
    """Why it was not shown."""


_WANTED = b"compilerCacheScript"
_NO_HOOK = (
    "Nix ran no pre-build-hook of ours for it: `reconciler incremental hook --help` tells how to"
    " install it"
)
_MARKS = {
    "writable": "the store's read-only view is not there: see `reconciler incremental hook --help`",
    "missing": "it is not there",
}


def hook(answers: Path, *, store_view: Path, compiler_caches: Path) -> str:
    """The text of the hook, for one folder of answers."""
    from importlib import resources  # noqa: PLC0415 - it takes as long to load as all the rest

    text = resources.files("reconciler").joinpath("nix-lib", "pre-build-hook.sh").read_text("utf-8")
    for name, path in (("answers", answers), ("store", store_view), ("caches", compiler_caches)):
        text = text.replace(f"@{name}@", shlex.quote(str(path)))
    return text


def wants_compiler_cache(drv: DrvPath) -> bool:
    """Whether a derivation asks for it, as the library's compilerCache does: found out quickly."""
    try:
        return _WANTED in Path(drv).read_bytes()
    except OSError:
        return False  # whoever is to build it will say so


def compiler_caches(environment: Mapping[str, str]) -> dict[str, int | None]:
    """What there is of what compilers keep: folders with their bytes, None where we may not look.

    It is all of it that is read: take your time.
    """
    place = caches_folder(environment)
    if not place.is_dir():
        return {}
    return {each.name: size_of(each) for each in sorted(place.iterdir()) if each.is_dir()}


def caches_folder(environment: Mapping[str, str]) -> Path:
    """Where what compilers keep is."""
    return Path(environment.get(CACHES_VARIABLE, COMPILER_CACHES))


def size_of(folder: Path) -> int | None:
    """The bytes in a folder; None where we may not look."""
    if not os.access(folder, os.R_OK | os.X_OK):
        return None
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # builds make and remove them meanwhile
            total += file.lstat().st_size
    return total


def domain_folder(domain: str) -> str:
    """The folder of what compilers keep for a domain of trust."""
    plain = re.sub(r"[^0-9A-Za-z_-]", "-", domain)[:64]
    return f"{plain}-{hashlib.sha256(domain.encode()).hexdigest()[:16]}"


@contextlib.contextmanager
def shown(answers: Path, drv: DrvPath, mount: Mount | None) -> Iterator[Shown]:
    """Have the builds of a derivation see something until the end of the block."""
    found = Shown()
    if mount is None:
        yield found
        return
    name = Path(drv).name
    try:
        _remove(answers, name)
        _write(answers, name, f"{mount.kind} {mount.name}\n")
    except OSError as error:
        found.refused = f"the hook cannot be told of it: {error}"
        yield found
        return
    try:
        yield found
    finally:
        found.refused = _refused(answers, name)
        _remove(answers, name)


def _write(answers: Path, name: str, text: str) -> None:
    """At once: the hook may look at any time."""
    answers.mkdir(mode=0o700, exist_ok=True)
    new = answers / f".{name}"
    new.write_text(text, encoding="utf-8")
    new.rename(answers / name)


def _refused(answers: Path, name: str) -> str | None:
    if (answers / f"{name}.shown").is_dir():
        return None
    for mark, told in _MARKS.items():
        if (answers / f"{name}.{mark}").is_dir():
            return told
    return _NO_HOOK


def _remove(answers: Path, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        (answers / name).unlink()
    for mark in ("shown", *_MARKS):
        with contextlib.suppress(FileNotFoundError):
            (answers / f"{name}.{mark}").rmdir()
