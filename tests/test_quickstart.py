"""The sources of examples/quickstart do what they say, with plain Nix alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.private_store import PrivateStore

SOURCES = Path(__file__).parents[1] / "examples/quickstart/sources"


def build(store: PrivateStore, file: Path, *attributes: str) -> subprocess.CompletedProcess[str]:
    chosen = [word for attribute in attributes for word in ("-A", attribute)]
    command = ["nix-build", "--keep-going", "--no-out-link", "--restrict-eval", str(file), *chosen]
    return store.run(*command, "-I", f"sources={file.parents[1]}", check=False)


def output(store: PrivateStore, file: Path, attribute: str) -> Path:
    built = build(store, file, attribute)
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.strip())


def test_the_drawing_is_built_tested_and_released(store: PrivateStore) -> None:
    release = output(store, SOURCES / "drawing/release.nix", "release")
    kind, subtype, path = (release / "nix-support/hydra-build-products").read_text().split()
    assert (kind, subtype) == ("doc", "text")
    assert Path(path).read_text() == (SOURCES / "drawing/expected.txt").read_text()


def test_the_primes_add_up(store: PrivateStore) -> None:
    assert output(store, SOURCES / "primes/release.nix", "total").read_text() == "664579\n"


def test_the_forecast_alone_fails_until_it_is_mended(store: PrivateStore, tmp_path: Path) -> None:
    weather = SOURCES / "weather/release.nix"
    assert "*" in (output(store, weather, "curve") / "curve.txt").read_text()
    assert (output(store, weather, "archive") / "bin/archive").exists()
    failed = build(store, weather, "bulletin")
    assert failed.returncode != 0
    assert "no member named 'temprature'; did you mean 'temperature'?" in failed.stderr

    mended = shutil.copytree(SOURCES, tmp_path / "sources") / "weather"
    program = mended / "forecast/main.c"
    program.write_text(program.read_text().replace("temprature", "temperature"))
    bulletin = output(store, mended / "release.nix", "bulletin").read_text()
    assert "28 days" in bulletin
    assert "tomorrow: " in bulletin
