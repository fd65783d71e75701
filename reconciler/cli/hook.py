"""`reconciler incremental hook`: Nix's pre-build-hook; and whether it does what it should."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from reconciler import process
from reconciler.build.mounts import COMPILER_CACHES, STORE_VIEW, Kind, Mount, hook
from reconciler.build.probe import probe_mount
from reconciler.cli.settings import Settings, settings, verb
from reconciler.errors import NixError, ReconcilerError
from reconciler.model import Desired, Strategy
from reconciler.places import Places

TIMEOUT = 60.0
KINDS = {Strategy.HIDDEN: Kind.BASE, Strategy.COMPILER_CACHE: Kind.COMPILER_CACHE}


@verb(
    "hook",
    json=False,
    examples="""
    reconciler incremental hook | sudo tee /etc/nix/reconciler-hook >/dev/null
    sudo chmod 755 /etc/nix/reconciler-hook
    echo "pre-build-hook = /etc/nix/reconciler-hook" |
      sudo tee -a /etc/nix/nix.conf && sudo systemctl restart nix-daemon
    sudo mkdir /run/nix-reconciler-store      # at each start of the machine
    sudo mount -o bind,ro /nix/store /run/nix-reconciler-store
    sudo install -d -g nixbld -m 2755 /var/cache/nix-reconciler-compilers
    reconciler doctor
    """,
    notes="""
    The NixOS module does all this where a jobset asks for it. The hook belongs
    to root, and is made for one state directory. Nix's daemon knows of it only
    after a restart, as it reads nix.conf when it starts.
    """,
)
@click.option(
    "--store-view",
    default=STORE_VIEW,
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the Nix store is mounted read-only.",
)
@click.option(
    "--compiler-caches",
    default=COMPILER_CACHES,
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where what compilers keep is.",
)
def print_hook(store_view: Path, compiler_caches: Path) -> None:
    """Print the pre-build-hook for the Nix of this machine.

    It shows builds what they are to start from, by the incremental strategies `hidden` and
    `compiler-cache`; any other build it leaves alone.
    """
    answers = Places(settings().state_dir.absolute(), {}).mounts
    click.echo(hook(answers, store_view=store_view, compiler_caches=compiler_caches), nl=False)


def examine(desired: Desired, where: Settings) -> Iterator[tuple[str, str | None]]:
    """What there is to say of each strategy that is declared and needs the hook: a name, and None
    where all is well.
    """
    strategies = {
        each.incremental.strategy
        for each in (*desired.jobsets.values(), *desired.patterns.values())
        if each.incremental.enable
    }
    for strategy in sorted(strategies & KINDS.keys()):
        name = f"hook for {strategy} builds"
        try:
            yield name, asyncio.run(_refusal(KINDS[strategy], where, dict(os.environ)))
        except (ReconcilerError, OSError) as error:
            yield name, str(error)


async def _refusal(kind: Kind, where: Settings, environment: Mapping[str, str]) -> str | None:
    """Why a build is not shown something."""
    places = Places(where.state_dir.absolute(), environment)
    if not places.state_dir.is_dir() or places.state_dir.stat().st_uid != os.geteuid():
        return f"not tried: {places.state_dir} is not this user's; run this as the daemon's"
    name = "doctor"
    if kind is Kind.BASE:
        with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
            added = await process.run(
                ["nix-store", "--add", folder], env=environment, timeout=TIMEOUT
            )
        if added.returncode != 0:
            raise NixError(f"cannot add a folder to the store: {added.stderr.strip()}")
        name = Path(added.stdout.decode().strip()).name
    return await probe_mount(Mount(kind=kind, name=name), places.mounts, environment)
