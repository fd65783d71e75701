"""Evaluation of real sources by both evaluators.

nix-eval-jobs is a stand-in that follows its rules over plain Nix (tests/support).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from reconciler.model import (
    EvaluatedJob,
    EvaluationFailure,
    FlakeSource,
    GitSource,
    Jobset,
    PathSource,
    Source,
)
from reconciler.nix.evaluation import MAX_TOO_DEEP, evaluate
from reconciler.nix.expression import native_system
from tests.support import eval_jobs_stand_in
from tests.support.jobsets import SETTINGS, jobset
from tests.support.locking import lock
from tests.support.private_store import PrivateStore

DATA = Path(__file__).parents[1] / "data" / "evaluation"
JOB = 'name: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; }'

Rows = list[EvaluatedJob | EvaluationFailure]


def environment(store: PrivateStore, *, stand_in: bool = False) -> dict[str, str]:
    values = {**os.environ, **store.environment}
    if stand_in:
        folder = store.root / "bin"
        folder.mkdir(exist_ok=True)
        command = folder / "nix-eval-jobs"
        script = Path(eval_jobs_stand_in.__file__)
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
        command.chmod(0o755)
        values["PATH"] = f"{folder}:{values['PATH']}"
    return values


async def rows_of(wanted: Jobset, env: Mapping[str, str], *, work_dir: Path | None = None) -> Rows:
    locked = await lock(wanted.source, env)
    scratch = work_dir or Path(tempfile.gettempdir())
    async with aclosing(evaluate(locked, wanted, environment=env, work_dir=scratch)) as rows:
        return [row async for some in rows for row in some]


def in_order(rows: Rows) -> Rows:
    return sorted(rows, key=lambda row: row.attr_path)


def jobs_of(rows: Rows) -> dict[str, EvaluatedJob]:
    return {row.attr: row for row in rows if isinstance(row, EvaluatedJob)}


def failures_of(rows: Rows) -> dict[str, str]:
    return {row.attr: row.message for row in rows if isinstance(row, EvaluationFailure)}


def nasty(**args: Any) -> PathSource:
    return PathSource(path=str(DATA), file="nasty.nix", args=args)


def expression(folder: Path, text: str, **args: Any) -> PathSource:
    (folder / "release.nix").write_text(f"let job = {JOB}; in {text}")
    return PathSource(path=str(folder), file="release.nix", args=args)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    return made


async def test_everything_that_may_go_wrong_costs_only_itself(store: PrivateStore) -> None:
    rows = await rows_of(jobset(nasty(greeting="hello")), environment(store))
    jobs, failures = jobs_of(rows), failures_of(rows)
    assert len(rows) == len(jobs) + len(failures)
    assert {attr: job.name for attr, job in jobs.items()} == {
        "described": "described",
        "greeted": "greeted-hello",
        "multi": "multi",
        "called": "called-hello",
        "calledEllipsis": "ellipsis-hello",
        "calledEmpty": "empty",
        "foreign": "foreign",
        "builtinSystem": "fetch",
        "nested.deep.er": "deeper",
        "nested.with.dot": "with-dot",
        'nested.tab\tquote"dollar${x}': "odd",
        "nested.größe": "umlaut",
        "functor.inside": "in-functor",
        "aggregate": "aggregate",
        "aggregateOfAggregates": "aggregate-2",
        "aggregateGlob": "glob",
    }
    cyclic = ".".join(["cyclic"] * 16)
    expected = {
        "aborted": "on purpose",
        "asserted": "assertion 'false' failed",
        "badMeta": "meta.timeout of 'badMeta' must be a number of seconds, not a string",
        "badName": "bad name",
        cyclic: "does a set contain itself?",
        "deepOverflow": "stack overflow",
        "impure": "forbidden in pure evaluation mode",
        "missing": "attribute 'attribute' missing",
        "needy": "no value for its argument 'wanted'",
        "noDrv": "drvPath",
        "recursive": "infinite recursion",
        "thrown": "first line\nsecond line",
        "typed": "cannot add a string to an integer",
        "aggregateNoMatch": "no job matches its constituent pattern 'nowhere.*'",
        "aggregateUnknown": "its constituent 'nowhere' is not a job of this evaluation",
        "aggregateBroken": "its constituent 'aborted' does not evaluate",
        "aggregateWrong": "neither a derivation nor the name of a job, but a int",
        "aggregateWithout": "has no constituents",
        "cycleA": "constituents of each other: cycleA, cycleB",
        "cycleB": "constituents of each other: cycleA, cycleB",
    }
    assert failures.keys() == expected.keys()
    for attr, part in expected.items():
        assert part in failures[attr], attr


async def test_what_a_job_says_of_itself(store: PrivateStore) -> None:
    jobs = jobs_of(await rows_of(jobset(nasty()), environment(store)))
    described = jobs["described"]
    assert described.attr_path == ("described",)
    assert described.system == "x86_64-linux"
    assert (described.description, described.priority) == ("what it is", 3)
    assert (described.timeout, described.max_silent) == (5, 2.5)
    assert sorted(jobs["multi"].outputs) == ["dev", "doc", "out"]
    for job in jobs.values():
        told = store.run("nix-store", "--query", "--outputs", job.drv_path).stdout.split()
        assert sorted(path for path in job.outputs.values() if path) == sorted(told)
    assert jobs["aggregate"].constituents == ("called", "described", "multi", "nested.deep.er")
    assert jobs["aggregateOfAggregates"].constituents == ("aggregate",)
    assert jobs["aggregateGlob"].constituents == (
        "called",
        "calledEllipsis",
        "calledEmpty",
        "nested.deep.er",
        "nested.größe",
        'nested.tab\tquote"dollar${x}',
        "nested.with.dot",
    )


@pytest.mark.parametrize(("systems", "failing"), [(None, 20), (("riscv64-linux",), 9)])
async def test_both_evaluators_give_equal_rows(
    store: PrivateStore, systems: tuple[str, ...] | None, failing: int
) -> None:
    wanted = jobset(nasty(greeting="hello", system="x86_64-linux"), systems=systems)
    ours = in_order(await rows_of(wanted, environment(store)))
    theirs = in_order(await rows_of(wanted, environment(store, stand_in=True)))
    assert [row for row in ours if isinstance(row, EvaluatedJob)] == [
        row for row in theirs if isinstance(row, EvaluatedJob)
    ]
    # Positions inside the asking expression differ; what is wrong, the first line, does not.
    first_lines = [
        {attr: text.splitlines()[0] for attr, text in failures_of(rows).items()}
        for rows in (ours, theirs)
    ]
    assert first_lines[0] == first_lines[1]
    assert len(first_lines[0]) == failing


@pytest.mark.parametrize("stand_in", [False, True])
async def test_what_is_no_derivation_of_the_store(
    store: PrivateStore, folder: Path, *, stand_in: bool
) -> None:
    text = """
      let
        claim = drvPath: out: {
          type = "derivation"; name = "x"; system = "x86_64-linux"; out.outPath = out;
          inherit drvPath;
        };
        real = job "real";
        other = "/nix/store/00000000000000000000000000000000-x";
      in {
        away = claim "${other}.drv" other;
        output = claim real.outPath real.outPath;
        outside = claim "${builtins.storeDir}/../x.drv" real.outPath;
        wrongOutput = claim real.drvPath "${builtins.storeDir}/x";
        number = claim 4 real.outPath;
        untold = claim real.drvPath real.outPath // { name = 5; };
        inherit real;
      }
    """
    rows = await rows_of(jobset(expression(folder, text)), environment(store, stand_in=stand_in))
    failures = failures_of(rows)
    assert jobs_of(rows).keys() == {"real"}
    assert failures.pop("untold", None) or stand_in
    expected = {
        "away": "is no derivation of",
        "output": "is no derivation of",
        "outside": "is no derivation of",
        "wrongOutput": "is no path of",
        "number": "integer",
    }
    for attr, part in expected.items():
        assert part in failures[attr], attr


@pytest.mark.parametrize("broken", ['job "c"', 'throw "no"'])
async def test_two_attributes_of_one_name_are_told_apart_or_refused(
    store: PrivateStore, folder: Path, broken: str
) -> None:
    text = f'{{ a.b = job "b"; "a.b" = {broken}; d = job "d"; }}'
    rows = await rows_of(jobset(expression(folder, text)), environment(store))
    *_, last = (row for row in rows if row.attr == "a.b")
    assert isinstance(last, EvaluationFailure)
    assert "two attributes have this name" in last.message
    assert "a.b" in last.message.split()
    assert '"a.b"' in last.message.split()
    assert "d" in jobs_of(rows)


async def test_a_set_that_contains_itself_more_than_once_ends_the_evaluation(
    store: PrivateStore, folder: Path
) -> None:
    text = 'let a = { x = a; y = a; z = a; j = job "j"; }; in a'
    rows = await rows_of(jobset(expression(folder, text)), environment(store))
    last = rows[-1]
    assert isinstance(last, EvaluationFailure)
    assert last.attr_path == ()
    assert "does a set contain itself?" in last.message
    assert len(rows) < 10 * MAX_TOO_DEEP


async def test_no_time_is_less_than_none(store: PrivateStore, folder: Path) -> None:
    text = '{ a = job "a" // { meta.timeout = -5; }; b = job "b" // { meta.maxSilent = 0; }; }'
    rows = await rows_of(jobset(expression(folder, text)), environment(store))
    assert failures_of(rows) == {"a": "meta.timeout of 'a' must be a number of seconds, not -5"}
    assert jobs_of(rows)["b"].max_silent == 0


async def test_only_wanted_systems(store: PrivateStore) -> None:
    wanted = jobset(nasty(system="i686-linux"), systems=("riscv64-linux",))
    assert set(jobs_of(await rows_of(wanted, environment(store)))) == {"foreign", "builtinSystem"}
    none = jobset(nasty(), systems=())
    assert set(jobs_of(await rows_of(none, environment(store)))) == {"builtinSystem"}


async def test_declared_systems_are_an_argument_too(store: PrivateStore, folder: Path) -> None:
    text = "{ systems }: builtins.foldl' (jobs: name: jobs // { ${name} = job name; }) { } systems"
    wanted = jobset(expression(folder, text), systems=("x86_64-linux", "i686-linux"))
    assert set(jobs_of(await rows_of(wanted, environment(store)))) == {"x86_64-linux", "i686-linux"}
    args = jobset(expression(folder, text, systems=["one"]), systems=("x86_64-linux",))
    assert set(jobs_of(await rows_of(args, environment(store)))) == {"one"}


async def test_declared_attributes(store: PrivateStore, folder: Path) -> None:
    text = (
        '{ a.b.c = job "c"; a.b.d = job "d"; a."x.y" = { }: { z = job "z"; }; e = throw "unused"; }'
    )
    source = expression(folder, text)
    paths = ("a.b", "a.b.c", 'a."x.y".z', "nowhere.at", "a.b.c.name.deeper")
    rows = await rows_of(jobset(source, attributes=paths), environment(store))
    assert set(jobs_of(rows)) == {"a.b.c", "a.b.d", "a.x.y.z"}
    assert failures_of(rows) == {"nowhere.at": "the source has no attribute 'nowhere'"}
    assert await rows_of(jobset(source, attributes=()), environment(store)) == []
    (failure,) = await rows_of(jobset(source, attributes=("a..b",)), environment(store))
    assert isinstance(failure, EvaluationFailure)
    assert "'a..b' is not an attribute path" in failure.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[ ]", "evaluates to a list, not to a set of jobs"),
        ("1 +", "syntax error"),
        ('throw "no root"', "no root"),
        ("{ needed }: { }", "no value for its argument 'needed'"),
    ],
)
@pytest.mark.parametrize("stand_in", [False, True])
async def test_a_broken_root_is_a_failure_of_the_whole(
    store: PrivateStore, folder: Path, text: str, message: str, *, stand_in: bool
) -> None:
    source = expression(folder, text)
    (row,) = await rows_of(jobset(source), environment(store, stand_in=stand_in))
    assert isinstance(row, EvaluationFailure)
    assert row.attr_path == ()
    assert message in row.message


async def test_a_file_that_ends_early_costs_only_what_imports_it(
    store: PrivateStore, folder: Path
) -> None:
    (folder / "early.nix").write_text("{ a = 1;")
    (folder / "wrong.nix").write_text("{ a = ; }")
    text = (
        '{ a = import ./early.nix; b = job "b"; c = import ./wrong.nix; d = import ./early.nix; }'
    )
    rows = await rows_of(jobset(expression(folder, text)), environment(store))
    assert set(jobs_of(rows)) == {"b"}
    failures = failures_of(rows)
    assert failures.keys() == {"a", "c", "d"}
    assert "unexpected ';'" in failures["c"]
    assert all("unexpected end of file" in failures[attr] for attr in ("a", "d"))


async def test_a_file_that_is_not_there(store: PrivateStore, folder: Path) -> None:
    source = replace(expression(folder, "{ }"), file="other.nix")
    rows = await rows_of(jobset(source), environment(store))
    assert failures_of(rows) == {"": "the source has no file 'other.nix'"}


async def test_an_expression_that_is_one_job(store: PrivateStore, folder: Path) -> None:
    rows = await rows_of(jobset(expression(folder, 'job "alone"')), environment(store))
    assert [row.attr_path for row in rows] == [("default",)]


async def test_without_jobs_there_are_no_rows(store: PrivateStore, folder: Path) -> None:
    assert await rows_of(jobset(expression(folder, "{ a = { }; }")), environment(store)) == []


async def test_purity_is_a_choice_for_expressions(store: PrivateStore, folder: Path) -> None:
    source = expression(folder, "{ a = job builtins.currentSystem; }")
    pure = await rows_of(jobset(source), environment(store))
    assert "currentSystem" in failures_of(pure)["a"]
    loose = jobset(source, evaluation=replace(SETTINGS, pure=False))
    assert set(jobs_of(await rows_of(loose, environment(store)))) == {"a"}


async def test_import_from_derivation_is_a_choice(store: PrivateStore, folder: Path) -> None:
    text = """{ a = job (import (derivation {
      name = "code"; system = "x86_64-linux"; builder = "/bin/sh";
      args = [ "-c" "echo '\\"named-by-a-build\\"' > $out" ];
    })); }"""
    source = expression(folder, text)
    refused = await rows_of(jobset(source), environment(store))
    assert "allow-import-from-derivation" in failures_of(refused)["a"]
    allowed = jobset(source, evaluation=replace(SETTINGS, allow_import_from_derivation=True))
    rows = await rows_of(allowed, environment(store))
    assert jobs_of(rows)["a"].name == "named-by-a-build"


async def test_megabytes_of_trace_are_survived(store: PrivateStore, folder: Path) -> None:
    text = """let noise = builtins.concatStringsSep "" (builtins.genList (_: "0123456789") 1000000);
      in { a = builtins.trace noise (job "a"); b = builtins.trace noise (throw "after noise"); }"""
    rows = await rows_of(jobset(expression(folder, text)), environment(store))
    assert set(jobs_of(rows)) == {"a"}
    assert failures_of(rows) == {"b": "after noise"}


async def test_long_messages_are_bounded(store: PrivateStore, folder: Path) -> None:
    text = (
        """{ a = throw (builtins.concatStringsSep "" (builtins.genList (_: "x\\ny") 100000)); }"""
    )
    rows = await rows_of(jobset(expression(folder, text)), environment(store))
    assert 0 < len(failures_of(rows)["a"]) <= 8192


async def test_an_attribute_that_takes_all_memory_costs_only_itself(
    store: PrivateStore, folder: Path
) -> None:
    jobs = " ".join(f'j{number} = job "j{number}";' for number in range(40))
    text = f"{{ {jobs} j20x = builtins.length (builtins.genList (x: [ x x ]) 100000000 ++ [ ]); }}"
    small = replace(SETTINGS, max_memory=512 * 1024**2)
    rows = await rows_of(jobset(expression(folder, text), evaluation=small), environment(store))
    assert set(jobs_of(rows)) == {f"j{number}" for number in range(40)}
    assert failures_of(rows) == {
        "j20x": "out of memory: it needs more than the 512 MiB of `maxMemory`"
    }


# Hours of work that is neither deep nor large.
ENDLESS = """
  let many = builtins.genList (x: x) 100000; sum = builtins.foldl' builtins.add 0;
  in { a = job "a"; z = builtins.foldl' (n: x: n + sum (map (y: x + y) many)) 0 many; }
"""


async def test_an_endless_attribute_ends_with_the_time(store: PrivateStore, folder: Path) -> None:
    short = replace(SETTINGS, timeout=3)
    rows = await rows_of(jobset(expression(folder, ENDLESS), evaluation=short), environment(store))
    assert set(jobs_of(rows)) == {"a"}
    assert failures_of(rows) == {"": "the evaluation did not end within 3 s; it was at or near z"}


async def test_jobs_come_while_evaluation_still_runs(store: PrivateStore, folder: Path) -> None:
    wanted = jobset(expression(folder, ENDLESS))
    env = environment(store)
    locked = await lock(wanted.source, env)
    async with aclosing(evaluate(locked, wanted, environment=env, work_dir=folder)) as rows:
        (first,) = await anext(rows)
    assert first.attr == "a"


async def test_a_derivation_survives_collection_while_it_is_looked_at(
    store: PrivateStore, folder: Path
) -> None:
    jobs = " ".join(f'j{number} = job "j{number}";' for number in range(30))
    aggregate = '// { _hydraAggregate = true; constituents = [ "j1" ]; }'
    text = f'{{ {jobs} broken = abort "x"; z = job "z" {aggregate}; }}'
    wanted = jobset(expression(folder, text))
    env = environment(store)
    locked = await lock(wanted.source, env)
    seen = 0
    async with aclosing(evaluate(locked, wanted, environment=env, work_dir=folder)) as rows:
        async for some in rows:
            collecting = await asyncio.create_subprocess_exec(
                "nix-store", "--gc", env=env, stdout=-3, stderr=-3
            )
            assert await collecting.wait() == 0
            jobs_found = [row for row in some if isinstance(row, EvaluatedJob)]
            assert all(Path(row.drv_path).is_file() for row in jobs_found)  # noqa: ASYNC240
            seen += len(jobs_found)
    assert seen == 31


async def test_nothing_is_left_behind(store: PrivateStore, folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    source = expression(folder, '{ a = job "a"; }')
    for stand_in in (False, True):
        await rows_of(jobset(source), environment(store, stand_in=stand_in), work_dir=work)
    assert list(work.iterdir()) == []
    assert not (store.root / "home" / ".local").exists()


async def test_a_source_edited_in_the_meantime_is_evaluated_as_it_was(
    store: PrivateStore, folder: Path
) -> None:
    source = expression(folder, '{ a = job "before"; }')
    env = environment(store)
    locked = await lock(source, env)
    expression(folder, '{ a = job "after"; }')
    async with aclosing(
        evaluate(locked, jobset(source), environment=env, work_dir=store.root)
    ) as rows:
        (row,) = [row async for some in rows for row in some]
    assert isinstance(row, EvaluatedJob)
    assert row.name == "before"


async def test_a_copy_that_was_collected_is_one_clear_failure(
    store: PrivateStore, folder: Path
) -> None:
    source = expression(folder, '{ a = job "a"; }')
    env = environment(store)
    locked = await lock(source, env)
    store.run("nix-store", "--gc")
    async with aclosing(
        evaluate(locked, jobset(source), environment=env, work_dir=store.root)
    ) as rows:
        (row,) = [row async for some in rows for row in some]
    assert isinstance(row, EvaluationFailure)
    assert "the copy of the source" in row.message


async def test_without_nix_there_is_one_clear_failure(store: PrivateStore) -> None:
    source = GitSource(url="/srv/x", ref="0" * 40, file="release.nix")
    locked = await lock(source, environment(store))
    env = {**environment(store), "PATH": "/nowhere"}
    async with aclosing(
        evaluate(locked, jobset(source), environment=env, work_dir=store.root)
    ) as rows:
        (row,) = [row async for some in rows for row in some]
    assert isinstance(row, EvaluationFailure)
    assert row.message == "cannot run nix: it is not on PATH; install it"


# --- Git and flakes ---


def committed(folder: Path) -> Path:
    for argv in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "all"],
    ):
        subprocess.run(["git", *argv], cwd=folder, check=True, env={**os.environ, "HOME": "/"})
    return folder


@pytest.mark.parametrize("stand_in", [False, True])
async def test_an_expression_from_a_git_revision(
    store: PrivateStore, folder: Path, *, stand_in: bool
) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "name.nix").write_text('"from-git"')
    expression(folder, "{ suffix }: { a = job (import ./below/name.nix + suffix); }")
    committed(folder)
    (folder / "below" / "name.nix").write_text('"not-committed"')
    source = GitSource(url=str(folder), ref="main", file="release.nix", args={"suffix": "-arg"})
    rows = await rows_of(jobset(source), environment(store, stand_in=stand_in))
    assert {attr: job.name for attr, job in jobs_of(rows).items()} == {"a": "from-git-arg"}
    assert failures_of(rows) == {}


async def test_a_revision_that_is_not_there(store: PrivateStore, folder: Path) -> None:
    expression(folder, "{ }")
    committed(folder)
    source = GitSource(url=str(folder), ref="1" * 40, file="release.nix")
    (message,) = failures_of(await rows_of(jobset(source), environment(store))).values()
    assert "1" * 40 in message


def add(folder: Path, name: str) -> None:
    subprocess.run(["git", "add", name], cwd=folder, check=True)


def flake(folder: Path, outputs: str) -> Source:
    (folder / "flake.nix").write_text(f"{{ outputs = _: let job = {JOB}; in {outputs}; }}")
    return FlakeSource(url=f"git+file://{committed(folder)}?ref=main")


FLAKE_OUTPUTS = """{
  checks.x86_64-linux.check = job "check";
  checks.riscv64-linux = throw "not for this system";
  packages.x86_64-linux = { default = job "default"; broken = throw "broken package"; };
  devShells.x86_64-linux.default = job "shell";
  lib.function = { needed }: needed;
}"""


@pytest.mark.parametrize("stand_in", [False, True])
async def test_a_flake_gives_its_checks_and_packages(
    store: PrivateStore, folder: Path, *, stand_in: bool
) -> None:
    wanted = jobset(flake(folder, FLAKE_OUTPUTS), systems=("x86_64-linux",))
    rows = await rows_of(wanted, environment(store, stand_in=stand_in))
    assert set(jobs_of(rows)) == {
        "checks.x86_64-linux.check",
        "packages.x86_64-linux.default",
    }
    assert failures_of(rows) == {"packages.x86_64-linux.broken": "broken package"}


async def test_a_flake_with_hydra_jobs_gives_only_those(store: PrivateStore, folder: Path) -> None:
    hydra = """{ a.deep.job = job "deep"; b = derivation { name = "b"; system = "x86_64-linux";
      builder = "/bin/sh"; } // { _hydraAggregate = true; constituents = [ "a.deep.job" ]; }; }"""
    source = flake(folder, f"{{ hydraJobs = {hydra}; }} // {FLAKE_OUTPUTS}")
    jobs = jobs_of(await rows_of(jobset(source), environment(store)))
    assert set(jobs) == {"hydraJobs.a.deep.job", "hydraJobs.b"}
    assert jobs["hydraJobs.b"].constituents == ("hydraJobs.a.deep.job",)
    declared = jobset(
        source, attributes=("devShells.x86_64-linux", "packages.x86_64-linux.default")
    )
    rows = await rows_of(declared, environment(store))
    assert set(jobs_of(rows)) == {"devShells.x86_64-linux.default", "packages.x86_64-linux.default"}


async def test_a_flake_is_pure_whatever_the_setting(store: PrivateStore, folder: Path) -> None:
    source = flake(folder, "{ hydraJobs.a = job builtins.currentSystem; }")
    wanted = jobset(source, evaluation=replace(SETTINGS, pure=False))
    assert "currentSystem" in failures_of(await rows_of(wanted, environment(store)))["hydraJobs.a"]


async def test_a_flake_with_an_input_and_uncommitted_changes(
    store: PrivateStore, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "flake.nix").write_text('{ outputs = _: { word = "input"; }; }')
    text = f"{{ hydraJobs.a = ({JOB}) other.word; }}"
    inputs = f'inputs.other.url = "git+file://{committed(other)}?ref=main";'
    (folder / "flake.nix").write_text(f"{{ {inputs} outputs = {{ other, ... }}: {text}; }}")
    committed(folder)
    store.run("nix", "flake", "lock", f"git+file://{folder}")
    add(folder, "flake.lock")
    rows = await rows_of(jobset(FlakeSource(url=f"git+file://{folder}")), environment(store))
    assert {attr: job.name for attr, job in jobs_of(rows).items()} == {"hydraJobs.a": "input"}


async def test_a_function_is_told_the_system_in_pure_evaluation(
    store: PrivateStore, folder: Path
) -> None:
    text = (
        "{ system ? builtins.currentSystem }: { ${system} = derivation"
        ' { inherit system; name = "a"; builder = "/bin/sh"; }; }'
    )
    native = jobset(expression(folder, text))
    assert set(jobs_of(await rows_of(native, environment(store)))) == {native_system()}
    foreign = replace(native, systems=("riscv64-linux",))
    assert set(jobs_of(await rows_of(foreign, environment(store)))) == {"riscv64-linux"}
