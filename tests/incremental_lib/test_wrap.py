"""incremental.wrap: the same guards in the phases of a derivation made by stdenv.mkDerivation.

nixpkgs is not here; stdenv/ is what wrap relies on of its stdenv.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.incremental_lib.project import (
    HEADER,
    LIBRARY,
    MAIN,
    ONE,
    TWO,
    Project,
    evaluate,
    refusal,
)
from tests.support.private_store import PrivateStore

STDENV = Path(__file__).parent / "stdenv"

MAKEFILE = """\
include config.mk
OBJECTS = main.o one.o two.o
all: app script
app: $(OBJECTS)
\tgcc -Wl,$(subst $() ,$(comma),$(NIX_LDFLAGS)) -o $@ $(OBJECTS)
comma = ,
%.o: %.c
\tgcc -O1 -MMD $(NIX_CFLAGS_COMPILE) -DPREFIX='"$(CONFIGURED)"' -c -o $@ $<
script: script.in
\tsed 's|@prefix@|$(CONFIGURED)|' script.in >$@
\tchmod +x $@
install: all
\tmkdir -p $(PREFIX)/bin $(DEV)/include
\tcp app script $(PREFIX)/bin
\tln -s $(PREFIX)/bin/app $(PREFIX)/bin/alias
\techo '#define HOME "$(PREFIX)"' >$(DEV)/include/home.h
-include $(OBJECTS:.o=.d)
"""

CONFIGURE = """\
#!/bin/sh
echo "CONFIGURED = ${1#--prefix=}" >config.mk
"""

DERIVATION = """
(import %(stdenv)s).mkDerivation {
  name = "app";
  src = builtins.path { path = %(source)s; name = "source"; };
  outputs = [ "out" "dev" ];
  makeFlags = [ "PREFIX=${placeholder "out"}" "DEV=${placeholder "dev"}" ];
  passthru.tests = "kept";
  %(more)s
}
"""


class Wrapped(Project):
    """A project that is built by incremental.wrap."""

    more = ""

    def plain(self) -> str:
        return DERIVATION % {"stdenv": STDENV, "source": self.folder, "more": self.more}

    def expression(self, *, base: str = "null", **policy: str) -> str:
        fields = " ".join(f"{name} = {value};" for name, value in {"base": base, **policy}.items())
        return f"(import {self.library}).incremental.wrap {{ {fields} }} ({self.plain()})"


@pytest.fixture
def project(store: PrivateStore, tmp_path: Path) -> Wrapped:
    project = Wrapped(store=store, folder=tmp_path / "source")
    project.write("Makefile", MAKEFILE)
    project.write("configure", CONFIGURE)
    (project.folder / "configure").chmod(0o755)
    project.write("script.in", "#!/bin/sh\necho @prefix@\n")
    project.write("part.h", HEADER + "extern const char *home;\n")
    project.write("main.c", MAIN.replace('"%d\\n",', '"%s %d\\n", home,'))
    project.write("one.c", ONE + "const char *home = PREFIX;\n")
    project.write("two.c", TWO)
    return project


def references(store: PrivateStore, path: Path) -> list[str]:
    return store.run("nix-store", "-q", "--references", str(path)).stdout.split()


def test_only_what_changed_is_compiled(store: PrivateStore, project: Wrapped) -> None:
    first = project.build()
    assert first.said == "full build: no base"
    assert first.run(store) == f"{first.out} 3\n"
    project.write("two.c", TWO.replace("2", "20"))
    second = project.build(base=project.as_base(first))
    assert second.compiled == ["two.c"]
    assert second.run(store) == f"{second.out} 21\n"
    assert second.out != first.out
    project.assert_right(second)


def test_outputs_name_themselves_and_intermediates_nothing(
    store: PrivateStore, project: Wrapped
) -> None:
    built = project.build()
    assert store.run(str(built.out / "bin/script")).stdout == f"{built.out}\n"
    assert (built.out / "bin/alias").readlink() == built.out / "bin/app"
    (header,) = store.store_dir.glob("*-app-dev/include/home.h")
    assert header.read_text() == f'#define HOME "{built.out}"\n'
    assert references(store, header.parents[1]) == [str(built.out)]
    assert references(store, built.intermediates) == []
    assert b"stableprefix" not in project.contents(built)
    assert str(built.out) in store.run("readelf", "-d", str(built.out / "bin/app")).stdout


def test_fixup_changes_outputs_and_not_what_is_saved(project: Wrapped) -> None:
    built = project.build()
    assert (built.out / "bin/script").read_text().startswith("#!/usr/bin/bash\n")
    assert (built.intermediates / "tree/script").read_text().startswith("#!/bin/sh\n")


def test_a_patch_counts_as_a_change_of_what_it_patches(
    store: PrivateStore, project: Wrapped, tmp_path: Path
) -> None:
    base = project.as_base(project.build())
    patch = tmp_path / "more.patch"
    patch.write_text(
        '--- a/two.c\n+++ b/two.c\n@@ -1,2 +1,2 @@\n #include "part.h"\n'
        "-int two(void) { return 2; }\n+int two(void) { return 20; }\n"
    )
    project.more = f"patches = [ {patch} ];"
    built = project.build(base=base)
    # Patches are part of the fingerprint.
    assert built.said == "full build: compiler, flags or dependencies are not those of the base"
    base = project.as_base(built)
    project.write("one.c", ONE + "const char *home = PREFIX;\n/* more */\n")
    built = project.build(base=base)
    assert built.compiled == ["one.c"]
    assert built.run(store) == f"{built.out} 21\n"


def test_what_failed_to_compile_costs_only_itself(store: PrivateStore, project: Wrapped) -> None:
    project.write("two.c", "int two(void) { return missing; }\n")
    log = project.fail(stages='"compile-finish"')
    assert "incremental: compiled with status 2" in log
    assert re.findall(r"-c -o \S+ (\S+\.c)", log).count("one.c") == 1
    compile_stage = f"({project.expression(stages=chr(34) + 'compile-finish' + chr(34))}).compile"
    base = project.as_base(project.realise(compile_stage))
    project.write("two.c", TWO)
    built = project.build(base=base, stages='"compile-finish"')
    assert "incremental: base app-intermediates: 1 changed," in built.log
    assert built.compiled == ["two.c"]
    assert built.run(store) == f"{built.out} 3\n"
    assert project.contents(built) == project.contents(project.build())


def test_what_the_derivation_offers_is_kept(store: PrivateStore, project: Wrapped) -> None:
    policy = 'slot = "main"; artifacts = [ "dist" ];'
    found = evaluate(
        store,
        f"let made = {project.expression(slot=chr(34) + 'main' + chr(34))}; in "
        "[ made.tests made.outputs made.incremental.slot "
        f"(made.overrideIncremental {{ {policy} }}).incremental.artifacts ]",
    )
    assert found == ["kept", ["out", "dev", "intermediates"], "main", ["dist"]]


WRAP = f"(import {LIBRARY}).incremental.wrap"
RAW = '(derivation { name = "raw"; system = "x"; builder = "y"; })'
REFUSALS = {
    f"{WRAP} {{ }} {RAW}": (
        "incremental.wrap raw: it has no overrideAttrs, so stdenv.mkDerivation did not make it; "
        "use incremental.derivation for a raw derivation"
    ),
    f'{WRAP} {{ artefacts = "auto"; }} MADE': (
        "incremental.wrap app: artefacts is no argument; there are base, artifacts, bucket, "
        "epoch, exclude, fallback, fullOn, preset, slot, stablePrefix, stages, structure"
    ),
    f'{WRAP} {{ }} (MADE.overrideAttrs (_: {{ phases = [ "buildPhase" ]; }}))': (
        "incremental.wrap app: it sets `phases`, so that none can be added; "
        "let it set dontUnpack, dontConfigure and the like instead"
    ),
    f'{WRAP} {{ }} (MADE.overrideAttrs (_: {{ outputs = [ "out" "intermediates" ]; }}))': (
        'incremental.wrap app: it has an output "intermediates" already'
    ),
}


@pytest.mark.parametrize(("expression", "message"), REFUSALS.items())
def test_what_cannot_be_wrapped_is_refused(
    store: PrivateStore, project: Wrapped, expression: str, message: str
) -> None:
    assert refusal(store, expression.replace("MADE", f"({project.plain()})")) == message


BUILD_CACHE = f"""(import {LIBRARY}).buildCache {{
  cache-name = "website-feature";
  master-cache = "website-main";
  cache-dirs = [ "objects" ];
  s3-bucket = "builds";
  pkgs = throw "not looked at";
  KEY
}}"""


def test_build_cache_is_nix_build_caches_interface(store: PrivateStore, project: Wrapped) -> None:
    project.write("Makefile", MAKEFILE.replace("include config.mk", "include objects/config.mk"))
    project.write("configure", CONFIGURE.replace(">config", ">objects/config"))
    project.write("objects/README", "where what is configured goes\n")
    built = project.realise(f"{BUILD_CACHE.replace('KEY', '')} ({project.plain()})")
    saved = [path.name for path in (built.intermediates / "tree").rglob("*")]
    assert saved == ["objects", "config.mk"]
    deriver = store.run("nix-store", "-q", "--deriver", str(built.out)).stdout.strip()
    policy = store.run("nix-store", "-q", "--binding", "incrementalPolicy", deriver).stdout
    assert policy.splitlines()[:3] == [
        "slot website-feature",
        "fallback website-main",
        "bucket builds",
    ]


@pytest.mark.parametrize("key", ["aws-key", "aws-secret", "aws-secret-key"])
def test_build_cache_takes_no_keys(store: PrivateStore, project: Wrapped, key: str) -> None:
    call = BUILD_CACHE.replace("KEY", f'{key} = "xxx";')
    assert refusal(store, f"{call} ({project.plain()})") == (
        f"buildCache: {key} would be readable by everyone in the store, in the derivation;"
        " remove it, and name a file with the credentials in the daemon's option"
        " artifactStores.builds.credentialsFile"
    )
