"""The schema itself: complete for editors, its examples and defaults true, and shipped."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from reconciler import config
from reconciler.config.json_schema import resolved, schema

CHECKOUT = Path(__file__).parents[2]
FITTING = {
    "sshKeyFile": {"uri": "ssh-ng://nix@big.example.org"},
    "publicHostKey": {"uri": "ssh-ng://nix@big.example.org"},
    "bandwidth": {"uri": "s3://nix-cache?region=eu-central-1"},
}
"""What some keys ask for beside them."""
GENERATED = shutil.ignore_patterns("__pycache__")


def objects(part: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of a mapping with known keys, below and including one."""
    part = resolved(part)
    if "properties" in part:
        yield path, part
    for name, inner in part.get("properties", {}).items():
        yield from objects(inner, f"{path}.{name}")
    for inner in part.get("oneOf", ()):
        yield from objects(inner, path)
    for key in ("additionalProperties", "items"):
        if isinstance(part.get(key), dict):
            yield from objects(part[key], f"{path}.*")


def properties() -> list[Any]:
    """Every property: its path, its schema, and whether it must be given."""
    return [
        pytest.param(resolved(inner), name in part.get("required", ()), id=f"{path}.{name}")
        for path, part in objects(schema(), "")
        for name, inner in part["properties"].items()
    ]


def test_it_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(("part", "required"), properties())
def test_every_property_says_what_it_is(part: dict[str, Any], required: bool) -> None:
    assert part["title"]
    assert part["description"].endswith(".")
    assert part["examples"]
    assert ("default" in part) != required


def test_every_mapping_with_known_keys_refuses_others() -> None:
    found = [part["additionalProperties"] for _, part in objects(schema(), "")]
    assert len(found) >= 12
    assert set(found) == {False}


def test_every_keyword_it_refuses_by_is_one_that_is_explained() -> None:
    said = {
        "title", "description", "examples", "default", "errorMessage", "$ref", "properties",
        "secret",
    }  # fmt: skip
    explained = {
        "type", "required", "additionalProperties", "propertyNames", "maxProperties", "oneOf",
        "items", "uniqueItems", "enum", "pattern", "format", "minimum", "maximum",
    }  # fmt: skip
    top = set(schema()) - {"$schema", "$defs"}
    used = set().union(top, *(keywords(part) for part in schema()["$defs"].values()))
    assert used <= said | explained


def test_what_is_to_be_kept_outside_the_store_is_marked_as_secret() -> None:
    """The mark has the NixOS module hand the file over, and one in the store refused."""
    found = [
        (name, "outside the Nix store" in part["description"], part)
        for _, held in objects(schema(), "")
        for name, part in ((name, resolved(part)) for name, part in held["properties"].items())
    ]
    marked = [resolved(part.get("items", part)).get("secret", False) for *_, part in found]
    assert [said for _, said, _ in found] == marked
    assert [name.endswith(("File", "Files")) for name, *_ in found] == marked
    assert sum(marked) >= 4


def keywords(part: dict[str, Any]) -> set[str]:
    """Every keyword of a schema and those within."""
    found = set(part)
    for inner in part.get("properties", {}).values():
        found |= keywords(inner)
    for key in ("items", "propertyNames", "additionalProperties"):
        if isinstance(part.get(key), dict):
            found |= keywords(part[key])
    return found


@pytest.mark.parametrize("kind", ["jobset", "builder", "cache"])
def test_every_example_of_an_object_is_accepted(kind: str) -> None:
    part = schema()["$defs"][kind]
    needed = {
        key: resolved(part["properties"][key])["examples"][0] for key in part.get("required", ())
    }
    caches = {"main": {"uri": "file:///srv/cache"}}
    for value in examples_of(part, needed):
        builders = {"big": {"resources": {"memory": "32GiB"}}}
        declared = {"builders": builders, "caches": caches, f"{kind}s": {"main": value}} | (
            {"caches": {"main": value}} if kind == "cache" else {}
        )
        config.parse(json.dumps(declared).encode(), name="example")


def examples_of(part: dict[str, Any], needed: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from part["examples"]
    for name, inner in part["properties"].items():
        for example in resolved(inner)["examples"]:
            yield {**needed, **FITTING.get(name, {}), name: example}


@pytest.mark.parametrize("kind", ["jobset", "builder", "cache"])
def test_every_key_of_an_object_is_taken_up(kind: str) -> None:
    part = schema()["$defs"][kind]
    needed = {
        key: resolved(part["properties"][key])["examples"][0] for key in part.get("required", ())
    }

    def made(value: dict[str, Any]) -> object:
        declared: dict[str, dict[str, Any]] = {
            "caches": {"main": {"uri": "file:///srv/main"}},
            "builders": {"big": {"uri": "ssh-ng://big", "resources": {"memory": "32GiB"}}},
        }
        declared[f"{kind}s"] = {**declared.get(f"{kind}s", {}), "example": value}
        desired = config.parse(json.dumps(declared).encode(), name="example")
        held: dict[str, object] = getattr(desired, f"{kind}s")
        return held["example"]

    for value in list(examples_of(part, needed))[len(part["examples"]) :]:
        name = list(value)[-1]
        known = resolved(part["properties"][name])
        if "default" in known and value[name] != known["default"]:
            assert made(value) != made({**value, name: known["default"]}), value


def test_the_examples_of_the_top_are_accepted() -> None:
    caches = schema()["properties"]["caches"]["examples"][0]
    for example in schema()["examples"]:
        config.parse(json.dumps(example).encode(), name="example")
    for name, part in schema()["properties"].items():
        for example in part["examples"]:
            text = json.dumps({"caches": caches, name: example})
            config.parse(text.encode(), name="example")


def test_it_is_found_beside_the_package() -> None:
    shipped = CHECKOUT / "schemas" / "config.schema.json"
    assert schema() == json.loads(shipped.read_text())


def test_it_is_in_the_wheel(tmp_path: Path) -> None:
    """The package has the schemas by a symbolic link; a wheel must have the files."""
    tree = tmp_path / "tree"
    for folder in ("reconciler", "schemas"):
        shutil.copytree(CHECKOUT / folder, tree / folder, symlinks=True, ignore=GENERATED)
    for file in ("pyproject.toml", "LICENSE"):
        shutil.copy(CHECKOUT / file, tree)
    (tree / "README.md").write_text("The wheel's page.")
    script = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert json.loads(archive.read("reconciler/schemas/config.schema.json")) == schema()
