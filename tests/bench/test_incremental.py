"""What the benchmark of incremental builds says of disks."""

from __future__ import annotations

import os
from pathlib import Path

from bench.incremental import disk


def test_what_folders_share_takes_the_disk_once(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "deep").mkdir(parents=True)
    (one / "deep/file").write_bytes(os.urandom(100_000))
    alone = disk([str(one)])
    assert alone >= 100_000
    os.link(one / "deep/file", two / "deep/file")
    shared = disk([str(one), str(two)])
    assert alone <= shared < alone + 50_000
    (two / "deep/other").write_bytes(os.urandom(100_000))
    assert disk([str(one), str(two)]) >= shared + 100_000
