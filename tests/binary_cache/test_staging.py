"""Folders for what is prepared, made by many at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reconciler.binary_cache.staging import Staging


def test_nobody_takes_a_folder_that_is_being_made_for_abandoned(tmp_path: Path) -> None:
    def make(_number: int) -> None:
        for _ in range(100):
            staging = Staging(tmp_path, prefix="staging-")
            (staging.folder / "file").write_bytes(b"")
            staging.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(make, range(8)))
    assert not list(tmp_path.iterdir())
