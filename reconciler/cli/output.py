"""Values as JSON: structs become objects with camelCase keys.

Times are seconds since the epoch, durations seconds, sizes bytes. `schemas/` describes each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import click
from msgspec import Struct

from reconciler.cli.text import BUSY, harmless, readable

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def plain(value: object) -> Json:
    """Turn a value into what JSON can hold."""
    if isinstance(value, Enum):
        return str(value.value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Struct):
        return {_camel(name): plain(getattr(value, name)) for name in value.__struct_fields__}
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def flat(value: Any) -> dict[str, Json]:
    """An object whose `facts` are its own members."""
    whole = plain(value)
    assert isinstance(whole, dict)
    inner = whole.pop("facts")
    assert isinstance(inner, dict)
    return {**inner, **whole}


def warn(warnings: Sequence[str]) -> None:
    """Print each on stderr."""
    for each in warnings:
        text = click.style("warning: ", fg=BUSY, bold=True) + harmless(each)
        click.echo(readable(text) if sys.stderr.isatty() else text, err=True)


def print_json(value: Json) -> None:
    """Print one document."""
    click.echo(json.dumps(value, indent=2))


def print_json_line(value: Json) -> None:
    """Print one of a stream of documents, on a line of its own, at once."""
    click.echo(json.dumps(value))
