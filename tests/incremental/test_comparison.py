"""Whether builds came to the same: folders that stand for the outputs of an incremental build and
of its clean twin.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.incremental import comparison
from reconciler.incremental.comparison import difference
from reconciler.model import StorePath

MINE, TWINS, DEPENDENCY, OTHER = (
    "1b2c3d4f5g6h7i8j9k0l1m2n3p4q5r6s",
    "zyxwvsrqpnmlkjihgfdcba9876543210",
    "0a1b2c3d4f5g6h7i8j9k0l1m2n3p4q5r",
    "0z1y2x3w4v5s6r7q8p9n0m1l2k3j4i5h",
)


class Twins:
    """Two outputs made alike, each with its own path in it."""

    def __init__(self, folder: Path, fill: Callable[[Path, str, str], None]) -> None:
        self.mine, self.clean = folder / f"{MINE}-app", folder / f"{TWINS}-app"
        fill(self.mine, str(self.mine), f"{folder}/{DEPENDENCY}-lib")
        fill(self.clean, str(self.clean), f"{folder}/{OTHER}-lib")
        self.renamed = {StorePath(f"{folder}/{OTHER}-lib"): StorePath(f"{folder}/{DEPENDENCY}-lib")}

    def differ(self) -> str | None:
        return difference(
            {"out": StorePath(str(self.mine))}, {"out": StorePath(str(self.clean))}, self.renamed
        )


def tree(folder: Path, own: str, lib: str) -> None:
    (folder / "bin").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "bin/app").write_bytes(b"\x7fELF" + own.encode() + b"\0" + lib.encode() + b"/lib")
    (folder / "bin/app").chmod(0o755)
    (folder / "bin/link").symlink_to(f"{own}/bin/app")
    (folder / f"cache-{Path(own).name}").write_text(lib)


@pytest.fixture
def twins(tmp_path: Path) -> Twins:
    return Twins(tmp_path, tree)


def test_the_same_but_for_paths_is_the_same(twins: Twins) -> None:
    assert twins.differ() is None


def test_what_another_build_is_called_must_be_told(twins: Twins) -> None:
    twins.renamed = {}
    assert twins.differ() == "the output out differs in bin/app"


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (lambda out: (out / "bin/app").write_bytes(b"\x7fELG"), "bin/app"),
        (lambda out: (out / "bin/app").chmod(0o644), "bin/app"),
        (lambda out: (out / "empty").rmdir(), "empty"),
        (lambda out: (out / "empty/more").write_text(""), "empty/more"),
        (
            lambda out: ((out / "bin/link").unlink(), (out / "bin/link").symlink_to("app")),
            "bin/link",
        ),
        (lambda out: ((out / "empty").rmdir(), (out / "empty").write_text("")), "empty"),
    ],
)
@pytest.mark.parametrize("side", ["mine", "clean"])
def test_each_difference_is_found_and_placed(
    twins: Twins, damage: Callable[[Path], object], where: str, side: str
) -> None:
    damage(getattr(twins, side))
    assert twins.differ() == f"the output out differs in {where}"


def test_an_output_that_is_a_file_has_no_place_within(tmp_path: Path) -> None:
    def single(path: Path, own: str, _: str) -> None:
        path.write_text(own)

    twins = Twins(tmp_path, single)
    assert twins.differ() is None
    twins.clean.write_text("x")
    assert twins.differ() == "the output out differs"


def test_other_outputs_are_a_difference(twins: Twins) -> None:
    mine = {"out": StorePath(str(twins.mine))}
    assert difference(mine, {}, {}) == "the outputs are others"


def test_a_tree_may_be_deeper_than_a_stack(tmp_path: Path) -> None:
    def deep(folder: Path, own: str, _lib: str) -> None:
        for _ in range(1200):
            folder.mkdir()
            folder = folder / "d"
        folder.write_text(own)

    twins = Twins(tmp_path, deep)
    assert twins.differ() is None
    Path(f"{twins.mine}{'/d' * 1200}").write_text(str(twins.clean))
    assert twins.differ() == f"the output out differs in {'d/' * 1199}d"
    for out in (twins.mine, twins.clean):
        subprocess.run(["rm", "-r", str(out)], check=True)  # pytest's own way has a stack


@given(
    parts=st.lists(st.sampled_from(["own", "lib", "x", "yy", "z" * 31, TWINS[:31]]), max_size=30)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_paths_are_found_wherever_reading_stops(
    parts: list[str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "_CHUNK", 37)

    def fill(path: Path, own: str, lib: str) -> None:
        path.write_text("".join({"own": own, "lib": lib}.get(part, part) for part in parts))

    twins = Twins(tmp_path_factory.mktemp("twins"), fill)
    assert twins.differ() is None
    with twins.mine.open("a") as mine:
        mine.write("!")
    with twins.clean.open("a") as clean:
        clean.write("?")
    assert twins.differ() == "the output out differs"
