"""What the installed Nix says of itself, and programs of that name that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.errors import NoNixError
from reconciler.nix import settings
from tests.support.private_store import PrivateStore


async def test_of_the_installed_one(store: PrivateStore) -> None:
    found = await settings.read({**os.environ, **store.environment})
    assert f"nix (Nix) {found.version}" in store.run("nix", "--version").stdout
    assert f"{os.uname().machine}-linux" in found.systems


NEW = "echo 'nix (Nix) 2.30.1'"


@pytest.mark.parametrize(
    ("version", "shown", "said"),
    [
        ("echo no library >&2; exit 127", "exit 127", "does not start: no library"),
        ("kill -SEGV $$", "kill -SEGV $$", "does not start: it was killed by SIGSEGV"),
        ("echo some program", ":", "'some program', which is not a version"),
        ("echo 'nix (Nix) 2.18.1'", "exit 1", "2.18.1 is too old: 2.24 or later"),
        (NEW, "exit 3", "its own configuration: it exited with 3"),
        (NEW, "echo unknown setting >&2; exit 1", "its own configuration: unknown setting"),
        (NEW, "echo usage", "says 'usage.n', in which the machine's systems are not found"),
        (NEW, "echo '{}'", "are not found"),
        (NEW, """echo '{"system": 1}'""", "are not found"),
    ],
)
async def test_what_is_no_nix_is_told(tmp_path: Path, version: str, shown: str, said: str) -> None:
    command = tmp_path / "nix"
    command.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then\n{version}\nelse\n{shown}\nfi\n')
    command.chmod(0o755)
    with pytest.raises(NoNixError, match=said):
        await settings.read({"PATH": f"{tmp_path}:{os.defpath}"})


async def test_one_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "TIMEOUT", 0.05)
    command = tmp_path / "nix"
    command.write_text("#!/bin/sh\nexec sleep 3600\n")
    command.chmod(0o755)
    with pytest.raises(NoNixError, match="does not answer: nix did not end within"):
        await settings.read({"PATH": f"{tmp_path}:{os.defpath}"})
