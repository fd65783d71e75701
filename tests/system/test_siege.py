"""The siege of `siege`, small; `make test-long` has the large one."""

from __future__ import annotations

from pathlib import Path

from tests.system.siege import laid, stand


def test_pushes_get_through_a_bad_line_and_kills(tmp_path: Path) -> None:
    with laid(tmp_path, builds=100, seed=1) as siege:
        stand(siege, kills=3, seed=2)
