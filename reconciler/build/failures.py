"""What a build result of Nix means for us: the one table of failure classes.

The status of the worker protocol decides. Where it is vague, recorded texts of Nix do. Pure.

Sources: BuildResult in Nix's worker protocol; the texts were recorded from Nix 2.26 and 2.34.
"""

from __future__ import annotations

import re
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


_LOG_EXCERPT = re.compile(r"\n\s*(?:[Ll]ast \d+ log lines:|For full logs,)", re.DOTALL)
_REASON = re.compile(r"Reason: (.*?)(?:\n(?:Output paths:|\s*$)|\Z)", re.DOTALL)
_BUILDER_FOR = re.compile(r"(?:error: )?builder for '[^']*' (failed .*?);?\s*\Z", re.DOTALL)


def reason(message: str) -> str:
    """Why a build failed, out of Nix's message: without its excerpt of the log, which we keep
    whole, and without the paths, which we know.

    Nix 2.30 and later say `Reason:`, earlier ones `builder for '…' failed …`.
    """
    head = _LOG_EXCERPT.split(message, maxsplit=1)[0].strip()
    if found := _REASON.search(head):
        return found[1].strip().rstrip(".")
    if found := _BUILDER_FOR.match(head):
        return f"builder {found[1]}"
    return head
