"""`reconciler log`: what a build printed."""

from __future__ import annotations

import time

import click

from reconciler.build.log import read
from reconciler.cli.log_text import Follower, lines_of
from reconciler.cli.output import plain, print_json
from reconciler.cli.settings import Settings, settings, verb
from reconciler.cli.state import document_in_force, local_systems, not_a_job, reading
from reconciler.cli.status import complete_subject
from reconciler.cli.text import lasting, one_line
from reconciler.database import lookup
from reconciler.database.blocked import slots_of
from reconciler.database.file import Database
from reconciler.database.lookup import Attempt, JobsetSubject, JobSubject
from reconciler.database.needs import by_rule
from reconciler.errors import ReconcilerError, StateError, UsageError
from reconciler.explain import explain
from reconciler.status import gist

POLL_SECONDS = 0.3


class NoLogError(ReconcilerError):
    """There is no log to show, and the message says where to look instead."""


@verb(
    "log",
    examples="""
    reconciler log website.tests              the last attempt
    reconciler log website.tests -f           as it is written, until it ends
    reconciler log website.tests --attempt 1  the first attempt
    reconciler log lib-base-1.0               any derivation, by name or path
    """,
)
@click.argument("job", shell_complete=complete_subject)
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the attempt ends.")
@click.option(
    "--attempt",
    type=click.IntRange(min=1),
    metavar="N",
    help="The Nth attempt [default: the last].",
)
def log(job: str, *, follow: bool, attempt: int | None, as_json: bool) -> None:
    """Print the log of JOB's build.

    JOB is a job, or a derivation's name or path. Escape sequences and control characters are
    taken out.
    """
    if follow and as_json:
        raise UsageError("--follow prints text as it comes: leave out --json")
    where = settings()
    with reading(where) as database:
        derivation = _derivation(database, job)
        chosen = _chosen(database, derivation, attempt, job)
        if follow and chosen.outcome is None:
            _follow(database, where, derivation, chosen)
            return
        if as_json:
            lines = _lines(where, chosen)
            print_json({"name": job, "attempt": plain(chosen), "lines": list(lines)})
            return
        for line in _lines(where, chosen):
            click.echo(line)
        _verdict(chosen)


def _derivation(database: Database, text: str) -> int:
    subject = lookup.resolve(database, text)
    if isinstance(subject, JobsetSubject):
        raise not_a_job(database, subject.jobset)
    if subject.derivation is None:
        assert isinstance(subject, JobSubject)
        raise NoLogError(
            f"{text} was not built: it does not evaluate. `reconciler why {text}` shows the error."
        )
    return subject.derivation


def _chosen(database: Database, derivation: int, number: int | None, text: str) -> Attempt:
    attempts = lookup.attempts(database, derivation)
    if not attempts:
        raise NoLogError(_no_attempt(database, derivation, text))
    if number is None:
        return attempts[-1]
    if number > len(attempts):
        were = "was 1 attempt" if len(attempts) == 1 else f"were {len(attempts)} attempts"
        raise UsageError(f"there {were} at {text}; --attempt {number} is none of them")
    return attempts[number - 1]


def _no_attempt(database: Database, derivation: int, text: str) -> str:
    facts = lookup.build_facts(database, derivation)
    if facts.state.good:
        return f"{text} has no log: its outputs were there already, or were fetched."
    current = document_in_force(database)
    builds = lookup.missing_below(database, derivation)
    here = local_systems({each.system for each in builds})
    asked = by_rule(database, current.rules)
    found = explain(
        derivation,
        builds,
        slots_of(database, current.builders, here, asked),
        attempts=current.fewest_attempts,
        now=time.time(),
        asked=asked,
    )
    if not found.state.live and lookup.attempts(database, found.last.id):
        name = lookup.log_name(database, found.last.id)
        return f"{text} was not built: {found.message}. See: reconciler log {name}"
    return f"{text} was not built yet: {found.message}. See: reconciler why {text}"


def _lines(where: Settings, attempt: Attempt) -> list[str]:
    try:
        return list(lines_of(read(where.logs, attempt.id)))
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise StateError(f"cannot read the log {error.filename}: {error.strerror}.") from error


def _follow(database: Database, where: Settings, derivation: int, attempt: Attempt) -> None:
    follower = Follower(where.logs, attempt.id)
    while attempt.outcome is None:
        for line in follower.more():
            click.echo(line)
        time.sleep(POLL_SECONDS)
        attempt = lookup.attempts(database, derivation)[attempt.number - 1]
    for line in follower.rest():
        click.echo(line)
    _verdict(attempt)


def _verdict(attempt: Attempt) -> None:
    """How it ended, on stderr: the log alone goes to stdout."""
    if attempt.outcome is None or attempt.finished_at is None:
        text = "still building"
    else:
        took = lasting(attempt.finished_at - attempt.started_at)
        text = f"{attempt.outcome} after {took} on {attempt.builder}"
        if attempt.message and not attempt.log_bytes:
            text += f": {one_line(gist(attempt.message))}"
    click.echo(click.style(f"[attempt {attempt.number}: {text}]", dim=True), err=True)
