"""incremental.compilerCache by itself: what it refuses, and stdenv around sccache's server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.incremental_lib.project import LIBRARY, refusal
from tests.support.private_store import PrivateStore

STDENV = Path(__file__).parent / "stdenv"
CACHE = f"(import {LIBRARY}).incremental.compilerCache"
SCCACHE = 'tool = "sccache"; maxSize = "100M";'


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ('{ tool = "distcc"; }', 'tool must be "ccache" or "sccache"'),
        ("{ tool = null; }", 'tool must be "ccache" or "sccache"'),
        (
            "{ sccache = /none; }",
            'sccache is given, but the tool is ccache; set tool = "sccache", or leave it away',
        ),
        (
            '{ tool = "sccache"; ccache = /none; }',
            'ccache is given, but the tool is sccache; set tool = "ccache", or leave it away',
        ),
        ('{ maxSize = "5"; }', 'maxSize must be a size as ccache has it, such as "5G"'),
        ("{ maxSize = 5; }", 'maxSize must be a size as ccache has it, such as "5G"'),
        (
            '{ tool = "sccache"; maxSize = "5Gi"; }',
            'maxSize must be a size as sccache has it, such as "5G"',
        ),
        (
            '{ compilers = "gcc"; }',
            'compilers must be a list of names of programs, such as [ "gcc" ]',
        ),
    ],
)
def test_a_wrong_argument_is_refused(store: PrivateStore, given: str, told: str) -> None:
    assert refusal(store, f"({CACHE} {given}).env") == f"incremental.compilerCache: {told}"


def test_a_derivation_that_cannot_be_changed_is_refused(store: PrivateStore) -> None:
    assert "it has no overrideAttrs" in refusal(store, f"{CACHE} {{ }} {{ }}")


@pytest.mark.parametrize(
    ("build", "succeeds"), [("gcc -c unit.c", True), ("gcc -c unit.c; false", False)]
)
def test_stdenv_ends_the_server(
    store: PrivateStore, tmp_path: Path, build: str, *, succeeds: bool
) -> None:
    """What the compilers keep is complete, and others can read it, whatever became of the build."""
    (tmp_path / "cache").mkdir()
    source = tmp_path / "source"
    source.mkdir()
    (source / "unit.c").write_text("int unit;\n")
    with (store.root / "conf/nix.conf").open("a") as file:
        file.write(f"extra-sandbox-paths = /incremental/compiler-cache={tmp_path}/cache\n")
    expression = f"""{CACHE} {{ {SCCACHE} }} ((import {STDENV}).mkDerivation {{
      name = "app"; src = {source}; buildPhase = "{build}";
      installPhase = "cp unit.o $out"; fixupPhase = ":";
    }})"""
    done = store.run("nix-build", "--no-out-link", "-E", expression, check=False)
    assert (done.returncode == 0) is succeeds, done.stderr
    assert "incremental: compilers' cache" in done.stderr
    kept = [each for each in (tmp_path / "cache").rglob("*") if each.is_file()]
    assert len(kept) == 1
    assert kept[0].stat().st_mode & 0o060 == 0o060
