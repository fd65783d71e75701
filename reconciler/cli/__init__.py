"""The command line: verbs, and what every one of them owes its user.

Each verb is a module of its own, imported when it is asked for: `status` must not pay for what
`run` needs. A fault that is explained is one line on stderr with its exit status; ^C and a closed
pipe are quiet.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, Never

import click

from reconciler import collector
from reconciler.cli.settings import Verbs, place_options
from reconciler.errors import ReconcilerError

VERBS = {
    "run": "run",
    "check": "check",
    "plan": "plan",
    "status": "status",
    "why": "why",
    "log": "log",
    "diff": "diff",
    "graph": "graph",
    "builders": "fleet",
    "caches": "caches",
    "events": "events",
    "trigger": "requests",
    "retry": "requests",
    "cancel": "requests",
    "bump": "requests",
    "suspend": "requests",
    "resume": "requests",
    "incremental": "incremental",
    "gc": "gc",
    "doctor": "doctor",
    "completion": "completion",
}
"""Each verb's module, in the order in which help shows them."""

_FULL = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Why what is printed cannot be written. Of our own files these are explained where they are."""

INTERRUPTED = 130
"""What a shell gives for a command that ^C ended."""


class _Verbs(Verbs):
    """Imports a verb's module when the verb is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"reconciler.cli.{VERBS[cmd_name]}")
        found: click.Command = getattr(module, cmd_name)
        return found

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Verbs come first: they are what one looks for."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)


@click.group(
    cls=_Verbs,
    subcommand_metavar="VERB [ARGUMENTS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n"
    "  reconciler check farm.yaml          is the document right?\n"
    "  reconciler --config farm.yaml plan  what would happen?\n"
    "  reconciler run --once               do it, and tell how it went\n"
    "  reconciler status                   how far is everything?\n"
    "  reconciler why website.tests        why is this job not there?",
)
@place_options(variables=True)
@click.version_option(package_name="nix-reconciler", message="%(version)s")
def cli() -> None:
    """A Nix build farm that makes itself what its configuration says.

    Declared jobsets are evaluated, built from the leaves up and pushed to their caches until what
    is there is what is declared.
    """
    if _colourless():
        click.get_current_context().color = False


def _colourless() -> bool:
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def main(arguments: Sequence[str] | None = None) -> Never:
    """Run the command line, and end the process with its exit status."""
    collector.calm()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A locale may lack what a build printed, or our own marks.
        sys.stdout.reconfigure(errors="replace")
    status = _run(arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        status = max(status, _unwritten(error))
    # All is closed. To take itself apart, Python needs a tenth of a short run's time.
    os._exit(status)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        ended: Any = cli.main(arguments, prog_name="reconciler", standalone_mode=False)
    except ReconcilerError as error:
        _complain(str(error))
        return error.exit_status
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.UsageError as error:
        _complain(error.format_message())
        if error.ctx is not None:
            click.echo(f"see: {error.ctx.command_path} --help", err=True)
        return error.exit_code
    except click.ClickException as error:
        _complain(error.format_message())
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except OSError as error:
        if error.errno not in _FULL:
            raise
        return _unwritten(error)
    return ended if isinstance(ended, int) else 0


def _complain(message: str) -> None:
    from reconciler.cli.text import harmless, readable  # noqa: PLC0415 - only for a mistake

    color = False if _colourless() else None
    text = click.style("error: ", fg="red", bold=True) + harmless(message)
    click.echo(readable(text) if sys.stderr.isatty() else text, err=True, color=color)


def _unwritten(error: OSError) -> int:
    """The exit status where nobody takes what is printed: a closed pipe is no fault of ours."""
    _drop_output()
    if isinstance(error, BrokenPipeError):
        return 0
    _complain(f"cannot write to standard output: {error.strerror}")
    return 1


def _drop_output() -> None:
    """Let what is left in the buffer go nowhere, or Python complains about it at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
