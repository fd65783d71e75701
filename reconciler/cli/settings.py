"""What every verb takes: where the document and the state are, and `--json`.

`--config` and `--state-dir` are taken before or after the verb. Nothing is opened here.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from msgspec import Struct

DEFAULT_CONFIG = "/etc/nix-reconciler/config.json"
DEFAULT_STATE_DIR = "/var/lib/nix-reconciler"

Function = TypeVar("Function", bound=Callable[..., object])


class Settings(Struct):
    """Where things are."""

    config: Path = Path(DEFAULT_CONFIG)
    state_dir: Path = Path(DEFAULT_STATE_DIR)

    @property
    def logs(self) -> Path:
        """Build logs."""
        return self.state_dir / "logs"


def settings() -> Settings:
    """Those of the command that runs."""
    return click.get_current_context().ensure_object(Settings)


def _keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        setattr(context.ensure_object(Settings), str(parameter.name), Path(value))


def _place(flag: str, *, help_text: str, default: str, variable: str | None) -> Any:
    return click.option(
        flag,
        type=click.Path(),
        metavar="PATH",
        callback=_keep,
        expose_value=False,
        envvar=variable,
        help=f"{help_text}, or ${variable or 'RECONCILER_…'}. [default: {default}]",
        hidden=variable is None,
    )


def place_options(*, variables: bool) -> Callable[[Function], Function]:
    """Add `--config` and `--state-dir`.

    Only before the verb do variables of the environment count, so that an option there is not
    overruled behind it.
    """

    def decorate(function: Function) -> Function:
        for flag, help_text, default, variable in (
            ("--state-dir", "Where all state is kept", DEFAULT_STATE_DIR, "RECONCILER_STATE_DIR"),
            ("--config", "The configuration document", DEFAULT_CONFIG, "RECONCILER_CONFIG"),
        ):
            option = _place(
                flag,
                help_text=help_text,
                default=default,
                variable=variable if variables else None,
            )
            function = option(function)
        return function

    return decorate


class Verbs(click.Group):
    """Commands; of one that there is not, the nearest is named."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; UsageError where there is none."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            from reconciler.problems import nearest  # noqa: PLC0415 - only for a mistake

            near = nearest(args[0][:200], names)
            meant = f"; did you mean {near}?" if near else ""
            raise click.UsageError(f"there is no verb {args[0]}{meant}", ctx)
        return super().resolve_command(ctx, args)


def verb(
    name: str,
    *,
    examples: str,
    notes: str = "",
    json: bool = True,
    group: type[Verbs] | None = None,
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function: its docstring is the help, below it notes and examples.

    Both are printed as they are written, line by line. Of a `group` the function is called first,
    whether or not one of its commands is named.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        wrapped = functools.wraps(function)(function)
        if json:
            wrapped = click.option(
                "--json", "as_json", is_flag=True, help="Print JSON; schemas/ describes it."
            )(wrapped)
        wrapped = place_options(variables=False)(wrapped)
        blocks = [
            *textwrap.dedent(notes).strip().split("\n\n"),
            "Examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
        ]
        epilog = "\n\n".join(f"\b\n{block}" for block in blocks if block)
        names = {"help_option_names": ["-h", "--help"]}
        if group is None:
            return click.command(name, epilog=epilog, context_settings=names)(wrapped)
        return click.command(
            name, group, epilog=epilog, context_settings=names, invoke_without_command=True
        )(wrapped)

    return decorate
