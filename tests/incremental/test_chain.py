"""A history of real commits, each built from what the one before left: all pieces together, in the
order in which the reconciler is to use them, and each result held against a clean build.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from reconciler.bases import Choice, History
from reconciler.database import Database, bases, incremental, kept_bases, open_memory
from reconciler.database.incremental import NewBase, Slot
from reconciler.incremental import decisions, replay
from reconciler.incremental.comparison import difference
from reconciler.incremental.inputs import JobBase
from reconciler.incremental.intermediates import Kept, add_base
from reconciler.incremental.overlay import Overlays, origin
from reconciler.incremental.replay import Evaluated
from reconciler.model import (
    EvaluatedJob,
    FlakeSource,
    GitSource,
    Incremental,
    Jobset,
    JobsetName,
    Protocol,
    Source,
    StorePath,
)
from reconciler.nix import basic_derivation
from reconciler.nix.expression import Given, native_system
from reconciler.source import LockedSource
from reconciler.trust import trust_of
from tests.incremental.support import GARNIX_FLAKE, LIB, Evaluator, Repository
from tests.support.jobsets import jobset
from tests.support.private_store import PrivateStore

UNITS = 3
MAKEFILE = """
OBJECTS = $(patsubst %.c,%.o,$(sort $(wildcard *.c)))
app: $(OBJECTS)
\tgcc -o $@ $(OBJECTS)
%.o: %.c common.h
\tgcc -O1 -c -o $@ $<
"""
JOB = """
(import ./lib).incremental.derivation {
  name = "app"; system = "x86_64-linux"; src = ./src; inherit base;
  build = "make"; install = "mkdir -p $out; cp app $out/";
}
"""
FILES = {
    Protocol.ARG: "{ incrementalBases }: { app = let base = incrementalBases.app or null;"
    f" in {JOB}; }}",
    Protocol.CACHE_NIX: "{ app = let base = (import ./lib).incremental.fromCacheNix ./cache.nix"
    f' "app"; in {JOB}; }}',
    Protocol.GARNIX: '{ inputs.garnix-incrementalize.url = "git+file://@garnix@"; '
    "outputs = { self, garnix-incrementalize }: garnix-incrementalize.lib.withCaches {"
    f" packages.x86_64-linux.app = base: {JOB}; }}; }}",
}


class Outcome(Struct, frozen=True, kw_only=True):
    """What a commit came to."""

    choice: Choice
    compiled: list[str]
    base: int
    wrong: str | None
    """What differs from a clean build."""
    again: list[str]
    drv: str


class Farm:
    """What the reconciler's tick does for incremental builds, one commit after the other."""

    def __init__(self, private: PrivateStore, folder: Path, protocol: Protocol) -> None:
        self.folder, self.protocol = folder, protocol
        self.evaluator = Evaluator(private)
        self.private = private
        self.database: Database = open_memory(now=0.0)
        with self.database.transaction():
            self.database.execute("INSERT INTO generation VALUES (1, '', '{}', 0)")
            self.database.execute("INSERT INTO jobset(name, generation) VALUES ('tested', 1)")
        self.source = Repository(folder / "source", Makefile="")
        shutil.copytree(LIB, self.source.folder / "lib")
        (self.source.folder / "src").mkdir()
        for unit in range(UNITS):
            self.write(
                f"unit{unit}.c", f'#include "common.h"\nint unit{unit}(void) {{ return A; }}\n'
            )
        calls = " + ".join(f"unit{unit}()" for unit in range(UNITS))
        headers = "".join(f"int unit{unit}(void);\n" for unit in range(UNITS))
        self.write("main.c", f"{headers}int main(void) {{ return {calls}; }}\n")
        self.write("common.h", "#define A 1\n")
        self.write("Makefile", MAKEFILE)
        self._entry()
        settings = Incremental(enable=True, protocols=(protocol,))
        self.jobset: Jobset = replace(jobset(self._declared()), incremental=settings)
        self.slot = Slot(
            jobset=JobsetName("tested"),
            job="packages.x86_64-linux.app" if protocol is Protocol.GARNIX else "app",
            system="x86_64-linux",
            branch=None,
            trust=trust_of(self.jobset),
        )

    def write(self, name: str, text: str) -> None:
        (self.source.folder / "src" / name).write_text(text)

    def _entry(self) -> None:
        text = FILES[self.protocol]
        if self.protocol is not Protocol.GARNIX:
            (self.source.folder / "release.nix").write_text(text)
            self.source.commit()
            return
        garnix = Repository(self.folder / "garnix", flake_nix=GARNIX_FLAKE)
        (garnix.folder / "none").mkdir()
        (garnix.folder / "none/.gitignore").write_text("")
        garnix.commit()
        flake = text.replace("@garnix@", str(garnix.folder))
        self.source.commit(flake_nix=flake)
        self.private.run("nix", "flake", "lock", str(self.source.folder))
        self.source.commit()

    def _declared(self) -> Source:
        if self.protocol is Protocol.GARNIX:
            return FlakeSource(url=f"git+{self.source.url}")
        return GitSource(url=self.source.url, ref="main", file="release.nix")

    async def close(self) -> None:
        await self.evaluator.store.close()
        self.database.close()

    # --- One commit ----------------------------------------------------------------------------

    async def build(self, *, now: float = 0.0) -> Outcome:
        locked = await self.evaluator.lock(self._declared())
        ours = await self.evaluator.give(None, self.protocol)
        job = await self._job(locked, ours)
        (decision,) = decisions.decide(
            self.jobset,
            [job],
            bases.candidates(self.database, self.jobset.name),
            History(),
            now=now or time.time(),
        )
        chosen = decision.choice.base
        known = {
            each.base.id: JobBase(job="", name=each.name, nar_hash=each.nar_hash)
            for each in bases.stored(self.database, [] if chosen is None else [chosen.id])
        }
        text = decisions.text([decision], known)
        again: list[str] = []
        built = job
        if text is not None:
            built, again = await self._once_more(locked, text)
            paths = [each.path for each in bases.stored(self.database, known)]
            assert decisions.took([built.drv_path], paths) == {built.drv_path: frozenset(paths)}
        outputs, log = self._realise(built)
        kept = await add_base(
            self.evaluator.store,
            outputs["intermediates"],
            derivation=basic_derivation.read(built.drv_path),
            name="app-base",
            max_size=2**30,
        )
        assert isinstance(kept, Kept), kept
        new = NewBase(
            name=kept.name,
            path=kept.path,
            nar_hash=kept.nar_hash,
            size=kept.size,
            fingerprint=decision.fingerprint,
            canonical=job.drv_path,
            built=built.drv_path,
            revision=None,
            parent=None if chosen is None else chosen.id,
        )
        base = incremental.add_base(self.database, self.slot, new, now=now or time.time())
        await self.evaluator.store.hold_bases(kept_bases.held_paths(self.database))
        clean, _ = self._realise(job)
        wrong = difference({"out": outputs["out"]}, {"out": clean["out"]}, {})
        if wrong is not None:
            parent = base if chosen is None else chosen.id
            incremental.quarantine(self.database, parent, reason=wrong, now=now or time.time())
        return Outcome(
            choice=decision.choice,
            compiled=sorted(re.findall(r"-c -o \S+ (\S+\.c)", log)),
            base=base,
            wrong=wrong,
            again=again,
            drv=str(built.drv_path),
        )

    async def _once_more(self, locked: LockedSource, text: str) -> tuple[EvaluatedJob, list[str]]:
        commit = None
        source = locked
        if self.protocol is Protocol.CACHE_NIX:
            overlays = Overlays(self.folder / "overlays", dict(os.environ))
            commit = await overlays.add(origin(locked), text)
            source = overlays.locked(locked, commit)
        given = await self.evaluator.give(text, self.protocol)
        built = await self._job(source, given)
        shutil.rmtree(self.private.root / "elsewhere", ignore_errors=True)
        path = tuple(self.slot.job.split("."))
        script = replay.script(
            Evaluated(
                source=locked,
                jobs=(path,),
                system=native_system(),
                systems=None,
                texts={self.protocol: text},
                overlay=commit,
            )
        )
        return built, self.evaluator.elsewhere(script)

    async def _job(self, locked: LockedSource, given: Given) -> EvaluatedJob:
        jobs = await self.evaluator.rows(locked, given)
        return jobs[self.slot.job]

    def _realise(self, job: EvaluatedJob) -> tuple[dict[str, StorePath], str]:
        done = self.private.run("nix-store", "--realise", job.drv_path, check=False)
        assert done.returncode == 0, done.stderr
        return {name: path for name, path in job.outputs.items() if path is not None}, done.stderr


@pytest.fixture(params=list(Protocol))
async def farm(
    request: pytest.FixtureRequest, store: PrivateStore, tmp_path: Path
) -> AsyncIterator[Farm]:
    made = Farm(store, tmp_path, request.param)
    yield made
    await made.close()


async def test_a_commit_starts_from_the_one_before_and_is_right(farm: Farm) -> None:
    first = await farm.build()
    assert first.choice.base is None
    assert len(first.compiled) == UNITS + 1
    farm.write("unit2.c", "int unit2(void) { return 2; }\n")
    farm.source.commit()
    outcome = await farm.build()
    assert outcome.choice.base is not None
    assert outcome.choice.base.id == first.base
    assert outcome.compiled == ["unit2.c"]
    assert outcome.wrong is None
    assert outcome.again == [outcome.drv]


@pytest.mark.parametrize("farm", [Protocol.ARG], indirect=True)
async def test_a_chain_of_commits_is_known_as_one(farm: Farm) -> None:
    built = [await farm.build()]
    for number in (1, 2):
        farm.write(f"unit{number}.c", f"int unit{number}(void) {{ return {number}; }}\n")
        farm.source.commit()
        built.append(await farm.build())
        assert built[-1].compiled == [f"unit{number}.c"]
    line = bases.ancestry(farm.database, built[-1].base)
    assert [each.base.id for each in line] == [each.base for each in reversed(built)]
    assert [each.base.depth for each in line] == [2, 1, 0]
    assert [each.wrong for each in built] == [None, None, None]


@pytest.mark.parametrize("farm", [Protocol.ARG], indirect=True)
async def test_a_wrong_base_is_found_out_and_the_next_build_is_a_full_one(farm: Farm) -> None:
    """A makefile that lacks a dependency: the header changes, and nothing is compiled."""
    farm.write("Makefile", MAKEFILE.replace(" common.h", ""))
    farm.source.commit()
    first = await farm.build()
    farm.write("common.h", "#define A 2\n")
    farm.source.commit()
    stale = await farm.build()
    assert stale.choice.base is not None
    assert stale.wrong == "the output out differs in app"
    kept = {each.id: each.quarantined for each in bases.candidates(farm.database, farm.jobset.name)}
    assert kept == {
        first.base: "the output out differs in app",
        stale.base: f"it goes back to base {first.base}: the output out differs in app",
    }
    farm.write("unit1.c", "int unit1(void) { return 7; }\n")
    farm.source.commit()
    healed = await farm.build()
    assert healed.choice.base is None
    assert "is in quarantine" in healed.choice.reason
    assert healed.wrong is None
    assert len(healed.compiled) == UNITS + 1


@pytest.mark.parametrize("farm", [Protocol.ARG], indirect=True)
async def test_a_changed_tool_is_a_full_build_and_told(farm: Farm) -> None:
    await farm.build()
    release = (farm.source.folder / "release.nix").read_text()
    farm.source.commit(
        release_nix=release.replace("inherit base;", 'inherit base; env.LANG = "C";')
    )
    outcome = await farm.build()
    assert outcome.choice.base is None
    assert outcome.choice.reason == (
        "built in full: since the newest build, the variable LANG was added"
    )
