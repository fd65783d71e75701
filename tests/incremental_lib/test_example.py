"""examples/incremental with plain Nix: its second build compiles what changed and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.incremental_lib.project import LIBRARY, Built, Project
from tests.support.private_store import PrivateStore

EXAMPLE = LIBRARY.parent / "examples/incremental"


def build(project: Project, job: str, arguments: str = "{ }") -> Built:
    return project.realise(f"(import {project.folder}/release.nix {arguments}).{job}")


@pytest.mark.parametrize("protocol", ["arg", "cache.nix"])
@pytest.mark.parametrize("job", ["with-make", "with-ninja"])
def test_the_second_build_compiles_one_file(
    store: PrivateStore, tmp_path: Path, job: str, protocol: str
) -> None:
    folder = shutil.copytree(EXAMPLE, tmp_path / "checkout")
    shutil.copytree(LIBRARY, folder / "lib")
    project = Project(store=store, folder=folder, name="figures")
    first = build(project, job)
    assert len(first.compiled) == 5
    printed = store.run(str(first.out / "bin/figures")).stdout
    assert printed == f"{first.out}: 4.575\n"

    square = folder / "source/square.c"
    square.write_text(square.read_text().replace("side * side", "2 * side * side"))
    bases = f'{{ "{job}" = {project.as_base(first)}; }}'
    if protocol == "arg":
        second = build(project, job, f"{{ incrementalBases = {bases}; }}")
    else:
        (folder / "cache.nix").write_text(bases)
        second = build(project, job)
        (folder / "cache.nix").unlink()
    assert second.said == (
        f"base figures-intermediates: 1 changed, 0 added, 0 deleted; "
        f"restored {len(list(files(first)))} files"
    )
    assert second.compiled == ["square.c"]
    assert store.run(str(second.out / "bin/figures")).stdout == f"{second.out}: 5.575\n"
    assert project.contents(second) == project.contents(build(project, job))


def files(built: Built) -> list[Path]:
    return [path for path in (built.intermediates / "tree").rglob("*") if path.is_file()]


def test_the_example_finds_the_library_of_the_project(store: PrivateStore) -> None:
    release = EXAMPLE / "release.nix"
    store.run("nix-instantiate", str(release))
