"""What is evaluated, as one Nix expression and the settings it is evaluated with.

Both evaluators get the same text: the package's `jobs.nix` applied to the locked source. So what
is a job, and what it is called, is decided there once. This module starts nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from msgspec import Struct

from reconciler.errors import UsageError
from reconciler.model import EvaluationSettings, Protocol
from reconciler.source import LockedFlake, LockedGit, LockedSource, LockedTree

AttrPath = tuple[str, ...]


class Given(Struct, frozen=True, kw_only=True):
    """What an evaluation is given beside its source: bases of incremental builds."""

    protocols: tuple[Protocol, ...]
    """How they reach the expressions; what reaches them within the source is no matter of ours."""
    bases: LockedTree | None
    """A folder with bases.nix, a set by name of job. None: there are none, and the expressions
    are told so."""


class EvaluationTask(Struct, frozen=True, kw_only=True):
    """One evaluation, as an evaluator needs it."""

    expression: str
    """A Nix expression, the tree of jobs that `jobs.nix` describes."""
    options: tuple[str, ...]
    """Arguments that set Nix's options."""
    settings: EvaluationSettings
    environment: Mapping[str, str]
    work_dir: Path
    """A folder of this evaluation's own, there until it ends."""


def evaluation_task(
    locked: LockedSource,
    *,
    attributes: Sequence[str] | None,
    systems: Sequence[str] | None,
    settings: EvaluationSettings,
    environment: Mapping[str, str],
    work_dir: Path,
    given: Given | None = None,
) -> EvaluationTask:
    """Put a locked source and a jobset's settings into the form the evaluators take."""
    request: dict[str, Any] = {
        "source": _source(locked),
        "attributes": None if attributes is None else _outermost(attributes),
        "systems": None if systems is None else list(systems),
        "system": native_system(),
    }
    functions = ""
    if given is not None:
        request["protocols"] = list(given.protocols)
        request["bases"] = None if given.bases is None else path_tree(given.bases)
        functions = f" // {{ garnix = {nix_lib('garnix.nix')}; }}"
    quoted = nix_string(json.dumps(request))
    return EvaluationTask(
        expression=f"({nix_lib('jobs.nix')}) (builtins.fromJSON {quoted}{functions})",
        options=_options(locked, settings),
        settings=settings,
        environment=environment,
        work_dir=work_dir,
    )


def native_system() -> str:
    """The machine's system as Nix calls it: what `builtins.currentSystem` is by default."""
    machine = os.uname()
    processor = {"arm64": "aarch64"}.get(machine.machine, machine.machine)
    return f"{processor}-{machine.sysname.lower()}"


def nix_lib(name: str) -> str:
    """The text of one of the package's Nix expressions: pure evaluation may not read it itself."""
    return resources.files("reconciler").joinpath("nix-lib", name).read_text(encoding="utf-8")


def nix_string(text: str) -> str:
    """A Nix string literal; of ASCII without line feeds it is one line."""
    # A bare carriage return would be read as a line feed.
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("${", "\\${"), ("\r", "\\r")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def parse_attr_path(text: str) -> AttrPath:
    """Split `packages."a.b".c` at its dots, as Nix does."""
    parts: list[str] = []
    part, quoted = "", False
    for character in text:
        if character == '"':
            quoted = not quoted
        elif character == "." and not quoted:
            parts.append(part)
            part = ""
        else:
            part += character
    parts.append(part)
    if quoted or "" in parts:
        raise UsageError(
            f"'{text}' is not an attribute path: write names with dots between them, "
            "a name that has a dot of its own in double quotes"
        )
    return tuple(parts)


def _outermost(attributes: Sequence[str]) -> list[AttrPath]:
    """Their paths, without those that lie below another one: they are evaluated with it."""
    unique = sorted({parse_attr_path(text) for text in attributes})
    return [path for path in unique if not any(path[:end] in unique for end in range(1, len(path)))]


def _source(locked: LockedSource) -> dict[str, Any]:
    called = {"file": locked.file, "args": dict(locked.args)}
    match locked.origin:
        case LockedFlake(url=url):
            return {"flake": url}
        case LockedGit(fetch=fetch):
            return {"git": dict(fetch), **called}
        case LockedTree():
            return {"tree": path_tree(locked.origin), **called}


def path_tree(tree: LockedTree) -> dict[str, str]:
    """What `builtins.fetchTree` takes for a copy in the store.

    It is there under the name `source`, so Nix does not copy it again.
    """
    return {"type": "path", "path": tree.store_path, "narHash": tree.nar_hash}


def _options(locked: LockedSource, settings: EvaluationSettings) -> tuple[str, ...]:
    pure = isinstance(locked.origin, LockedFlake) or settings.pure
    values = {
        "pure-eval": pure,
        "allow-import-from-derivation": settings.allow_import_from_derivation,
    }
    options = ["--extra-experimental-features", "nix-command flakes"]
    for name, value in values.items():
        options += ["--option", name, "true" if value else "false"]
    return tuple(options)
