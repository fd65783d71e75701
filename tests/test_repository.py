"""What holds for the whole repository: its schemas, its package, and what it must not name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from jsonschema import Draft202012Validator

PROJECT = Path(__file__).parents[1]

SOMEBODYS_FOLDER = re.compile(r"/(?:home|Users)/[a-z]\w*/")
INSTALLING = ("Makefile", "scripts/*", ".ci/run", "pyproject.toml", "requirements.lock")
"""What fetches packages: where from is the machine's own choice."""


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout
    return [path for name in listed.split("\0") if name and (path := PROJECT / name).exists()]


def lines_with(pattern: re.Pattern[str], paths: Iterable[Path]) -> list[str]:
    return [
        f"{path.relative_to(PROJECT)}:{number}: {line}"
        for path in paths
        if path.is_file()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if pattern.search(line)
    ]


def test_the_repository_names_nothing_of_one_machine() -> None:
    assert not lines_with(SOMEBODYS_FOLDER, tracked_files())


def test_what_installs_names_no_registry() -> None:
    installing = [path for path in tracked_files() if any(map(path.match, INSTALLING))]
    assert len(installing) >= len(INSTALLING)
    assert not lines_with(re.compile(r"https?://"), installing)


def test_the_schemas_are_valid() -> None:
    schemas = [path for path in tracked_files() if path.match("schemas/*.json")]
    assert schemas
    for schema in schemas:
        Draft202012Validator.check_schema(json.loads(schema.read_text()))


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"  # setuptools leaves a build folder beside the sources
    for path in tracked_files():
        copy = checkout / path.relative_to(PROJECT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy, follow_symlinks=False)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, checkout], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("reconciler/")}
    wanted = {
        str(Path(folder, name).relative_to(checkout))
        for folder, _, names in os.walk(checkout / "reconciler", followlinks=True)
        for name in names
    }
    assert packed == wanted
