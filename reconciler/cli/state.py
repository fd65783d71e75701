"""Opening what a verb reads: the database, the document in force, its file, the daemon's lock.

Writes nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from reconciler.cli.settings import Settings
from reconciler.database.file import Database, lock_holder, open_reader
from reconciler.database.in_force import InForce, in_force
from reconciler.errors import ReconcilerError, StateError, UsageError
from reconciler.states import JobsetName
from reconciler.status import DocumentDrift, DocumentFacts


@contextlib.contextmanager
def reading(settings: Settings) -> Iterator[Database]:
    """The database, to read. StateError where there is none."""
    database = open_reader(settings.state_dir)
    if database is None:
        raise StateError(
            f"there is no state in {settings.state_dir}. Start the daemon or `reconciler run "
            "--once`, or name another place with --state-dir."
        )
    try:
        yield database
    finally:
        database.close()


def document_in_force(database: Database) -> InForce:
    """The document in force. StateError where none was adopted yet."""
    found = in_force(database)
    if found is None:
        raise StateError(
            f"no document was put in force yet in {database.path.parent}: the daemon has not got "
            "so far. `reconciler check` tells whether the document is right."
        )
    return found


def document_facts(settings: Settings, current: InForce) -> DocumentFacts:
    """The document in force, compared with its file."""
    drift, message = _drift(settings.config, current)
    return DocumentFacts(
        file=str(settings.config),
        generation=current.generation,
        digest=current.digest,
        applied_at=current.applied_at,
        drift=drift,
        message=message,
    )


def _drift(file: Path, current: InForce) -> tuple[DocumentDrift, str | None]:
    try:
        if _changed_at(file) < current.applied_at:
            return DocumentDrift.SAME, None
    except OSError as error:
        return DocumentDrift.UNREADABLE, f"{file}: {error.strerror}"
    # Imported only here: validating takes longer than all the rest of `status`.
    from reconciler import config  # noqa: PLC0415

    if not os.access(file, os.R_OK):
        return DocumentDrift.UNREADABLE, f"{file}: not readable by this user"
    try:
        same = config.load(file).digest == current.digest
    except ReconcilerError as error:
        return DocumentDrift.INVALID, str(error)
    return (DocumentDrift.SAME if same else DocumentDrift.CHANGED), None


def _changed_at(file: Path) -> float:
    """When the file, or a link on the way to it, was last put there.

    A file in a Nix store says 1970 of its contents, and `nixos-rebuild switch` swaps a link far
    above it: the inode's change time (which cannot be set back) of each link on the way counts.
    """
    latest = 0.0
    path = Path(os.path.abspath(file))  # noqa: PTH100 - `resolve` would hide the links
    for _ in range(40):
        link = next((p for p in (*reversed(path.parents), path) if p.is_symlink()), None)
        if link is None:
            return max(latest, path.stat().st_ctime)
        latest = max(latest, link.lstat().st_ctime)
        target = link.parent / link.readlink() / path.relative_to(link)
        path = Path(os.path.normpath(target))
    raise OSError(40, "too many levels of symbolic links")


def not_a_job(database: Database, jobset: JobsetName) -> UsageError:
    """What is to be said where a job was to be named."""
    from reconciler.database.lookup import branches_of, job_attrs  # noqa: PLC0415 - for a mistake

    jobs = [
        f"{each}.{attr}"
        for each in (jobset, *branches_of(database, jobset))
        for attr in job_attrs(database, each)
    ]
    shown = ", ".join(jobs[:5]) + (", …" if len(jobs) > 5 else "")
    if not jobs:
        return UsageError(f"{jobset} is a jobset without jobs: see `reconciler status {jobset}`")
    return UsageError(
        f"{jobset} is a jobset: name one of its jobs ({shown}), or see `reconciler status {jobset}`"
    )


def daemon(settings: Settings) -> int | None:
    """The daemon's process; None: none runs."""
    return lock_holder(settings.state_dir)


def local_systems(needed: Collection[str]) -> frozenset[str]:
    """What this machine builds for, as far as it matters to somebody who needs those systems.

    Its Nix, which may take other systems as well, is asked only where that makes a difference.
    """
    machine = os.uname()
    native = f"{machine.machine}-{machine.sysname.lower()}"
    if {native, "builtin"}.issuperset(needed):
        return frozenset([native])
    import asyncio  # noqa: PLC0415

    from reconciler.nix import settings as nix_settings  # noqa: PLC0415

    try:
        return asyncio.run(nix_settings.read(dict(os.environ))).systems
    except (ReconcilerError, OSError):
        return frozenset([native])
