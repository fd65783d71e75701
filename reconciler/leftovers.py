"""Folders of incremental builds that serve no declared jobset any more: found, and removed.

What compilers keep, and repositories of commits of ours. Only what is known to be of a jobset that
was declared here is touched. Decides nothing about bases.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from reconciler.build.mounts import caches_folder, domain_folder, size_of
from reconciler.database import Database, mounts
from reconciler.model import Desired
from reconciler.places import Places

_GOING = ".going-"
"""How the name of what is being removed begins: no build is shown it."""


class Kind(StrEnum):
    """What a folder is."""

    COMPILER_CACHE = "compiler-cache"
    OVERLAY = "overlay"
    SCRATCH = "scratch"


class Leftover(Struct, frozen=True, kw_only=True):
    """A folder that serves nobody."""

    kind: Kind
    path: Path
    jobset: str | None
    """Whose it was, as far as that is known; None: of any evaluation."""

    def size(self) -> int | None:
        """Its bytes; None where we may not look. All of it is read."""
        return size_of(self.path)


def find(database: Database, desired: Desired, places: Places) -> list[Leftover]:
    """The folders of jobsets that are declared no longer."""
    gone = _gone(database, desired)
    caches = caches_folder(places.environment)
    named = [(name, beginning) for name in gone for beginning in (_GOING, "")]
    return [
        *_there(Kind.OVERLAY, ((name, places.overlays / name) for name in gone)),
        *_there(
            Kind.COMPILER_CACHE,
            ((name, caches / f"{beginning}{domain_folder(name)}") for name, beginning in named),
        ),
    ]


def strangers(database: Database, places: Places) -> list[Leftover]:
    """What compilers keep for no jobset that is known here: another farm's, or of one that is
    forgotten.
    """
    known = {domain_folder(row[0]) for row in database.query("SELECT name FROM jobset")}
    place = caches_folder(places.environment)
    names = sorted(each.name for each in place.iterdir()) if place.is_dir() else []
    return _there(
        Kind.COMPILER_CACHE,
        ((name, place / name) for name in names if name.removeprefix(_GOING) not in known),
    )


def in_use(database: Database, desired: Desired) -> bool:
    """Whether what goes on may still use them: builds, and evaluations that are to be stopped."""
    rows = database.query(
        "SELECT 1 FROM evaluation e JOIN jobset j ON j.id = e.jobset"
        " WHERE e.state IN ('pending', 'running') AND j.name IN (SELECT value FROM json_each(?))"
        " LIMIT 1",
        (json.dumps(_gone(database, desired)),),
    )
    return bool(rows) or mounts.compiling(database)


def _gone(database: Database, desired: Desired) -> list[str]:
    declared = desired.jobsets.keys() | desired.patterns.keys()
    rows = database.query("SELECT name FROM jobset ORDER BY name")
    return [row[0] for row in rows if row[0] not in declared]


def scratch(places: Places) -> list[Leftover]:
    """What evaluations and builds left that were killed; while a daemon runs, it is in use."""
    found = (places.scratch, places.mounts)
    return [
        Leftover(kind=Kind.SCRATCH, path=each, jobset=None)
        for each in found
        if each.is_dir() and any(each.iterdir())
    ]


def _there(kind: Kind, folders: Iterable[tuple[str, Path]]) -> list[Leftover]:
    return [
        Leftover(kind=kind, path=path, jobset=name)
        for name, path in folders
        if path.is_dir() and not path.is_symlink()
    ]


def remove(found: Leftover) -> str | None:
    """Remove a folder; why not, where that cannot be done."""
    path = found.path
    try:
        if found.kind is Kind.COMPILER_CACHE and not path.name.startswith(_GOING):
            # A jobset of that name may be declared again at any moment.
            path = path.rename(path.with_name(f"{_GOING}{path.name}"))
        shutil.rmtree(path)
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    return None


def remove_all(found: Iterable[Leftover]) -> None:
    """Remove what can be removed: what compilers keep may be of root and the build users alone."""
    for each in found:
        remove(each)
