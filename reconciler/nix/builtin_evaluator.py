"""Evaluation over plain Nix, where nix-eval-jobs is not installed.

A few worker processes, each asked for a few attributes at a time: it answers each with a job, with
the names of a set, which are asked for next, or with the attribute's error. The worker is
`nix repl` with pipes: the one command of Nix that goes on after any error, those that `tryEval`
does not catch included, keeps what it has evaluated, and its derivations rooted as long as it
lives.
Only its standard error is read, for the marked lines that walk.nix traces; what it prints for
people differs from version to version and is dropped.

What does kill a worker (memory, the C stack) costs the attribute it was at, and that only after
a fresh worker has died of it too.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, assert_never

from msgspec import Struct

from reconciler import process
from reconciler.model import EvaluationFailure
from reconciler.nix.expression import AttrPath, EvaluationTask, nix_lib, nix_string
from reconciler.nix.rows import MAX_MESSAGE, Row, RowError, error_message, parse_row

Emit = Callable[[Sequence[Row]], Awaitable[None]]


async def run(task: EvaluationTask, *, emit: Emit, finish: Callable[[], Awaitable[None]]) -> None:
    """An Evaluator. Its derivations are rooted by the workers: until `finish` returns, or until
    an attribute kills the worker, but never before `emit` has returned.

    ProcessTimeoutError when the evaluation takes longer than its settings allow.
    """
    pool = _Pool(finish)
    try:
        async with asyncio.timeout(task.settings.timeout) as deadline:
            await _run_workers(task, pool, emit)
    except TimeoutError as error:
        if not deadline.expired():
            raise
        busy = ", ".join(sorted(".".join(path) or "its root" for path in pool.busy)[:_SHOWN])
        raise process.ProcessTimeoutError(
            f"the evaluation did not end within {task.settings.timeout:g} s; "
            f"it was at or near {busy}"
        ) from error


async def _run_workers(task: EvaluationTask, pool: _Pool, emit: Emit) -> None:
    workers = [
        asyncio.create_task(_work(task, pool, emit)) for _ in range(max(1, task.settings.workers))
    ]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


class _Pool:
    """The attribute paths still to be asked for."""

    def __init__(self, finish: Callable[[], Awaitable[None]]) -> None:
        self._todo: list[AttrPath] = [()]
        self.busy: set[AttrPath] = set()
        self._changed = asyncio.Condition()
        self._finish = finish
        self._finished = False

    async def take(self, count: int, *, workers: int) -> list[AttrPath]:
        """The next paths, depth first, as soon as there is one: no more than `count`, nor than a
        worker's part of what there is. None are left when all is done and finished.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._todo or not self.busy)
            if not self._todo and not self._finished:
                # Before any worker is let go: the others wait for this lock.
                self._finished = True
                await self._finish()
            fair = -(-len(self._todo) // workers)
            taken = [self._todo.pop() for _ in range(min(count, fair))]
            self.busy.update(taken)
            return taken

    async def settle(
        self,
        paths: Sequence[AttrPath],
        *,
        found: Sequence[AttrPath] = (),
        again: Sequence[AttrPath],
    ) -> None:
        """These are done with, but for those to be asked for `again`; `found` below them are to be
        asked for, too.
        """
        async with self._changed:
            self._todo.extend(reversed(found))
            self._todo.extend(reversed(again))
            self.busy.difference_update(paths)
            self._changed.notify_all()


async def _work(task: EvaluationTask, pool: _Pool, emit: Emit) -> None:
    workers = max(1, task.settings.workers)
    while paths := await pool.take(1, workers=workers):
        async with _worker(task) as worker:
            await _serve(worker, paths, pool, emit, workers=workers)


async def _serve(
    worker: _Worker, paths: Sequence[AttrPath], pool: _Pool, emit: Emit, *, workers: int
) -> None:
    """Ask one worker until it dies or all is done. `paths`, asked first, is a single one."""
    count, fresh = 1, True
    loop = asyncio.get_running_loop()
    while paths:
        started = loop.time()
        answers = await worker.ask(paths)
        if isinstance(answers[-1], _Died) and not fresh:
            # It may have died of what had piled up, and nothing protects what it has just made:
            # all are asked again, first, and alone in a fresh worker, the one it died at.
            suspect = len(answers) - 1
            rest = [*paths[:suspect], *paths[suspect + 1 :]]
            await pool.settle(paths, again=[paths[suspect], *rest])
            return
        count = _next_count(count, seconds=loop.time() - started)
        fresh = False
        answered = list(zip(paths, answers, strict=False))
        # At once: what each is to be kept with takes its receiver a question to the store.
        await emit([row for path, answer in answered if (row := _row(path, answer)) is not None])
        found = [(*path, name) for path, each in answered for name in _names(each)]
        await pool.settle(paths, found=found, again=paths[len(answers) :])
        if isinstance(answers[-1], _Died):
            return
        paths = await pool.take(count, workers=workers)


def _next_count(count: int, *, seconds: float) -> int:
    """How many attributes to ask for at once: a question costs about a millisecond."""
    if seconds < _QUICK:
        return min(count * 2, _MAX_COUNT)
    return max(1, count // 2)


_SHOWN = 5
_QUICK = 0.05
_MAX_COUNT = 128


def _row(path: AttrPath, answer: _Answer) -> Row | None:
    match answer:
        case _Set():
            return None
        case _Job(row=row):
            return _parsed(row, path)
        case _Failed(message=message) | _Died(message=message):
            return EvaluationFailure(attr_path=path, message=message)
        case _:
            assert_never(answer)


def _names(answer: _Answer) -> tuple[str, ...]:
    return answer.names if isinstance(answer, _Set) else ()


def _parsed(row: Mapping[str, Any], path: AttrPath) -> Row:
    try:
        return parse_row({**row, "attrPath": list(path)})
    except RowError as error:
        return EvaluationFailure(attr_path=path, message=f"it is no derivation: {error}")


class _Set(Struct, frozen=True):
    names: tuple[str, ...]


class _Job(Struct, frozen=True):
    row: Mapping[str, Any]


class _Failed(Struct, frozen=True):
    message: str


class _Died(Struct, frozen=True):
    message: str


_Answer = _Set | _Job | _Failed | _Died


@asynccontextmanager
async def _worker(task: EvaluationTask) -> AsyncIterator[_Worker]:
    mark = secrets.token_hex(16)
    root = f"root = {task.expression}; mark = {nix_string(mark)};"
    async with (
        process.stream(
            ["nix", "repl", *task.options, "--expr", f"({nix_lib('walk.nix')}) {{ {root} }}"],
            env=_environment(task),
            cwd=task.work_dir,
            max_memory=task.settings.max_memory,
            lines=process.Stream.STDERR,
            interactive=True,
        ) as child,
        aclosing(child.lines()) as lines,
    ):
        yield _Worker(child, lines, mark=mark, max_memory=task.settings.max_memory)


def _environment(task: EvaluationTask) -> dict[str, str]:
    return {
        **task.environment,
        # The repl keeps a history of what it was asked, and reads lines as a terminal would.
        "XDG_DATA_HOME": str(task.work_dir),
        "NIX_DATA_HOME": str(task.work_dir),
        "INPUTRC": "/dev/null",
        "TERM": "dumb",
    }


class _Worker:
    """One `nix repl`."""

    def __init__(
        self,
        child: process.Child,
        lines: AsyncIterator[bytes],
        *,
        mark: str,
        max_memory: int,
    ) -> None:
        self._child = child
        self._lines = lines
        self._prefix = f"trace: {mark} ".encode()
        self._max_memory = max_memory
        self._number = 0

    async def ask(self, paths: Sequence[AttrPath]) -> list[_Answer]:
        """The answers, at least one, to the first of `paths`: an error is the last of them."""
        self._number += 1
        # Up to 2.26 the repl takes a file that ends too early, met while evaluating, for input to
        # be continued by the next line. `let` cannot continue it: that line is lost for an error,
        # and the one after it is answered.
        end, late = self._number, -self._number
        request = f"walk {nix_string(json.dumps(paths))}\n{_done(end)}{_done(late)}"
        await self._child.send(request.encode("ascii"))
        said: deque[bytes] = deque(maxlen=_TAIL_LINES)
        answers: list[_Answer] = []
        async for line in self._lines:
            if not line.startswith(self._prefix):
                said.append(line[:MAX_MESSAGE])
                continue
            message = json.loads(line.removeprefix(self._prefix))
            match message.get("done"):
                case None:
                    answers.append(_answer(message))
                    said.clear()
                case number if number == late:
                    return [*answers, _Failed(_ENDS_EARLY)]
                case number if number == end and len(answers) < len(paths):
                    return [*answers, _Failed(error_message(_text(said)))]
                case number if number == end:
                    return answers
                case _:
                    said.clear()  # the second end of the request before
        return [*answers, await self._died(said)]

    async def _died(self, said: Iterable[bytes]) -> _Died:
        end = await self._child.finished()
        text = _text(said)
        # The collector's last words, Nix's own, and the kernel's.
        if _OUT_OF_MEMORY.search(text) or end.returncode == -signal.SIGKILL:
            limit = self._max_memory // 1024**2
            return _Died(f"out of memory: it needs more than the {limit} MiB of `maxMemory`")
        return _Died(f"the evaluator {process.ended(end.returncode)}: {error_message(text)}")


_TAIL_LINES = 200
_ENDS_EARLY = "syntax error, unexpected end of file (this version of Nix does not say in which)"
_OUT_OF_MEMORY = re.compile(r"out of memory|insufficient space|bad_alloc", re.IGNORECASE)


def _done(number: int) -> str:
    return f"let number = {number}; in done number\n"


def _answer(message: Mapping[str, Any]) -> _Answer:
    match message:
        case {"attrs": list(names)}:
            return _Set(tuple(str(name) for name in names))
        case _:
            return _Job(message)


def _text(lines: Iterable[bytes]) -> str:
    return b"\n".join(lines).decode(errors="replace")
