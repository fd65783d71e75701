"""The demos run as they are told to by the Makefile, in folders of their own."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.private_store import stores_root

PROJECT = Path(__file__).parents[1]
DEMO, INCREMENTAL = "scripts/demo.sh", "examples/incremental/try.sh"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where Nix takes a store."""
    root = Path(tempfile.mkdtemp(prefix="demo-", dir=stores_root()))
    root.chmod(0o755)
    yield root / "demo"
    subprocess.run([PROJECT / "scripts/clean-demo.sh", root / "demo"], check=True)
    root.rmdir()


def run(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROJECT / script, folder],
        env={**os.environ, **variables},
        cwd=PROJECT,
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_demo_ends_as_it_says(folder: Path) -> None:
    done = run(DEMO, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "That is all as it should be" in done.stdout
    assert list((folder / "cache").glob("*.narinfo"))


def test_the_second_build_of_a_demo_compiles_one_unit(folder: Path) -> None:
    for _ in range(2):  # a second time it begins anew
        done = run(INCREMENTAL, folder, UNITS="3")
        assert done.returncode == 0, done.stdout + done.stderr
        table = re.findall(
            r"^  (the first build|one file changed|on a new machine) +(\d+) +(\d+) ",
            done.stdout,
            re.MULTILINE,
        )
        assert table == [
            ("the first build", "8", "8"),
            ("one file changed", "1", "1"),
            ("on a new machine", "1", "1"),
        ]
        from_store = "the newest build of slot with-make in the artifact store builds"
        assert from_store in " ".join(done.stdout.split())
        assert "figures.with-make (succeeded): starts from the newest build (commit" in done.stdout


@pytest.mark.parametrize("script", [DEMO, INCREMENTAL])
def test_a_folder_of_somebody_else_is_left_alone(script: str, tmp_path: Path) -> None:
    done = run(script, tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path} is there and is not the demo's: name another with DEMO" in done.stderr
    assert not list(tmp_path.iterdir())
