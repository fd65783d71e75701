"""How far pushing is, in a few words."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from reconciler.push_progress import PushProgress, outlook

MIB = 2**20
IDLE = PushProgress(
    since=1.0,
    sent_paths=1,
    sent_bytes=MIB,
    left_paths=2,
    left_bytes=30 * MIB,
    rate=None,
    estimate=None,
)


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (None, ""),
        (IDLE, " (30MiB)"),
        (replace(IDLE, rate=2.5 * MIB), " (30MiB, 2.5MiB/s)"),
        (replace(IDLE, rate=0.5 * MIB, estimate=60.0), " (30MiB, 512KiB/s, about 1m left)"),
    ],
)
def test_only_what_is_known_is_said(progress: PushProgress | None, said: str) -> None:
    assert outlook(progress) == said
