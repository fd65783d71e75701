"""Secrets that are declared and are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reconciler import config
from reconciler.config.json_schema import resolved, schema, secret_files
from reconciler.config.tree import Json
from reconciler.model import Desired
from reconciler.secrets import missing


def desired(folder: Path) -> Desired:
    """A builder and two caches, the second without secrets."""
    document = {
        "builders": {"big": {"uri": "ssh-ng://nix@big", "sshKeyFile": str(folder / "ssh")}},
        "caches": {
            "main": {
                "uri": "file:/srv/cache",
                "signingKeyFile": str(folder / "key"),
                "credentialsFile": str(folder / "login"),
            },
            "plain": {"uri": "file:/srv/plain"},
        },
    }
    return config.parse(json.dumps(document).encode(), name="test")


def test_what_is_there_is_no_trouble(tmp_path: Path) -> None:
    for name in ("ssh", "key", "login"):
        (tmp_path / name).write_text("  text\n")
    found = missing(desired(tmp_path))
    assert found == {("builder", "big"): None, ("cache", "main"): None, ("cache", "plain"): None}


def test_all_that_an_object_lacks_is_named_by_key_and_file(tmp_path: Path) -> None:
    (tmp_path / "ssh").mkdir()
    found = missing(desired(tmp_path))
    assert found["cache", "plain"] is None
    assert found["builder", "big"] == (f"sshKeyFile: {tmp_path}/ssh cannot be read: Is a directory")
    assert found["cache", "main"] == (
        f"signingKeyFile: {tmp_path}/key cannot be read: No such file or directory;"
        f" credentialsFile: {tmp_path}/login cannot be read: No such file or directory"
    )


def test_every_key_that_the_schema_marks_as_a_secret_is_looked_after(tmp_path: Path) -> None:
    def filled(kind: str) -> dict[str, Any]:
        """An object with a file that is not there for each of its secrets."""
        absent = str(tmp_path / "absent")
        parts = {
            name: resolved(part) for name, part in schema()["$defs"][kind]["properties"].items()
        }
        return {
            name: [absent] if "items" in part else absent
            for name, part in parts.items()
            if resolved(part.get("items", part)).get("secret")
        }

    files = filled("cache")
    by_ssh = {"store": {"uri": "ssh-ng://nix@cache", "sshKeyFile": files.pop("sshKeyFile")}}
    document: Json = {
        "builders": {"big": {"uri": "ssh-ng://nix@big", **filled("builder")}},
        "caches": {"main": {"uri": "file:/srv/cache", **files}, **by_ssh},
    }
    found = missing(config.parse(json.dumps(document).encode(), name="test"))
    named = list(secret_files(document))
    assert len(named) >= 5
    for (kind, name, key, *index), _ in named:
        trouble = found[str(kind).removesuffix("s"), str(name)] or ""
        assert f"{key}{''.join(f'[{n}]' for n in index)}: " in trouble


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("missing", "its file did not exist when systemd was to bring it as"),
        ("missing\n", "its file did not exist when systemd was to bring it as"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("missing-1:a2V5", None),
    ],
)
def test_what_stands_for_a_file_that_is_not_there_is_none(
    text: str, said: str | None, tmp_path: Path
) -> None:
    for name, content in {"ssh": "x", "login": "x", "key": text}.items():
        (tmp_path / name).write_text(content)
    found = missing(desired(tmp_path))["cache", "main"]
    assert (found is None) if said is None else (found is not None and said in found)
