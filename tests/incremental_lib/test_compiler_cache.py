"""incremental.compilerCache by itself: what it refuses, and stdenv around sccache's server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.incremental_lib.project import LIBRARY, refusal
from tests.support.private_store import PrivateStore

STDENV = Path(__file__).parent / "stdenv"
CACHE = f"(import {LIBRARY}).incremental.compilerCache"
SERVED = "if grep -q ':1082 .* 0A ' /proc/net/tcp; then echo served; else echo not served; fi"
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


class Place:
    """A folder that each build of a store is shown, as the daemon's hook shows one."""

    def __init__(self, store: PrivateStore, folder: Path) -> None:
        self._store = store
        self._folder = folder / "cache"
        self._folder.mkdir()
        self._source = folder / "source"
        self._source.mkdir()
        (self._source / "unit.c").write_text("int unit;\n")
        with (store.root / "conf/nix.conf").open("a") as file:
            file.write(f"extra-sandbox-paths = /incremental/compiler-cache={self._folder}\n")

    def build(self, name: str, script: str) -> tuple[bool, list[str]]:
        """Have stdenv build with sccache before the compilers; whether it succeeds, and whether
        there is a server while it builds and at its end.
        """
        expression = f"""{CACHE} {{ {SCCACHE} }} ((import {STDENV}).mkDerivation {{
          name = "{name}"; src = {self._source}; buildPhase = "{SERVED}; {script}";
          exitHook = "{SERVED}"; failureHook = "{SERVED}";
          installPhase = "cp unit.o $out"; fixupPhase = ":";
        }})"""
        done = self._store.run("nix-build", "--no-out-link", "-E", expression, check=False)
        assert "incremental: compilers' cache" in done.stderr
        told = re.findall(r"^(?:not )?served$", done.stderr, re.MULTILINE)
        return done.returncode == 0, told

    def kept(self) -> list[Path]:
        return [each for each in self._folder.rglob("*") if each.is_file()]


@pytest.mark.parametrize(
    ("build", "succeeds"), [("gcc -c unit.c", True), ("gcc -c unit.c; false", False)]
)
def test_stdenv_ends_the_server(
    store: PrivateStore, tmp_path: Path, build: str, *, succeeds: bool
) -> None:
    """What the compilers keep is complete, whatever became of the build."""
    place = Place(store, tmp_path)
    assert place.build("app", build) == (succeeds, ["served", "not served"])
    assert len(place.kept()) == 1


def test_the_path_of_the_output_is_no_flag(store: PrivateStore, tmp_path: Path) -> None:
    """stdenv seeds the compiler's names with it."""
    place = Place(store, tmp_path)
    assert place.build("one", "gcc -c unit.c")[0]
    assert place.build("two", "gcc -c unit.c")[0]
    assert len(place.kept()) == 1
