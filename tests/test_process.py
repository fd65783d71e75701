"""Child processes, real ones: Python and shell scripts of the tests' own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from reconciler import process
from reconciler.errors import ReconcilerError

ENV = {"PATH": os.environ["PATH"]}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def collect(code: str, max_line: int = process.MAX_LINE) -> list[bytes]:
    async with process.stream(python(code), env=ENV, max_line=max_line) as child:
        lines = [line async for line in child.lines()]
        assert (await child.finished()).returncode == 0
        return lines


async def gone(pid: int) -> None:
    """Return once no process has this id, or only one that waits for its parent to notice."""
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]  # noqa: ASYNC240
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        await asyncio.sleep(0)


async def test_run_gives_status_output_and_errors_whatever_their_bytes() -> None:
    code = r"import os; os.write(1, b'a\xff\n\nb'); os.write(2, b'\xfe!'); raise SystemExit(7)"
    done = await process.run(python(code), env=ENV)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"a\xff\n\nb", "\ufffd!")


async def test_environment_is_only_what_is_given() -> None:
    done = await process.run(
        python("import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))"), env={**ENV, "ONE": "1"}
    )
    assert done.stdout == b"['ONE', 'PATH']\n"


async def test_standard_input_is_empty() -> None:
    done = await process.run(python("import sys; print(repr(sys.stdin.read()))"), env=ENV)
    assert done.stdout == b"''\n"


async def test_lines_longer_than_any_buffer() -> None:
    lines = await collect("print('x' * 20_000_000); print(); print('end', end='')")
    assert [len(line) for line in lines] == [20_000_000, 0, 3]


async def test_a_line_over_the_bound_is_cut_and_costs_no_other() -> None:
    code = "print('a'); print('b' * 1_000_000); print('c'); print('d' * 1_000_000, end='')"
    lines = await collect(code, max_line=1000)
    assert lines == [b"a", b"b" * 1000, b"c", b"d" * 1000]


async def test_lines_come_while_the_child_runs() -> None:
    code = "import sys; print('first', flush=True); print(sys.stdin.readline().strip())"
    async with (
        process.stream(python(code), env=ENV, interactive=True) as child,
        aclosing(child.lines()) as lines,
    ):
        assert await anext(lines) == b"first"
        await child.send(b"second\n")
        assert await anext(lines) == b"second"


async def test_errors_can_be_read_by_line_instead() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr)"
    async with process.stream(python(code), env=ENV, lines=process.Stream.STDERR) as child:
        assert [line async for line in child.lines()] == [b"err"]
        assert await child.finished() == process.Finished(returncode=0, tail="out\n")


async def test_megabytes_of_errors_are_bounded_and_the_end_is_kept() -> None:
    code = "import sys; sys.stderr.write('x' * 30_000_000 + 'the end'); print('done')"
    done = await process.run(python(code), env=ENV)
    assert done.stdout == b"done\n"
    assert len(done.stderr) == process.TAIL
    assert done.stderr.endswith("the end")


async def test_more_output_than_is_held_is_an_error() -> None:
    with pytest.raises(process.ProcessOutputError, match="more than 1000 bytes"):
        await process.run(python("while True: print('x' * 999)"), env=ENV, max_output=1000)


async def test_a_missing_command_is_one_clear_error() -> None:
    with pytest.raises(ReconcilerError, match="cannot run no-such-command: it is not on PATH"):
        await process.run(["no-such-command"], env=ENV)


async def test_a_missing_folder_is_one_clear_error() -> None:
    with pytest.raises(ReconcilerError, match="/no/such/folder"):
        await process.run(python(""), env=ENV, cwd=Path("/no/such/folder"))


# A child that ignores SIGTERM, with a child of its own in the same session that does too.
STUBBORN = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal; print(flush=True); signal.pause()"
inner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
inner.stdout.readline()
print(os.getpid(), inner.pid, flush=True)
signal.pause()
"""


async def test_leaving_the_block_kills_the_whole_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.05)
    async with process.stream(python(STUBBORN), env=ENV) as child, aclosing(child.lines()) as lines:
        pids = [int(pid) for pid in (await anext(lines)).split()]
        assert pids[0] == child.pid
    for pid in pids:
        await gone(pid)


async def test_a_timeout_kills_the_whole_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.05)
    pids: list[int] = []

    async def use() -> None:
        async with process.stream(python(STUBBORN), env=ENV, timeout=1) as child:
            async for line in child.lines():
                pids.extend(int(pid) for pid in line.split())

    with pytest.raises(process.ProcessTimeoutError, match="did not end within 1 s"):
        await use()
    assert len(pids) == 2
    for pid in pids:
        await gone(pid)


async def test_cancellation_kills_the_whole_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.05)
    started: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

    async def use() -> None:
        async with process.stream(python(STUBBORN), env=ENV) as child:
            async for line in child.lines():
                started.set_result([int(pid) for pid in line.split()])

    task = asyncio.create_task(use())
    pids = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for pid in pids:
        await gone(pid)


async def test_what_a_child_leaves_behind_is_killed_and_does_not_hold_the_block() -> None:
    code = (
        "import subprocess, sys\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'],"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(inner.pid)"
    )
    done = await process.run(python(code), env=ENV)
    await gone(int(done.stdout))


async def test_a_child_dies_with_a_parent_that_is_killed() -> None:
    parent = f"""
import asyncio, os
from reconciler import process
async def main():
    code = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    async with process.stream([{sys.executable!r}, "-c", code], env=dict(os.environ)) as child:
        async for line in child.lines():
            print(line.decode(), flush=True)
asyncio.run(main())
"""
    env = {**ENV, "PYTHONPATH": str(Path(process.__file__).parents[1])}
    async with process.stream(python(parent), env=env) as child, aclosing(child.lines()) as lines:
        pid = int(await anext(lines))
        os.kill(child.pid, signal.SIGKILL)
        await gone(pid)


async def test_memory_is_bounded() -> None:
    code = "try: bytearray(2**30)\nexcept MemoryError: print('refused')"
    done = await process.run(python(code), env=ENV, max_memory=512 * 1024**2)
    assert done.stdout == b"refused\n"


async def test_how_a_child_ended_in_words() -> None:
    done = await process.run(python("import os; os.kill(os.getpid(), 9)"), env=ENV)
    assert process.ended(done.returncode) == "was killed by SIGKILL"
    assert process.ended(3) == "exited with 3"
    assert process.ended(-35) == "was killed by signal 35"
