"""Evaluation of a locked source: jobs and failures, streamed, whichever evaluator is installed.

This module chooses the evaluator and finishes what needs all rows (aggregates). It judges
nothing: an evaluation without any job yields nothing.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Protocol

from reconciler.errors import ReconcilerError
from reconciler.model import DrvPath, EvaluatedJob, EvaluationFailure, Jobset
from reconciler.nix import builtin_evaluator, eval_jobs
from reconciler.nix.aggregates import resolve_aggregates
from reconciler.nix.expression import EvaluationTask, Given, evaluation_task
from reconciler.nix.rows import Aggregate, Row
from reconciler.nix.store_path import store_dir_in
from reconciler.source import LockedSource, fetch_environment

MAX_DEPTH = 16
"""As in jobs.nix: what lies deeper is refused."""
MAX_TOO_DEEP = 100
"""Attributes that lie deeper, after which it is not each of them that is wrong. Of a set that
contains itself more than once there is no end of them.
"""


class Evaluator(Protocol):
    """One way to evaluate. It calls `emit` for rows as they come, one call at a time or several at
    once, and `finish` after the last; what it made is rooted until `finish` returns.
    """

    async def __call__(
        self,
        task: EvaluationTask,
        *,
        emit: Callable[[Sequence[Row]], Awaitable[None]],
        finish: Callable[[], Awaitable[None]],
    ) -> None:
        """Evaluate; a ReconcilerError is the failure of the evaluation as a whole."""


async def evaluate(
    locked: LockedSource,
    jobset: Jobset,
    *,
    environment: Mapping[str, str],
    work_dir: Path,
    given: Given | None = None,
) -> AsyncGenerator[Sequence[EvaluatedJob | EvaluationFailure], None]:
    """Evaluate; jobs and failures as they come, some at a time, in no order, aggregates last.

    A fault of the evaluation as a whole is a failure with an empty path, and what was found
    before stands. A job's derivation is protected from collection until the next items are asked
    for: by then it must be rooted. The copy of a local source (`locked.store_path`) must be
    protected all the while, and so must the bases that it is `given`. `work_dir` is an existing
    folder for temporary files.
    Close the iterator (`contextlib.aclosing`) if it is left early: that ends the
    processes.
    """
    with tempfile.TemporaryDirectory(prefix="evaluation-", dir=work_dir) as scratch:
        try:
            task = evaluation_task(
                locked,
                attributes=jobset.attributes,
                systems=jobset.systems,
                settings=jobset.evaluation,
                environment=fetch_environment(environment),
                work_dir=Path(scratch),
                given=given,
            )
        except ReconcilerError as error:
            yield [EvaluationFailure(attr_path=(), message=str(error))]
            return
        rows = _Rows()
        running = asyncio.create_task(_run(locked, task, rows))
        try:
            async for some in rows:
                yield some
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


_Some = Sequence[EvaluatedJob | EvaluationFailure]


class _Rows:
    """The way from the evaluator, in a task of its own, to the consumer.

    The evaluator waits until its rows have been dealt with: until then the process that made them,
    and with it the derivations' temporary roots, lives. (Its own task, because a deadline inside an
    asynchronous generator would strike whoever consumes it.)
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[_Some | None] = asyncio.Queue(1)
        self._fault: Exception | None = None

    async def put(self, some: _Some) -> None:
        if some:
            await self._queue.put(some)
            await self._queue.join()

    def fail(self, error: Exception) -> None:
        self._fault = error

    async def end(self) -> None:
        await self._queue.put(None)

    async def __aiter__(self) -> AsyncIterator[_Some]:
        while (some := await self._queue.get()) is not None:
            yield some
            self._queue.task_done()
        if self._fault is not None:
            raise self._fault


async def _run(locked: LockedSource, task: EvaluationTask, rows: _Rows) -> None:
    jobs: dict[str, DrvPath] = {}
    failed: set[str] = set()
    aggregates: list[Aggregate] = []
    sifted = _Sieve(task)

    def take(row: Row) -> EvaluatedJob | EvaluationFailure | None:
        """None: an aggregate waits for all others."""
        if isinstance(row, Aggregate):
            aggregates.append(row)
            return None
        if isinstance(row, EvaluatedJob):
            jobs[row.attr] = row.drv_path
        else:
            jobs.pop(row.attr, None)
            failed.add(row.attr)
        return row

    async def emit(some: Sequence[Row]) -> None:
        found: list[EvaluatedJob | EvaluationFailure] = []
        try:
            for each in some:
                row = take(sifted.row(each))
                if row is not None:
                    found.append(row)
        finally:
            await rows.put(found)

    async def finish() -> None:
        await rows.put(resolve_aggregates(aggregates, jobs=jobs, failed=frozenset(failed)))
        aggregates.clear()

    try:
        _check_tree(locked)
        evaluator = _evaluator(task.environment)
        await evaluator(task, emit=emit, finish=finish)
    except ReconcilerError as error:
        await rows.put([EvaluationFailure(attr_path=(), message=str(error))])
        await finish()
    except Exception as error:  # noqa: BLE001  (a fault of ours must not look like an end)
        rows.fail(error)
    await rows.end()


class _Sieve:
    """Finds among an evaluation's rows those that cannot stand."""

    def __init__(self, task: EvaluationTask) -> None:
        self._store_dir = store_dir_in(task.environment)
        name = re.escape(self._store_dir) + "/[0-9a-df-np-sv-z]{32}-[a-zA-Z0-9+._?=-]{1,211}"
        self._derivation = re.compile(name + "[.]drv")
        self._output = re.compile(name)
        self._seen: dict[str, tuple[str, ...]] = {}
        self._too_deep = 0

    def row(self, row: Row) -> Row:
        """The row, or what is wrong with it; ReconcilerError ends the evaluation."""
        job = row.job if isinstance(row, Aggregate) else row
        first = self._seen.setdefault(job.attr, job.attr_path)
        if first != job.attr_path:
            wrong = f"two attributes have this name: {_quoted(first)} and {_quoted(job.attr_path)}"
        elif isinstance(job, EvaluationFailure):
            self._count_deep(job)
            return job
        else:
            wrong = self._wrong(job)
        return EvaluationFailure(attr_path=job.attr_path, message=wrong) if wrong else row

    def _count_deep(self, row: EvaluationFailure) -> None:
        self._too_deep += len(row.attr_path) >= MAX_DEPTH
        if self._too_deep > MAX_TOO_DEEP:
            raise ReconcilerError(
                f"more than {MAX_TOO_DEEP} attributes are nested too deeply, such as "
                f"'{row.attr}': does a set contain itself? Set recurseForDerivations = false on it"
            )

    def _wrong(self, job: EvaluatedJob) -> str:
        """An expression can give for a derivation whatever it likes; Nix would refuse to keep it,
        and all that it is asked to keep with it.
        """
        if not self._derivation.fullmatch(job.drv_path):
            return f"its drvPath, {job.drv_path!r}, is no derivation of {self._store_dir}"
        for name, path in job.outputs.items():
            if path is not None and not self._output.fullmatch(path):
                return f"its output {name!r}, {path!r}, is no path of {self._store_dir}"
        return ""


def _quoted(path: tuple[str, ...]) -> str:
    """As one writes it in Nix: only dots between names are bare."""
    return ".".join(f'"{name}"' if "." in name else name for name in path)


def _evaluator(environment: Mapping[str, str]) -> Evaluator:
    if shutil.which(eval_jobs.COMMAND, path=environment.get("PATH")):
        return eval_jobs.run
    return builtin_evaluator.run


def _check_tree(locked: LockedSource) -> None:
    """It may have been collected before it was protected."""
    if locked.store_path is not None and not Path(locked.store_path).exists():
        raise ReconcilerError(
            f"the copy of the source, {locked.store_path}, is in the store no longer"
        )
