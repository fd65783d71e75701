"""`incremental replay`, `audit`, `quarantine` and `reset`: repeat builds, or ask for others."""

from __future__ import annotations

import click

from reconciler.cli.incremental import taking_part
from reconciler.cli.output import print_json
from reconciler.cli.requests import write_down
from reconciler.cli.settings import settings, verb
from reconciler.cli.state import reading
from reconciler.cli.status import complete_subject
from reconciler.cli.text import columns, one_line, wrapped
from reconciler.database import bases, lookup, slots
from reconciler.database.file import Database
from reconciler.database.lookup import JobSubject
from reconciler.errors import UsageError
from reconciler.incremental import recorded
from reconciler.incremental import replay as repeating
from reconciler.incremental.replay import Evaluated

_LONGEST = 18
"""Digits of a number that SQLite surely takes."""


@verb(
    "replay",
    examples="""
    reconciler incremental replay website.app
    reconciler incremental replay website.app | sh
    reconciler incremental replay 42 >again.sh    an evaluation, by its number
    """,
)
@click.argument("subject", metavar="EVALUATION|JOB", shell_complete=complete_subject)
def replay(subject: str, *, as_json: bool) -> None:
    """Print the commands that make the same derivations again.

    A script for sh: anywhere, from the source and the text of the bases. It builds nothing. Of a
    jobset with a folder as its source, it needs the copy of it in the store.
    """
    with reading(settings()) as database:
        evaluation, found = _repeatable(database, subject)
    script = repeating.script(found)
    if as_json:
        jobs = [".".join(each) for each in found.jobs]
        print_json({"evaluation": evaluation, "jobs": [*jobs], "script": script})
    else:
        click.echo(script, nl=False)


def _repeatable(database: Database, text: str) -> tuple[int, Evaluated]:
    number = _number(text)
    if number is not None:
        return number, recorded.of_evaluation(database, number)
    subject = lookup.resolve(database, text)
    if not isinstance(subject, JobSubject):
        raise UsageError(f"{text} is no job: name one as JOBSET.JOB, or an evaluation's number")
    return recorded.of_job(database, subject)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST else None


@verb(
    "audit",
    examples="""
    reconciler incremental audit website.app
    reconciler incremental audit website.app --why "before the release"
    """,
)
@click.argument("job", shell_complete=complete_subject)
@click.option("--why", default="", metavar="TEXT", help="The reason, for the log of events.")
def audit(job: str, *, why: str, as_json: bool) -> None:
    """Have JOB's newest build made again without its base.

    At low priority, and compared. Where the two differ, nothing starts from that base any more,
    and what was built from it is built again without.
    """
    with reading(settings()) as database:
        name = taking_part(database, job)
        found = slots.auditable(database, name)
    if isinstance(found, str):
        raise UsageError(found)
    write_down("audit", [name], why, as_json=as_json)
    if not as_json:
        click.echo(wrapped(f"{found.path}: {one_line(found.reason)}", width=columns() or 80))
        click.echo(f"What comes of it: reconciler incremental explain {name}")


@verb(
    "quarantine",
    examples="""
    reconciler incremental quarantine 12 --why "wrong dates in its objects"
    """,
)
@click.argument("base")
@click.option("--why", required=True, metavar="TEXT", help="The reason, for all who see it.")
def quarantine(base: str, *, why: str, as_json: bool) -> None:
    """Have nothing start from BASE any more.

    Nor from what descends from it. BASE is a number that `incremental bases` shows. What was built
    from it and is not pushed yet is built again without.
    """
    number = _number(base)
    with reading(settings()) as database:
        if number is None or not bases.stored(database, [number]):
            raise UsageError(
                f"there is no base {base}: `reconciler incremental bases JOB` has them"
            )
    if not why.strip():
        raise UsageError("--why is empty: say what is wrong with it")
    write_down("quarantine", [str(number)], why, as_json=as_json)


@verb(
    "reset",
    examples="""
    reconciler incremental reset website.app --why "another linker"
    """,
)
@click.argument("job", shell_complete=complete_subject)
@click.option("--why", default="", metavar="TEXT", help="The reason, for the log of events.")
def reset(job: str, *, why: str, as_json: bool) -> None:
    """Let go of all bases of JOB: its next build is a full one."""
    with reading(settings()) as database:
        name = taking_part(database, job)
    write_down("reset", [name], why, as_json=as_json)
