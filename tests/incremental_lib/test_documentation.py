"""docs/incremental.md: each of its examples is built, and its tables are those of the library."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from reconciler import config
from tests.incremental_lib.project import LIBRARY, evaluate
from tests.support.private_store import PrivateStore

DOCUMENT = (LIBRARY.parent / "docs/incremental.md").read_text()
EXAMPLES = re.findall(r"^```nix\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
STDENV = Path(__file__).parent / "stdenv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an example finds what it names: the library and the source of examples/incremental."""
    shutil.copytree(LIBRARY.parent / "examples/incremental/source", tmp_path / "source")
    shutil.copytree(LIBRARY, tmp_path / "lib")
    return tmp_path


def test_every_configuration_is_valid() -> None:
    configurations = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert configurations
    for each in configurations:
        config.parse(each.encode(), name="docs/incremental.md")


def is_flake(example: str) -> bool:
    return example.startswith("# flake.nix\n")


def is_base(example: str) -> bool:
    return "narHash" in example or "outputHash" in example


BUILT = [
    example
    for example in EXAMPLES
    if not is_flake(example) and not is_base(example) and "install" in example
]


def test_every_example_is_of_a_kind_that_is_tested() -> None:
    sources = [
        example for example in EXAMPLES if example.rstrip().endswith("cleanOverlay ./source")
    ]
    tested = [*BUILT, *filter(is_flake, EXAMPLES), *filter(is_base, EXAMPLES), *sources]
    assert sorted(tested) == sorted(EXAMPLES)
    assert len(BUILT) == 8


@pytest.mark.parametrize("example", BUILT)
def test_an_example_is_built(store: PrivateStore, folder: Path, example: str) -> None:
    (folder / "default.nix").write_text(example)
    stdenv = ["--arg", "stdenv", f"import {STDENV}"] if "{ stdenv" in example else []
    built = store.run("nix-build", "--no-out-link", *stdenv, str(folder), check=False)
    assert built.returncode == 0, built.stderr
    programs = [Path(path, "bin/figures") for path in built.stdout.split()]
    printed = [store.run(str(path)).stdout for path in programs if path.exists()]
    assert printed == [f"{programs[0].parents[1]}: 4.575\n"]


def test_both_ways_to_write_a_base_are_one_derivation(store: PrivateStore, folder: Path) -> None:
    paths = []
    for example in filter(is_base, EXAMPLES):
        (folder / "default.nix").write_text(example)
        paths.append(evaluate(store, f"(import {folder}).drvPath"))
    assert len(paths) == 2
    assert paths[0] == paths[1]


def test_the_flake_is_built(store: PrivateStore, folder: Path) -> None:
    (example,) = filter(is_flake, EXAMPLES)
    (folder / "flake.nix").write_text(example)
    library = folder / "library"
    shutil.copytree(LIBRARY, library / "lib")
    (library / "flake.nix").write_text("{ outputs = _: { lib = import ./lib; }; }\n")
    given = f"path:{library}"
    overrides = ["--override-input", "garnix-incrementalize", given]
    overrides += ["--override-input", "nix-reconciler", given]
    job = f"path:{folder}#packages.x86_64-linux.figures"
    store.run("nix", "build", "--no-link", "--no-write-lock-file", *overrides, job)


def test_the_source_is_as_it_was(store: PrivateStore, folder: Path) -> None:
    (example,) = [text for text in EXAMPLES if text.rstrip().endswith("cleanOverlay ./source")]
    (folder / "default.nix").write_text(example)
    cleaned = Path(str(evaluate(store, f"import {folder}")))
    assert {path.name for path in cleaned.iterdir()} == {
        path.name for path in (folder / "source").iterdir()
    }


def test_the_table_of_policy_has_every_argument(store: PrivateStore) -> None:
    known = evaluate(
        store, f"builtins.attrNames (import {LIBRARY}/incremental/policy.nix).defaults"
    )
    section = DOCUMENT.partition("\n## Policy\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == known


def test_every_function_has_a_section(store: PrivateStore) -> None:
    top = evaluate(store, f"builtins.attrNames (import {LIBRARY})")
    inner = evaluate(store, f"builtins.attrNames (import {LIBRARY}).incremental")
    assert isinstance(top, list)
    assert isinstance(inner, list)
    headings = " ".join(re.findall(r"^## (.*)$", DOCUMENT, re.MULTILINE))
    assert top == ["buildCache", "incremental", "withCaches", "withCachesFor"]
    for name in ["buildCache", *(f"incremental.{name}" for name in inner)]:
        assert name in headings
        section = re.split(rf"^## .*\b{name}\b.*$", DOCUMENT, maxsplit=1, flags=re.MULTILINE)[1]
        assert "\nErrors: " in section.partition("\n## ")[0], name


def test_every_reason_is_one_that_the_script_gives() -> None:
    script = (LIBRARY / "incremental/incremental.sh").read_text()
    section = DOCUMENT.partition("\n## What a build writes\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    reasons = re.findall(r"`(.*?)`", " ".join(rows))
    assert len(reasons) == 16
    for reason in reasons:
        fixed = max(re.split(r"[A-Z]{4,}", reason), key=len).strip(" :")
        assert fixed in script, reason
