"""What nix-eval-jobs prints and how it ends: recorded shapes, from an executable of the test's."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from reconciler.model import EvaluatedJob, EvaluationFailure, EvaluationSettings
from reconciler.nix.evaluation import evaluate
from reconciler.source import LockedFlake, LockedSource
from tests.support.jobsets import SETTINGS, jobset

Rows = list[EvaluatedJob | EvaluationFailure]

LOCKED = LockedSource(locked="flake", origin=LockedFlake("path:/nowhere"))
DRV = "/nix/store/00000000000000000000000000000000-hello-2.12.drv"
HELLO: dict[str, Any] = {
    "attr": "hello",
    "attrPath": ["hello"],
    "drvPath": DRV,
    "inputDrvs": {DRV: ["out"]},
    "meta": {"description": "greets"},
    "name": "hello-2.12",
    "outputs": {"out": "/nix/store/11111111111111111111111111111111-hello-2.12", "ca": None},
    "requiredSystemFeatures": ["kvm"],
    "system": "x86_64-linux",
    "isCached": False,
    "cacheStatus": "notBuilt",
    "neededBuilds": [],
    "added-in-a-later-version": {"x": 1},
}
ERROR = {
    "attr": "broken",
    "attrPath": ["broken"],
    "error": "error:\n       … while calling the 'throw' builtin\n\n       error: no luck",
    "fatal": False,
}


class StandIn:
    """An executable that prints given bytes, then ends in a given way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def rows(
        self,
        *lines: bytes | Mapping[str, Any],
        end: str = "",
        settings: EvaluationSettings = SETTINGS,
    ) -> Rows:
        output = self.folder / "output"
        encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        output.write_bytes(b"".join(line + b"\n" for line in encoded))
        command = self.folder / "nix-eval-jobs"
        command.write_text(
            f"#!{sys.executable}\n"
            "import json, os, signal, sys\n"
            f"open({str(self.folder / 'argv')!r}, 'w').write(json.dumps(sys.argv[1:]))\n"
            f"sys.stdout.buffer.write(open({str(output)!r}, 'rb').read())\n"
            "sys.stdout.flush()\n"
            f"{end}\n"
        )
        command.chmod(0o755)
        env = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        wanted = jobset(evaluation=settings)
        async with aclosing(
            evaluate(LOCKED, wanted, environment=env, work_dir=self.folder)
        ) as rows:
            return [row async for some in rows for row in some]

    @property
    def argv(self) -> list[str]:
        argv: list[str] = json.loads((self.folder / "argv").read_text())
        return argv


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


async def test_a_job_with_every_known_key_and_more(stand_in: StandIn) -> None:
    (row,) = await stand_in.rows(HELLO)
    assert row == EvaluatedJob(
        attr_path=("hello",),
        name="hello-2.12",
        system="x86_64-linux",
        drv_path=HELLO["drvPath"],
        outputs=HELLO["outputs"],
        description="greets",
    )


async def test_a_job_with_no_more_than_it_needs(stand_in: StandIn) -> None:
    keys = ("attrPath", "drvPath", "name", "outputs", "system")
    (row,) = await stand_in.rows({key: HELLO[key] for key in keys})
    assert isinstance(row, EvaluatedJob)
    assert row.description is None
    (old,) = await stand_in.rows({key: HELLO[key] for key in HELLO if key != "attrPath"})
    assert old.attr_path == ("hello",)


async def test_the_path_counts_not_the_name(stand_in: StandIn) -> None:
    (row,) = await stand_in.rows({**HELLO, "attr": 'a."b.c"', "attrPath": ["a", "b.c"]})
    assert row.attr_path == ("a", "b.c")


async def test_an_attribute_that_failed(stand_in: StandIn) -> None:
    rows = await stand_in.rows(ERROR, HELLO)
    assert rows[0] == EvaluationFailure(attr_path=("broken",), message="no luck")
    assert isinstance(rows[1], EvaluatedJob)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"garbage", "it is not JSON"),
        (b"", "it is not JSON"),
        (b'{"attr": "trunc', "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[1]", "it is not a JSON object"),
        (b"{}", "it has no `attrPath`"),
        (json.dumps({**HELLO, "attrPath": [1]}).encode(), "it has no `attrPath`"),
        (json.dumps({**HELLO, "drvPath": None}).encode(), "it has no `drvPath`"),
        (json.dumps({**HELLO, "outputs": None}).encode(), "it has no `outputs`"),
        (json.dumps({**HELLO, "outputs": {"out": 1}}).encode(), "its output `out` is not a path"),
        (json.dumps({**HELLO, "meta": "x"}).encode(), "its `meta` is not an object"),
        (json.dumps({**HELLO, "meta": {"timeout": []}}).encode(), "cannot be used"),
        (json.dumps({**HELLO, "meta": {"description": 3}}).encode(), "`description`"),
    ],
)
async def test_a_bad_line_costs_one_line(stand_in: StandIn, line: bytes, reason: str) -> None:
    before, bad, after = await stand_in.rows(HELLO, line, {**HELLO, "attrPath": ["after"]})
    assert (before.attr_path, after.attr_path) == (("hello",), ("after",))
    assert isinstance(bad, EvaluationFailure)
    assert bad.attr_path == ()
    assert reason in bad.message
    assert len(bad.message) < 1000


async def test_lines_of_many_mebibytes(stand_in: StandIn) -> None:
    (row,) = await stand_in.rows({**HELLO, "meta": {"description": "x" * 20_000_000}})
    assert isinstance(row, EvaluatedJob)
    assert row.description is not None
    assert len(row.description) == 20_000_000


async def test_an_error_without_a_path_is_of_the_whole(stand_in: StandIn) -> None:
    (row,) = await stand_in.rows({"error": "error: no flake", "fatal": True})
    assert row == EvaluationFailure(attr_path=(), message="no flake")


async def test_status_1_after_complete_output_is_no_failure_of_the_whole(
    stand_in: StandIn,
) -> None:
    rows = await stand_in.rows(HELLO, ERROR, end="sys.exit(1)")
    assert [row.attr_path for row in rows] == [("hello",), ("broken",)]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("sys.exit(1)", "nix-eval-jobs exited with 1: the evaluator gave no reason"),
        ("sys.stderr.write('error: bad flag'); sys.exit(2)", "exited with 2: bad flag"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
    ],
)
async def test_an_end_in_the_middle_is_a_failure_of_the_whole(
    stand_in: StandIn, end: str, reason: str
) -> None:
    first, second = await stand_in.rows(HELLO, end=end)
    assert first.attr_path == ("hello",)
    assert isinstance(second, EvaluationFailure)
    assert second.attr_path == ()
    assert reason in second.message


async def test_a_dead_worker_is_a_failure_of_the_whole_although_some_attributes_failed(
    stand_in: StandIn,
) -> None:
    text = "error: while reading result for attrPath 'x', evaluation worker got killed by SIGKILL"
    rows = await stand_in.rows(ERROR, end=f"sys.stderr.write({text!r}); sys.exit(1)")
    assert [row.attr_path for row in rows] == [("broken",), ()]


async def test_it_is_given_up_after_its_time(stand_in: StandIn) -> None:
    rows = await stand_in.rows(HELLO, end="signal.pause()", settings=replace(SETTINGS, timeout=2))
    assert rows[1] == EvaluationFailure(
        attr_path=(), message="nix-eval-jobs did not end within 2 s"
    )


async def test_what_it_is_asked(stand_in: StandIn) -> None:
    await stand_in.rows(settings=replace(SETTINGS, workers=3, max_memory=1536 * 1024**2))
    argv = stand_in.argv
    options = {argv[at + 1]: argv[at + 2] for at, word in enumerate(argv) if word == "--option"}
    assert options == {"pure-eval": "true", "allow-import-from-derivation": "false"}
    assert argv[argv.index("--workers") + 1] == "3"
    assert argv[argv.index("--max-memory-size") + 1] == "1536"
    assert "--meta" in argv
    assert "--constituents" not in argv
