"""The verbs that ask the daemon for something: recorded with who and why, then it is woken."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from collections.abc import Callable, Sequence

import click

from reconciler.cli.output import Json, print_json
from reconciler.cli.settings import Settings, settings, verb
from reconciler.cli.state import daemon, reading
from reconciler.cli.status import complete_subject
from reconciler.database import lookup
from reconciler.database.declared import add_request
from reconciler.database.file import Database, open_writer
from reconciler.database.lookup import DerivationSubject, JobsetSubject, JobSubject
from reconciler.errors import UsageError

WAKE_SOCKET = "wake"
MAX_WHY = 1000


def _who() -> str:
    """The person, also behind sudo."""
    behind = os.environ.get("SUDO_USER")
    if behind and behind != "root":
        return behind
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return f"uid {os.getuid()}"


def _ask(name: str, subjects: Sequence[str], why: str, *, as_json: bool) -> None:
    """Ask for something of what people name, all or none."""
    with reading(settings()) as database:
        named = [_subject(database, name, each) for each in subjects]
    write_down(name, named, why, as_json=as_json)


def write_down(name: str, named: Sequence[str], why: str, *, as_json: bool) -> None:
    """Write requests down, all or none, with subjects as the daemon knows them, and wake it."""
    where = settings()
    if len(why) > MAX_WHY:
        raise UsageError(f"--why is longer than {MAX_WHY} characters: say it in fewer")
    who, now = _who(), time.time()
    writer = open_writer(where.state_dir, now=now)
    try:
        with writer.transaction():
            made = [
                add_request(writer, verb=name, subject=each, who=who, why=why, now=now)
                for each in named
            ]
    finally:
        writer.close()
    running = daemon(where) is not None
    wake(where)
    if as_json:
        requests: list[Json] = [
            {"id": number, "verb": name, "subject": subject, "who": who, "why": why, "madeAt": now}
            for number, subject in zip(made, named, strict=True)
        ]
        print_json({"requests": requests, "daemonRunning": running})
    else:
        for subject in named:
            click.echo(f"asked: {name} {subject}")
        if not running:
            click.echo("The daemon is not running: it sees to this when it is started.")


def _subject(database: Database, name: str, text: str) -> str:
    """The subject as the daemon knows it."""
    found = lookup.resolve(database, text)
    match found:
        case JobsetSubject():
            if found.removed:
                raise UsageError(f"jobset {text} is declared no longer: nothing is done for it")
            return found.jobset
        case JobSubject() | DerivationSubject():
            if name in ("trigger", "suspend", "resume"):
                jobset = found.jobset if isinstance(found, JobSubject) else None
                mend = f"name its jobset: reconciler {name} {jobset}" if jobset else "name a jobset"
                raise UsageError(f"only a whole jobset can be asked for with {name}; {mend}")
            if found.derivation is None:
                raise UsageError(
                    f"{text} does not evaluate: there is no build to {name}; "
                    f"mend its expression, then: reconciler trigger {text.rsplit('.', 1)[0]}"
                )
            in_force = isinstance(found, JobSubject) and found.name in lookup.job_names(
                database, found.derivation
            )
            return found.name if in_force else lookup.build_facts(database, found.derivation).path


def wake(where: Settings) -> None:
    """Tell the daemon; one that does not hear it looks by itself before long."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as wake,
    ):
        wake.sendto(b"request", str(where.state_dir / WAKE_SOCKET))


def _verb(name: str, what: str, *, subject: str, examples: str) -> click.Command:
    def ask(subjects: tuple[str, ...], *, why: str, as_json: bool) -> None:
        _ask(name, subjects, why, as_json=as_json)

    ask.__doc__ = what
    function: Callable[..., None] = click.option(
        "--why", default="", metavar="TEXT", help="The reason, for the log of events."
    )(ask)
    function = click.argument(
        "subjects",
        nargs=-1,
        required=True,
        metavar=f"{subject}...",
        shell_complete=complete_subject,
    )(function)
    return verb(name, examples=examples)(function)


trigger = _verb(
    "trigger",
    "Evaluate a jobset now, even if its source is unchanged.",
    subject="JOBSET",
    examples="reconciler trigger website",
)
retry = _verb(
    "retry",
    """Try again what failed.

    Also what failed below the subject is tried again, and with it all that it held up. Of an
    infrastructure failure, the pause before the next attempt is cut short.
    """,
    subject="SUBJECT",
    examples="""
    reconciler retry website.tests --why "the mirror is back"
    reconciler retry website             all that failed of a jobset
    reconciler retry lib-base-1.0        one derivation, by name or path
    """,
)
cancel = _verb(
    "cancel",
    "Stop a build, or take it off the queue. `retry` reopens it.",
    subject="SUBJECT",
    examples="reconciler cancel website.tests",
)
bump = _verb(
    "bump",
    "Build this first, with all that it needs.",
    subject="SUBJECT",
    examples='reconciler bump website.hotfix --why "release today"',
)
suspend = _verb(
    "suspend",
    """Start nothing more for a jobset until `resume`.

    What runs is finished, results stay. To have it so for good, declare enabled: false.
    """,
    subject="JOBSET",
    examples='reconciler suspend website --why "the test server is down"',
)
resume = _verb(
    "resume",
    "End a jobset's suspension.",
    subject="JOBSET",
    examples="reconciler resume website",
)
