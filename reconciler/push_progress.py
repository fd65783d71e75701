"""How far pushing to a cache is, and how that reads in a few words.

Pure.
"""

from __future__ import annotations

from msgspec import Struct

from reconciler.quantities import format_duration, format_size


class PushProgress(Struct, frozen=True, kw_only=True):
    """How far pushing to a cache is. Bytes of archives are counted before compression."""

    since: float
    """When the first of it was begun: before, all was there."""
    sent_paths: int
    sent_bytes: int
    """As sent, compressed."""
    left_paths: int
    left_bytes: int
    """Of archives."""
    rate: float | None
    """Bytes sent a second, of late; None: nothing is being sent."""
    estimate: float | None
    """Seconds that the rest will take."""


def outlook(progress: PushProgress | None) -> str:
    """How much there is to be pushed, and how long that will take."""
    if progress is None:
        return ""
    said = [format_size(progress.left_bytes)]
    if progress.rate is not None:
        said.append(f"{format_size(int(progress.rate))}/s")
    if progress.estimate is not None:
        said.append(f"about {format_duration(progress.estimate)} left")
    return f" ({', '.join(said)})"
