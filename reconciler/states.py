"""Names and states: what of the `model` a report speaks in.

They stand apart from it because making its classes takes longer than a report: whoever only
shows states imports them from here, everybody else finds them in `model`. No I/O, no clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

DrvPath = NewType("DrvPath", str)
"""Full store path of a derivation file."""
StorePath = NewType("StorePath", str)
"""Full store path of anything, an output most often."""
JobsetName = NewType("JobsetName", str)
BuilderName = NewType("BuilderName", str)
CacheName = NewType("CacheName", str)


class EvaluationState(StrEnum):
    """What is stored of an evaluation's progress."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUPERSEDED = "superseded"


class BuildState(StrEnum):
    """What is stored of a build's progress.

    Ready, waiting, dependency-failed and unsupported are derived from the graph, never stored.
    """

    QUEUED = "queued"
    BUILDING = "building"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    LOG_LIMIT = "log-limit"
    OUTPUT_LIMIT = "output-limit"
    NOT_DETERMINISTIC = "not-deterministic"
    CANCELLED = "cancelled"
    SUBSTITUTED = "substituted"

    @property
    def live(self) -> bool:
        """Whether something is still to happen to it."""
        return self in (BuildState.QUEUED, BuildState.BUILDING)

    @property
    def good(self) -> bool:
        """Whether its outputs exist."""
        return self is BuildState.SUCCEEDED or self is BuildState.SUBSTITUTED

    @property
    def bad(self) -> bool:
        """Whether it ended without outputs, for a reason of its own."""
        return not self.live and not self.good and self is not BuildState.CANCELLED


class PushState(StrEnum):
    """What is stored of one path's way into one cache."""

    PENDING = "pending"
    PUSHING = "pushing"
    PUSHED = "pushed"
    FAILED = "failed"


class InspectionScope(StrEnum):
    """How much of a cache is looked at in one go."""

    SAMPLE = "sample"
    WHOLE = "whole"


class Outcome(StrEnum):
    """How an attempt ended. The first group settles the build; the second does not."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    LOG_LIMIT = "log-limit"
    OUTPUT_LIMIT = "output-limit"
    NOT_DETERMINISTIC = "not-deterministic"
    CANCELLED = "cancelled"

    INFRASTRUCTURE = "infrastructure"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        """Whether no further attempt is made because of it."""
        return self not in (Outcome.INFRASTRUCTURE, Outcome.INTERRUPTED)
