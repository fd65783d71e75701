"""Incremental builds by the whole reconciler: commit after commit, and what can go wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from reconciler.build import log as build_log
from tests.incremental.support import LIB
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
UNEQUAL = """
{ incrementalBases ? { } }:
{
  app = derivation {
    name = "app"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    outputs = [ "out" "intermediates" ];
    src = ./src;
    incrementalBase = incrementalBases.app or "";
    args = [ "-euc" "[ -z \\"$incrementalBase\\" ]; echo > $out; mkdir $intermediates\n:" ];
  };
}
"""
"""Its build fails from any base."""


class Project:
    """A repository with a program, and a jobset for it."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.repository = Repository.create(trial.root / "repository")
        self.folder = Path(self.repository.folder)
        shutil.copytree(LIB, self.folder / "lib")
        (self.folder / "src").mkdir()
        for unit in range(UNITS):
            self.write(f"src/unit{unit}.c", self.unit(unit, 1))
        calls = " + ".join(f"unit{unit}()" for unit in range(UNITS))
        headers = "".join(f"int unit{unit}(void);\n" for unit in range(UNITS))
        self.write("src/main.c", f"{headers}int main(void) {{ return {calls}; }}\n")
        self.write("src/common.h", "#define A 1\n")
        self.write("src/Makefile", MAKEFILE)
        self.commit("release.nix", RELEASE)

    @staticmethod
    def unit(number: int, value: int) -> str:
        return f'#include "common.h"\nint unit{number}(void) {{ return A * {value}; }}\n'

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def commit(self, name: str, text: str) -> str:
        self.repository.git("add", "--all")
        return self.repository.commit(name, text)

    def declare(self, **incremental: Any) -> None:
        git = {"url": self.repository.url, "ref": "main"}
        jobset = {
            "source": {"git": git, "file": "release.nix"},
            "incremental": {"enable": True, **incremental},
            "keep": 5,
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
        self.commit(f"src/unit{unit}.c", self.unit(unit, value))

    def run(self) -> str:
        """Reconcile; the log of the newest build of the program."""
        assert self.trial.once()
        attempt = self.trial.value(
            "SELECT max(a.id) FROM attempt a JOIN derivation d ON d.id = a.derivation"
            " WHERE d.name = 'app'"
        )
        return b"".join(build_log.read(self.trial.state_dir / "logs", attempt)).decode()

    def compiled(self) -> list[str]:
        """What the newest run compiled."""
        return sorted(re.findall(r"-c -o \S+ (\S+\.c)", self.run()))

    def result(self) -> str:
        output = self.trial.value(
            "SELECT o.path FROM output o JOIN job j ON j.derivation = o.derivation"
            " WHERE j.attr = 'uses' ORDER BY j.evaluation DESC"
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
    assert second is None
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
