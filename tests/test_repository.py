"""What holds for the whole repository: its schemas, its package, and what it must not name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from jsonschema import Draft202012Validator

PROJECT = Path(__file__).parents[1]

FORBIDDEN = {
    "a package registry: which one is used is the machine's own choice": re.compile(
        r"\b(?:deb|security|snapshot)\.debian[.]org|\bpypi[.]org|pythonhosted[.]org|\bregistry[.]npmjs"
    ),
    "a path of somebody's machine": re.compile(r"/(?:home|Users)/[a-z]\w*/|/work/(?!\*)\w"),
}


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout
    return [path for name in listed.split("\0") if name and (path := PROJECT / name).exists()]


def test_the_repository_names_nothing_of_one_machine() -> None:
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {reason}"
        for path in tracked_files()
        if path.is_file()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        for reason, pattern in FORBIDDEN.items()
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


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
