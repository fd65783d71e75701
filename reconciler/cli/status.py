"""`reconciler status`: declared against observed."""

from __future__ import annotations

import os
import time

import click

from reconciler.cli.output import Json, flat, plain, print_json
from reconciler.cli.settings import Settings, settings, verb
from reconciler.cli.state import daemon, document_facts, document_in_force, local_systems, reading
from reconciler.cli.status_text import overview
from reconciler.database import report
from reconciler.database.file import Database
from reconciler.errors import UsageError
from reconciler.status import UNSUPPORTED_GRACE, Report
from reconciler.status import report as judge

WATCH_SECONDS = 1.0
"""How often `--watch` looks."""


def complete_subject(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Names of jobsets, and of the jobs of the one that is being written."""
    del parameter
    from reconciler.database.lookup import job_attrs  # noqa: PLC0415 - only for a shell
    from reconciler.errors import ReconcilerError  # noqa: PLC0415

    try:
        with reading(context.ensure_object(Settings)) as database:
            names = [row[0] for row in database.query("SELECT name FROM jobset ORDER BY name")]
            return [
                *(name for name in names if name.startswith(incomplete)),
                *(
                    f"{name}.{attr}"
                    for name in names
                    if incomplete.startswith(f"{name}.")
                    for attr in job_attrs(database, name)
                    if f"{name}.{attr}".startswith(incomplete)
                ),
            ]
    except ReconcilerError:
        return []


def read_report(database: Database, where: Settings, *, grace: float = UNSUPPORTED_GRACE) -> Report:
    """How everything is. For `grace` seconds what no builder can build only waits for one."""
    current = document_in_force(database)
    return judge(
        report.facts(
            database,
            current,
            document=document_facts(where, current),
            daemon=daemon(where),
            local_systems=local_systems,
            now=time.time(),
            grace=grace,
        )
    )


def report_json(found: Report) -> Json:
    """The report as `schemas/status.schema.json` has it."""
    whole = plain(found)
    assert isinstance(whole, dict)
    return {
        **whole,
        "exitStatus": found.exit_status,
        "jobsets": [flat(each) for each in found.jobsets],
        "caches": [flat(each) for each in found.caches],
        "builders": [flat(each) for each in found.builders],
    }


@verb(
    "status",
    notes="""
    Exit status:
      0  all is in sync (what is suspended or disabled is left out)
      1  something failed, whether or not work goes on
      2  usage
      3  in progress, nothing failed so far
      4  cannot tell: no state, or one that cannot be read
    """,
    examples="""
    reconciler status                    all jobsets, caches, and what is wrong
    reconciler status website            one jobset, job by job
    reconciler status website.tests      one job: outputs, attempts, products
    reconciler status --watch            again and again, until ^C
    reconciler status --oneline          for a prompt or a status bar
    reconciler status --json | jq '.problems[].attr'
    """,
)
@click.argument("subject", required=False, shell_complete=complete_subject)
@click.option("--watch", is_flag=True, help="Show it again whenever it changes, until ^C.")
@click.option("--oneline", is_flag=True, help="One line.")
def status(subject: str | None, *, watch: bool, oneline: bool, as_json: bool) -> None:
    """Show what is declared against what is so.

    SUBJECT is a jobset or a job (JOBSET.JOB). The database is read directly: it works while the
    daemon is down.
    """
    where = settings()
    if watch:
        if as_json or subject or oneline:
            raise UsageError("--watch shows everything: leave out SUBJECT, --json and --oneline")
        _watch(where)
        return
    with reading(where) as database:
        if subject is not None:
            from reconciler.cli.subject import show_subject  # noqa: PLC0415 - not for the overview

            exit_status = show_subject(database, where, subject, as_json=as_json)
        else:
            exit_status = _show(read_report(database, where), as_json=as_json, oneline=oneline)
    click.get_current_context().exit(exit_status)


def _show(found: Report, *, as_json: bool, oneline: bool) -> int:
    if as_json:
        print_json(report_json(found))
    elif oneline:
        click.echo(found.summary)
    else:
        click.echo("\n".join(overview(found, now=time.time())))
    return found.exit_status


def _watch(where: Settings) -> None:
    """On a terminal in place; elsewhere a line for each change."""
    from reconciler.cli.text import on_terminal  # noqa: PLC0415

    with reading(where) as database:
        if on_terminal():
            _watch_terminal(database, where)
            return
        last = ""
        while True:
            found = read_report(database, where)
            if found.summary != last:
                last = found.summary
                click.echo(last)
            time.sleep(WATCH_SECONDS)


def _watch_terminal(database: Database, where: Settings) -> None:
    from rich.console import Console  # noqa: PLC0415 - costs more than all of `status`
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            lines = overview(read_report(database, where), now=time.time())
            fitting = lines[: max(console.height - 1, 1)]
            color = "" if os.environ.get("NO_COLOR") else "\n".join(fitting)
            live.update(Text.from_ansi(color or click.unstyle("\n".join(fitting))), refresh=True)
            time.sleep(WATCH_SECONDS)
