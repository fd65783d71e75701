"""Rows 10 and 16 to 20: paths pushed to caches, beside `nix copy` of all of them at once: small
ones and large ones, to `file:` and to S3 at the end of a line with delay; and a sync that finds all
there.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.lab import Lab
from bench.measure import Row, Run, compare, interleaved, python, timed
from tests.binary_cache.servers import open_s3_server

SIZE = 17_000
"""Bytes of a small path's content."""
DELAY = 0.02
"""Seconds that the line to S3 adds to each question with its answer."""
MIB = 1024 * 1024
KEYS = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "of-no-worth"}
"""Nix as Debian builds it signs nothing, so the server takes everybody; ours signs all the same."""


def _small(lab: Lab, count: int) -> Path:
    """New paths with contents that compress as text does; a file that lists them."""
    files = lab.folder()
    for number in range(count):
        text = f"{files.name} {number}: the quick brown fox jumps over the lazy dog\n"
        (files / f"file-{number}").write_text(text * (SIZE // len(text)))
    return _added(lab, files)


def _large(lab: Lab) -> Path:
    """New paths of which one half compresses away, and the other not at all."""
    files = lab.folder()
    count, size = lab.sizes.large_paths
    for number in range(count):
        with (files / f"large-{number}").open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(MIB // 2) + bytes(MIB // 2))
    return _added(lab, files)


def _added(lab: Lab, files: Path) -> Path:
    names = sorted(str(each) for each in files.iterdir())
    paths: list[str] = []
    for start in range(0, len(names), 1000):  # a command line has an end
        paths += lab.run("nix-store", "--add", *names[start : start + 1000]).output.split()
    for name in names:
        Path(name).unlink()
    listed = files / "paths"
    listed.write_text("\n".join(paths))
    return listed


def _ours(lab: Lab, paths: Path, uri: str, *options: str) -> Run:
    """The seconds without Python's start, as a daemon pushes."""
    os.sync()  # it brings to disk what it wrote, and would do so with what others wrote before
    argv = python("bench.push_child", str(paths), uri, *options)
    run = timed(argv, {**lab.environment, **KEYS})
    return Run(float(json.loads(run.output.splitlines()[-1])), run.peak)


def _nix(lab: Lab, paths: Path, uri: str) -> Run:
    os.sync()
    return timed(["nix", "copy", "--to", uri, *paths.read_text().split()], lab.environment)


# --- file: -------------------------------------------------------------------------------------


def push(lab: Lab) -> Iterator[Row]:
    paths = _small(lab, lab.sizes.paths)
    what = f"push of {lab.sizes.paths} small paths to file: / one nix copy of all, zstd"
    yield from _to_folder(lab, 10, what, paths, target=1.6)


def push_large(lab: Lab) -> Iterator[Row]:
    count, size = lab.sizes.large_paths
    what = f"push of {count} paths of {size} MiB to file: / one nix copy, zstd"
    yield from _to_folder(lab, 16, what, _large(lab), target=1.0)


def _to_folder(lab: Lab, number: int, what: str, paths: Path, *, target: float) -> Iterator[Row]:
    """A row for plain `nix copy`, and one for the same brought to disk, as ours always is."""
    runs = interleaved(
        {
            "ours": lambda: _ours(lab, paths, f"file:{lab.folder()}"),
            "nix copy": lambda: _nix(lab, paths, f"file://{lab.folder()}?compression=zstd"),
            "nix copy, sync": lambda: _nix_and_sync(lab, paths, lab.folder()),
        },
        lab.sizes.rounds,
    )
    yield _row(number, what, runs, target=target, stretch=min(target, 1.0) * 0.8)
    durable = f"{what}, brought to disk"
    yield _row(number, durable, runs, "nix copy, sync", target=min(target, 1.0), stretch=0.8)


def _nix_and_sync(lab: Lab, paths: Path, folder: Path) -> Run:
    copied = _nix(lab, paths, f"file://{folder}?compression=zstd")
    synced = timed(["sync", "--file-system", str(folder)], lab.environment)
    return Run(copied.seconds + synced.seconds, copied.peak)


def _row(
    number: int,
    what: str,
    runs: Mapping[str, list[Run]],
    beside: str = "nix copy",
    *,
    target: float,
    stretch: float,
) -> Row:
    return compare(
        number,
        what,
        ("ours", [run.seconds for run in runs["ours"]]),
        (beside, [run.seconds for run in runs[beside]]),
        target=target,
        stretch=stretch,
    )


# --- S3, far away ------------------------------------------------------------------------------


class _Far:
    """Buckets of a server at the end of a line with delay; each is given out once."""

    def __init__(self, buckets: Iterable[str], address: str) -> None:
        self._buckets = iter(buckets)
        self._address = address

    def bucket(self) -> str:
        """One that nobody knows: Nix remembers what is in a bucket by its name alone."""
        return next(self._buckets)

    def uri(self, bucket: str) -> str:
        return f"s3://{bucket}?endpoint={self._address}&scheme=http&region=us-east-1"


@contextmanager
def _far(lab: Lab) -> Iterator[_Far]:
    folder = lab.folder()
    prefix = folder.name.lower().replace("_", "-")
    names = [f"{prefix}-{number}" for number in range(4 * lab.sizes.rounds)]
    for name in names:  # rclone may hide one that is made while it has files on their way
        (folder / name).mkdir()
    with open_s3_server(folder) as server:
        argv = python("bench.slow_line", server.address, str(DELAY))
        with subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        ) as line:
            assert line.stdout is not None
            try:
                yield _Far(names, line.stdout.readline().strip())
            finally:
                line.kill()


def push_far(lab: Lab) -> Iterator[Row]:
    """Small paths, large paths, and the memory that both take."""
    count, size = lab.sizes.large_paths
    small = f"push of {lab.sizes.paths} small paths to S3, {DELAY * 1000:.0f} ms away / nix copy"
    large = f"push of {count} paths of {size} MiB to S3, {DELAY * 1000:.0f} ms away / nix copy"
    with _far(lab) as far:
        runs = _side_by_side(lab, far, _small(lab, lab.sizes.paths))
        yield _row(17, small, runs, target=1 / 3, stretch=0.25)
        large_runs = _side_by_side(lab, far, _large(lab))
        yield _row(18, large, large_runs, target=1.0, stretch=0.8)
    both = f"the small and the large paths together to S3, {DELAY * 1000:.0f} ms away / nix copy"
    together = {
        name: [
            Run(one.seconds + other.seconds, 0)
            for one, other in zip(each, large_runs[name], strict=True)
        ]
        for name, each in runs.items()
    }
    yield _row(18, both, together, target=1 / 3, stretch=0.25)
    yield compare(
        20,
        "peak memory of pushing the large paths / the small ones, MiB",
        ("large", [run.peak / MIB for run in large_runs["ours"]]),
        ("small", [run.peak / MIB for run in runs["ours"]]),
        target=2.0,
        stretch=1.5,
    )


def _side_by_side(lab: Lab, far: _Far, paths: Path) -> Mapping[str, list[Run]]:
    contenders: dict[str, Callable[[], Run]] = {
        "ours": lambda: _ours(lab, paths, far.uri(far.bucket())),
        "nix copy": lambda: _nix(lab, paths, f"{far.uri(far.bucket())}&compression=zstd"),
    }
    return interleaved(contenders, lab.sizes.rounds)


def sync(lab: Lab) -> Iterator[Row]:
    """A daemon that lost its state finds that all is there."""
    with _far(lab) as far:
        uri = far.uri(far.bucket())
        paths = _small(lab, lab.sizes.synced)
        _ours(lab, paths, uri)
        seconds = [_ours(lab, paths, uri, "--again").seconds for _ in range(lab.sizes.rounds)]
    yield Row(
        number=19,
        check=f"seconds to find {lab.sizes.synced} paths in S3, {DELAY * 1000:.0f} ms away",
        target=3.0,
        stretch=1.5,
        ratio=median(seconds),
        rounds=seconds,
        seconds={"ours": median(seconds)},
    )
