"""Evaluation by nix-eval-jobs, where it is installed.

Its protocol, as of version 2.34: one JSON object a line, in order of completion; it exits 0
although attributes failed, and version 2.35.0 exits 1 after complete output when some did.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

from reconciler import process
from reconciler.model import EvaluationFailure
from reconciler.nix.expression import EvaluationTask
from reconciler.nix.rows import Row, RowError, error_message, parse_row

COMMAND = "nix-eval-jobs"
_MEBIBYTE = 1024 * 1024
# A worker is replaced only after the attribute that took it over its limit, and never collects
# garbage: the hard limit leaves it room for one such attribute.
_HARD_LIMIT_FACTOR = 2
# What it says when a worker, not an attribute, has failed: the output is then not complete.
_WORKER_FAILED = ("evaluation worker", "worker error", "from worker", "worker pipe")


async def run(
    task: EvaluationTask,
    *,
    emit: Callable[[Sequence[Row]], Awaitable[None]],
    finish: Callable[[], Awaitable[None]],
) -> None:
    """An Evaluator. Its derivations are rooted in the task's folder, so until that is removed.

    ProcessTimeoutError when the evaluation takes longer than its settings allow.
    """
    roots = task.work_dir / "roots"
    roots.mkdir()
    broken = 0
    async with process.stream(
        _argv(task, str(roots)),
        env=task.environment,
        timeout=task.settings.timeout,
        cwd=task.work_dir,
        max_memory=task.settings.max_memory * _HARD_LIMIT_FACTOR,
    ) as child:
        async for line in child.lines():
            row = _parse_line(line)
            broken += isinstance(row, EvaluationFailure)
            await emit([row])
        end = await child.finished()
    if not _complete(end, broken=broken):
        reason = error_message(end.tail)
        message = f"{COMMAND} {process.ended(end.returncode)}: {reason}"
        await emit([EvaluationFailure(attr_path=(), message=message)])
    await finish()


def _argv(task: EvaluationTask, roots: str) -> list[str]:
    settings = task.settings
    return [
        COMMAND,
        *task.options,
        "--meta",
        "--workers",
        str(settings.workers),
        # Of each worker; from 2.35 on it is the budget of all, which only makes it restart more.
        "--max-memory-size",
        str(max(1, settings.max_memory // _MEBIBYTE)),
        "--gc-roots-dir",
        roots,
        "--expr",
        task.expression,
    ]


def _parse_line(line: bytes) -> Row:
    text = line.decode(errors="replace")
    try:
        return parse_row(json.loads(text))
    except (RowError, ValueError, TypeError, RecursionError) as error:
        reason = str(error) if isinstance(error, RowError) else "it is not JSON"
        message = f"{COMMAND} printed a line that cannot be used, {reason}: {text[:200]!r}"
        return EvaluationFailure(attr_path=(), message=message)


def _complete(end: process.Finished, *, broken: int) -> bool:
    if end.returncode == 1 and broken:
        return not any(phrase in end.tail for phrase in _WORKER_FAILED)
    return end.returncode == 0
