"""Each hazard of incremental builds: the result is right with its guard, and wrong without it.

The numbers are those of the list in docs/incremental.md. Hazards that the daemon guards (a base in
a writable mount, hooks while auditing, shared build users) are tested with it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.incremental_lib.project import (
    HEADER,
    MAIN,
    MAKEFILE,
    ONE,
    TWO,
    Project,
    c_project,
    patched_library,
    script_without,
)
from tests.support.private_store import PrivateStore


def test_only_what_changed_is_compiled(store: PrivateStore, tmp_path: Path) -> None:
    project = c_project(store, tmp_path)
    first = project.build()
    assert first.said == "full build: no base"
    assert first.compiled == ["main.c", "one.c", "two.c"]
    base = project.as_base(first)

    project.write("two.c", TWO.replace("2", "20"))
    second = project.build(base=base)
    assert second.said == (
        "base app-intermediates: 1 changed, 0 added, 0 deleted; restored 7 files"
    )
    assert second.compiled == ["two.c"]
    assert second.run(store) == "21\n"
    clean = project.build()
    assert project.contents(clean) == project.contents(second)
    # What a build saves does not tell how it came about.
    assert project.as_base(clean) == project.as_base(second)

    project.write("part.h", HEADER + "/* all of them */\n")
    third = project.build(base=project.as_base(second))
    assert third.compiled == ["main.c", "one.c", "two.c"]

    project.write("README", "nothing is made of this\n")
    fourth = project.build(base=project.as_base(third), structure='"keep"')
    assert fourth.said.startswith("base app-intermediates: 0 changed, 1 added, 0 deleted;")
    assert fourth.compiled == []
    project.assert_right(fourth)


@pytest.mark.parametrize("guarded", [True, False])
def test_h1_a_flag_in_the_makefile(store: PrivateStore, tmp_path: Path, guarded: bool) -> None:
    project = c_project(store, tmp_path)
    project.write("one.c", ONE.replace("1", "VALUE"))
    project.write("Makefile", MAKEFILE.replace("-O1", "-O1 -DVALUE=1"))
    base = project.as_base(project.build())
    project.write("Makefile", MAKEFILE.replace("-O1", "-O1 -DVALUE=100"))
    if guarded:
        built = project.build(base=base)
        assert built.said == "full build: fullOn pattern matched Makefile"
        assert built.run(store) == "102\n"
    else:
        assert project.build(base=base, fullOn="[ ]").run(store) == "3\n"


ARCHIVE = """
UNITS = $(wildcard units/*.c)
libunits.a: $(UNITS:.c=.o)
\tar rcsD $@ $^
units/%.o: units/%.c
\tgcc -c -o $@ $<
install: libunits.a
\tmkdir $(PREFIX)
\tcp libunits.a $(PREFIX)
"""


@pytest.mark.parametrize("guarded", [True, False])
def test_h2_a_unit_leaves_a_static_library(
    store: PrivateStore, tmp_path: Path, guarded: bool
) -> None:
    project = Project(store=store, folder=tmp_path / "source")
    project.write("Makefile", ARCHIVE)
    project.write("units/one.c", "int one(void) { return 1; }\n")
    project.write("units/gone.c", "int gone(void) { return 0; }\n")
    base = project.as_base(project.build())
    (project.folder / "units/gone.c").unlink()
    built = project.build(base=base, structure='"clean"' if guarded else '"keep"')
    members = store.run("ar", "t", str(built.out / "libunits.a")).stdout.split()
    if guarded:
        assert built.said == "full build: file deleted units/gone.c"
        assert members == ["one.o"]
        project.assert_right(built)
    else:
        assert "gone.o" in members


@pytest.mark.parametrize("guarded", [True, False])
def test_h3_a_new_header_hides_another(store: PrivateStore, tmp_path: Path, guarded: bool) -> None:
    project = c_project(store, tmp_path)
    project.write("Makefile", MAKEFILE.replace("-MMD", "-MMD -Inear -Ifar"))
    project.write("one.c", "#include <value.h>\nint one(void) { return VALUE; }\n")
    project.write("far/value.h", "#define VALUE 1\n")
    base = project.as_base(project.build())
    project.write("near/value.h", "#define VALUE 100\n")
    built = project.build(base=base, structure='"clean"' if guarded else '"keep"')
    if guarded:
        assert built.said == "full build: file added near/value.h"
    assert built.run(store) == ("102\n" if guarded else "3\n")


def where_am_i(store: PrivateStore, folder: Path, *changes: tuple[str, str]) -> Project:
    """A program with the path of its output compiled into a unit that does not change."""
    project = c_project(store, folder, script_without(folder, *changes))
    project.write("Makefile", MAKEFILE.replace("-MMD", "-MMD -DPREFIX='\"$(PREFIX)\"'"))
    project.write("part.h", HEADER + "extern const char *home;\n")
    project.write("one.c", ONE + "const char *home = PREFIX;\n")
    project.write("main.c", MAIN.replace('"%d\\n",', '"%s %d\\n", home,'))
    return project


KEEP_REFERENCES = ("    found=$(incremental_find_reference)\n", "    found=\n")


def test_h4_the_output_path_stays_out_of_objects(store: PrivateStore, tmp_path: Path) -> None:
    project = where_am_i(store, tmp_path)
    first = project.build()
    assert first.run(store) == f"{first.out} 3\n"
    assert store.run("nix-store", "-q", "--references", str(first.intermediates)).stdout == ""
    project.write("two.c", TWO.replace("2", "20"))
    second = project.build(base=project.as_base(first))
    assert second.compiled == ["two.c"]
    assert second.run(store) == f"{second.out} 21\n"
    assert second.out != first.out
    project.assert_right(second)


def test_h4_without_a_stable_prefix_nothing_is_saved(store: PrivateStore, tmp_path: Path) -> None:
    project = where_am_i(store, tmp_path)
    first = project.build(stablePrefix="false")
    assert "incremental: not saved: app refers to an output of this derivation\n" in first.log
    second = project.build(base=project.as_base(first), stablePrefix="false")
    assert second.said == (
        "full build: the base holds nothing: app refers to an output of this derivation"
    )
    assert second.run(store) == f"{second.out} 3\n"


def test_h4_the_naive_way_refers_to_another_build(store: PrivateStore, tmp_path: Path) -> None:
    project = where_am_i(store, tmp_path, KEEP_REFERENCES)
    first = project.build(stablePrefix="false")
    project.write("two.c", TWO.replace("2", "20"))
    second = project.build(base=project.as_base(first), stablePrefix="false")
    assert second.run(store) == f"{first.out} 21\n"


IGNORE_ENVIRONMENT = ('[ "$value" = "$incremental_environment" ]', "true")


@pytest.mark.parametrize("guarded", [True, False])
def test_h5_other_flags_by_the_derivation(
    store: PrivateStore, tmp_path: Path, guarded: bool
) -> None:
    library = script_without(tmp_path, *([] if guarded else [IGNORE_ENVIRONMENT]))
    project = c_project(store, tmp_path, library)
    project.write("one.c", ONE.replace("1", "VALUE"))
    base = project.as_base(project.build(env='{ MORE = "-DVALUE=1"; }'))
    built = project.build(base=base, env='{ MORE = "-DVALUE=100"; }')
    if guarded:
        assert built.said == (
            "full build: compiler, flags or dependencies are not those of the base"
        )
    assert built.run(store) == ("102\n" if guarded else "3\n")


FOLDERS = """
logs/%: ; mkdir -p $@
missing = $(filter-out $(wildcard logs/*),logs/one logs/two)
$(OBJECTS): $(missing)
"""


@pytest.mark.parametrize("guarded", [True, False])
def test_h6_empty_folders(store: PrivateStore, tmp_path: Path, guarded: bool) -> None:
    naive = ("incremental_each mkdir -p --)", ": )")
    project = c_project(store, tmp_path, script_without(tmp_path, *([] if guarded else [naive])))
    project.write("Makefile", MAKEFILE + FOLDERS)
    base = project.as_base(project.build())
    project.write("two.c", TWO.replace("2", "20"))
    built = project.build(base=base)
    assert built.compiled == (["two.c"] if guarded else ["main.c", "one.c", "two.c"])


NINJA = """
rule cc
  command = gcc -MD -MF $out.d -c -o $out $in
  depfile = $out.d
  deps = gcc
rule link
  command = gcc -o $out $in
build main.o: cc main.c
build one.o: cc one.c
build two.o: cc two.c
build app: link main.o one.o two.o
"""


def ninja_project(store: PrivateStore, folder: Path) -> Project:
    project = c_project(store, folder)
    project.write("build.ninja", NINJA)
    project.build_command = "ninja -v"
    project.install_command = "mkdir -p $out/bin; cp app $out/bin"
    return project


def test_h7_artifacts_are_younger_than_the_hosts_headers(
    store: PrivateStore, tmp_path: Path
) -> None:
    project = ninja_project(store, tmp_path)
    base = project.as_base(project.build())
    for value in ("20", "200"):
        project.write("two.c", TWO.replace("2", value))
        built = project.build(base=base)
        assert built.compiled == ["two.c"]
        project.assert_right(built)
        base = project.as_base(built)


@pytest.mark.parametrize("epoch", ["315532801", "4102444800"], ids=["1980", "2100"])
def test_h7_any_one_time_is_too_old_or_too_young(
    store: PrivateStore, tmp_path: Path, epoch: str
) -> None:
    project = ninja_project(store, tmp_path)
    base = project.as_base(project.build())
    project.write("two.c", TWO.replace("2", "20"))
    built = project.build(base=base, epoch=epoch)
    assert built.compiled == ["main.c", "one.c", "two.c"]


NAME_THE_BASE = ("    unset incrementalBase\n", "")


@pytest.mark.parametrize("guarded", [True, False])
def test_h8_a_base_keeps_no_older_base_alive(
    store: PrivateStore, tmp_path: Path, guarded: bool
) -> None:
    naive = [] if guarded else [NAME_THE_BASE, KEEP_REFERENCES]
    project = c_project(store, tmp_path, script_without(tmp_path, *naive))
    project.build_command = "make; echo $incrementalBase >came-from"
    built = project.build()
    for generation in range(1, 3):
        project.write("two.c", TWO.replace("2", f"{generation}"))
        built = project.build(base=project.as_base(built))
        closure = store.run("nix-store", "-qR", str(built.intermediates)).stdout.split()
        assert len(closure) == (1 if guarded else 2)


def test_h8_a_build_that_finds_its_base_saves_nothing(store: PrivateStore, tmp_path: Path) -> None:
    project = c_project(store, tmp_path)
    first = project.build()
    project.build_command = f"make; echo {store.store_dir}/*-app-intermediates >came-from"
    built = project.build(base=project.as_base(first))
    # The command is another one, so this build is full; the base is there all the same.
    assert "incremental: not saved: came-from refers to the source or the base" in built.log
    assert store.run("nix-store", "-qR", str(built.intermediates)).stdout.split() == [
        str(built.intermediates)
    ]


OTHER_POLICY = {"fullOn": '[ "*.mk" ]', "exclude": '[ "*.log" ]', "structure": '"keep"'}


def test_h9_another_policy_keeps_the_base(store: PrivateStore, tmp_path: Path) -> None:
    project = c_project(store, tmp_path)
    base = project.as_base(project.build())
    assert project.build(base=base, **OTHER_POLICY).compiled == []


def test_h9_a_policy_in_a_variable_of_its_own_drops_the_base(
    store: PrivateStore, tmp_path: Path
) -> None:
    naive = ("incrementalBuild = build;", "incrementalBuild = build; inherit (policy) structure;")
    library = patched_library(tmp_path, ("incremental/plain.nix", *naive))
    project = c_project(store, tmp_path, library)
    base = project.as_base(project.build())
    assert project.build(base=base, **OTHER_POLICY).compiled == ["main.c", "one.c", "two.c"]


EXPAND = ("incremental_match() (\n    set -f\n", "incremental_match() (\n")


@pytest.mark.parametrize("guarded", [True, False])
def test_h10_patterns_stay_patterns(store: PrivateStore, tmp_path: Path, guarded: bool) -> None:
    library = script_without(tmp_path, *([] if guarded else [EXPAND]))
    project = c_project(store, tmp_path, library)
    project.write("Makefile", MAKEFILE + "include flags/value.mk\n")
    project.write("one.c", ONE.replace("1", "VALUE"))
    project.write("other.mk", "# what *.mk expands to, in the root\n")
    project.write("flags/value.mk", "CFLAGS += -DVALUE=1\n")
    base = project.as_base(project.build())
    project.write("flags/value.mk", "CFLAGS += -DVALUE=100\n")
    assert project.build(base=base).run(store) == ("102\n" if guarded else "3\n")


IGNORE_ROOT = ('[ "$value" = "$PWD" ]', "true")


@pytest.mark.parametrize("guarded", [True, False])
def test_h11_a_build_directory_of_another_name(tmp_path: Path, guarded: bool) -> None:
    store = PrivateStore.create(settings="sandbox = false\n")
    library = script_without(tmp_path, *([] if guarded else [IGNORE_ROOT]))
    project = c_project(store, tmp_path, library)
    project.write("Makefile", MAKEFILE.replace("-MMD", "-MMD -DHERE='\"$(CURDIR)\"'"))
    project.write("part.h", HEADER + "extern const char *here;\n")
    project.write("one.c", ONE + "const char *here = HERE;\n")
    project.write("main.c", MAIN.replace('"%d\\n",', '"%s %d\\n", here,'))
    first = project.build()
    project.write("two.c", TWO.replace("2", "20"))
    second = project.build(base=project.as_base(first))
    here = first.run(store).split()[0]
    if guarded:
        assert second.said.startswith(f"full build: the base was built in {here}, this is ")
        assert second.run(store).split()[0] != here
    else:
        assert second.run(store) == f"{here} 21\n"
    store.destroy()


@pytest.mark.parametrize("guarded", [True, False])
def test_h15_new_sources_are_not_written_over(
    store: PrivateStore, tmp_path: Path, guarded: bool
) -> None:
    naive = [
        (
            "FILENAME == ARGV[2] { source[$2]; next }\n            !($2 in source)",
            "FILENAME == ARGV[2] { next }\n            !($2 in source)",
        ),
        ('refuse "the base holds $collision, which the source has"', ":"),
    ]
    project = c_project(store, tmp_path, script_without(tmp_path, *([] if guarded else naive)))
    base = project.as_base(project.build())
    project.write("two.c", TWO.replace("2", "20"))
    built = project.build(base=base)
    assert "1 changed" in built.said
    assert built.run(store) == ("21\n" if guarded else "3\n")
