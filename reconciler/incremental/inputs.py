"""What an evaluation is given beside its source: a set of bases, written as a Nix expression.

One text serves all protocols: as argument of a function, as cache.nix, and for a flake's input
garnix-incrementalize. It names each base by its hash alone, so that evaluation stays pure and
anyone can repeat it from the text. Nothing is evaluated here.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from reconciler.binary_cache.nars import LocalNars
from reconciler.model import Protocol, StorePath
from reconciler.nix.expression import nix_lib, nix_string
from reconciler.nix.store_path import digest_of, sri
from reconciler.source import LockedTree
from reconciler.store import Store

FILE = "bases.nix"
_TAKING = ("packages", "checks", "devShells")
"""What of a flake garnix's withCaches looks at, by system and name."""
_HEAD = "# What builds of earlier commits left, by job.\n"


class JobBase(Struct, frozen=True, kw_only=True):
    """The base of a job."""

    job: str
    """Its attribute path, joined by dots."""
    name: str
    nar_hash: str


def reaches(protocols: Collection[Protocol], attr_path: Sequence[str]) -> bool:
    """Whether any of the protocols can bring a base to a job of this attribute path."""
    if Protocol.CACHE_NIX in protocols or Protocol.ARG in protocols:
        return True
    return (
        Protocol.GARNIX in protocols
        and len(attr_path) == 3
        and attr_path[0] in _TAKING
        and "." not in attr_path[1]
    )


def expression(bases: Iterable[JobBase]) -> str:
    """A set of bases by job: the same text for the same bases."""
    lines = [
        f"  {nix_string(each.job)} = base {{"
        f" name = {nix_string(each.name)}; narHash = {nix_string(each.nar_hash)}; }};\n"
        for each in sorted(bases, key=lambda each: each.job)
    ]
    definition = "".join(
        f"    {line}\n" for line in _without_comments(nix_lib("base.nix")).splitlines()
    )
    return f"{_HEAD}let\n  base =\n{definition.rstrip()};\nin\n{{\n{''.join(lines)}}}\n"


def _without_comments(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


async def publish(store: Store, text: str, *, scratch: Path) -> LockedTree:
    """Put the text of bases where evaluators find it: into the store, as a folder of one file.

    It is protected until the store's `release_protected`. `scratch` is a folder for what is written
    meanwhile. NixError where the store does not take it.
    """
    with tempfile.TemporaryDirectory(prefix="bases-", dir=scratch) as folder:
        tree = Path(folder, "source")
        await asyncio.to_thread(_write, tree, text)
        connection = await store.connection()
        async with contextlib.aclosing(LocalNars(tree.parent).stream(StorePath(str(tree)))) as nar:
            info = await connection.add_nar("source", nar)
    await store.protect([info.path])
    return LockedTree(info.path, sri(digest_of(info.nar_hash)))


def _write(tree: Path, text: str) -> None:
    tree.mkdir()
    (tree / FILE).write_text(text, encoding="utf-8")
