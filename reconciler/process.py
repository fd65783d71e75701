"""The only door to child processes.

Every child gets an explicit environment, no standard input unless it is asked for, and a session
of its own, so that it dies as a whole: on leaving the `stream` block, on a timeout, on
cancellation. Lines of any length up to a bound are streamed, whatever bytes they hold; the other
stream's tail is kept. This module knows nothing of Nix or git.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from reconciler.errors import ReconcilerError

MAX_LINE = 64 * 1024 * 1024
"""Bytes of one line that are kept; what is longer is cut, and costs nothing else."""
MAX_OUTPUT = 256 * 1024 * 1024
"""Bytes of output that `run` holds before it gives the child up."""
TAIL = 64 * 1024
"""Bytes kept of the end of the stream that is not read line by line."""
CHUNK = 64 * 1024
GRACE = 2.0
"""Seconds between asking a process group to end and killing it."""


class ProcessTimeoutError(ReconcilerError):
    """A child did not end within its time."""


class ProcessOutputError(ReconcilerError):
    """A child printed more than is held in memory."""


class Stream(StrEnum):
    """One of the two streams of a child."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Completed(Struct, frozen=True, kw_only=True):
    """The end of a child. A negative `returncode` is the signal that killed it."""

    returncode: int
    stdout: bytes
    stderr: str


class Finished(Struct, frozen=True, kw_only=True):
    """The end of a streamed child. `tail` is the end of the stream that was not read by line."""

    returncode: int
    tail: str


def ended(returncode: int) -> str:
    """How a child ended, in words: `exited with 1`, `was killed by SIGKILL`."""
    if returncode >= 0:
        return f"exited with {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"was killed by {name}"


class Child:
    """A running child; made by `stream`."""

    def __init__(
        self, process: asyncio.subprocess.Process, *, lines: Stream, max_line: int
    ) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        by_line, other = process.stdout, process.stderr
        if lines is Stream.STDERR:
            by_line, other = other, by_line
        self._process = process
        self._by_line = by_line
        self._max_line = max_line
        self._tail = asyncio.create_task(_read_tail(other))

    @property
    def pid(self) -> int:
        """The child's process id, which is its process group's too."""
        return self._process.pid

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The same stream as it comes, whatever its lines."""
        while chunk := await self._by_line.read(CHUNK):
            yield chunk

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """The lines of the stream that was asked for, without their ends."""
        pending = bytearray()
        cut = False
        async for chunk in self.chunks():
            *complete, rest = chunk.split(b"\n")
            for piece in complete:
                if not cut:
                    pending += piece
                yield bytes(pending[: self._max_line])
                pending.clear()
                cut = False
            if not cut:
                pending += rest
                cut = len(pending) > self._max_line
        if pending:
            yield bytes(pending[: self._max_line])

    async def send(self, text: bytes) -> None:
        """Write to the child's standard input; a child that is gone is noticed by its streams."""
        assert self._process.stdin is not None, "streamed without interactive=True"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(text)
            await self._process.stdin.drain()

    async def finished(self) -> Finished:
        """Close the child's standard input, if any, and wait for its end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        while await self._by_line.read(CHUNK):
            pass
        tail = await self._tail
        return Finished(returncode=await self._process.wait(), tail=tail)

    async def kill(self) -> None:
        """End the whole process group: at once if the child is gone, else after a grace.

        Its standard input is closed first: an interactive child takes that for the end, while
        SIGTERM may be no more to it than the end of what it is at.
        """
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
            if self._process.returncode is None:
                _signal_group(self.pid, signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), GRACE)
        finally:
            # What the child started outlives it: the group is killed even when the child has
            # ended well. Its id stays taken as long as it has members, so no one else is hit.
            _signal_group(self.pid, signal.SIGKILL)
            self._tail.cancel()
            await self._process.wait()
            self._close_pipes()

    def _close_pipes(self) -> None:
        # A grandchild that left the group may keep a pipe open: asyncio would wait for its end
        # and warn of the unclosed transport.
        transport = getattr(self._process, "_transport", None)
        if isinstance(transport, asyncio.SubprocessTransport):
            transport.close()


@asynccontextmanager
async def stream(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float | None = None,  # noqa: ASYNC109  (the deadline is of the whole block)
    cwd: Path | None = None,
    max_memory: int | None = None,
    lines: Stream = Stream.STDOUT,
    max_line: int = MAX_LINE,
    interactive: bool = False,
) -> AsyncIterator[Child]:
    """Start a child and stream its lines; leaving the block, for whatever reason, ends it.

    `timeout` (seconds) bounds the whole block: ProcessTimeoutError. `max_memory` (bytes) bounds
    the address space of the child and of each process it starts. `interactive` gives it a
    standard input to `send` to.
    """
    child = Child(
        await _spawn(argv, env=env, cwd=cwd, max_memory=max_memory, interactive=interactive),
        lines=lines,
        max_line=max_line,
    )
    try:
        async with asyncio.timeout(timeout) as deadline:
            yield child
    except TimeoutError as error:
        if deadline.expired():
            raise ProcessTimeoutError(f"{argv[0]} did not end within {timeout:g} s") from error
        raise
    finally:
        await _surely(child.kill())


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float | None = None,  # noqa: ASYNC109
    cwd: Path | None = None,
    max_memory: int | None = None,
    max_output: int = MAX_OUTPUT,
) -> Completed:
    """Run a child to its end, holding its standard output."""
    async with stream(argv, env=env, timeout=timeout, cwd=cwd, max_memory=max_memory) as child:
        output = bytearray()
        async for chunk in child.chunks():
            output += chunk
            if len(output) > max_output:
                raise ProcessOutputError(f"{argv[0]} printed more than {max_output} bytes")
        finished = await child.finished()
    return Completed(returncode=finished.returncode, stdout=bytes(output), stderr=finished.tail)


async def _spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None,
    max_memory: int | None,
    interactive: bool,
) -> asyncio.subprocess.Process:
    # The child must not outlive a daemon that was killed. PR_SET_PDEATHSIG can only be set by the
    # child itself: util-linux's setpriv does it and becomes the command; without setpriv the child
    # ends when it next meets a closed pipe.
    path = env.get("PATH")
    if shutil.which(argv[0], path=path) is None:
        raise ReconcilerError(f"cannot run {argv[0]}: it is not on PATH; install it")
    setpriv = shutil.which("setpriv", path=path)
    guard = (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()
    try:
        process = await asyncio.create_subprocess_exec(
            *guard,
            *argv,
            env=dict(env),
            cwd=cwd,
            stdin=asyncio.subprocess.PIPE if interactive else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise ReconcilerError(f"cannot run {argv[0]} (in {cwd or '.'}): {error}") from error
    if max_memory is not None:
        # Set from here, not in a preexec_fn, which may deadlock in a process with threads. The
        # child has barely been loaded; what it starts later inherits the limit.
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_AS, (max_memory, max_memory))
    return process


async def _surely(work: Coroutine[None, None, None]) -> None:
    """Wait for the end of `work` however often the wait is cancelled."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


async def _read_tail(reader: asyncio.StreamReader) -> str:
    tail = b""
    while chunk := await reader.read(CHUNK):
        tail = (tail + chunk)[-TAIL:]
    return tail.decode(errors="replace")


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
