"""The options under `settings`, compared with the schema key by key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.config.json_schema import resolved, schema
from tests.nixos.support import evaluate

ODD = [
    "", " ", "-", "--help", "~", "~/x", "/", "/a b", "/nix/store/x", "a b", "a\tb", "a\nb", "a.b",
    "a..b", ".a", '"a.b".c', "a#b", "main", "release^1", "v[1]", "v\\1", "x86_64-linux", "linux",
    "5m", "5 m", "1h30m", "1.5h", "m5", "4GiB", "4G", "4 GiB", "1.5MiB", "ssh-ng://a", "ssh://a",
    "ssh-ng://nix@a:22", "ssh-ng://[::1]:22", "ssh-ng://a/b", "file:/a", "file:///a", "file:a b",
    "file:./a", "s3://b?region=r", "http:", "https://[::1]/", "ftp://a", "ssh-ed25519 AAAA a",
    "ssh-ed25519", "ecdsa-sha2-nistp256 AAAA==", "c-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
    "c-1:short=", "kvm", "kvm!", "@x", "n" * 101,
]  # fmt: skip


def examples(part: Any) -> Iterator[str]:
    """Every text among the examples and defaults of the schema."""
    match part:
        case dict():
            for inner in part.values():
                yield from examples(inner)
        case list():
            for inner in part:
                yield from examples(inner)
        case str():
            yield part
        case _:
            pass


CANDIDATES = sorted({*ODD, *examples(schema())})


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    found: dict[str, Any] = evaluate("options", candidates=CANDIDATES)["settings"]
    return found


def test_every_key_of_the_schema_is_an_option_and_says_the_same(settings: dict[str, Any]) -> None:
    assert settings["description"] == schema()["description"]
    assert settings["example"] == schema()["examples"][0]
    assert compared(schema(), settings["type"], "settings") > 50


def compared(part: dict[str, Any], found: dict[str, Any], path: str) -> int:
    """Hold one type against its schema; the number of options below."""
    part = resolved(part)
    if "oneOf" in part:
        alternatives = {(each := resolved(one))["required"][0]: each for one in part["oneOf"]}
        assert found["kind"] == "exclusive", path
        assert set(found["alternatives"]) == set(alternatives), path
        return sum(
            compared(each, found["alternatives"][key], path) for key, each in alternatives.items()
        )
    kinds = [part["type"]] if isinstance(part["type"], str) else part["type"]
    if "null" in kinds:
        assert found["kind"] == "nullable", path
        found = found["inner"]
    kinds = [kind for kind in kinds if kind != "null"]
    if len(kinds) > 1:
        assert found["kind"] == "either", path
        pairs = zip(kinds, found["alternatives"], strict=True)
        return sum(compared({**part, "type": one}, each, path) for one, each in pairs)
    match kinds[0]:
        case "object" if "properties" in part:
            return submodule_compared(part, found, path)
        case "object":
            assert found["kind"] == "attributes", path
            if "additionalProperties" in part:
                return compared(part["additionalProperties"], found["items"], f"{path}.*")
            assert found["items"]["kind"] == "json"
        case "array":
            assert found["kind"] == "list", path
            return compared(part["items"], found["items"], f"{path}.*")
        case "string" if "enum" in part:
            values = [each for each in part["enum"] if each is not None]
            assert found == {"kind": "enum", "values": values}, path
        case "string":
            text_compared(part, found, path)
        case "integer" | "number":
            bounds = {"lowest": part["minimum"], "highest": part["maximum"]}
            assert found == {"kind": kinds[0], **bounds}, path
        case kind:
            assert found == {"kind": kind}, path
    return 0


def submodule_compared(part: dict[str, Any], found: dict[str, Any], path: str) -> int:
    assert found["kind"] == "submodule", path
    assert found["freeform"] == {"kind": "json"}, path
    assert set(found["options"]) == set(part["properties"]), path
    count = 0
    for name, reference in part["properties"].items():
        inner, option, at = resolved(reference), found["options"][name], f"{path}.{name}"
        said = {"description": inner["description"], "example": inner["examples"][0]}
        if name not in part.get("required", ()):
            said["default"] = inner["default"]
        assert {key: held for key, held in option.items() if key != "type"} == said, at
        count += 1 + compared(inner, option["type"], at)
    return count


def text_compared(part: dict[str, Any], found: dict[str, Any], path: str) -> None:
    """A text option accepts what the schema's pattern does, where Nix can express it."""
    assert found["kind"] == "string", path
    pattern = part.get("pattern")
    if pattern is None or "(?" in pattern:
        assert "accepts" not in found, path
        return
    wanted = [text for text in CANDIDATES if re.search(pattern, text)]
    # A backslash that escapes in a class of the schema's is one character more in a class of Nix's.
    slack = "\\" if "\\[" in pattern else None
    assert [x for x in found["accepts"] if not slack or slack not in x] == [
        x for x in wanted if not slack or slack not in x
    ], path


def test_the_candidates_try_every_pattern_both_ways() -> None:
    patterns = [part["pattern"] for part in parts(schema()) if "pattern" in part]
    assert len(patterns) > 10
    for pattern in patterns:
        assert 0 < sum(bool(re.search(pattern, text)) for text in CANDIDATES) < len(CANDIDATES)


def parts(part: Any) -> Iterator[dict[str, Any]]:
    match part:
        case dict():
            yield part
            for inner in part.values():
                yield from parts(inner)
        case list():
            for inner in part:
                yield from parts(inner)
        case _:
            pass
