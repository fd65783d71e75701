"""How long to wait after failures: longer each time, and not everybody equally long. Pure."""

from __future__ import annotations

LONGEST = 3600.0
"""Seconds between attempts at most, however often something failed."""
_DOUBLINGS = 30
"""More change nothing, and in the end no float would hold them."""


def doubled(first: float, failures: int) -> float:
    """Seconds after a failure that so many preceded: `first`, and twice as long each time."""
    return min(first * 2.0 ** min(failures, _DOUBLINGS), LONGEST)


def jittered(first: float, failures: int, *, chance: float) -> float:
    """The same with half of it left to chance, a number from 0 up to 1 that the caller draws: those
    who failed at the same moment do not all come back at the same moment.

    It is the "equal jitter" of Marc Brooker, Exponential Backoff And Jitter (AWS Architecture Blog,
    2015): with his "full" one, which may be next to nothing, a server that is down is asked again
    at once now and then.
    """
    return doubled(first, failures) * (1.0 + chance) / 2.0
