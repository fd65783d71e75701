"""Fingerprints of real derivations: what counts, what does not, and how a change is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.bases import Fingerprint, difference
from reconciler.incremental.fingerprint import fingerprint
from reconciler.model import DrvPath
from reconciler.nix import basic_derivation
from tests.support.private_store import PrivateStore

LIB = Path(__file__).parents[2] / "lib"
JOB = """
{ src, changes ? { }, cc ? "13" }:
let
  compiler = derivation {
    name = "gcc-${cc}";
    system = "x86_64-linux";
    builder = "/bin/sh";
  };
in
derivation (
  {
    name = "app-1.0";
    system = "x86_64-linux";
    builder = "${compiler}/bin/sh";
    args = [ "-c" ". ${src}/build.sh" ];
    outputs = [ "out" "intermediates" ];
    configureFlags = "--prefix=${placeholder "out"} --from=${src}/conf";
    CFLAGS = "-O2";
    inherit src;
  }
  // changes
)
"""


class Farm:
    """Instantiates variations of one job."""

    def __init__(self, store: PrivateStore) -> None:
        self.store = store
        self.folder = store.root / "home"

    def source(self, text: str, *, name: str = "source") -> str:
        """Nix text of a source of its own, as a path."""
        folder = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        (folder / "main.c").write_text(text)
        return f'builtins.path {{ name = "{name}"; path = {folder}; }}'

    def fetched(self, text: str) -> str:
        """Nix text of a source that a derivation makes."""
        return (
            '(derivation { name = "source"; system = "x86_64-linux"; builder = "/bin/sh"; '
            f'text = "{text}"; }})'
        )

    def print(self, src: str, changes: str = "", **arguments: str) -> Fingerprint:
        more = "".join(f'{name} = "{value}"; ' for name, value in arguments.items())
        text = f"({JOB}) {{ src = {src}; changes = {{ {changes} }}; {more}}}"
        return self.of(text)

    def of(self, expression: str) -> Fingerprint:
        (drv,) = self.store.instantiate(expression)
        return fingerprint(basic_derivation.read(DrvPath(drv.partition("!")[0])))


@pytest.fixture
def farm(store: PrivateStore) -> Farm:
    return Farm(store)


def test_another_source_is_built_by_the_same_means(farm: Farm) -> None:
    one = farm.print(farm.source("1"))
    assert farm.print(farm.source("2")) == one
    assert farm.print(farm.source("2", name="0pq7-source")) == one


def test_a_part_of_a_source_is_a_source(farm: Farm) -> None:
    one = farm.print(f'"${{{farm.source("1")}}}/sub"')
    assert farm.print(f'"${{{farm.source("2")}}}/sub"') == one


def test_what_makes_the_source_does_not_count_either(farm: Farm) -> None:
    one = farm.print(farm.fetched("1"))
    assert farm.print(farm.fetched("2")) == one
    assert farm.print(farm.source("3")) == one


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ('CFLAGS = "-O0";', "the variable CFLAGS changed"),
        ('LDFLAGS = "-s";', "the variable LDFLAGS was added"),
        ('system = "i686-linux";', "the system changed"),
        ('args = [ "-c" "make" ];', "its arguments changed"),
        ('name = "app-1.1";', "the variable name changed"),
        (
            'outputs = [ "out" "dev" "intermediates" ];',
            "the variable outputs changed, its outputs changed and the variable dev was added",
        ),
        ('extra = builtins.toFile "fix.patch" "-";', "the file fix.patch was added"),
    ],
)
def test_all_else_counts_and_is_named(farm: Farm, changes: str, words: str) -> None:
    src = farm.source("1")
    before, after = farm.print(src), farm.print(src, changes)
    assert before.digest != after.digest
    told = difference(before, after)
    assert all(part in told for part in words.replace(" and ", ", ").split(", "))


def test_another_compiler_is_named_first(farm: Farm) -> None:
    src = farm.source("1")
    before = farm.print(src)
    told = difference(before, farm.print(src, cc="14"))
    assert told == (
        "the input gcc-14 was added, the input gcc-13 was removed and the builder changed"
    )
    # Also where its version stays, and only what it is made of changes.
    again = farm.of(f"({JOB}) {{ src = {src}; }}")
    assert again == before
    patched = JOB.replace('name = "gcc-${cc}";', 'name = "gcc-${cc}"; patched = true;')
    changed = farm.of(f"({patched}) {{ src = {src}; }}")
    assert difference(before, changed).startswith("the input gcc-13 changed")


def test_a_variable_called_src_that_is_no_path_counts(farm: Farm) -> None:
    one, two = farm.print('"./a"'), farm.print('"./b"')
    assert "the variable src changed" in difference(one, two)


def test_the_base_and_the_policy_do_not_count(farm: Farm) -> None:
    src = farm.source("1")
    bases = LIB / "incremental/bases.nix"
    base = f'(import {bases}).baseFromHash {{ name = "b"; narHash = "sha256-{"A" * 43}="; }}'
    without = farm.print(src, 'incrementalBase = ""; incrementalPolicy = "structure clean";')
    assert farm.print(src, 'incrementalPolicy = "structure keep";') == without
    assert farm.print(src, f"incrementalBase = {base};") == without
    assert farm.print(src) == without


def test_structured_attributes_are_told_apart_too(farm: Farm) -> None:
    structured = '__structuredAttrs = true; flags = [ "-a" ];'
    one = farm.print(farm.source("1"), structured)
    two = farm.print(farm.source("2"), structured + 'incrementalBase = "x";')
    assert one == two
    other = farm.print(farm.source("1"), structured.replace("-a", "-b"))
    assert difference(one, other) == "the variable flags changed"


def test_both_stages_of_a_build_in_two_have_the_same(farm: Farm) -> None:
    """So that what one left, the other may be given."""
    job = (
        f'(import {LIB}/incremental).derivation {{ name = "app"; system = "x86_64-linux"; '
        'build = "make"; install = "make install"; stages = "compile-finish"; src = '
    )
    finish = farm.of(f"({job}{farm.source('1')}; }})")
    compile_ = farm.of(f"({job}{farm.source('2')}; }}).compile")
    assert finish == compile_
