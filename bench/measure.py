"""Processes timed side by side, and what their ratios say of a target."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Run:
    """What one process took."""

    seconds: float
    peak: int
    """Bytes of memory at most, its own or of a child it waited for."""
    output: str = ""


class FailedError(Exception):
    """A contender did not do its work: there is nothing to compare."""


def timed(argv: Sequence[str], environment: Mapping[str, str], *, expected: int = 0) -> Run:
    """Run a command to its end; FailedError unless it ends with the expected status."""
    began = time.perf_counter()
    process = subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode != expected:
        raise FailedError(f"{' '.join(argv)[:200]} ended with {process.returncode}:\n{output}")
    return Run(seconds, usage.ru_maxrss * 1024, output)


def python(*arguments: str) -> list[str]:
    """The command line of a module of ours."""
    return [sys.executable, "-m", *arguments]


def interleaved(contenders: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Let each run once a round, in turn first: what else the machine does strikes all alike."""
    names = list(contenders)
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for number in range(rounds):
        for name in [*names[number % len(names) :], *names[: number % len(names)]]:
            runs[name].append(contenders[name]())
    return runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    number: int
    check: str
    target: float
    stretch: float
    ratio: float
    rounds: list[float] = field(default_factory=list)
    """The ratio of each round; `ratio` is their median."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Medians, for orientation: they are the machine's, the ratio is ours."""

    @property
    def met(self) -> str:
        if self.ratio <= self.stretch:
            return "stretch"
        return "yes" if self.ratio <= self.target else "NO"

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "met": self.met}


Took = tuple[str, Sequence[float]]
"""Who, and what it took in each round."""


def compare(
    number: int, check: str, ours: Took, theirs: Took, *, target: float, stretch: float
) -> Row:
    """A row from what both took."""
    ratios = [mine / other for mine, other in zip(ours[1], theirs[1], strict=True)]
    return Row(
        number=number,
        check=check,
        target=target,
        stretch=stretch,
        ratio=statistics.median(ratios),
        rounds=ratios,
        seconds={name: statistics.median(each) for name, each in (ours, theirs)},
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The table, line by line."""
    yield f"{'#':>2}  {'check':64} {'target':>7} {'stretch':>7} {'ratio':>7}  {'met':7} measured"
    for row in rows:
        took = ", ".join(f"{name} {seconds:.4g}" for name, seconds in row.seconds.items())
        yield (
            f"{row.number:>2}  {row.check:64} {row.target:7.3f} {row.stretch:7.3f}"
            f" {row.ratio:7.3f}  {row.met:7} {took}"
        )
