"""`reconciler run`: the daemon, or until all is as declared."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import click

from reconciler import daemon
from reconciler.cli.run_lines import Lines
from reconciler.cli.settings import settings, verb
from reconciler.cli.state import reading
from reconciler.cli.status import read_report
from reconciler.cli.status_text import mark
from reconciler.cli.text import columns, lasting, on_terminal, one_line, wrapped
from reconciler.errors import UsageError
from reconciler.quantities import QuantityError, duration
from reconciler.status import EXIT_STATUS, JobState, Report, Verdict, count_jobs, counted, held
from reconciler.upkeep import ASKED_TO_WAIT


@verb(
    "run",
    json=False,
    examples="""
    reconciler run             the daemon, until it is told to stop
    reconciler run --once      until nothing is left to do
    reconciler --config farm.yaml --state-dir ./state run --once
    reconciler run --stop-after 2m
    """,
    notes="""
    Signals:
      HUP        read the document and the secrets again, and try at once what
                 waits after failures (builders, pushes); builds go on
      TERM, INT  end; what is being built or pushed has --stop-after to come to
                 its end, and what takes longer is taken up by the next start
      a second   end at once

    With --once a cache is given up for now after three failures, or when its
    server asks for a pause (Retry-After) of more than a minute: the last line
    says until when, and what was to be pushed there stays queued. The daemon
    leaves such a cache alone for as long as it asks, up to an hour.

    Exit status with --once:
      0  all is as declared
      1  something failed (reconciler status tells what)
      2  usage, or a document that is not valid
      3  stopped before it was done
      4  the state directory, or the machine's Nix, cannot be used
    """,
)
@click.option("--once", is_flag=True, help="End when nothing is left that could go on.")
@click.option(
    "--stop-after", default="0s", show_default=True, metavar="TIME", envvar="RECONCILER_STOP_AFTER",
    help="How long builds and pushes may go on when told to stop; or $RECONCILER_STOP_AFTER.",
)  # fmt: skip
def run(*, once: bool, stop_after: str) -> None:
    """Make what is there what is declared, and keep it so.

    Evaluates, builds and pushes. Without --once it is the daemon, and goes on until SIGTERM or ^C.
    """
    where, began = settings(), time.time()
    try:
        patience = duration(stop_after)
    except QuantityError as error:
        raise UsageError(f"--stop-after {stop_after} {error}") from error
    live = None
    if once and on_terminal():
        from reconciler.cli.run_live import Live  # noqa: PLC0415 - only for a terminal

        live = Live(where.logs, began=began)
    view = live or Lines(where.logs, began=began)
    try:
        converged = daemon.run(
            config=where.config,
            state_dir=where.state_dir,
            environment=dict(os.environ),
            once=once,
            observe=view.observe,
            stop_after=patience,
        )
    finally:
        if live is not None:
            live.close()
    context = click.get_current_context()
    if not once:
        context.exit(0 if converged else 1)
    with reading(where) as database:
        # Nobody waits here for a builder to be declared.
        report = read_report(database, where, grace=0.0)
    for line in _summary(report, seconds=time.time() - began, converged=converged):
        click.echo(line)
    status = report.exit_status
    if not converged:
        status = max(status, EXIT_STATUS[Verdict.IN_PROGRESS])
    context.exit(status)


def _summary(report: Report, *, seconds: float, converged: bool) -> list[str]:
    """One paragraph."""
    totals: dict[JobState, int] = {}
    counted_jobsets = left_out = 0
    for each in report.jobsets:
        if held(each.facts):
            left_out += each.facts.removed_at is None and each.facts.patterns is None
            continue
        counted_jobsets += each.facts.patterns is None
        for state, number in each.facts.jobs.items():
            totals[state] = totals.get(state, 0) + number
    told = [f"{counted(counted_jobsets, 'jobset')}: {count_jobs(totals)}"]
    if left_out:
        told.append(f"{counted(left_out, 'jobset')} suspended or disabled")
    told += [
        f"cache {each.facts.name} {'is ' if each.summary == 'in sync' else ''}{each.summary}"
        for each in report.caches
        if each.facts.removed_at is None
    ]
    verb_text = "Done" if converged else "Stopped before it was done"
    text = f"{verb_text} in {lasting(seconds)}. {'; '.join(told)}."
    wrong = [
        f"cache {each.facts.name}: {condition.message}"
        for each in report.caches
        for condition in each.facts.conditions
        if condition.reason == ASKED_TO_WAIT
    ]
    wrong += [
        f"cache {each.facts.name}: {one_line(each.facts.error)}"
        for each in report.caches
        if each.facts.failing and each.facts.error and not each.facts.conditions
    ]
    wrong += [
        f"{condition.kind} {condition.name}: {condition.reason.replace('-', ' ')}"
        for of in (report.jobsets, report.builders)
        for each in of
        for condition in each.facts.conditions
    ]
    if wrong:
        text += f" {'; '.join(wrong[:5])}{_more(wrong)}."
    names = [one_line(f"{each.jobset}.{each.attr}") for each in report.problems]
    if names:
        text += f" Not there: {', '.join(names[:5])}{_more(names)}."
    if names or wrong:
        text += " See: reconciler status"
        if len(names) == 1:
            text += f", reconciler why {names[0]}"
    text = wrapped(text, width=(columns() or 100) - 2, indent="  ", first="")
    return ["", f"{mark(report.verdict)} {text}"]


def _more(listed: Sequence[str]) -> str:
    """What is said of those after the fifth."""
    return f" and {len(listed) - 5} more" if len(listed) > 5 else ""
