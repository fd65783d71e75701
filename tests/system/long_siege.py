"""What takes minutes, and is no part of the ordinary suite: run by `make test-long`."""

from __future__ import annotations

from pathlib import Path

from tests.system.siege import laid, stand

BUILDS, KILLS = 1000, 10


def test_a_thousand_builds_over_bad_lines_with_ten_kills(tmp_path: Path) -> None:
    with laid(tmp_path, builds=BUILDS, seed=3) as siege:
        stand(siege, kills=KILLS, seed=4)
        for name, line in siege.lines.items():
            print(  # noqa: T201 - what `make test-long` shows
                f"{name}: {BUILDS} builds, {KILLS} kills, {line.requests} requests,"
                f" {line.spoilt} of them spoilt ({line.spoilt / line.requests:.0%});"
                f" {siege.pushed(name)} paths there and right"
            )
