"""`reconciler events`: what happened, in order."""

from __future__ import annotations

import time

import click

from reconciler.cli.output import plain, print_json_line
from reconciler.cli.settings import settings, verb
from reconciler.cli.state import reading
from reconciler.cli.text import BAD, DIM, GOOD, clock, columns, one_line, width_of, wrapped
from reconciler.database import running
from reconciler.database.running import Event
from reconciler.errors import UsageError
from reconciler.quantities import QuantityError, duration

KINDS = (
    "build", "evaluation", "jobset", "cache", "builder", "document", "request", "schema",
    "base", "artifact-store",
)  # fmt: skip
POLL_SECONDS = 0.3
_BELOW = " " * 21
"""Before what does not fit in the line of its event: below the event's kind."""
_BAD = {"failed", "timed-out", "log-limit", "output-limit", "not-deterministic", "pruned"}
_GOOD = {"succeeded", "substituted", "in force", "declared"}


@verb(
    "events",
    examples="""
    reconciler events                            the last 50
    reconciler events -f                         as they come, until ^C
    reconciler events --since 1h --kind build
    reconciler events 'website*' --limit 0       all of a jobset's
    reconciler events --json                     one JSON object a line
    """,
)
@click.argument("subject", required=False, metavar="[GLOB]")
@click.option("-f", "--follow", is_flag=True, help="Go on printing as they come.")
@click.option("--since", metavar="AGE", help='Not older than this, such as "30m" or "2d".')
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    metavar="KIND",
    multiple=True,
    help=f"Only of this kind: {', '.join(KINDS)}.",
)
@click.option(
    "--limit", type=click.IntRange(min=0), default=50, show_default=True, metavar="N",
    help="The last N; 0: all.",
)  # fmt: skip
def events(
    subject: str | None,
    *,
    follow: bool,
    since: str | None,
    kind: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """Show what changed, to what, and why.

    GLOB selects by subject: a derivation's name, JOBSET#EVALUATION, a jobset, cache or builder.
    """
    oldest = 0.0 if since is None else time.time() - _age(since)
    with reading(settings()) as database:
        found = running.events(
            database, since=oldest, kinds=kind, subject=subject, newest=limit or None
        )
        last = running.last_event(database)
        _print(found, as_json=as_json)
        while follow:
            time.sleep(POLL_SECONDS)
            newest = running.last_event(database)
            if newest > last:
                _print(
                    running.events(database, after=last, kinds=kind, subject=subject),
                    as_json=as_json,
                )
                last = newest


def _age(text: str) -> float:
    try:
        return duration(text)
    except QuantityError as error:
        raise UsageError(f"--since {text} {error}") from error


def _print(found: list[Event], *, as_json: bool) -> None:
    for each in found:
        if as_json:
            print_json_line(plain(each))
        else:
            click.echo(_line(each))


def _line(each: Event) -> str:
    color = BAD if each.after in _BAD else GOOD if each.after in _GOOD else None
    if each.kind not in ("build", "evaluation") and each.cause == "condition":
        what = f"{each.before} is over" if each.after is None else each.after
        color = GOOD if each.after is None else BAD
    else:
        what = each.after or ""
    why = "" if each.cause == "condition" else f"  ({one_line(each.cause)})"
    head = f"{clock(each.at)}  {each.kind:<10}  {one_line(each.subject)}  "
    width = columns()
    text = what.replace("-", " ") + why
    if width is not None and width_of(head + text) > width:
        whole = wrapped(head + text, width=width, indent=_BELOW, first="")
        text, head = whole[len(head) :].lstrip(" "), whole[: len(head)]
        return click.style(head[:19], fg=DIM) + head[19:] + click.style(text, fg=color)
    split = len(what)
    return (
        click.style(head[:19], fg=DIM) + head[19:]
        + click.style(text[:split], fg=color) + click.style(text[split:], fg=DIM)
    )  # fmt: skip
