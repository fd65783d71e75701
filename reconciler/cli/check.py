"""`reconciler check`: is the document right?"""

from __future__ import annotations

from pathlib import Path

import click

from reconciler import config
from reconciler.cli.output import plain, print_json
from reconciler.cli.settings import settings, verb
from reconciler.cli.text import GOOD
from reconciler.problems import ConfigError
from reconciler.status import counted


@verb(
    "check",
    examples="""
    reconciler check                 the document in place
    reconciler check farm.yaml       another one, before it is put in place
    reconciler check farm.yaml --json
    """,
    notes="""
    Exit status: 0 it is right, 2 it is not.
    """,
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None, *, as_json: bool) -> None:
    """Validate the document: every error, its place, the mend."""
    path = file or settings().config
    try:
        desired = config.load(path)
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"file": str(path), "valid": False, "problems": plain(error.problems)})
        click.get_current_context().exit(error.exit_status)
    counts = {
        "jobset": len(desired.jobsets),
        "builder": len(desired.builders),
        "cache": len(desired.caches),
    }
    if as_json:
        print_json(
            {
                "file": str(path),
                "valid": True,
                "problems": [],
                "digest": desired.digest,
                "jobsets": counts["jobset"],
                "builders": counts["builder"],
                "caches": counts["cache"],
            }
        )
        return
    told = ", ".join(counted(number, noun) for noun, number in counts.items())
    click.echo(f"{click.style('✓', fg=GOOD)} {path} is valid: {told}")
