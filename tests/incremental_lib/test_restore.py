"""What is restored and saved where sources, bases and shells are not ordinary; stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.incremental_lib.project import (
    MAKEFILE,
    ONE,
    TWO,
    Built,
    Project,
    c_project,
    evaluate,
    refusal,
    script_without,
)
from tests.support.private_store import PrivateStore


@pytest.fixture(scope="module")
def store() -> Iterator[PrivateStore]:
    """One store for all: what several tests build first is built once."""
    made = PrivateStore.create()
    yield made
    made.destroy()


@pytest.fixture
def project(store: PrivateStore, tmp_path: Path) -> Project:
    return c_project(store, tmp_path)


def saved(built: Built) -> set[str]:
    tree = built.intermediates / "tree"
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("shell", ["/usr/bin/dash", "/usr/bin/bash"])
def test_any_shell(project: Project, shell: str) -> None:
    project.arguments["shell"] = f'"{shell}"'
    base = project.as_base(project.build())
    project.write("two.c", TWO.replace("2", "20"))
    assert project.build(base=base).compiled == ["two.c"]


def test_two_files_that_swap_their_contents_both_count(
    store: PrivateStore, project: Project
) -> None:
    project.write("Makefile", MAKEFILE.replace("-MMD", "-MMD -Dbody_$*=1"))
    project.write("one.c", ONE.replace("one", "one").replace("1", "10"))
    base = project.as_base(project.build())
    project.write("one.c", TWO.replace("two", "one").replace("2", "20"))
    project.write("two.c", ONE.replace("one", "two").replace("1", "30"))
    built = project.build(base=base)
    assert built.compiled == ["one.c", "two.c"]
    assert built.run(store) == "50\n"


def test_names_with_blanks_quotes_and_dashes(project: Project) -> None:
    for name in ("a b.txt", "-n", "quote's", "$(touch oops)", "*"):
        project.write(f"odd/{name}", "1\n")
    project.build_command = "make; cat odd/* >'made of them'; cp -rT odd './-odd copies'"
    first = project.build()
    assert "-odd copies/$(touch oops)" in saved(first)
    assert "made of them" in saved(first)
    project.write("odd/a b.txt", "2\n")
    built = project.build(base=project.as_base(first))
    assert "1 changed, 0 added, 0 deleted" in built.said
    assert saved(built) == saved(first)


@pytest.mark.parametrize("name", ["line\nbreak", "back\\slash", "tab\t"])
def test_names_that_a_list_cannot_hold_cost_a_full_build(project: Project, name: str) -> None:
    base = project.as_base(project.build())
    project.write(name, "\n")
    said = project.build(base=base, structure='"keep"').said
    assert said.startswith("full build: a source has a tab, a line break or a backslash")


def test_a_link_that_points_elsewhere_costs_a_full_build(
    store: PrivateStore, project: Project
) -> None:
    project.write("one.c", '#include "value.h"\nint one(void) { return VALUE; }\n')
    project.write("old.h", "#define VALUE 1\n")
    project.write("new.h", "#define VALUE 100\n")
    (project.folder / "value.h").symlink_to("old.h")
    base = project.as_base(project.build())
    (project.folder / "value.h").unlink()
    (project.folder / "value.h").symlink_to("new.h")
    built = project.build(base=base)
    assert built.said == "full build: link or kind of file changed value.h"
    assert built.run(store) == "102\n"


def test_a_file_made_executable_has_changed(project: Project) -> None:
    base = project.as_base(project.build())
    (project.folder / "two.c").chmod(0o755)
    assert project.build(base=base).compiled == ["two.c"]


IGNORE_REWRITTEN = ('    [ -n "$found" ] || incremental_find_rewritten\n', "")


@pytest.mark.parametrize("guarded", [True, False])
def test_a_source_that_the_build_writes_over(
    store: PrivateStore, tmp_path: Path, guarded: bool
) -> None:
    library = script_without(tmp_path, *([] if guarded else [IGNORE_REWRITTEN]))
    project = c_project(store, tmp_path, library)
    project.write("value.h", "#define VALUE 1\n")
    project.write("one.c", '#include "value.h"\nint one(void) { return VALUE; }\n')
    project.build_command = "test -e done || { sed -i s/1/100/ value.h; touch done; }; make"
    first = project.build()
    assert first.run(store) == "102\n"
    project.write("one.c", '#include "value.h"\nint one(void) { return VALUE; }\n/* more */\n')
    built = project.build(base=project.as_base(first))
    if guarded:
        reason = "the build wrote over value.h, which is a source"
        assert f"incremental: not saved: {reason}\n" in first.log
        assert built.said == f"full build: the base holds nothing: {reason}"
    assert built.run(store) == ("102\n" if guarded else "3\n")


def test_what_is_written_over_while_configuring_is_so_each_time(
    store: PrivateStore, project: Project
) -> None:
    project.write("value.h", "#define VALUE 1\n")
    project.write("one.c", '#include "value.h"\nint one(void) { return VALUE; }\n')
    project.arguments["configure"] = '"sed -i s/1/100/ value.h"'
    base = project.as_base(project.build())
    project.write("two.c", TWO.replace("2", "20"))
    built = project.build(base=base)
    assert built.compiled == ["one.c", "two.c"]
    assert built.run(store) == "120\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("rm $out/sources", "base manifest unreadable"),
        ("rm $out/incremental", "base manifest unreadable"),
        ("rm -r $out/tree", "base manifest unreadable"),
        ("sed -i 's/^format 1/format 7/' $out/incremental", "base manifest unreadable"),
        (": >$out/sources", "fullOn pattern matched Makefile"),
        (
            "sed -i 's/^system .*/system m68k-linux/' $out/incremental",
            "the base is of system m68k-linux",
        ),
        ("rm -r $out; echo junk >$out", "base app-intermediates is not there"),
        ("rm -r $out; mkdir $out; echo junk >$out/junk", "base manifest unreadable"),
        ("rm -r $out; mkdir $out", "no base"),
        ("head -c 100 /dev/urandom >$out/sources", "fullOn pattern matched Makefile"),
        ("echo secret >$out/tree/main.c", "the base holds main.c, which the source has"),
        (
            "rm $out/tree/app; mkdir -p $out/tree/main.c/x",
            "the base holds main.c, which the source has",
        ),
    ],
)
def test_a_damaged_base_costs_a_full_build(
    store: PrivateStore, project: Project, tmp_path: Path, damage: str, said: str
) -> None:
    copy = tmp_path / "app-intermediates"
    first = project.build()
    shutil.copytree(first.intermediates, copy, symlinks=True)
    store.run("sh", "-c", f"chmod -R u+w {copy}; out={copy}; {damage}")
    damaged = Built(out=first.out, intermediates=copy, log="")
    built = project.build(base=project.as_base(damaged))
    assert built.said == f"full build: {said}"
    assert built.compiled == ["main.c", "one.c", "two.c"]


def test_what_is_listed_is_saved_and_what_is_excluded_is_not(project: Project) -> None:
    project.build_command = (
        "make; mkdir -p dist/deep; touch dist/a dist/deep/b.log dist/deep/c other"
    )
    everything = saved(project.build())
    assert {"app", "main.o", "dist/a", "dist/deep/b.log", "other"} <= everything
    some = project.build(artifacts='[ "dist/" "*.o" ]', exclude='[ "*.log" "dist/a" ]')
    assert saved(some) == {"dist/deep/c", "main.o", "one.o", "two.o"}


def test_a_base_mounted_by_the_daemon_is_used_though_the_derivation_names_none(
    store: PrivateStore, project: Project
) -> None:
    first = project.build()
    project.write("two.c", TWO.replace("2", "2000"))
    mount = f"/incremental/base={first.intermediates}"
    built = project.realise(project.expression(), "--option", "extra-sandbox-paths", mount)
    assert built.said.startswith("base base: 1 changed")
    assert built.compiled == ["two.c"]
    canonical = store.run("nix-instantiate", "-E", project.expression()).stdout.strip()
    deriver = store.run("nix-store", "-q", "--deriver", str(built.out)).stdout.strip()
    assert deriver == canonical.partition("!")[0]
    again = store.run("nix-store", "--realise", "--check", deriver)
    assert "incremental: full build: no base" in again.stderr


STAGES = {"stages": '"compile-finish"'}


def test_a_failed_compilation_costs_only_what_failed(project: Project) -> None:
    project.write("one.c", "a mistake\n")
    log = project.fail(**STAGES)
    assert "incremental: compiled with status 2" in log
    assert "incremental: base app-intermediates: 0 changed" in log
    base = project.as_base(project.realise(f"({project.expression(**STAGES)}).compile"))
    project.write("one.c", ONE)
    built = project.realise(project.expression(base=base, **STAGES))
    assert built.compiled == ["one.c"]
    project.assert_right(built)


def of_compile_stage(project: Project, *, base: str) -> str:
    """What the compile stage left, as a base."""
    return project.as_base(project.realise(f"({project.expression(base=base, **STAGES)}).compile"))


@pytest.mark.parametrize("guarded", [True, False])
def test_an_object_that_could_not_be_made_again_is_not_taken_for_a_new_one(
    store: PrivateStore, tmp_path: Path, guarded: bool
) -> None:
    library = script_without(tmp_path, *([] if guarded else [('"$base/pending" ]', '"" ]')]))
    project = c_project(store, tmp_path, library)
    base = of_compile_stage(project, base="null")
    project.write("one.c", "a mistake\n")
    project.write("two.c", TWO.replace("2", "20"))
    if not guarded:
        assert project.build(base=base, **STAGES).run(store) == "3\n", "the one before"
        return
    log = project.fail(base=base, **STAGES)
    assert "incremental: compiled with status 2" in log
    base = of_compile_stage(project, base=base)
    project.write("one.c", ONE.replace("1", "10"))
    built = project.build(base=base, **STAGES)
    assert built.compiled == ["one.c"], "what was made of the other change stays"
    assert built.run(store) == "30\n"
    project.assert_right(built)


def test_failures_in_a_row_are_told_apart(project: Project) -> None:
    base = of_compile_stage(project, base="null")
    project.write("one.c", "a mistake\n")
    base = of_compile_stage(project, base=base)
    project.write("two.c", "another\n")
    base = of_compile_stage(project, base=base)
    project.write("two.c", TWO.replace("2", "20"))
    assert "a mistake" in project.fail(base=base, **STAGES)
    base = of_compile_stage(project, base=base)
    project.write("one.c", ONE)
    built = project.build(base=base, **STAGES)
    assert built.run(project.store) == "21\n"
    project.assert_right(built)


HALF = """
app: half.txt
half.txt: half
\techo begun >$@; grep finished half >>$@
"""


@pytest.mark.parametrize("guarded", [True, False])
def test_what_a_failed_rule_left_half_written_is_not_kept(
    store: PrivateStore, tmp_path: Path, guarded: bool
) -> None:
    library = script_without(tmp_path, *([] if guarded else [(".DELETE_ON_ERROR:", "#")]))
    project = c_project(store, tmp_path, library)
    project.write("Makefile", MAKEFILE + HALF)
    project.write("half", "not yet\n")
    project.install_command += "; cp half.txt $out"
    if guarded:
        assert "half.txt] Error 1" in project.fail(**STAGES)
    else:
        built = project.build(**STAGES)
        assert (built.out / "half.txt").read_text() == "begun\n"


def fingerprint(store: PrivateStore, expression: str) -> dict[str, object]:
    """What the daemon compares: all but outputs, what src and base bring in, and policy."""
    path = store.run("nix-instantiate", "-E", expression).stdout.strip().partition("!")[0]
    shown = json.loads(store.run("nix", "derivation", "show", path).stdout)
    (derivation,) = shown["derivations"].values()
    environment = derivation["env"]
    source = Path(environment["src"]).name
    for name in ("src", "incrementalBase", "incrementalPolicy", *derivation.pop("outputs")):
        del environment[name]
    inputs = derivation.pop("inputs")
    return {**derivation, "inputs": [name for name in inputs["srcs"] if name != source]}


def test_all_stages_and_policies_have_one_fingerprint(
    store: PrivateStore, project: Project
) -> None:
    staged = project.expression(**STAGES)
    expressions = [
        project.expression(),
        project.expression(fullOn="[ ]", artifacts='[ "x" ]', slot='"other"'),
        staged,
        f"({staged}).compile",
    ]
    found = [fingerprint(store, expression) for expression in expressions]
    assert all(one == found[0] for one in found)
    project.arguments["env"] = '{ CFLAGS = "-O3"; }'
    assert fingerprint(store, project.expression()) != found[0]


def test_every_preset_can_be_used(store: PrivateStore, project: Project) -> None:
    presets = f"(import {project.library}).incremental.presets"
    names = evaluate(store, f"builtins.attrNames {presets}")
    assert names == ["cargo", "cmake", "ghc", "go", "make", "meson", "ninja"]
    for name in names:
        expression = f"({project.expression(preset=f'{presets}.{name}')}).incremental"
        policy = evaluate(store, expression)
        assert isinstance(policy, dict)
        assert policy["fullOn"]
        assert set(policy["preset"]) == {
            *("artifacts", "env", "exclude", "fullOn", "setup", "structure")
        }


EPOCH = '"auto" or a time in seconds since 1970, 315532801 at the least'
BUCKET = (
    'bucket must be the name of one of the daemon\'s artifactStores, such as "builds", or null;'
    " the address and the credentials are in that option alone"
)
LINES = "a list of strings without line breaks"
PATHS = '"auto" or a list of paths relative to the source, such as [ "dist" ]'
PRESETS = "one of presets (make, cmake, ninja, meson, cargo, ghc, go), for example presets.cmake"
TAKEN = "is set by incremental.derivation itself; choose another name"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("structure", '"cleen"', 'structure must be "clean" or "keep", not "cleen"'),
        ("epoch", "2", f"epoch must be {EPOCH}, not 2"),
        ("stages", '"two"', 'stages must be "one" or "compile-finish", not "two"'),
        ("stablePrefix", '"yes"', 'stablePrefix must be true or false, not "yes"'),
        ("fullOn", '"Makefile"', f'fullOn must be {LINES}, not "Makefile"'),
        ("exclude", '[ "a\\nb" ]', f'exclude must be {LINES}, not ["a\\nb"]'),
        ("artifacts", '[ "../x" ]', f'artifacts must be {PATHS}, not ["../x"]'),
        ("artifacts", '[ "/x" ]', f'artifacts must be {PATHS}, not ["/x"]'),
        ("slot", "1", "slot must be a string without line breaks, or null, not 1"),
        ("bucket", '"s3://KEY:SECRET@builds"', BUCKET),
        ("bucket", '[ "builds" ]', BUCKET),
        ("preset", '"cmake"', f"preset must be {PRESETS}"),
        ("env", '{ PATH = "/x"; }', f"env.PATH {TAKEN}"),
        ("env", '{ incrementalBase = "x"; }', f"env.incrementalBase {TAKEN}"),
        ("outputs", '[ "intermediates" ]', 'outputs must not name "intermediates", which is added'),
    ],
)
def test_a_bad_argument_is_refused(
    store: PrivateStore, project: Project, name: str, value: str, message: str
) -> None:
    project.arguments[name] = value
    expression = f"({project.expression()}).drvPath"
    assert refusal(store, expression) == f"incremental.derivation app: {message}"


def test_a_source_that_is_a_file_is_refused(store: PrivateStore, project: Project) -> None:
    expression = project.expression(src='builtins.toFile "app.tar" ""')
    done = store.run("nix-build", "--no-out-link", "-E", expression, check=False)
    assert "app.tar, which is not a directory: unpack it in a derivation of its own" in done.stderr


def test_other_outputs_are_made_and_named(store: PrivateStore, project: Project) -> None:
    project.install_command += "; mkdir $dev; echo $out >$dev/home"
    project.arguments["outputs"] = '[ "out" "dev" ]'
    built = project.build()
    (home,) = store.store_dir.glob("*-app-dev/home")
    assert home.read_text() == f"{built.out}\n"
    assert built.run(store) == "3\n"
