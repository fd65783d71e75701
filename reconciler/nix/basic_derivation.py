"""All of a derivation file, as a builder elsewhere is sent it.

`derivation` reads the little that the graph needs of a hundred thousand files; this reads the
whole of one that is about to be built. No store is asked.

Source: the derivation chapter of the Nix manual.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from reconciler.errors import NixError
from reconciler.model import DrvPath, StorePath
from reconciler.nix import aterm
from reconciler.nix.aterm import Constructor, Term
from reconciler.resources import PREFIX, is_need


class BasicDerivation(Struct, frozen=True, kw_only=True):
    """A derivation. Strings that are no UTF-8 hold their bytes as surrogates: see `encoded`."""

    path: DrvPath
    outputs: Mapping[str, tuple[str, str, str]]
    """By name: path, hash algorithm with method, hash; each may be empty."""
    input_derivations: Mapping[DrvPath, tuple[str, ...]]
    """Each with the outputs wanted of it."""
    input_sources: frozenset[StorePath]
    system: str
    builder: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def content_addressed(self) -> bool:
        """Whether its outputs' contents decide over their paths, so that no trust is needed."""
        return all(algorithm for _, algorithm, _ in self.outputs.values())


FEATURES = "requiredSystemFeatures"
_STRUCTURED = "__json"
"""The variable that holds all attributes of a derivation with structured ones."""


def features(whole: BasicDerivation) -> tuple[str, ...]:
    """The system features that Nix requires for a derivation."""
    if _STRUCTURED in whole.environment:
        found = json.loads(whole.environment[_STRUCTURED]).get(FEATURES, ())
        return tuple(each for each in found if isinstance(each, str))
    return tuple(whole.environment.get(FEATURES, "").split())


def asks_for_resources(path: DrvPath) -> bool:
    """Whether a derivation's required features may ask for resources: found out quickly."""
    try:
        return PREFIX.encode() in Path(path).read_bytes()
    except OSError:
        return False  # whoever is to build it will say so


def without_resources(whole: BasicDerivation) -> BasicDerivation:
    """The same, but for Nix to require no feature that only asks for a resource.

    It would refuse the build: no Nix knows of them. The paths of the outputs stay what they are,
    and the build finds the variable without them.
    """
    kept = [each for each in features(whole) if not is_need(each)]
    if len(kept) == len(features(whole)):
        return whole
    if _STRUCTURED in whole.environment:
        attributes = json.loads(whole.environment[_STRUCTURED]) | {FEATURES: kept}
        changed = {_STRUCTURED: json.dumps(attributes, ensure_ascii=False)}
    else:
        changed = {FEATURES: " ".join(kept)}
    return replace(whole, environment={**whole.environment, **changed})


def encoded(text: str) -> bytes:
    """The bytes of a string of a derivation."""
    return text.encode(errors="surrogateescape")


def read(path: DrvPath) -> BasicDerivation:
    """Read a derivation's file from the store's folder; NixError where it cannot be sent."""
    try:
        text = Path(path).read_bytes().decode(errors="surrogateescape")
        return _derivation(path, aterm.parse(text))
    except OSError as error:
        raise NixError(f"cannot read the derivation {path}: {error.strerror}") from None
    except ValueError as error:
        raise NixError(f"{path} is not a derivation that we can send: {error}") from None


def _derivation(path: DrvPath, term: Term) -> BasicDerivation:
    match term:
        case Constructor(
            "Derive",
            [
                list(outputs),
                list(inputs),
                list(sources),
                str(system),
                str(builder),
                list(arguments),
                list(environment),
            ],
        ):
            pass
        case _:
            raise ValueError("it has not the seven parts of a derivation")
    return BasicDerivation(
        path=path,
        outputs=dict(map(_output, outputs)),
        input_derivations=dict(map(_input, inputs)),
        input_sources=frozenset(map(StorePath, _texts(sources))),
        system=system,
        builder=builder,
        arguments=_texts(arguments),
        environment=dict(map(_variable, environment)),
    )


def _output(term: Term) -> tuple[str, tuple[str, str, str]]:
    match term:
        case Constructor("", [str(name), str(path), str(algorithm), str(digest)]):
            return name, (path, algorithm, digest)
        case _:
            raise ValueError(f"{term!r} is not an output")


def _input(term: Term) -> tuple[DrvPath, tuple[str, ...]]:
    match term:
        case Constructor("", [str(path), list(outputs)]):
            return DrvPath(path), _texts(outputs)
        case _:
            raise ValueError(f"{term!r} is not an input")


def _variable(term: Term) -> tuple[str, str]:
    match term:
        case Constructor("", [str(name), str(value)]):
            return name, value
        case _:
            raise ValueError(f"{term!r} is not a variable")


def _texts(terms: list[Term]) -> tuple[str, ...]:
    texts = tuple(term for term in terms if isinstance(term, str))
    if len(texts) != len(terms):
        raise ValueError(f"{terms!r} are not strings")
    return texts
