"""The commands with which anyone makes the derivations of an evaluation again.

On another machine, in another store, from the public source and the text of the bases alone. What
is printed is a script for sh: git, if a commit of ours is to be made, and Nix. It evaluates and
builds nothing else, and prints the derivations.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct

from reconciler.errors import UsageError
from reconciler.incremental import overlay
from reconciler.incremental.overlay import FILES, Origin, contents, signature
from reconciler.model import Protocol
from reconciler.nix.expression import nix_lib, nix_string, path_tree
from reconciler.source import LockedFlake, LockedGit, LockedSource, LockedTree

_END = "END_OF_FILE"
_REPOSITORY = "REPOSITORY"
"""Stands for the folder of the commit of ours, until it is known."""


class Evaluated(Struct, frozen=True, kw_only=True):
    """An evaluation as it was recorded."""

    source: LockedSource
    jobs: tuple[tuple[str, ...], ...]
    """Attribute paths of those wanted."""
    system: str
    systems: tuple[str, ...] | None
    """Those that the jobset is declared for."""
    texts: Mapping[Protocol, str]
    """The text of the bases, by how they reached the expressions."""
    overlay: str | None
    """The commit of ours, with cache.nix."""
    pure: bool = True


def script(evaluated: Evaluated) -> str:
    """The script; UsageError where there is nothing to repeat."""
    if not evaluated.jobs:
        raise UsageError("it has no jobs that could be made again")
    lines = ["#!/bin/sh", "set -eu"]
    source = evaluated.source
    if Protocol.CACHE_NIX in evaluated.texts:
        assert evaluated.overlay is not None
        text = evaluated.texts[Protocol.CACHE_NIX]
        lines += _commit(overlay.origin(source), text, evaluated.overlay)
        source = overlay.relocated(source, _REPOSITORY, evaluated.overlay)
    expression = _expression(source, evaluated.texts)
    lines += [*_nix(evaluated, source, expression), ""]
    return "\n".join(lines)


# --- Git ---------------------------------------------------------------------------------------


def _commit(on: Origin, text: str, commit: str) -> list[str]:
    """Make the commit of ours, and say so if it is another one."""
    variables = " ".join(f'{name}="{value}"' for name, value in signature("$date").items())
    settings = shlex.join(overlay.SETTINGS)
    kind = "sha256" if len(commit) == 64 else "sha1"
    lines = [
        "repository=$(mktemp -d)/overlay.git",
        f'git init --quiet --bare --template= --object-format={kind} "$repository"',
        'cd "$repository"',
        f"git fetch --quiet --no-tags --depth=1 {shlex.quote(on.url)} {on.revision}",
        f"git read-tree {on.revision}",
    ]
    for name, content in contents(text, on.revision).items():
        lines += [
            f"blob=$(git hash-object -w --no-filters --stdin <<'{_END}'",
            _fitting(content).rstrip(),
            _END,
            ")",
            f"git update-index --add --replace --cacheinfo 100644,$blob,{name}",
        ]
    message = shlex.quote(overlay.MESSAGE)
    return [
        *lines,
        f"date=$(git show --no-patch --date=raw --format=%cd {on.revision})",
        (
            f"commit=$({variables} git {settings} commit-tree --no-gpg-sign -p {on.revision}"
            f" -m {message} $(git write-tree))"
        ),
        (
            f'test "$commit" = {commit} || {{ echo "the commit with {FILES[0]} is $commit, not'
            f' {commit}" >&2; exit 1; }}'
        ),
        f"git update-ref {overlay.REFS}$commit $commit",
        "cd /",
    ]


def _fitting(text: str) -> str:
    if any(line == _END for line in text.splitlines()):
        raise UsageError(f"a line of it is {_END}, which ends files in this script")
    return text


# --- Nix ---------------------------------------------------------------------------------------


def _expression(source: LockedSource, texts: Mapping[Protocol, str]) -> str:
    match source.origin:
        case LockedFlake(url=url):
            flake = f"builtins.getFlake {_placed(url)}"
            if Protocol.GARNIX not in texts:
                return flake
            bases = _indented(texts[Protocol.GARNIX])
            return f"({nix_lib('garnix.nix')}) {{\n  flake = {flake};\n  bases =\n{bases};\n}}"
        case LockedGit(fetch=fetch):
            facts = " ".join(f"{name} = {_value(value)};" for name, value in fetch.items())
            tree = f"builtins.fetchGit {{ {facts} }}"
        case LockedTree():
            facts = " ".join(f"{k} = {_value(v)};" for k, v in path_tree(source.origin).items())
            tree = f"builtins.fetchTree {{ {facts} }}"
    return f"import (({tree}).outPath + {nix_string('/' + source.file)})"


def _value(value: str | bool) -> str:  # noqa: FBT001  (as in a Nix set)
    return ("true" if value else "false") if isinstance(value, bool) else _placed(value)


def _placed(text: str) -> str:
    """A Nix string, with the folder of the commit of ours put in its place."""
    return nix_string(text).replace(_REPOSITORY, "${repository}")


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in text.splitlines()).rstrip()


def _nix(evaluated: Evaluated, source: LockedSource, expression: str) -> list[str]:
    arguments = ["nix-instantiate", "--extra-experimental-features", "nix-command flakes"]
    pure = evaluated.pure or isinstance(source.origin, LockedFlake)
    arguments += ["--option", "pure-eval", "true" if pure else "false"]
    for attr_path in evaluated.jobs:
        arguments += ["-A", attr(attr_path)]
    for name, value in _arguments(evaluated, source).items():
        arguments += ["--arg", name, value]
    command = shlex.join(arguments)
    if Protocol.CACHE_NIX in evaluated.texts:
        command += ' --argstr repository "$repository"'
        expression = f"{{ repository }}:\n{expression}"
    before = []
    if Protocol.ARG in evaluated.texts:
        text = _fitting(evaluated.texts[Protocol.ARG]).rstrip()
        before = [f"bases=$(cat <<'{_END}'", text, _END, ")"]
        command += ' --arg incrementalBases "$bases"'
    return [*before, f"{command} - <<'{_END}'", _fitting(expression).rstrip(), _END]


def _arguments(evaluated: Evaluated, source: LockedSource) -> dict[str, str]:
    """What functions are called with: the same as by jobs.nix."""
    given: dict[str, Any] = {}
    systems: Collection[str] | None = evaluated.systems
    if systems is None or evaluated.system in systems:
        given["system"] = evaluated.system
    elif evaluated.systems:
        given["system"] = evaluated.systems[0]
    if systems is not None:
        given["systems"] = list(systems)
    if not isinstance(source.origin, LockedFlake):
        given |= source.args
    return {
        name: f"builtins.fromJSON {nix_string(json.dumps(each))}" for name, each in given.items()
    }


def attr(path: Sequence[str]) -> str:
    """An attribute path as Nix's commands take it."""
    for name in path:
        if '"' in name:
            raise UsageError(f"Nix's commands take no attribute that is called {name}")
    return ".".join(name if name and "." not in name else f'"{name}"' for name in path)
