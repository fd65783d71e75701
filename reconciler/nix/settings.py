"""What the installed Nix says of itself: its version and the machine's systems."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping

from msgspec import Struct

from reconciler import process
from reconciler.errors import NixError

OLDEST = (2, 24)
TIMEOUT = 60.0


class Settings(Struct, frozen=True, kw_only=True):
    """Of the Nix on PATH, as configured on this machine."""

    version: str
    systems: frozenset[str]


async def read(environment: Mapping[str, str]) -> Settings:
    """Ask Nix; NixError if there is none, it is too old, or it refuses its configuration."""
    version, shown = await asyncio.gather(
        _version(environment),
        process.run(
            ["nix", "--extra-experimental-features", "nix-command", "config", "show", "--json"],
            env=environment,
            timeout=TIMEOUT,
        ),
    )
    if shown.returncode != 0:
        raise NixError(f"Nix does not accept its own configuration: {shown.stderr.strip()}")
    settings = json.loads(shown.stdout)
    native = settings["system"]["value"]
    return Settings(
        version=version, systems=frozenset([native, *settings["extra-platforms"]["value"]])
    )


async def _version(environment: Mapping[str, str]) -> str:
    asked = await process.run(["nix", "--version"], env=environment, timeout=TIMEOUT)
    text = asked.stdout.decode(errors="replace").strip()
    if asked.returncode != 0:
        raise NixError(f"Nix does not start: {asked.stderr.strip()}")
    found = re.search(r"(\d+)\.(\d+)[\w.+-]*$", text)
    if found is None:
        raise NixError(f"`nix --version` says {text!r}, which is not a version of Nix")
    if "Lix" not in text and (int(found[1]), int(found[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise NixError(f"Nix {found[0]} is too old: {oldest} or later is needed")
    return found[0]
