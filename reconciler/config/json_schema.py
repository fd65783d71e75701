"""The configuration's JSON schema, and what it fills in: defaults and absolute paths.

The schema is the only place that knows the keys, what they may hold and their defaults. Must not
know what the values are for.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reconciler.config.tree import Json


@functools.cache
def schema() -> dict[str, Any]:
    """Load the schema that ships with the package. Shared: not to be changed."""
    file = importlib.resources.files("reconciler") / "schemas" / "config.schema.json"
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def located(document: Json, *, folder: Path) -> Json:
    """Make relative paths absolute, starting from `folder`; what does not fit is left alone."""
    return _located(schema(), document, folder)


def completed(document: Json) -> Json:
    """Fill in every default of a document that the schema does not refuse."""
    return _completed(schema(), document)


def secret_files(document: Json) -> Iterator[tuple[list[str | int], str]]:
    """Each file of a secret that a document names: where it does so, and the file."""
    return _secret_files(schema(), document, [])


def _located(part: dict[str, Any], value: Json, folder: Path) -> Json:
    part = resolved(part)
    match value:
        case dict():
            inner = _inner(part, value)
            return {
                name: _located(inner(name), held, folder) if inner(name) else held
                for name, held in value.items()
            }
        case list() if "items" in part:
            return [_located(part["items"], item, folder) for item in value]
        case float() if part.get("type") in ("integer", "number") and value.is_integer():
            return int(value)
        case str() if part.get("format") in ("path", "location"):
            return _absolute(value, folder, location=part["format"] == "location")
        case _:
            return value


def _completed(part: dict[str, Any], value: Json) -> Json:
    part = resolved(part)
    match value:
        case dict():
            inner = _inner(part, value)
            result = {
                name: _completed(inner(name), held) if inner(name) else held
                for name, held in value.items()
            }
            for name, known in (_alternative(part, value) or part).get("properties", {}).items():
                if name not in value and "default" in (known := resolved(known)):
                    result[name] = _completed(known, known["default"])
            return result
        case list() if "items" in part:
            return [_completed(part["items"], item) for item in value]
        case _:
            return value


def _secret_files(
    part: dict[str, Any], value: Json, at: list[str | int]
) -> Iterator[tuple[list[str | int], str]]:
    part = resolved(part)
    match value:
        case dict():
            inner = _inner(part, value)
            for name, held in value.items():
                yield from _secret_files(inner(name), held, [*at, name])
        case list():
            for index, item in enumerate(value):
                yield from _secret_files(part.get("items", {}), item, [*at, index])
        case str() if part.get("secret"):
            yield at, value
        case _:
            pass


def _inner(part: dict[str, Any], value: dict[str, Json]) -> Callable[[str], dict[str, Any]]:
    """Give the schema of each entry of a mapping; empty where anything goes."""
    part = _alternative(part, value) or part
    properties, others = part.get("properties", {}), part.get("additionalProperties") or {}
    return lambda name: properties.get(name, others)


def _absolute(text: str, folder: Path, *, location: bool) -> str:
    """Make a path absolute; of a location only what is plainly a relative path."""
    scheme, _, rest = text.partition(":")
    if not location:
        return _joined(folder, text) if text and not text.startswith("~") else text
    if scheme == "file":
        path = rest.removeprefix("//")
        names_host = path != rest and not path.startswith(("/", "."))
        return text if names_host or not path else "file://" + _joined(folder, path)
    if scheme == "git+file" and rest.startswith(("./", "../")):
        return "git+file://" + _joined(folder, rest)
    prefix, path = ("path:", rest) if scheme == "path" else ("", text)
    if path in (".", "..") or path.startswith(("./", "../")):
        return prefix + _joined(folder, path)
    return text


def _joined(folder: Path, path: str) -> str:
    # normpath leaves two slashes at the start alone, as POSIX wants it; here they mean nothing.
    return "/" + posixpath.normpath(folder / path).lstrip("/")


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """Replace a reference into $defs by what it refers to; its neighbours add to that."""
    if (reference := part.get("$ref")) is None:
        return part
    target = schema()["$defs"][reference.removeprefix("#/$defs/")]
    return {**target, **{key: value for key, value in part.items() if key != "$ref"}}


def _alternative(part: dict[str, Any], value: dict[str, Json]) -> dict[str, Any] | None:
    """Choose the alternative (oneOf) whose leading key a mapping has, if it has just one."""
    alternatives = [resolved(alternative) for alternative in part.get("oneOf", ())]
    fitting = [other for other in alternatives if other["required"][0] in value]
    return fitting[0] if len(fitting) == 1 else None
