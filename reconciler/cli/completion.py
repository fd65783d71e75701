"""`reconciler completion`: the script with which a shell completes verbs, options and job names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from reconciler.cli.settings import verb


@verb(
    "completion",
    json=False,
    examples="""
    eval "$(reconciler completion bash)"          in ~/.bashrc
    eval "$(reconciler completion zsh)"           in ~/.zshrc
    reconciler completion fish > ~/.config/fish/completions/reconciler.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL."""
    from reconciler.cli import cli  # noqa: PLC0415 - the package imports its verbs, not they it

    made = get_completion_class(shell)
    assert made is not None, f"click completes no {shell}"
    click.echo(made(cli, {}, "reconciler", "_RECONCILER_COMPLETE").source())
