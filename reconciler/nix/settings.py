"""What the installed Nix says of itself: its version and the machine's systems."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Mapping

from msgspec import Struct

from reconciler import process
from reconciler.errors import NoNixError

OLDEST = (2, 24)
_OLDEST = ".".join(map(str, OLDEST))
TIMEOUT = 60.0


class Settings(Struct, frozen=True, kw_only=True):
    """Of the Nix on PATH, as configured on this machine."""

    version: str
    systems: frozenset[str]


async def read(environment: Mapping[str, str]) -> Settings:
    """Ask Nix; NoNixError if there is none, it is too old, or it refuses its configuration."""
    if shutil.which("nix", path=environment.get("PATH")) is None:
        raise NoNixError(
            f"there is no nix on PATH: install Nix {_OLDEST} or later, or add the folder of its "
            "commands (often /nix/var/nix/profiles/default/bin) to PATH"
        )
    version, shown = await asyncio.gather(
        _version(environment),
        process.run(
            ["nix", "--extra-experimental-features", "nix-command", "config", "show", "--json"],
            env=environment,
            timeout=TIMEOUT,
        ),
    )
    if shown.returncode != 0:
        raise NoNixError(f"Nix does not accept its own configuration: {shown.stderr.strip()}")
    settings = json.loads(shown.stdout)
    native = settings["system"]["value"]
    return Settings(
        version=version, systems=frozenset([native, *settings["extra-platforms"]["value"]])
    )


async def _version(environment: Mapping[str, str]) -> str:
    asked = await process.run(["nix", "--version"], env=environment, timeout=TIMEOUT)
    text = asked.stdout.decode(errors="replace").strip()
    if asked.returncode != 0:
        raise NoNixError(f"Nix does not start: {asked.stderr.strip()}")
    found = re.search(r"(\d+)\.(\d+)[\w.+-]*$", text)
    if found is None:
        raise NoNixError(f"`nix --version` says {text!r}, which is not a version of Nix")
    if "Lix" not in text and (int(found[1]), int(found[2])) < OLDEST:
        raise NoNixError(f"Nix {found[0]} is too old: {_OLDEST} or later is needed")
    return found[0]
