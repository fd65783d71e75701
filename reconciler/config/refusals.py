"""What the configuration's schema refuses, each with a place and a mend.

The JSON schema library finds what is wrong; here it is said so that a person can mend it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, validators
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator

from reconciler.config.json_schema import resolved, schema
from reconciler.config.tree import (
    MAX_PROBLEMS,
    Json,
    Node,
    ScalarNode,
    locate,
    mark_of_key,
    problem_at,
)
from reconciler.problems import Problem, did_you_mean, quote
from reconciler.quantities import QuantityError, duration, size

_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "null": "null",
}
_YES = frozenset({"yes", "y", "on", "true"})
_NO = frozenset({"no", "n", "off", "false"})
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]+)?")
_FORMATS = {"duration-with-units": duration, "size-with-unit": size}


def problems(root: Node, document: Json) -> list[Problem]:
    """Find what the schema refuses in a located document, `MAX_PROBLEMS` at most.

    `root` is the tree the document was read from: it knows the places.
    """
    if crowded := list(_crowded(root, document)):
        return crowded
    errors = islice(_validator().iter_errors(document), MAX_PROBLEMS)
    found = (problem for error in errors for problem in _explained(root, error))
    return list(dict.fromkeys(islice(found, MAX_PROBLEMS)))


def _crowded(root: Node, document: Json) -> Iterator[Problem]:
    """Refuse what the validator would need minutes for, before it begins."""
    for key, part in schema()["properties"].items():
        held = document.get(key) if isinstance(document, dict) else None
        if isinstance(held, dict) and len(held) > part["maxProperties"]:
            message = f"has {len(held):,} entries, more than {part['maxProperties']:,}"
            mend = "declare fewer, or split them among several farms"
            yield problem_at(mark_of_key(root, [key]), [key], message, mend)


def _explained(root: Node, error: ValidationError) -> Iterator[Problem]:
    """Say what one error of the validator means, where it is, and what to write."""
    path = list(error.absolute_path)
    part: Any = error.schema
    value: Any = error.instance
    if "propertyNames" in error.absolute_schema_path:
        mark = mark_of_key(root, [*path, value])
        yield problem_at(mark, [*path, value], f"{quote(value)} is no name for it", _mend(part))
        return
    match error.validator:
        case "additionalProperties":
            yield from _unknown_keys(root, path, part, value)
        case "required":
            yield from _missing_keys(root, path, part, value)
        case "oneOf":
            yield from _no_alternative(root, path, error)
        case "enum" if not isinstance(value, str):
            pass  # its type is refused already
        case _:
            node = locate(root, path)
            message, mend = _refused_value(node, error, part, value)
            yield problem_at(node.mark if node else mark_of_key(root, path), path, message, mend)


def _refused_value(
    node: Node | None, error: ValidationError, part: dict[str, Any], value: Any
) -> tuple[str, str]:
    """Give message and mend for a value that is refused by itself."""
    wanted: Any = error.validator_value
    match error.validator:
        case "type":
            return _wrong_type(node, part, value)
        case "enum":
            known = [each for each in wanted if each is not None]
            return f"{quote(value)} is not known here", did_you_mean(value, known, label="allowed")
        case "format":
            assert isinstance(error.cause, QuantityError)
            return f"{quote(value)} {error.cause.message}", error.cause.mend
        case "pattern" if part.get("secret"):
            # It may be the secret itself: not to be printed.
            return "what is written there is no path", _mend(part)
        case "pattern":
            return f"{quote(value)} does not fit here", _mend(part)
        case "minimum":
            return f"must be at least {wanted}, is {quote(value)}", _mend(part)
        case "maximum" if isinstance(part["type"], str):
            return f"must be at most {wanted}, is {quote(value)}", _range(part)
        case "maximum":
            return f"must be at most {wanted}, is {quote(value)}", _mend(part)
        case "uniqueItems":
            return f"{quote(value)} is listed twice", "remove one of them"
        case _:
            raise AssertionError(error.validator)


def _unknown_keys(
    root: Node, path: list[str | int], part: dict[str, Any], value: dict[str, Json]
) -> Iterator[Problem]:
    known = list(part["properties"])
    for name in value:
        if name not in part["properties"]:
            at = [*path, name]
            mend = did_you_mean(name, known, label="allowed")
            yield problem_at(mark_of_key(root, at), at, "there is no such key", mend)


def _missing_keys(
    root: Node, path: list[str | int], part: dict[str, Any], value: dict[str, Json]
) -> Iterator[Problem]:
    for name in part["required"]:
        if name not in value:
            example = resolved(part["properties"][name])["examples"][0]
            mend = f"add {name}: {_flow(example)}"
            yield problem_at(mark_of_key(root, path), path, f"{quote(name)} is missing", mend)


def _no_alternative(root: Node, path: list[str | int], error: ValidationError) -> Iterator[Problem]:
    """Explain by the alternative that was meant, or ask to choose one."""
    value: Any = error.instance
    choices: Any = error.validator_value
    alternatives = [resolved(part) for part in choices]
    leading = [part["required"][0] for part in alternatives]
    mark = mark_of_key(root, path)
    if not isinstance(value, dict):
        examples = " or ".join(_flow(part["examples"][0]) for part in alternatives)
        yield problem_at(
            mark, path, f"must be a mapping, is {_described(value)}", f"write {examples}"
        )
        return
    present = [name for name in leading if name in value]
    if len(present) == 1:
        meant = leading.index(present[0])
        for inner in error.context or ():
            if inner.schema_path[0] == meant:
                yield from _explained(root, inner)
    elif present:
        message = f"has {' and '.join(present)}, which exclude each other"
        yield problem_at(mark, path, message, f"keep one of {', '.join(present)}")
    else:
        likely = next(iter(value), "")
        mend = did_you_mean(likely, leading, label="allowed")
        yield problem_at(mark, path, f"has none of {', '.join(leading)}", mend)


def _wrong_type(node: Node | None, part: dict[str, Any], value: Json) -> tuple[str, str]:
    types = [part["type"]] if isinstance(part["type"], str) else part["type"]
    message = f"must be {' or '.join(_TYPES[name] for name in types)}, is {_described(value)}"
    written = node.text if isinstance(node, ScalarNode) else ""
    return message, _mend_type(types, written, part, value)


def _mend_type(types: Sequence[str], written: str, part: dict[str, Any], value: Json) -> str:
    """Guess what was meant by a value of the wrong type."""
    if "errorMessage" in part and len(types) > 1 and "null" not in types:
        return str(part["errorMessage"])
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and resolved(part).get("format") in _FORMATS:
        return f"write it with a unit, such as {_flow(part['examples'][0])}"
    if "string" in types and (number or isinstance(value, bool)):
        return f"write it in quotes: {quote(written)}"
    if "boolean" in types and written.casefold() in _YES | _NO:
        return "write true" if written.casefold() in _YES else "write false"
    if {"integer", "number"} & set(types) and isinstance(value, str) and _NUMBER.fullmatch(value):
        return f"write {value.lstrip('0') or '0'}, without quotes or leading zeros"
    if "array" in types and isinstance(value, str):
        return f"write it as a list: {_flow([value])}"
    if "minimum" in part:
        return _range(part)
    return f"write it like {_flow(part['examples'][0])}" if "examples" in part else _mend(part)


def _mend(part: dict[str, Any]) -> str:
    """Say what to write in the schema's own words."""
    part = resolved(part)
    if "errorMessage" in part:
        return str(part["errorMessage"])
    return _range(part) if "minimum" in part else f"write {_TYPES[part['type']]}"


def _range(part: dict[str, Any]) -> str:
    return f"write {_TYPES[part['type']]} from {part['minimum']} to {part['maximum']}"


def _described(value: Json) -> str:
    match value:
        case None:
            return "null (nothing is written)"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {quote(value)}"
        case str():
            return f"the text {quote(value)}"
        case list():
            return "a list"
        case dict():
            return "a mapping"


def _flow(value: Json) -> str:
    """Print a value so that both JSON and YAML read it."""
    return json.dumps(value, ensure_ascii=False)


@functools.cache
def _validator() -> Validator:
    formats = FormatChecker(formats=())
    for name, read in _FORMATS.items():
        formats.checks(name, raises=QuantityError)(functools.partial(_is_quantity, read))
    ours = validators.extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {"pattern": _check_pattern, "uniqueItems": _check_unique}
    )
    validator: Validator = ours(schema(), format_checker=formats)
    return validator


def _is_quantity(read: Callable[[str], float], value: object) -> bool:
    if isinstance(value, str) and read(value) <= 0:
        raise QuantityError("is no time or room at all", "write more than zero")
    return True


def _check_pattern(
    _validator: Validator, pattern: str, value: object, part: dict[str, Any]
) -> Iterator[ValidationError]:
    # A format that is checked says more than its pattern, which is there for editors. And Python's
    # `$` matches before a final line break, where the `$` of JSON schema does not.
    if part.get("format") in _FORMATS or not isinstance(value, str):
        return
    if not re.search(pattern.removesuffix("$") + r"\Z", value):
        yield ValidationError("pattern")


def _check_unique(
    _validator: Validator, _unique: object, value: object, _part: dict[str, Any]
) -> Iterator[ValidationError]:
    """Find texts listed twice, each at its place; the validator's own check is quadratic."""
    seen: set[str] = set()
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, str):
            if item in seen:
                yield ValidationError("uniqueItems", instance=item, path=[index])
            seen.add(item)
