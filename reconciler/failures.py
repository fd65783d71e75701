"""What a build result of Nix means for us: the one table of failure classes.

The status of the worker protocol decides. Where it is vague, recorded texts of Nix do. Pure.

Sources: BuildResult in Nix's worker protocol; the texts were recorded from Nix 2.26 and 2.34.
"""

from __future__ import annotations

from typing import assert_never

from reconciler.model import Outcome
from reconciler.nix.protocol import BuildStatus

_INFRASTRUCTURE_TEXTS = (
    "No space left on device",
    "Disk quota exceeded",
    "Cannot allocate memory",
    "Resource temporarily unavailable",
    # The out-of-memory killer, or another store's builds under the same build user.
    "failed due to signal 9",
    "unable to start any build",
    "Connection refused",
    "Could not resolve host",
    "Couldn't resolve host",
    "database is locked",
    "database or disk is full",
)
"""A build that ends so has failed for a reason that is not its own."""


def outcome(status: BuildStatus, message: str) -> Outcome:
    """The class of an attempt that Nix ended with this status and message."""
    match status:
        case (
            BuildStatus.BUILT
            | BuildStatus.SUBSTITUTED
            | BuildStatus.ALREADY_VALID
            | BuildStatus.RESOLVES_TO_ALREADY_VALID
        ):
            return Outcome.SUCCEEDED
        case BuildStatus.TIMED_OUT:
            return Outcome.TIMED_OUT
        case BuildStatus.LOG_LIMIT_EXCEEDED:
            return Outcome.LOG_LIMIT
        case BuildStatus.NOT_DETERMINISTIC:
            return Outcome.NOT_DETERMINISTIC
        case (
            BuildStatus.TRANSIENT_FAILURE
            | BuildStatus.DEPENDENCY_FAILED
            | BuildStatus.NO_SUBSTITUTERS
        ):
            # Inputs were good when the attempt began: that one of them fails now is its loss.
            return Outcome.INFRASTRUCTURE
        case (
            BuildStatus.PERMANENT_FAILURE
            | BuildStatus.INPUT_REJECTED
            | BuildStatus.OUTPUT_REJECTED
            | BuildStatus.CACHED_FAILURE
            | BuildStatus.MISC_FAILURE
        ):
            blameless = any(text in message for text in _INFRASTRUCTURE_TEXTS)
            return Outcome.INFRASTRUCTURE if blameless else Outcome.FAILED
        case _:
            assert_never(status)
