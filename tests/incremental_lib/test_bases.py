"""Bases by hash, and the ways in which they reach an expression."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.incremental_lib.project import LIBRARY, TWO, c_project, evaluate, refusal
from tests.support.private_store import PrivateStore

INCREMENTAL = f"(import {LIBRARY}).incremental"
EMPTY = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
BASE = f'({INCREMENTAL}.baseFromHash {{ name = "app-intermediates"; narHash = "{EMPTY}"; }})'

AS_THE_DAEMON_WRITES_IT = f"""
derivation {{
  name = "app-intermediates";
  system = "builtin";
  builder = "builtin:fetchurl";
  url = "file:///base app-intermediates is not available";
  outputHashMode = "recursive";
  outputHashAlgo = "sha256";
  outputHash = "{EMPTY}";
}}
"""


def test_a_base_needs_no_library(store: PrivateStore) -> None:
    found = evaluate(store, f"[ {BASE}.drvPath ({AS_THE_DAEMON_WRITES_IT}).drvPath ]")
    assert isinstance(found, list)
    assert found[0] == found[1]


def test_a_base_that_is_not_there_says_so(store: PrivateStore) -> None:
    done = store.run("nix-build", "--no-out-link", "-E", BASE, check=False)
    assert done.returncode != 0
    assert "base app-intermediates is not available" in done.stderr


@pytest.mark.parametrize(
    "found", ["sha256-short=", "0c5b8vw40dy178xlpddw65q9gf1h2186jcc3p4swinwggbllv8mk"]
)
def test_a_hash_in_another_form_is_refused(store: PrivateStore, found: str) -> None:
    assert refusal(store, BASE.replace(EMPTY, found) + ".drvPath") == (
        "baseFromHash: narHash of app-intermediates must be an SRI hash such as "
        f"{EMPTY}, as `nix hash path` prints it, not {found}"
    )


def test_only_the_newest_base_is_kept_alive(store: PrivateStore, tmp_path: Path) -> None:
    project = c_project(store, tmp_path)
    bases = []
    built = project.build()
    for generation in range(3):
        bases.append(project.as_base(built))
        project.write("two.c", TWO.replace("2", f"{generation}"))
        built = project.build(base=bases[-1])
        assert built.compiled == ["two.c"]
    root = store.root / "state/gcroots/newest"
    root.symlink_to(built.out)
    store.run("nix-store", "--gc")
    assert list(store.store_dir.glob("*-app")) == [built.out]
    assert not list(store.store_dir.glob("*-app-intermediates"))


def test_with_caches_calls_functions_with_their_intermediates(store: PrivateStore) -> None:
    outputs = """{
      packages.x.app = base: base;
      packages.x.other = base: builtins.attrNames (builtins.readDir base);
      packages.x.plain = 1;
      checks.x.app = base: builtins.readDir base;
      devShells.x.app = base: builtins.readDir base;
      legacyPackages.x.app = base: base;
      odd = 2;
    }"""
    previous = '{ packages.x.app.intermediates = "it"; checks.y.app.intermediates = "no"; }'
    called = f"{INCREMENTAL}.withCachesFor {previous} {outputs}"
    found = evaluate(store, f'removeAttrs ({called}) [ "legacyPackages" ]')
    assert found == {
        "packages": {"x": {"app": "it", "other": [], "plain": 1}},
        "checks": {"x": {"app": {}}},
        "devShells": {"x": {"app": {}}},
        "odd": 2,
    }
    without = evaluate(store, f"({INCREMENTAL}.withCaches {outputs}).checks")
    assert without == {"x": {"app": {}}}
    assert evaluate(store, f"builtins.isFunction ({called}).legacyPackages.x.app") is True


FLAKE = """{
  inputs.garnix-incrementalize.url = "path:%(incrementalize)s";
  outputs = { self, garnix-incrementalize }: garnix-incrementalize.lib.withCaches {
    packages.x86_64-linux.app = base: (import ./lib).incremental.derivation {
      inherit base;
      name = "app";
      system = "x86_64-linux";
      src = ./source;
      build = "make PREFIX=$out";
      install = "make install PREFIX=$out";
    };
  };
}
"""


def test_a_flake_for_garnix_is_given_a_base_by_overriding_its_input(
    store: PrivateStore, tmp_path: Path
) -> None:
    incrementalize = tmp_path / "incrementalize"
    incrementalize.mkdir()
    subprocess.run(["cp", "-r", LIBRARY, incrementalize / "lib"], check=True)
    (incrementalize / "flake.nix").write_text("{ outputs = _: { lib = import ./lib; }; }\n")
    flake = tmp_path / "flake"
    project = c_project(store, flake)
    subprocess.run(["cp", "-r", LIBRARY, flake / "lib"], check=True)
    (flake / "flake.nix").write_text(FLAKE % {"incrementalize": incrementalize})
    job = f"path:{flake}#packages.x86_64-linux.app"
    build = ["nix", "build", "-L", "--no-link", "--json", "--no-write-lock-file", f"{job}^*"]

    first = store.run(*build)
    assert "app> incremental: full build: no base\n" in first.stderr
    (made,) = json.loads(first.stdout)
    hashed = store.run("nix", "hash", "path", made["outputs"]["intermediates"]).stdout.strip()
    store.run(
        "nix", "store", "add", "--name", "app-intermediates", made["outputs"]["intermediates"]
    )

    given = tmp_path / "given"
    given.mkdir()
    (given / "flake.nix").write_text(
        "{ outputs = _: { lib.withCaches = (import ./lib).withCachesFor "
        "{ packages.x86_64-linux.app.intermediates = "
        f"{AS_THE_DAEMON_WRITES_IT.replace(EMPTY, hashed)}; }}; }}; }}"
    )
    subprocess.run(["cp", "-r", LIBRARY, given / "lib"], check=True)
    project.write("two.c", TWO.replace("2", "20"))
    override = ["--override-input", "garnix-incrementalize", f"path:{given}"]
    second = store.run(*build, *override)
    assert "app> incremental: base app-intermediates: 1 changed, 0 added" in second.stderr


def from_cache_nix(folder: Path, text: str | None) -> str:
    if text is not None:
        (folder / "cache.nix").write_text(text)
    return f'{INCREMENTAL}.fromCacheNix {folder}/cache.nix "a.b"'


@pytest.mark.parametrize(
    "text", [None, "null", "{ }", "{ other.job = null; }", '{ "a.b" = null; }']
)
def test_a_cache_nix_without_a_base(store: PrivateStore, tmp_path: Path, text: str | None) -> None:
    assert evaluate(store, from_cache_nix(tmp_path, text)) is None


def test_a_cache_nix_with_a_base(store: PrivateStore, tmp_path: Path) -> None:
    expression = from_cache_nix(tmp_path, f'{{ "a.b" = {AS_THE_DAEMON_WRITES_IT}; }}')
    assert evaluate(store, f"({expression}).drvPath") == evaluate(store, f"{BASE}.drvPath")


MEND = (
    'write null, or { "JOB" = BASE; } with each job\'s attribute path joined by dots and what '
    "baseFromHash gives"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "FILE holds a int: MEND"),
        ("[ ]", "FILE holds a list: MEND"),
        (AS_THE_DAEMON_WRITES_IT, "FILE holds a derivation: MEND"),
        ('"/nix/store/x"', 'FILE holds "/nix/store/x": MEND'),
        ('{ "a.b" = true; }', 'FILE: "a.b" is a bool: MEND'),
        ('{ "a.b" = { c = null; }; }', 'FILE: "a.b" is a set: MEND'),
    ],
)
def test_a_malformed_cache_nix(
    store: PrivateStore, tmp_path: Path, text: str, message: str
) -> None:
    found = refusal(store, from_cache_nix(tmp_path, text))
    assert found == message.replace("FILE", f"{tmp_path}/cache.nix").replace("MEND", MEND)


def test_a_cache_nix_that_does_not_parse(store: PrivateStore, tmp_path: Path) -> None:
    expression = from_cache_nix(tmp_path, "{ a.b = ;")
    done = store.run("nix-instantiate", "--eval", "-E", expression, check=False)
    assert f"while reading {tmp_path}/cache.nix: {MEND}" in done.stderr
    assert "syntax error" in done.stderr


@pytest.mark.parametrize("argument", ["1", '"cache.nix"', "{ }"])
def test_cache_nix_is_named_by_its_path(store: PrivateStore, argument: str) -> None:
    assert refusal(store, f'{INCREMENTAL}.fromCacheNix {argument} "a"').startswith(
        "fromCacheNix: the argument must be the path of a file such as ./cache.nix, not "
    )


def commit(folder: Path) -> None:
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)


@pytest.mark.parametrize("source", ["FOLDER", '"FOLDER"', "(fetchGit FOLDER)"])
def test_an_overlay_commit_does_not_change_the_source(
    store: PrivateStore, tmp_path: Path, source: str
) -> None:
    cleaned = []
    for name in ("canonical", "overlay"):
        folder = tmp_path / name
        (folder / "inner").mkdir(parents=True)
        (folder / "inner/cache.nix").write_text("a source like any other\n")
        if name == "overlay":
            (folder / "cache.nix").write_text("null\n")
            (folder / "commit.txt").write_text("0123\n")
        if "fetchGit" in source:
            commit(folder)
        text = source.replace("FOLDER", str(folder))
        cleaned.append(str(evaluate(store, f"{INCREMENTAL}.cleanOverlay {text}")))
    assert cleaned[0] == cleaned[1]
    assert [path.name for path in Path(cleaned[0]).rglob("*")] == ["inner", "cache.nix"]


def test_only_a_source_is_cleaned(store: PrivateStore) -> None:
    assert refusal(store, f"{INCREMENTAL}.cleanOverlay 1") == (
        "cleanOverlay: the source must be a path such as ./. or a flake's self, not a int"
    )


@pytest.mark.parametrize("base", ["1", "[ ]", "{ }"])
def test_what_is_no_base_is_refused(store: PrivateStore, tmp_path: Path, base: str) -> None:
    project = c_project(store, tmp_path)
    assert refusal(store, f"({project.expression(base=base)}).drvPath").startswith(
        "incremental.derivation app: base must be null, what baseFromHash gives, a path, or the "
        "intermediates of a build, not a "
    )


def test_an_empty_folder_is_no_base(store: PrivateStore, tmp_path: Path) -> None:
    project = c_project(store, tmp_path)
    garnix = tmp_path / "emptyDir"
    garnix.mkdir()
    (garnix / ".gitignore").touch()
    none = f"({INCREMENTAL}.withCaches {{ packages.x.y = base: base; }}).packages.x.y"
    bases = ["null", str(garnix), none]
    drvs = {evaluate(store, f"({project.expression(base=base)}).drvPath") for base in bases}
    assert len(drvs) == 1
    # As garnix gives it: a string, which an evaluation may not be allowed to look into.
    assert project.build(base=f'"${{{garnix}}}"').said == "full build: no base"


@pytest.mark.parametrize("form", ["job", "job.intermediates"])
def test_a_build_can_be_the_base_of_another(store: PrivateStore, tmp_path: Path, form: str) -> None:
    project = c_project(store, tmp_path)
    other = tmp_path / "older"
    subprocess.run(["cp", "-r", project.folder, other], check=True)
    job = project.expression().replace(f"path = {project.folder}", f"path = {other}")
    project.write("two.c", TWO.replace("2", "20"))
    built = project.realise(f"let job = {job}; in {project.expression(base=form)}")
    assert built.compiled.count("two.c") == 2  # the base is built in the same run
    assert built.compiled.count("one.c") == 1
