"""`reconciler incremental`: what builds left for later ones, and what they started from."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator

import click

from reconciler.build.mounts import compiler_caches
from reconciler.cli.base_told import build_json
from reconciler.cli.log_text import lines_of
from reconciler.cli.output import Json, plain, print_json
from reconciler.cli.settings import Verbs, settings, verb
from reconciler.cli.state import not_a_job, reading
from reconciler.cli.status import complete_subject
from reconciler.cli.text import DIM, ago, columns, harmless, one_line, table, wrapped, wrapped_table
from reconciler.database import bases, lookup, slots
from reconciler.database.bases import BuildFacts, SlotFacts, StoredBase
from reconciler.database.file import Database
from reconciler.database.lookup import JobsetSubject, JobSubject
from reconciler.errors import UsageError
from reconciler.model import JobsetName
from reconciler.quantities import format_size
from reconciler.status import counted

SAID = "incremental: "
"""How lines of the library's begin in a build's log (docs/incremental.md)."""
_HERE = ("status", "bases", "explain")
_ASKING = ("replay", "audit", "quarantine", "reset")
_FURTHER = ("gc", "hook")


class _Incremental(Verbs):
    """Has verbs below it; those that are not here are loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [*_HERE, *_ASKING, *_FURTHER]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name in _HERE:
            return {"status": status, "bases": bases_of, "explain": explain}[cmd_name]
        if cmd_name == "gc":
            from reconciler.cli.incremental_gc import collect  # noqa: PLC0415 - see above

            return collect
        if cmd_name == "hook":
            from reconciler.cli.hook import print_hook  # noqa: PLC0415 - see above

            return print_hook
        if cmd_name not in _ASKING:
            return None
        module = importlib.import_module("reconciler.cli.incremental_asking")
        found: click.Command = getattr(module, cmd_name)
        return found


@verb(
    "incremental",
    examples="""
    reconciler incremental status website
    reconciler incremental explain website.app
    reconciler incremental replay website.app | sh
    """,
    group=_Incremental,
)
def incremental(*, as_json: bool) -> None:
    """Show what builds start from, and have it otherwise.

    Without a verb: the same as `incremental status`.
    """
    if click.get_current_context().invoked_subcommand is None:
        _status(None, as_json=as_json)


# --- status ------------------------------------------------------------------------------------


@verb(
    "status",
    examples="""
    reconciler incremental status
    reconciler incremental status website
    """,
)
@click.argument("jobset", required=False, shell_complete=complete_subject)
def status(jobset: str | None, *, as_json: bool) -> None:
    """Show each job that takes part: its bases, and builds from one."""
    _status(jobset, as_json=as_json)


def _status(jobset: str | None, *, as_json: bool) -> None:
    with reading(settings()) as database:
        found = [
            each for name in _jobsets(database, jobset) for each in bases.slots(database, name)
        ]
    compilers = {} if jobset else compiler_caches(os.environ)
    if as_json:
        caches: list[Json] = [{"name": name, "size": size} for name, size in compilers.items()]
        print_json({"slots": [_slot_json(each) for each in found], "compilerCaches": caches})
        return
    if not found and not compilers:
        none = "No job takes part: it takes an output `intermediates`, and `incremental.enable` of"
        click.echo(wrapped(f"{none} the jobset.", width=columns()))
    if found:
        rows = [_slot_row(each, now=time.time()) for each in found]
        header = ["JOB", "BRANCH", "BASES", "SIZE", "DEPTH", "NEWEST", "BUILDS"]
        if not any(each.slot.branch for each in found):
            rows = [[name, *others] for name, _, *others in rows]
            header.remove("BRANCH")
        click.echo("\n".join(table(rows, header=header, width=columns())))
    for name, size in compilers.items():
        known = "of unknown size: only root and the build users may look" if size is None else ""
        click.echo(f"compilers' cache {harmless(name)}: {known or format_size(size or 0)}")


def _jobsets(database: Database, text: str | None) -> list[JobsetName | None]:
    """A jobset, or its branches; None for all."""
    if text is None:
        return [None]
    subject = lookup.resolve(database, text)
    if not isinstance(subject, JobsetSubject):
        raise UsageError(f"{text} is no jobset; see `reconciler incremental explain {text}`")
    return [subject.jobset, *lookup.branches_of(database, subject.jobset)]


def _slot_row(each: SlotFacts, *, now: float) -> list[str]:
    kept = str(each.bases) + (f" ({each.quarantined} bad)" if each.quarantined else "")
    return [
        harmless(f"{each.slot.jobset}.{each.slot.job}"),
        harmless(each.slot.branch or "") + (" (untrusted)" if each.slot.untrusted else ""),
        kept,
        format_size(each.size),
        str(each.deepest),
        "" if each.newest_at is None else ago(each.newest_at, now),
        f"{each.incremental} from a base, {each.full} full",
    ]


def _slot_json(each: SlotFacts) -> Json:
    whole = plain(each)
    assert isinstance(whole, dict)
    slot = whole.pop("slot")
    assert isinstance(slot, dict)
    return {"name": f"{each.slot.jobset}.{each.slot.job}", **slot, **whole}


# --- bases -------------------------------------------------------------------------------------


@verb(
    "bases",
    examples="""
    reconciler incremental bases website.app
    reconciler incremental bases website.app --json | jq -r '.bases[].path'
    """,
)
@click.argument("job", shell_complete=complete_subject)
def bases_of(job: str, *, as_json: bool) -> None:
    """List all that builds of JOB left, the newest first.

    Also what is kept no longer.
    """
    with reading(settings()) as database:
        name = taking_part(database, job)
        found = slots.all_bases(database, name)
    if as_json:
        print_json({"job": name, "bases": [base_json(each) for each in found]})
    elif not found:
        click.echo(f"No build of {name} has left a base so far.")
    else:
        now = time.time()
        header = ["BASE", "COMMIT", "DEPTH", "FROM", "SIZE", "AGE", "STATE"]
        rows = [_base_row(each, now=now) for each in found]
        click.echo("\n".join(wrapped_table(rows, header=header, width=columns())))


def taking_part(database: Database, text: str) -> str:
    """The name of a job that takes part; UsageError for any other."""
    if slots.slots_of(database, text):
        return text
    subject = lookup.resolve(database, text)
    if isinstance(subject, JobsetSubject):
        raise not_a_job(database, subject.jobset)
    if isinstance(subject, JobSubject):
        raise UsageError(
            f"no build of {text} is known that takes part: it needs an output `intermediates`, and"
            f" `incremental.enable` with the strategy pure or hidden in jobset {subject.jobset}"
        )
    raise UsageError(f"{text} is no job: name one as JOBSET.JOB")


def _base_row(each: StoredBase, *, now: float) -> list[str]:
    base = each.base
    return [
        str(base.id),
        (base.commit or "")[:12],
        str(base.depth),
        "" if each.parent is None else str(each.parent),
        format_size(each.size),
        ago(base.created_at, now),
        _state(each, now=now),
    ]


def _state(each: StoredBase, *, now: float) -> str:
    parts = ["for its untrusted branch alone"] if each.slot.untrusted else []
    if each.base.quarantined is not None:
        parts.append(f"in quarantine: {one_line(each.base.quarantined)}")
    if each.base.fetched_from is not None:
        parts.append(f"from the artifact store {each.base.fetched_from}")
    if each.shared_at is not None:
        parts.append(f"shared in {each.bucket} {ago(each.shared_at, now)}")
    if each.audited_at is not None:
        parts.append(f"audited {ago(each.audited_at, now)}")
    if each.released_at is not None:
        parts.append(f"let go {ago(each.released_at, now)}")
    return "; ".join(parts) or "kept"


def base_json(each: StoredBase) -> Json:
    """A base as the schemas have it."""
    base = each.base
    return {
        "id": base.id,
        "path": each.path,
        "narHash": each.nar_hash,
        "size": each.size,
        "system": base.system,
        "branch": base.branch,
        "trust": base.trust,
        "commit": base.commit,
        "depth": base.depth,
        "parent": each.parent,
        "origin": each.origin,
        "slot": base.kept_as,
        "bucket": each.bucket,
        "fetchedFrom": base.fetched_from,
        "sharedAt": each.shared_at,
        "fingerprint": base.fingerprint.digest,
        "canonical": each.canonical,
        "built": each.built,
        "createdAt": base.created_at,
        "fullAt": base.full_at,
        "usedAt": each.used_at,
        "auditedAt": each.audited_at,
        "quarantine": base.quarantined,
        "releasedAt": each.released_at,
    }


# --- explain -----------------------------------------------------------------------------------


@verb(
    "explain",
    examples="""
    reconciler incremental explain website.app
    reconciler incremental explain website.app --json | jq .said
    """,
)
@click.argument("job", shell_complete=complete_subject)
def explain(job: str, *, as_json: bool) -> None:
    """Say what the newest build of JOB started from, and why."""
    with reading(settings()) as database:
        name = taking_part(database, job)
        found = slots.newest_build(database, name)
        if found is None:
            raise UsageError(f"no build of {name} is remembered: its history was forgotten")
        line = [] if found.base is None else bases.ancestry(database, found.base)
        state = lookup.build_facts(database, found.derivation).state.value
        said = _said(database, found.derivation)
    if as_json:
        print_json(
            {
                "job": name,
                "derivation": found.path,
                "canonical": found.canonical,
                "state": state,
                "at": found.at,
                "commit": found.revision,
                **build_json(found),
                "line": [base_json(each) for each in line],
                "fingerprint": {
                    "digest": found.fingerprint.digest,
                    "parts": plain(found.fingerprint.parts),
                },
                "said": [*said],
            }
        )
    else:
        click.echo("\n".join(_explanation(name, found, line, state, said)))


def _said(database: Database, derivation: int) -> list[str]:
    """The build's own lines about it, from the log of its newest attempt."""
    from reconciler.build.log import read  # noqa: PLC0415 - it takes the decompressor

    attempts = lookup.attempts(database, derivation)
    if not attempts:
        return []
    try:
        lines = list(lines_of(read(settings().logs, attempts[-1].id)))
    except OSError:  # none was kept, or this user may not read it
        return []
    return [one_line(each) for each in lines if each.startswith(SAID)]


def _explanation(
    name: str, found: BuildFacts, line: list[StoredBase], state: str, said: list[str]
) -> Iterator[str]:
    now, width = time.time(), columns()
    first = click.style(name, bold=True) + f" ({state}): "
    yield wrapped(first + one_line(found.reason), width=width or 80, indent="  ", first="")
    if line:
        yield (
            "  base "
            + ", from ".join(str(each.base.id) for each in line[:8])
            + (f", and {counted(len(line) - 8, 'more')}" if len(line) > 8 else "")
        )
        base = line[0]
        yield f"    {base.path}"
        made = ago(base.base.created_at, now)
        yield f"    {format_size(base.size)}, {made}, {_state(base, now=now)}"
        if found.hidden:
            yield "    shown to the build, not named by the derivation"
    yield f"  built as {found.path}"
    if found.slot.untrusted:
        yield "  its branch is untrusted: what it leaves serves no other"
    if found.canonical != found.path:
        yield f"  in place of {found.canonical}"
    if found.audit:
        detail = f": {one_line(found.audit_detail)}" if found.audit_detail else ""
        yield wrapped(f"audit {found.audit}{detail}", width=width or 80, indent="    ", first="  ")
    if found.refused is not None:
        none = f"it leaves no base: {one_line(found.refused)}"
        yield wrapped(none, width=width or 80, indent="    ", first="  ")
    yield from (f"  {click.style('│', fg=DIM)} {each}" for each in said)
    yield f"  fingerprint {found.fingerprint.digest[:16]}, of:"
    yield from table(
        [[harmless(part), digest[:12]] for part, digest in found.fingerprint.parts.items()],
        indent="    ",
        width=width,
    )
