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
    # Both to their end: asyncio may wait for ever for a child that is cancelled while it starts.
    version, systems = await asyncio.gather(
        _version(environment), _systems(environment), return_exceptions=True
    )
    for end in (version, systems):
        if isinstance(end, process.ProcessTimeoutError):
            raise NoNixError(f"Nix does not answer: {end}")
        if isinstance(end, BaseException):
            raise end
    assert isinstance(version, str)
    assert isinstance(systems, frozenset)
    return Settings(version=version, systems=systems)


async def _systems(environment: Mapping[str, str]) -> frozenset[str]:
    shown = await process.run(
        ["nix", "--extra-experimental-features", "nix-command", "config", "show", "--json"],
        env=environment,
        timeout=TIMEOUT,
    )
    if shown.returncode != 0:
        raise NoNixError(f"Nix does not accept its own configuration: {_said(shown)}")
    try:
        settings = json.loads(shown.stdout)
        return frozenset([settings["system"]["value"], *settings["extra-platforms"]["value"]])
    except (ValueError, LookupError, TypeError):
        raise NoNixError(
            f"`nix config show --json` says {shown.stdout[:200].decode(errors='replace')!r}, "
            "in which the machine's systems are not found: is this a Nix?"
        ) from None


async def _version(environment: Mapping[str, str]) -> str:
    asked = await process.run(["nix", "--version"], env=environment, timeout=TIMEOUT)
    text = asked.stdout.decode(errors="replace").strip()
    if asked.returncode != 0:
        raise NoNixError(f"Nix does not start: {_said(asked)}")
    found = re.search(r"(\d+)\.(\d+)[\w.+-]*$", text)
    if found is None:
        raise NoNixError(f"`nix --version` says {text!r}, which is not a version of Nix")
    if "Lix" not in text and (int(found[1]), int(found[2])) < OLDEST:
        raise NoNixError(f"Nix {found[0]} is too old: {_OLDEST} or later is needed")
    return found[0]


def _said(end: process.Completed) -> str:
    """Why it failed."""
    return end.stderr.strip() or f"it {process.ended(end.returncode)}"
