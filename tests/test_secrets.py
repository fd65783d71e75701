"""Secrets that are declared and are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reconciler import config
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
