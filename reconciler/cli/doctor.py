"""`reconciler doctor`: does what the reconciler stands on work? Everything is really tried."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path

import click
from msgspec import Struct

from reconciler import config
from reconciler.binary_cache import open_objects, reach
from reconciler.binary_cache.file_store import folder_of
from reconciler.binary_cache.signing import read_secret_key, signing_keys
from reconciler.build.probe import probe
from reconciler.cli import hook
from reconciler.cli.output import plain, print_json
from reconciler.cli.settings import Settings, settings, verb
from reconciler.cli.state import daemon
from reconciler.cli.text import BAD, BUSY, GOOD, columns, harmless, lasting, wrapped
from reconciler.database.file import mend_of, open_reader
from reconciler.errors import ReconcilerError
from reconciler.incremental.artifacts import ANY
from reconciler.model import ArtifactStore, Builder, Cache, Desired
from reconciler.nix import settings as nix_settings
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import local_endpoint
from reconciler.nix.store_path import store_dir_in
from reconciler.problems import told
from reconciler.quantities import format_size

PATIENCE = 15.0
"""Seconds within which Nix's daemon must answer."""
LOW_SPACE = 1 << 30


class Verdict(StrEnum):
    """How one examination went."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


class Finding(Struct, frozen=True, kw_only=True):
    """What one examination found."""

    name: str
    verdict: Verdict
    message: str


@verb(
    "doctor",
    examples="""
    reconciler doctor
    sudo -u USER reconciler doctor     as the daemon's user: permissions count
    """,
    notes="""
    Exit status: 0 all is well (warnings aside), 1 something is not.
    """,
)
def doctor(*, as_json: bool) -> None:
    """Try all that the reconciler stands on.

    Nix, its daemon, the document, the state directory, the database, the caches and their keys.
    Each builder is connected to, and builds something tiny for each of its systems.
    """
    where = settings()
    findings = []
    for each in examine(where):
        findings.append(each)
        if not as_json:  # what hangs is the next: it is told of each as it comes
            click.echo(_line(each))
    if as_json:
        print_json({"findings": plain(findings)})
    click.get_current_context().exit(int(any(each.verdict is Verdict.BAD for each in findings)))


def _line(each: Finding) -> str:
    signs = {Verdict.GOOD: ("✓", GOOD), Verdict.WARNING: ("!", BUSY), Verdict.BAD: ("✗", BAD)}
    sign, color = signs[each.verdict]
    lines = harmless(each.message).splitlines() or [""]
    first = wrapped(
        f"{each.name}: {lines[0]}", width=(columns() or 100) - 2, indent="    ", first=""
    )
    return "\n".join([f"{click.style(sign, fg=color)} {first}", *(f"    {x}" for x in lines[1:])])


def examine(where: Settings) -> Iterator[Finding]:
    """Everything, one after the other."""
    yield _try("Nix", _nix)
    yield _evaluator()
    yield _try("Nix daemon", _nix_daemon)
    desired: list[Desired] = []
    yield from _document(where, desired)
    yield _state_dir(where)
    yield _try("database", lambda: _database(where))
    yield _daemon(where)
    for each in desired:
        yield from _caches(each)
        yield from _artifact_stores(each)
        yield from _builders(each)
        yield from _hook(each, where)


def _try(name: str, examination: Callable[[], str]) -> Finding:
    try:
        return Finding(name=name, verdict=Verdict.GOOD, message=examination())
    except (ReconcilerError, OSError) as error:
        return Finding(name=name, verdict=Verdict.BAD, message=str(error))


def _nix() -> str:
    found = asyncio.run(nix_settings.read(dict(os.environ)))
    return f"{found.version}, builds for {', '.join(sorted(found.systems))}"


def _evaluator() -> Finding:
    found = shutil.which("nix-eval-jobs")
    text = found or "not on PATH; the built-in evaluator is used, which is slower on large jobsets"
    return Finding(name="nix-eval-jobs", verdict=Verdict.GOOD, message=text)


def _nix_daemon() -> str:
    async def ask() -> str:
        async with await Connection.open(
            local_endpoint(dict(os.environ)), patience=PATIENCE
        ) as connection:
            await connection.query_valid_paths([])
            trust = {True: "trusts us", False: "does not trust us, as it should be", None: ""}
            said = trust[connection.trusted]
            return f"{connection.endpoint} answers" + (f" and {said}" if said else "")

    return asyncio.run(ask())


def _document(where: Settings, found: list[Desired]) -> Iterator[Finding]:
    name = "document"
    try:
        checked = config.check(where.config)
    except ReconcilerError as error:
        yield Finding(name=name, verdict=Verdict.BAD, message=str(error))
        return
    found.append(checked.desired)
    yield Finding(name=name, verdict=Verdict.GOOD, message=f"{where.config} is valid")
    for line in told(checked.warnings, name=str(where.config)):
        yield Finding(name=name, verdict=Verdict.WARNING, message=line)


def _state_dir(where: Settings) -> Finding:
    name, folder = "state directory", where.state_dir.absolute()
    if not folder.is_dir():
        try:
            _is_there(folder)
        except ReconcilerError as error:
            return Finding(name=name, verdict=Verdict.BAD, message=str(error))
        message = f"{folder} does not exist; `reconciler run` makes it"
        return Finding(name=name, verdict=Verdict.WARNING, message=message)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(
            name=name,
            verdict=Verdict.BAD,
            message=f"cannot write in {folder}: {error.strerror}. {mend_of(error)}.",
        )
    owner, free = folder.stat().st_uid, shutil.disk_usage(folder).free
    if owner != os.geteuid():
        message = f"{folder} is of another user: what is tried here may not be so for the daemon"
        mend = f"run this as that user: sudo -u '#{owner}' reconciler doctor"
        return Finding(name=name, verdict=Verdict.WARNING, message=f"{message}; {mend}")
    return Finding(
        name=name,
        verdict=Verdict.WARNING if free < LOW_SPACE else Verdict.GOOD,
        message=f"{folder} is writable, {format_size(free)} free",
    )


def _database(where: Settings) -> str:
    database = open_reader(where.state_dir)
    if database is None:
        return "there is none yet: the first run makes it"
    try:
        wrong = database.integrity()
        if wrong:
            raise ReconcilerError("damaged:\n" + "\n".join(wrong))
        size = database.path.stat().st_size
    finally:
        database.close()
    return f"{database.path} is whole, {format_size(size)}"


def _daemon(where: Settings) -> Finding:
    process = daemon(where)
    if process is None:
        return Finding(name="daemon", verdict=Verdict.WARNING, message="not running")
    return Finding(name="daemon", verdict=Verdict.GOOD, message=f"running, process {process}")


# --- What the document names -------------------------------------------------------------------


def _caches(desired: Desired) -> Iterator[Finding]:
    store_dir = store_dir_in(os.environ)
    for cache in desired.caches.values():
        name = f"cache {cache.name}"
        for file in cache.key_files:
            yield _try(f"{name}, signing key", partial(_signing_key, Path(file), store_dir))
        if cache.public_keys:
            yield _try(f"{name}, public keys", partial(_public_keys, cache, store_dir))
        if cache.credentials_file is not None:
            yield _try(f"{name}, credentials", partial(_secret, Path(cache.credentials_file)))
            if not os.access(cache.credentials_file, os.R_OK):
                continue  # the cache itself would say the same
        if cache.uri.startswith("file:"):
            yield _try(name, partial(_folder, cache.uri))
        else:
            yield _try(name, partial(_remote_cache, cache, store_dir))


def _signing_key(file: Path, store_dir: str) -> str:
    key = read_secret_key(file, store_dir=store_dir)
    return f"{_secret(file)}, {key.public.name}"


def _public_keys(cache: Cache, store_dir: str) -> str:
    names = sorted(key.public.name for key in signing_keys(cache, store_dir=store_dir))
    return f"clients trust {', '.join(names) or 'others'}"


def _secret(file: Path) -> str:
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ReconcilerError(f"cannot read {file}: {error.strerror}") from error
    if not text.strip():
        raise ReconcilerError(f"{file} is empty")
    if file.stat().st_mode & 0o004:
        raise ReconcilerError(f"{file} can be read by everyone: chmod 600 {file}")
    return f"{file} can be read"


def _folder(uri: str) -> str:
    """Of a cache or an artifact store that is a folder."""
    folder = folder_of(uri)
    return f"{folder} is {'writable' if _is_there(folder) else 'made with the first push'}"


def _is_there(folder: Path) -> bool:
    """Whether a folder that can be written is there, or could be made. It is really tried, where it
    would be made. ReconcilerError where it is neither.
    """
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    cannot = f"{folder} cannot be {'written' if there == folder else f'made in {there}'}"
    if not there.is_dir():
        kind = "a link to nothing" if there.is_symlink() and not there.exists() else "not a folder"
        raise ReconcilerError(f"{cannot}: that is {kind}; name another folder")
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".doctor-"):
            return there == folder
    except OSError as error:
        mend = _MENDS.get(error.errno or 0, "name another folder")
        raise ReconcilerError(f"{cannot}: {error.strerror}; {mend}") from error


_ALLOW = "let the daemon's user write there, or name another folder"
_MENDS = {
    errno.EACCES: _ALLOW,
    errno.EPERM: _ALLOW,
    errno.EROFS: "mount it for writing, or name another folder",
    errno.ENOSPC: "make room",
}


def _remote_cache(cache: Cache, store_dir: str) -> str:
    return asyncio.run(reach(cache, store_dir=store_dir))


def _artifact_stores(desired: Desired) -> Iterator[Finding]:
    for store in desired.artifact_stores.values():
        name = f"artifact store {store.name}"
        if store.credentials_file is not None:
            yield _try(f"{name}, credentials", partial(_secret, Path(store.credentials_file)))
            if not os.access(store.credentials_file, os.R_OK):
                continue
        if store.url.startswith("file:"):
            yield _try(name, partial(_folder, store.url))
        else:
            yield _try(name, partial(_remote_store, store))


def _remote_store(store: ArtifactStore) -> str:
    async def ask() -> str:
        objects = await open_objects(store.url, credentials_file=store.credentials_file)
        try:
            await objects.present([ANY])
        finally:
            await objects.close()
        return f"{store.url} answers"

    return asyncio.run(ask())


def _builders(desired: Desired) -> Iterator[Finding]:
    if not any(each.max_jobs and not each.drain for each in desired.builders.values()):
        yield Finding(
            name="builders",
            verdict=Verdict.WARNING,
            message="none takes builds: declare one with maxJobs of 1 or more",
        )
    if desired.builders:
        yield from asyncio.run(_try_builders(list(desired.builders.values())))


def _hook(desired: Desired, where: Settings) -> Iterator[Finding]:
    for name, wrong in hook.examine(desired, where):
        verdict = Verdict.GOOD if wrong is None else Verdict.WARNING
        message = "builds are shown what they start from"
        if wrong is not None:
            message = f"{wrong}; until then such builds are full ones"
        yield Finding(name=name, verdict=verdict, message=message)


async def _try_builders(builders: Sequence[Builder]) -> list[Finding]:
    """All at once: one that does not answer takes as long as ssh waits for it."""
    environment = dict(os.environ)
    try:
        here = (await nix_settings.read(environment)).systems
    except (ReconcilerError, OSError) as error:
        return [Finding(name="builders", verdict=Verdict.BAD, message=f"not tried: {error}")]
    with tempfile.TemporaryDirectory(prefix="reconciler-doctor-") as folder:
        return await asyncio.gather(
            *(_builder(each, here, Path(folder), environment) for each in builders)
        )


async def _builder(
    builder: Builder, here: Collection[str], folder: Path, environment: Mapping[str, str]
) -> Finding:
    name = f"builder {builder.name}"
    systems = here if builder.systems is None else builder.systems
    try:
        found = await probe(builder, systems, folder, environment)
    except (ReconcilerError, OSError) as error:
        said = str(error).removeprefix(name).strip().removeprefix(": ")
        if builder.uri is not None:
            said = said.replace(f"({builder.uri})", builder.uri, 1)
        return Finding(name=name, verdict=Verdict.BAD, message=said)
    trust = {True: ", trusts us", False: ", does not trust us", None: ""}[found.trusted]
    said = f"Nix {found.nix_version}{trust}"
    if builder.uri is not None:
        said = f"{builder.uri}: {said}; connected in {lasting(found.connecting)}"
    if not systems:
        message = f"{said}; declared for no system: it gets no builds"
        return Finding(name=name, verdict=Verdict.WARNING, message=message)
    message = f"{said}; built for {', '.join(found.systems)} in {lasting(found.building)}"
    if builder.uri is not None:
        message += f", fetched in {lasting(found.fetching)}"
    return Finding(name=name, verdict=Verdict.GOOD, message=message)
