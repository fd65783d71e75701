"""`reconciler check`: is the document right?"""

from __future__ import annotations

from pathlib import Path

import click

from reconciler import config
from reconciler.cli.output import plain, print_json, warn
from reconciler.cli.settings import settings, verb
from reconciler.cli.text import GOOD
from reconciler.problems import ConfigError, told
from reconciler.status import counted


@verb(
    "check",
    examples="""
    reconciler check                 the document in place
    reconciler check farm.yaml       another one, before it is put in place
    reconciler check farm.yaml --json
    """,
    notes="""
    What is declared in vain is a warning: it is told, and the document is right.

    Exit status: 0 it is right, 2 it is not.
    """,
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None, *, as_json: bool) -> None:
    """Validate the document: every error, its place, the mend."""
    path = file or settings().config
    try:
        found = config.check(path)
    except ConfigError as error:
        if not as_json:
            raise
        print_json(
            {
                "file": str(path),
                "valid": False,
                "problems": plain(error.problems),
                "warnings": [],
            }
        )
        click.get_current_context().exit(error.exit_status)
    desired = found.desired
    counts = {
        "jobset": len(desired.jobsets) + len(desired.patterns),
        "builder": len(desired.builders),
        "cache": len(desired.caches),
    }
    if as_json:
        print_json(
            {
                "file": str(path),
                "valid": True,
                "problems": [],
                "warnings": plain(found.warnings),
                "digest": desired.digest,
                "jobsets": counts["jobset"],
                "builders": counts["builder"],
                "caches": counts["cache"],
            }
        )
        return
    warn(told(found.warnings, name=str(path)))
    held = ", ".join(counted(number, noun) for noun, number in counts.items())
    click.echo(f"{click.style('✓', fg=GOOD)} {path} is valid: {held}")
