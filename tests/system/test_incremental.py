"""Incremental builds by the whole reconciler: commit after commit, and what can go wrong."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reconciler.build import log as build_log
from reconciler.incremental.comparison import difference
from reconciler.model import DrvPath
from reconciler.nix import derivation
from tests.incremental.support import GARNIX_FLAKE, LIB
from tests.support.repositories import Repository
from tests.support.trial import Trial

UNITS = 3
MAKEFILE = """
OBJECTS = $(patsubst %.c,%.o,$(sort $(wildcard *.c)))
app: $(OBJECTS)
\tgcc -o $@ $(OBJECTS)
%.o: %.c common.h
\tgcc -O1 -c -o $@ $<
"""
RELEASE = """
{ incrementalBases ? { } }:
let
  inherit (import ./lib) incremental;
  app = incremental.derivation {
    name = "app";
    system = "x86_64-linux";
    src = ./src;
    base = incrementalBases.app or null;
    build = "make";
    install = "mkdir -p $out; cp app $out/";
  };
in
{
  inherit app;
  uses = derivation {
    name = "uses"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    args = [ "-euc" "${app}/app > $out || echo $? > $out\n:" ];
  };
}
"""
BY_HAND = """
{ incrementalBases ? { } }:
{
  app = derivation {
    name = "app"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    outputs = [ "out" "intermediates" ];
    src = ./src;
    incrementalBase = incrementalBases.app or "";
    args = [ "-euc" "@build@\n:" ];
  };
}
"""
"""An incremental job without the library, built by `@build@`."""
UNEQUAL = BY_HAND.replace(
    "@build@", '[ -z \\"$incrementalBase\\" ]; echo > $out; mkdir $intermediates'
)
"""Its build fails from any base."""


CACHE_NIX = RELEASE.replace("{ incrementalBases ? { } }:", "").replace(
    "incrementalBases.app or null", 'incremental.fromCacheNix ./cache.nix "app"'
)
FLAKE = """
{
  inputs.garnix-incrementalize.url = "git+file://@garnix@";
  outputs = { self, garnix-incrementalize }: garnix-incrementalize.lib.withCaches {
    packages.x86_64-linux = rec {
      app = base: (import ./lib).incremental.derivation {
        name = "app";
        system = "x86_64-linux";
        src = ./src;
        inherit base;
        build = "make";
        install = "mkdir -p $out; cp app $out/";
      };
    };
    checks.x86_64-linux.uses = derivation {
      name = "uses"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
      args = [ "-euc" "${self.packages.x86_64-linux.app}/app > $out || echo $? > $out\n:" ];
    };
  };
}
"""
"""As garnix documents it: nothing in it is of ours but the library that builds."""


HEADERS = "".join(f"int unit{unit}(void);\n" for unit in range(UNITS))


def unit_source(number: int, value: int) -> str:
    return f'#include "common.h"\nint unit{number}(void) {{ return A * {value}; }}\n'


HISTORY: tuple[tuple[dict[str, str | None], str], ...] = (
    ({"src/unit0.c": unit_source(0, 2)}, "from a base"),
    ({"src/unit1.c": unit_source(1, 3), "src/unit2.c": unit_source(2, 4)}, "from a base"),
    ({"src/README": "of no matter\n"}, "in full"),  # a file was added
    ({"src/README": "still of no matter\n"}, "from a base"),
    ({"src/common.h": "#define A 2\n"}, "from a base"),
    ({"src/Makefile": MAKEFILE.replace("-O1", "-O2")}, "in full"),
    ({"src/unit0.c": unit_source(0, 1)}, "from a base"),
    (
        {
            "src/unit3.c": "int unit3(void) { return 9; }\n",
            "src/main.c": f"{HEADERS}int unit3(void);\n"
            "int main(void) { return unit0() + unit1() + unit2() + unit3(); }\n",
        },
        "in full",
    ),
    ({"src/unit3.c": "int unit3(void) { return 8; }\n"}, "from a base"),
    (
        {
            "src/unit2.c": None,
            "src/main.c": f"{HEADERS}int unit3(void);\n"
            "int main(void) { return unit0() + unit1() + unit3(); }\n",
        },
        "in full",
    ),
    ({"src/common.h": "#define A 3\n#define B 4\n"}, "from a base"),
    ({"src/unit0.c": unit_source(0, 5), "src/unit1.c": unit_source(1, 6)}, "from a base"),
)
"""What each commit changes, and whether its build starts from the one before."""


class Project:
    """A repository with a program, and a jobset for it."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.repository = Repository.create(trial.root / "repository")
        self.folder = Path(self.repository.folder)
        shutil.copytree(LIB, self.folder / "lib")
        (self.folder / "src").mkdir()
        for unit in range(UNITS):
            self.write(f"src/unit{unit}.c", unit_source(unit, 1))
        calls = " + ".join(f"unit{unit}()" for unit in range(UNITS))
        self.write("src/main.c", f"{HEADERS}int main(void) {{ return {calls}; }}\n")
        self.write("src/common.h", "#define A 1\n")
        self.write("src/Makefile", MAKEFILE)
        self.commit("release.nix", RELEASE)
        git = {"url": self.repository.url, "ref": "main"}
        self.source: dict[str, Any] = {"git": git, "file": "release.nix"}

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def commit(self, name: str, text: str) -> str:
        self.repository.git("add", "--all")
        return self.repository.commit(name, text)

    def use_garnix(self) -> None:
        """Be a flake that is written for garnix."""
        garnix = Repository.create(self.trial.root / "garnix")
        (garnix.folder / "none").mkdir()
        (garnix.folder / "none/.gitignore").write_text("")
        garnix.git("add", "--all")
        garnix.commit("flake.nix", GARNIX_FLAKE)
        self.commit("flake.nix", FLAKE.replace("@garnix@", str(garnix.folder)))
        self.trial.store.run("nix", "flake", "lock", str(self.folder))
        self.commit("note", "locked")
        self.source = {"flake": f"git+{self.repository.url}?ref=main"}

    def declare(self, **incremental: Any) -> None:
        jobset = {
            "source": self.source,
            "incremental": {"enable": True, "audit": {"fraction": 0}, **incremental},
            "keep": 20,
            "caches": ["main"],
        }
        key = self.trial.root / "key"
        if not key.exists():
            made = self.trial.store.run("nix", "key", "generate-secret", "--key-name", "test-1")
            key.write_text(made.stdout)
        cache = {"uri": f"file://{self.trial.root}/cache", "signingKeyFile": str(key)}
        self.trial.declare({"it": jobset}, caches={"main": cache})

    def declare_builders(self, *, drain: bool) -> None:
        document = json.loads(self.trial.config.read_text())
        document["builders"]["local"]["drain"] = drain
        self.trial.document(document)

    def edit(self, unit: int, value: int) -> None:
        self.commit(f"src/unit{unit}.c", unit_source(unit, value))

    def run(self) -> str:
        """Reconcile; the log of the newest build of the program."""
        assert self.trial.once()
        attempt = self.trial.value(
            "SELECT max(a.id) FROM attempt a JOIN derivation d ON d.id = a.derivation"
            " WHERE d.name = 'app'"
        )
        return b"".join(build_log.read(self.trial.state_dir / "logs", attempt)).decode()

    def has_told(self, until: int) -> bool:
        """Whether the story has come so far."""
        return (self.trial.value("SELECT max(id) FROM event") or 0) >= until

    def compiled(self) -> list[str]:
        """What the newest run compiled."""
        return sorted(re.findall(r"-c -o \S+ (\S+\.c)", self.run()))

    def result(self) -> str:
        output = self.trial.value(
            "SELECT o.path FROM output o JOIN job j ON j.derivation = o.derivation"
            " WHERE j.attr LIKE '%uses' ORDER BY j.evaluation DESC"
        )
        return Path(output).read_text().strip()

    def reasons(self) -> list[tuple[str, str]]:
        """Mode and reason of each build of the program, oldest first."""
        return self.trial.query("SELECT mode, reason FROM build_base ORDER BY at")

    def bases(self) -> list[tuple[int, int, str | None]]:
        """Number, depth and quarantine of those that are kept."""
        return self.trial.query(
            "SELECT id, depth, quarantine FROM base WHERE released_at IS NULL ORDER BY id"
        )


@pytest.fixture
def project(trial: Trial) -> Project:
    return Project(trial)


def test_both_evaluations_read_one_copy_of_the_source(project: Project) -> None:
    told, program = project.trial.root / "told", project.trial.root / "bin/nix-instantiate"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *fetchGit*) echo fetched >> {told};; esac\n'
        f'exec {shutil.which("nix-instantiate")} "$@"\n'
    )
    program.chmod(0o755)
    project.trial.environment["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    project.declare()
    project.run()
    project.edit(1, 5)
    told.unlink()
    assert project.compiled() == ["unit1.c"]
    assert project.reasons()[-1][0] == "incremental"
    assert told.read_text().split() == ["fetched"]


def test_each_commit_compiles_what_changed(project: Project) -> None:
    project.declare()
    assert len(project.compiled()) == UNITS + 1
    assert project.result() == str(UNITS)
    project.edit(1, 5)
    assert project.compiled() == ["unit1.c"]
    assert project.result() == "7"
    project.edit(2, 7)
    assert project.compiled() == ["unit2.c"]
    assert project.result() == "13"
    assert [depth for _, depth, _ in project.bases()] == [0, 1, 2]
    assert project.reasons()[0] == (
        "full",
        "built in full: no earlier build of this job has left intermediates",
    )
    assert project.reasons()[1][1].startswith("starts from the newest build (commit ")
    assert project.trial.conditions() == {}


def test_a_history_gives_what_clean_builds_give(project: Project) -> None:
    """Twelve commits of every kind: each result equals a clean build's, but for its own path."""
    project.declare()
    project.run()
    expected: list[str] = []
    for change, mode in HISTORY:
        for name, text in change.items():
            if text is None:
                (project.folder / name).unlink()
            else:
                project.write(name, text)
        project.repository.git("add", "--all")
        project.commit("note", str(len(expected)))
        log = project.run()
        expected.append(mode)
        built, clean = project.trial.query(
            "SELECT d.path, c.canonical FROM build_base c JOIN derivation d ON d.id = c.derivation"
            " JOIN incremental_slot s ON s.id = c.slot WHERE s.job = 'app' ORDER BY c.at DESC"
        )[0]
        project.trial.store.run("nix-store", "--realise", clean)
        outputs = [derivation.read(DrvPath(drv)).outputs["out"] for drv in (built, clean)]
        mine, twin = (path for path in outputs if path is not None)
        assert difference({"out": mine}, {"out": twin}, {}) is None, change
        # What the library did of it; that it was given a base is another matter.
        assert ("restored" in log) == (mode == "from a base"), (change, log)
    needing = "needs what starts from a base"
    modes = [mode for mode, reason in project.reasons() if reason != needing]
    assert modes == ["full", *["incremental"] * len(expected)]


def test_the_recipe_of_a_cache_branch_is_one_switch(project: Project) -> None:
    """Commits of ours hold cache.nix; upstream stays as it is, and what is reported is its."""
    project.commit("release.nix", CACHE_NIX)
    project.declare(protocols=["cache.nix"])
    project.run()
    revision = project.commit("src/unit1.c", unit_source(1, 5))
    assert project.compiled() == ["unit1.c"]
    assert project.result() == "7"
    assert project.repository.git("for-each-ref", "--format=%(refname)") == "refs/heads/main"
    newest = project.trial.query(
        "SELECT e.revision, i.revision, i.reference FROM evaluation e"
        " JOIN evaluation_input i ON i.evaluation = e.id ORDER BY e.id DESC"
    )[0]
    assert newest[:2] == (revision, revision)
    assert newest[2] != revision
    overlays = project.trial.state_dir / "overlays/it"
    told = project.repository.git("-C", str(overlays), "show", f"{newest[2]}:commit.txt")
    assert told == revision
    project.edit(2, 7)
    assert project.compiled() == ["unit2.c"]


def test_a_flake_written_for_garnix_builds_incrementally(project: Project) -> None:
    project.use_garnix()
    project.declare()
    assert len(project.compiled()) == UNITS + 1
    project.edit(1, 5)
    assert project.compiled() == ["unit1.c"]
    assert project.result() == "7"


def test_killed_at_any_moment_the_next_start_goes_on(project: Project) -> None:
    chance = random.Random(7)  # noqa: S311 - not a secret
    project.declare()
    for value in (5, 6, 7):
        project.edit(1, value)
        told = project.trial.value("SELECT max(id) FROM event") or 0
        with project.trial.running(wait=False) as daemon:
            until = told + chance.randint(1, 12)
            daemon.eventually(partial(project.has_told, until))
            daemon.kill()
        project.trial.until_nothing_runs()
    project.run()
    assert project.result() == str(UNITS - 1 + 7)
    twice = project.trial.query(
        "SELECT d.path, count(*) FROM attempt a JOIN derivation d ON d.id = a.derivation"
        " WHERE a.outcome = 'succeeded' GROUP BY d.id HAVING count(*) > 1"
    )
    assert twice == []
    assert project.trial.conditions() == {}


def test_a_build_that_fails_from_its_base_is_made_again_without(project: Project) -> None:
    project.commit("release.nix", UNEQUAL)
    project.declare()
    assert project.trial.once()
    project.edit(1, 5)
    assert project.trial.once()
    states = project.trial.query(
        "SELECT c.mode, b.state, c.reason FROM build_base c"
        " JOIN build b ON b.derivation = c.derivation ORDER BY c.at"
    )
    assert [each[:2] for each in states] == [
        ("full", "succeeded"),
        ("incremental", "failed"),
        ("full", "succeeded"),
    ]
    assert states[2][2] == "built in full: its build from a base failed"
    ((_, _, first), (_, _, second)) = project.bases()
    assert first == "app failed from it, and was built without"
    assert second == f"it is the same as base 1: {first}", "it is empty, too"
    assert project.trial.builds()["app"] == "succeeded"
    assert project.trial.once()
    assert len(project.reasons()) == 3


def test_without_retry_clean_a_failure_is_one(project: Project) -> None:
    project.commit("release.nix", UNEQUAL)
    project.declare(retryClean=False)
    assert project.trial.once()
    project.edit(1, 5)
    assert not project.trial.once() or project.trial.builds()["app"] == "failed"
    assert [mode for mode, _ in project.reasons()] == ["full", "incremental"]


def test_a_base_that_is_lost_costs_a_full_build_and_nothing_else(project: Project) -> None:
    """It is there when it is chosen, and gone when the build begins."""
    project.declare()
    project.run()
    path = project.trial.value("SELECT path FROM base")
    project.edit(1, 5)
    project.declare_builders(drain=True)
    project.trial.once()
    assert project.reasons()[1][0] == "incremental"
    (project.trial.state_dir / "gcroots/bases" / Path(path).name).unlink()
    project.trial.store.run("nix-store", "--delete", "--ignore-liveness", path)
    project.declare_builders(drain=False)
    assert len(project.compiled()) == UNITS + 1
    assert project.result() == "7"
    assert project.reasons()[-1][0] == "full"
    cause = project.trial.value("SELECT cause FROM evaluation ORDER BY id DESC")
    assert cause == "the base of app could not be had"
    assert project.trial.conditions() == {}


def test_the_same_source_is_not_built_again(project: Project) -> None:
    project.declare()
    project.run()
    project.edit(1, 5)
    project.run()
    before = project.trial.builds()
    attempts = project.trial.value("SELECT count(*) FROM attempt")
    project.trial.request("trigger", "it")
    assert project.trial.once()
    assert len(project.trial.evaluations("it")) == 3
    assert project.trial.builds() == before
    assert project.trial.value("SELECT count(*) FROM attempt") == attempts


def test_bases_are_kept_rooted_and_cached_as_declared(project: Project) -> None:
    project.declare(retention={"perSlot": 2})
    project.run()
    for number in (5, 6, 7):
        project.edit(1, number)
        assert project.compiled() == ["unit1.c"]
    kept = project.trial.query("SELECT path FROM base WHERE released_at IS NULL ORDER BY id")
    assert len(kept) == 2
    rooted = {link.name for link in (project.trial.state_dir / "gcroots/bases").iterdir()}
    assert rooted == {Path(path).name for (path,) in kept}
    cached = (project.trial.root / "cache").glob("*.narinfo")
    stored = {
        line.removeprefix("StorePath: ")
        for each in cached
        for line in each.read_text().splitlines()
        if line.startswith("StorePath: ")
    }
    assert {path for (path,) in kept} <= stored
    own = project.trial.query("SELECT path FROM output WHERE name = 'intermediates'")
    assert own
    assert not stored & {path for (path,) in own}
