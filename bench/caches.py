"""Row 10: small paths pushed to a `file:` cache, beside `nix copy` of all of them at once."""

from __future__ import annotations

import json
from collections.abc import Iterator

from bench.lab import Lab
from bench.measure import Row, Run, compare, interleaved, python, timed

SIZE = 17_000
"""Bytes of a path's content."""


def _paths(lab: Lab) -> list[str]:
    """New paths with contents that compress as text does."""
    files = lab.folder()
    for number in range(lab.sizes.paths):
        text = f"{files.name} {number}: the quick brown fox jumps over the lazy dog\n"
        (files / f"file-{number}").write_text(text * (SIZE // len(text)))
    added = lab.run("nix-store", "--add", *(str(each) for each in sorted(files.iterdir())))
    return added.output.split()


def push(lab: Lab) -> Iterator[Row]:
    paths = lab.folder() / "paths"
    paths.write_text("\n".join(_paths(lab)))

    def ours() -> Run:
        run = timed(python("bench.push_child", str(paths), str(lab.folder())), lab.environment)
        return Run(float(json.loads(run.output.splitlines()[-1])), run.peak)

    def nix_copy() -> Run:
        target = f"file://{lab.folder()}?compression=zstd"
        argv = ["nix", "copy", "--to", target, *paths.read_text().split()]
        return timed(argv, lab.environment)

    runs = interleaved({"ours": ours, "nix": nix_copy}, lab.sizes.rounds)
    yield compare(
        10,
        f"push of {lab.sizes.paths} small paths to file: / one nix copy of all, zstd",
        ("ours", [run.seconds for run in runs["ours"]]),
        ("nix copy", [run.seconds for run in runs["nix"]]),
        target=1.6,
        stretch=1.0,
    )
