"""Builders that keep failing: left alone for growing times, then tried by one build. Pure.

A failure here is the builder's own (it cannot be reached, its disk is full), never one of what it
builds. One alone means little, and costs it nothing, unless it is of the kind that lasts until
somebody mends something; those in a row do. Whatever it then builds to an end, good or bad,
restores it.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from reconciler.quantities import time_of_day

FIRST_PAUSE = 30.0
"""Seconds after the second failure in a row; doubled with each further one."""
LONGEST_PAUSE = 900.0
"""Seconds: what was mended is not left unused for longer."""


class Trouble(Struct, frozen=True, kw_only=True):
    """What a builder went through since it last built something."""

    failures: int
    """In a row."""
    failed_at: float
    """The last of them."""
    until: float
    """When it is tried again."""
    error: str
    unfit: bool = False
    """The last of them was of the kind that lasts."""

    @property
    def quarantined(self) -> bool:
        """Whether it counts as broken: it is tried by one build at a time."""
        return self.failures > 1 or self.unfit

    @property
    def message(self) -> str:
        """For people. It changes with a failure only, not with time."""
        until = time_of_day(self.until)
        if self.failures == 1:
            return f"quarantined until {until}, then tried by one build: {self.error}"
        return (
            f"quarantined until {until} after {self.failures} failures in a row,"
            f" then tried by one build; the last was: {self.error}"
        )


def failed(
    before: Trouble | None, *, started_at: float, now: float, error: str, unfit: bool = False
) -> Trouble:
    """What is so after a failure of an attempt that was started at a time.

    Attempts that were under way when another failed are of the same incident, and count once.
    """
    if before is not None and started_at <= before.failed_at:
        return before
    failures = 1 if before is None else before.failures + 1
    pauses = failures - 1 + (1 if unfit and failures == 1 else 0)
    pause = FIRST_PAUSE * 2.0 ** min(pauses - 1, 16) if pauses else 0.0
    return Trouble(
        failures=failures,
        failed_at=now,
        until=now + min(pause, LONGEST_PAUSE),
        error=error,
        unfit=unfit,
    )


def recalled(trouble: Trouble, *, now: float) -> Trouble:
    """What is so after a restart: no pause is longer than any that is made, whatever the clock did
    meanwhile.
    """
    return replace(trouble, until=min(trouble.until, now + LONGEST_PAUSE))


def due(trouble: Trouble, *, now: float) -> Trouble:
    """What is so when it is to be tried without a pause; it still has to prove itself."""
    return replace(trouble, until=min(trouble.until, now))


def free(trouble: Trouble | None, *, slots: int, taken: int, now: float) -> int:
    """How many more builds a builder is given, of `slots` of which some are `taken`."""
    if trouble is None or not trouble.quarantined:
        return max(0, slots - taken)
    return 1 if now >= trouble.until and slots and not taken else 0
