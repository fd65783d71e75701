"""The schemas: every one is used, every one says what its members are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.test_architecture import PROJECT

SCHEMAS = sorted((PROJECT / "schemas").glob("*.schema.json"))


def objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "properties" in node:
            yield node
        for value in node.values():
            yield from objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from objects(value)


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.name)
def test_a_schema_is_valid_and_closed(file: Any) -> None:
    schema = json.loads(file.read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["title"]
    for each in objects(schema):
        assert each.get("additionalProperties") is False
        assert each.get("description")


def test_every_schema_is_held_against_what_a_verb_prints() -> None:
    tests = "".join(file.read_text() for file in (PROJECT / "tests" / "cli").glob("*.py"))
    used = set(re.findall(r'schema="([a-z-]+)"|, "(events)"\)', tests))
    names = {first or second for first, second in used}
    assert names == {file.name.removesuffix(".schema.json") for file in SCHEMAS} - {"config"}
