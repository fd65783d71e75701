"""Reading derivation files: from Nix's ATerm text to what the graph needs of it.

Two ways to one result. The quick one takes the head of the text apart at its quotes, checks that
what stands between them is exactly what belongs there, and looks up the few variables that matter
without reading the others. What does not fit it (escapes in the head, dynamic derivations,
garbage) is read as any term is, or refused with the place where it breaks. No store is asked.

Source: the derivation and ATerm chapters of the Nix manual; which variables matter, and how, is
Nix's derivation options.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple, cast

from reconciler.errors import NixError
from reconciler.model import Derivation, DrvPath, StorePath
from reconciler.nix import aterm
from reconciler.nix.aterm import Constructor, Term

_NAME_AT = 33
"""Where the name begins in a store path's base name: behind the hash and a hyphen."""

_CHUNK = 64 * 1024

_DYNAMIC = "it depends on outputs of a derivation that is itself built (a dynamic derivation)"
_IMPURE = "it is impure: each build of it may make something else"

_Output = tuple[str, str, str]
"""Path, hash algorithm with method, hash: each may be empty."""
_Inputs = Mapping[DrvPath, tuple[str, ...]]

_STRUCTURED = '("__json","'
_FEATURES = '("requiredSystemFeatures","'
_PREFER_LOCAL = '("preferLocalBuild","'

_INPUT = re.compile(r'\("([^"]++)",\["([^"]*+(?:","[^"]*+)*+)"\]\)')
_AROUND_INPUT = len('("",[""]),')


class _Head(NamedTuple):
    """What stands before the builder, and where to look up the environment."""

    outputs: Mapping[str, _Output]
    inputs: _Inputs
    system: str
    environment: int | Mapping[str, str]
    """Where in the text to look for it, or all of it."""
    dynamic: bool = False


def read(path: DrvPath) -> Derivation:
    """Read a derivation's file from the store's folder."""
    try:
        return parse(path, _content(path))
    except OSError as error:
        raise NixError(f"cannot read the derivation {path}: {error.strerror}") from None


def _content(path: DrvPath) -> bytes:
    """Of a file; without the layers of `open`, which take twice as long as the reading."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, _CHUNK)
        if len(content) == _CHUNK:  # a file gives less than is asked for at its end only
            while chunk := os.read(descriptor, _CHUNK):
                content += chunk
        return content
    finally:
        os.close(descriptor)


def parse(path: DrvPath, text: str | bytes) -> Derivation:
    """Read the text of the derivation with this path; NixError where it is malformed."""
    try:
        if isinstance(text, bytes):
            text = text.decode(errors="surrogateescape")
        return _derivation(path, text, _quick_head(text) or _any_head(text))
    except (ValueError, RecursionError) as error:  # RecursionError: JSON that nests too deeply
        raise NixError(f"{path} is not a derivation that we can read: {error}") from None


def _derivation(path: DrvPath, text: str, head: _Head) -> Derivation:
    outputs: dict[str, StorePath | None] = {}
    fixed = impure = unknown = False
    for name, (output_path, algorithm, digest) in head.outputs.items():
        outputs[name] = StorePath(output_path) if output_path else None
        if algorithm:
            impure = digest == "impure"
            fixed = bool(digest) and not impure
        unknown = unknown or not output_path
    features, prefer_local = _options(text, head)
    if unknown and "ca-derivations" not in features:
        features = (*features, "ca-derivations")  # Nix requires it of the builder, unasked
    return Derivation(
        path=path,
        name=path[path.rindex("/") + 1 + _NAME_AT : -len(".drv")],
        system=head.system,
        outputs=outputs,
        inputs=head.inputs,
        required_features=features,
        prefer_local=prefer_local,
        fixed_output=fixed,
        unsupported=_DYNAMIC if head.dynamic else _IMPURE if impure else None,
    )


# --- The quick way -----------------------------------------------------------------------------


def _quick_head(text: str) -> _Head | None:
    """The head of an ordinary derivation; None where it is anything else."""
    if not (text.startswith("Derive([(") and text.endswith("])")):
        return None
    try:
        end = text.index(")],[", 8)
        outputs = _quick_outputs(text[8:end])
        at = end + len(")],[")
        inputs: _Inputs | None = {}
        if text.startswith("(", at):
            end = text.index(")],[", at)
            inputs = _quick_inputs(text[at : end + 1])
            at = end + len(")],[")
        system_at = text.index('],"', at) + len('],"')
        end = text.index('",', system_at)
    except ValueError:
        return None
    if outputs is None or inputs is None or "\\" in text[:end]:
        return None
    return _Head(outputs, inputs, text[system_at:end], end)


def _quick_outputs(segment: str) -> dict[str, _Output] | None:
    """`("NAME","PATH","ALGORITHM","HASH"),(…` without the last parenthesis."""
    tokens = segment.split('"')
    count = len(tokens) // 8
    if (
        len(tokens) != 8 * count + 1
        or tokens[0] != "("
        or tokens[-1]
        or tokens[8::8].count("),(") != count - 1
        or tokens[2::2].count(",") != 3 * count
    ):
        return None
    return {
        tokens[at]: (tokens[at + 2], tokens[at + 4], tokens[at + 6])
        for at in range(1, 8 * count, 8)
    }


def _quick_inputs(segment: str) -> _Inputs | None:
    """`("PATH",["OUTPUT",…]),(…)`: mostly one output of each, else by pattern."""
    tokens = segment.split('"')
    count = len(tokens) // 4
    if (
        len(tokens) == 4 * count + 1
        and tokens[0] == "("
        and tokens[-1] == "])"
        and tokens[2::4].count(",[") == count
        and tokens[4::4].count("]),(") == count - 1
    ):
        # Interned: a path is read as often as there is who needs it, and kept in memory once.
        paths = cast("Iterable[DrvPath]", map(sys.intern, tokens[1::4]))
        names = tokens[3::4]
        if names.count(names[0]) == count:
            return dict.fromkeys(paths, _only(names[0]))
        return dict(zip(paths, map(_only, names), strict=True))
    pairs = _INPUT.findall(segment)
    if sum(map(len, (part for pair in pairs for part in pair))) + _AROUND_INPUT * len(pairs) != (
        len(segment) + 1
    ):
        return None  # the pattern passed over something
    return {DrvPath(drv): tuple(outputs.split('","')) for drv, outputs in pairs}


@lru_cache(maxsize=1024)
def _only(name: str) -> tuple[str, ...]:
    """One object for all that want the same output of an input."""
    return (name,)


# --- The way for any ---------------------------------------------------------------------------


def _any_head(text: str) -> _Head:
    match aterm.parse(text):
        case Constructor("Derive", arguments):
            pass
        case Constructor("DrvWithVersion", ["xp-dyn-drv", *arguments]):
            pass
        case Constructor("DrvWithVersion", [version, *_]):
            raise ValueError(f"it is written in the unknown format {version!r}")
        case _:
            raise ValueError("it is some other term")
    match arguments:
        case [list(outputs), list(inputs), list(), str(system), str(), list(), list(environment)]:
            pass
        case _:
            raise ValueError("it has not the seven parts of a derivation")
    wanted = dict(map(_any_input, inputs))
    return _Head(
        outputs=dict(map(_any_output, outputs)),
        inputs={drv: names for drv, (names, _) in wanted.items()},
        system=system,
        environment=dict(map(_any_variable, environment)),
        dynamic=any(dynamic for _, dynamic in wanted.values()),
    )


def _any_output(term: Term) -> tuple[str, _Output]:
    match term:
        case Constructor("", [str(name), str(path), str(algorithm), str(digest)]):
            return name, (path, algorithm, digest)
        case _:
            raise ValueError(f"{term!r} is not an output")


def _any_input(term: Term) -> tuple[DrvPath, tuple[tuple[str, ...], bool]]:
    """An input with the outputs wanted of it, and whether also outputs of those are."""
    match term:
        case Constructor("", [str(path), list(outputs)]):
            return DrvPath(path), (_names(outputs), False)
        case Constructor("", [str(path), Constructor("", [list(outputs), list(of_outputs)])]):
            return DrvPath(path), (_names(outputs), bool(of_outputs))
        case _:
            raise ValueError(f"{term!r} is not an input")


def _names(terms: list[Term]) -> tuple[str, ...]:
    names = tuple(term for term in terms if isinstance(term, str))
    if len(names) != len(terms):
        raise ValueError(f"{terms!r} is not a list of names")
    return names


def _any_variable(term: Term) -> tuple[str, str]:
    match term:
        case Constructor("", [str(name), str(value)]):
            return name, value
        case _:
            raise ValueError(f"{term!r} is not a variable")


# --- Variables that matter -----------------------------------------------------------------------


def _options(text: str, head: _Head) -> tuple[tuple[str, ...], bool]:
    """Required system features, and whether to build locally by preference."""
    structured = _variable(text, head, _STRUCTURED)
    if structured is not None:
        return _structured_options(structured)
    features = _variable(text, head, _FEATURES)
    prefer_local = _variable(text, head, _PREFER_LOCAL) == "1"
    return tuple(features.split()) if features else (), prefer_local


def _structured_options(text: str) -> tuple[tuple[str, ...], bool]:
    if "requiredSystemFeatures" not in text and "preferLocalBuild" not in text:
        return (), False
    match json.loads(text):
        case {**attributes}:
            features = attributes.get("requiredSystemFeatures", [])
            if not isinstance(features, list) or not all(isinstance(f, str) for f in features):
                raise ValueError("its requiredSystemFeatures are not a list of strings")
            return tuple(features), attributes.get("preferLocalBuild") is True
        case _:
            raise ValueError("its structured attributes are not a JSON object")


def _variable(text: str, head: _Head, variable: str) -> str | None:
    """A variable of the builder's environment, looked for as it is written there.

    Quotes within strings are escaped, so that no string can hold what is looked for.
    """
    if not isinstance(head.environment, int):
        return head.environment.get(variable[2:-3])
    at = text.find(variable, head.environment)
    return None if at < 0 else aterm.string_at(text, at + len(variable) - 1)
