"""By what means a derivation builds its source: compiler, flags, dependencies, system.

All of a derivation goes in but the source (the variable `src`, wherever its path appears), the base
it starts from, the policy of its incremental builds, and the paths of its own outputs. What is
hashed is kept apart by part, so that people can be told what changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import PurePosixPath

from reconciler.bases import KINDS, Fingerprint
from reconciler.model import DrvPath, StorePath
from reconciler.nix import derivation as derivation_file
from reconciler.nix.basic_derivation import BasicDerivation, encoded

SOURCE = "src"
BASE = "incrementalBase"
LEFT_OUT = (SOURCE, BASE, "incrementalPolicy")
"""Variables that do not count, nor does the store path that one of them holds. A `src` that is no
store path is no source: it does."""
_STRUCTURED = "__json"
_TWICE = ("builder", "system")
"""Variables in which Nix repeats what a derivation has in places of its own."""
_PART = 16
"""Digits of a part's digest: it is only compared with the same part of a few others."""

_INPUT, _FILE, _VARIABLE = KINDS

OutputsOf = Callable[[DrvPath], Collection[StorePath | None]]


def outputs_of(drv: DrvPath) -> Collection[StorePath | None]:
    """The outputs of a derivation in the store's folder. NixError where it cannot be read."""
    return derivation_file.read(drv).outputs.values()


def fingerprint(derivation: BasicDerivation, outputs_of: OutputsOf = outputs_of) -> Fingerprint:
    """The fingerprint of a derivation, the same with a base and without.

    Input derivations count by their paths, so with all that is below them. `outputs_of` is asked
    only about inputs that may have made the source.
    """
    known = variables(derivation)
    left_out = _left_out(derivation, known)
    dropped = {path for path in left_out.values() if path is not None}
    blanks: dict[str, str] = dict.fromkeys(dropped, "<source>")
    blanks |= {path: f"<{name}>" for name, (path, _, _) in derivation.outputs.items() if path}
    parts = dict(_inputs(derivation, dropped, outputs_of))
    parts |= _grouped(
        _FILE, ((each, "") for each in derivation.input_sources if each not in dropped)
    )
    for name in sorted(known.keys() - {*left_out, *_TWICE}):
        parts[f"{_VARIABLE}{name}"] = _digest(_blanked(known[name], blanks))
    parts["the system"] = _digest(derivation.system)
    parts["the builder"] = _digest(_blanked(derivation.builder, blanks))
    parts["its arguments"] = _digest([_blanked(each, blanks) for each in derivation.arguments])
    parts["its outputs"] = _digest(
        sorted((name, *kind) for name, (_, *kind) in derivation.outputs.items())
    )
    return Fingerprint(digest=_digest(sorted(parts.items()), digits=64), parts=parts)


def accounted(
    derivation: BasicDerivation, outputs_of: OutputsOf = outputs_of
) -> tuple[frozenset[DrvPath], frozenset[StorePath]]:
    """The input derivations and the input files that the fingerprint of a derivation stands for."""
    left_out = _left_out(derivation, variables(derivation))
    dropped = {path for path in left_out.values() if path is not None}
    inputs = frozenset(_kept_inputs(derivation, dropped, outputs_of))
    return inputs, frozenset(derivation.input_sources) - dropped


def _left_out(
    derivation: BasicDerivation, known: Mapping[str, object]
) -> dict[str, StorePath | None]:
    """The variables that do not count, each with the store path that it holds."""
    store_dir = str(PurePosixPath(derivation.path).parent)
    found = {
        name: _store_path(value, store_dir)
        for name in LEFT_OUT
        if (value := known.get(name)) is not None
    }
    if SOURCE in found and found[SOURCE] is None:
        del found[SOURCE]
    return found


def variables(derivation: BasicDerivation) -> dict[str, object]:
    """By name; those of structured attributes as JSON has them."""
    found: dict[str, object] = dict(derivation.environment)
    structured = found.pop(_STRUCTURED, None)
    if isinstance(structured, str):
        found |= json.loads(structured)
    return found


def _store_path(value: object, store_dir: str) -> StorePath | None:
    """The store path that a variable's value is, or begins with as a folder."""
    if not isinstance(value, str) or not value.startswith(f"{store_dir}/"):
        return None
    name = value[len(store_dir) + 1 :].partition("/")[0]
    return StorePath(f"{store_dir}/{name}")


def _inputs(
    derivation: BasicDerivation, dropped: set[StorePath], outputs_of: OutputsOf
) -> Mapping[str, str]:
    wanted = _kept_inputs(derivation, dropped, outputs_of)
    inputs = derivation.input_derivations
    return _grouped(_INPUT, ((drv, ",".join(sorted(inputs[drv]))) for drv in wanted))


def _kept_inputs(
    derivation: BasicDerivation, dropped: set[StorePath], outputs_of: OutputsOf
) -> Iterable[DrvPath]:
    """Without those that made the source, the base or the policy."""
    made = dropped - derivation.input_sources
    return (
        drv
        for drv in derivation.input_derivations
        if not any(_may_make(drv, path) and path in outputs_of(drv) for path in made)
    )


def _may_make(drv: DrvPath, path: StorePath) -> bool:
    """Whether an output of this derivation can have the path, by their names."""
    name, output = _name(drv).removesuffix(".drv"), _name(path)
    return output == name or output.startswith(f"{name}-")


def _grouped(kind: str, items: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """One part for all that have the same name."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for path, detail in items:
        name = _name(path).removesuffix(".drv")
        groups.setdefault(f"{kind}{name}", []).append((path, detail))
    return {part: _digest(sorted(group)) for part, group in sorted(groups.items())}


def _name(path: str) -> str:
    """What a store path is called, without its hash."""
    return path.rpartition("/")[2].partition("-")[2]


def _blanked(value: object, blanks: Mapping[str, str]) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    for path, blank in blanks.items():
        text = text.replace(path, blank)
    return text


def _digest(value: object, *, digits: int = _PART) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return hashlib.sha256(encoded(text)).hexdigest()[:digits]
