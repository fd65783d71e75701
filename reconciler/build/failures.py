"""What the end of an attempt means for us: the one table of failure classes. Pure.

A permanent failure is the derivation's own: final after one attempt. One of the infrastructure is
tried again with growing pauses, and never remembered against the derivation. Cancellation is no
failure: whoever cancels an attempt knows it.

The status of a build result of the worker protocol decides. Where it is vague, or Nix refuses the
operation as a whole and there is no result, Nix's words do. They were recorded from Nix 2.26 and
2.34, each failure staged for real (tests/build/test_staged_failures.py). The same failure may be
a result in one version and a refusal in the other, so both are looked up in the same lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import assert_never

from reconciler.model import Outcome
from reconciler.nix.protocol import BuildStatus


class Failure(StrEnum):
    """The class of a failure, as people are told."""

    BUILD = "build failed"
    REFUSED = "refused by Nix"
    OUTPUT_REJECTED = "outputs not accepted"
    HASH_MISMATCH = "hash mismatch"
    TIMED_OUT = "timed out"
    SILENT = "silent too long"
    LOG_LIMIT = "too much log"
    OUTPUT_LIMIT = "outputs too large"
    NOT_DETERMINISTIC = "not deterministic"

    DEPENDENCY = "a dependency is missing"
    DOWNLOAD = "download failed"
    NO_SPACE = "no space left"
    NO_MEMORY = "out of memory"
    KILLED = "killed from outside"
    UNREACHABLE = "Nix went away"
    MACHINE = "the machine failed"

    @property
    def outcome(self) -> Outcome:
        """What an attempt that failed so came to."""
        return _OUTCOMES.get(self, Outcome.INFRASTRUCTURE)

    @property
    def of_builder(self) -> bool:
        """Whether the builder is to blame: it would fail anything else just as well."""
        return self in (Failure.NO_SPACE, Failure.NO_MEMORY, Failure.UNREACHABLE, Failure.MACHINE)


_OUTCOMES: Mapping[Failure, Outcome] = {
    Failure.BUILD: Outcome.FAILED,
    Failure.REFUSED: Outcome.FAILED,
    Failure.OUTPUT_REJECTED: Outcome.FAILED,
    Failure.HASH_MISMATCH: Outcome.FAILED,
    Failure.TIMED_OUT: Outcome.TIMED_OUT,
    Failure.SILENT: Outcome.TIMED_OUT,
    Failure.LOG_LIMIT: Outcome.LOG_LIMIT,
    Failure.OUTPUT_LIMIT: Outcome.OUTPUT_LIMIT,
    Failure.NOT_DETERMINISTIC: Outcome.NOT_DETERMINISTIC,
}
"""The permanent ones; all others are of the infrastructure."""

_WORDS: Mapping[Failure, tuple[str, ...]] = {
    Failure.NO_SPACE: (
        "No space left on device",
        "Disk quota exceeded",
        "database or disk is full",
    ),
    Failure.NO_MEMORY: ("Nix daemon out of memory", "Cannot allocate memory", "std::bad_alloc"),
    # The out-of-memory killer, another store's builds under the same build user, a person. Of
    # other signals a builder dies by its own fault.
    Failure.KILLED: ("failed due to signal 9 ",),
    Failure.DOWNLOAD: ("unable to download", "some substitutes for the outputs of"),
    Failure.DEPENDENCY: (
        "cannot build missing derivation",
        "does not exist, and substitution is disabled",
        "some dependencies of",
    ),
    Failure.MACHINE: (
        "local builds are disabled",
        "Unable to start any build",
    ),
    Failure.HASH_MISMATCH: ("hash mismatch in fixed-output derivation",),
    Failure.REFUSED: (
        # For another system, or with features that this Nix does not offer.
        "is required to build",
        "missing system features",
        "feature 'uid-range'",
        "experimental Nix feature '",
        # What the derivation asks for is not allowed, or makes no sense.
        "has '__noChroot' set",
        "specifies a sandbox profile",
        "requested impure path",
        "depends on impure derivation",
        "in 'exportReferencesGraph'",
        "must be a list of strings",
        "must be a Boolean",
        "while parsing derivation",
        # An output that is to be a derivation, and is none.
        "error parsing derivation '",
        "does not have output",
        "does not have wanted outputs",
    ),
    # Of the outputs, once they are there.
    Failure.OUTPUT_REJECTED: ("cycle detected in build of", "has an unsupported type"),
}
"""What Nix says of each. The first that fits counts."""

_DISK_FULL = re.compile(
    r"^note: build failure may have been caused by lack of free disk space", re.MULTILINE
)
"""Nix's guess, below the excerpt of the log, whose lines begin with a mark."""


def of_result(status: BuildStatus, message: str) -> Failure | None:
    """The class of an attempt that Nix ended with this status and message; None: it is good."""
    match status:
        case (
            BuildStatus.BUILT
            | BuildStatus.SUBSTITUTED
            | BuildStatus.ALREADY_VALID
            | BuildStatus.RESOLVES_TO_ALREADY_VALID
        ):
            return None
        case BuildStatus.TIMED_OUT:
            return Failure.SILENT if message.endswith("of silence") else Failure.TIMED_OUT
        case BuildStatus.LOG_LIMIT_EXCEEDED:
            return Failure.LOG_LIMIT
        case BuildStatus.NOT_DETERMINISTIC:
            return Failure.NOT_DETERMINISTIC
        case BuildStatus.DEPENDENCY_FAILED | BuildStatus.NO_SUBSTITUTERS:
            # Inputs were good when the attempt began: that one of them fails now is its loss.
            return Failure.DEPENDENCY
        case BuildStatus.TRANSIENT_FAILURE:
            # What Nix itself takes for passing: of a derivation with access to the network (one
            # of fixed output) every failure of its builder, and any while the disk is full.
            if _DISK_FULL.search(message):
                return Failure.NO_SPACE
            return _by_words(message, others=Failure.DOWNLOAD)
        case BuildStatus.INPUT_REJECTED:
            return _by_words(message, others=Failure.REFUSED)
        case BuildStatus.OUTPUT_REJECTED:
            return _by_words(message, others=Failure.OUTPUT_REJECTED)
        case BuildStatus.PERMANENT_FAILURE | BuildStatus.CACHED_FAILURE | BuildStatus.MISC_FAILURE:
            return _by_words(message, others=Failure.BUILD)
        case _:
            assert_never(status)


def of_refusal(message: str) -> Failure:
    """The class of an attempt that Nix refused or broke off with these words, without a result.

    What is in no list is the machine's: a derivation is not given up for words nobody knows.
    """
    return _by_words(message, others=Failure.MACHINE)


def _by_words(message: str, *, others: Failure) -> Failure:
    said = _without_log(message)
    for failure, words in _WORDS.items():
        if any(each in said for each in words):
            return failure
    return others


_LOG_EXCERPT = re.compile(r"\n\s*(?:[Ll]ast \d+ log lines:|For full logs,)", re.DOTALL)
_REASON = re.compile(r"Reason: (.*?)(?:\n(?:Output paths:|\s*$)|\Z)", re.DOTALL)
_BUILDER_FOR = re.compile(r"(?:error: )?builder for '[^']*' (failed .*?);?\s*\Z", re.DOTALL)


def _without_log(message: str) -> str:
    """Nix's own words: what a build prints must not decide its class."""
    return _LOG_EXCERPT.split(message, maxsplit=1)[0].strip()


def reason(message: str) -> str:
    """Why a build failed, out of Nix's message: without its excerpt of the log, which we keep
    whole, and without the paths, which we know.

    Nix 2.30 and later say `Reason:`, earlier ones `builder for '…' failed …`.
    """
    head = _without_log(message)
    if found := _REASON.search(head):
        return found[1].strip().rstrip(".")
    if found := _BUILDER_FOR.match(head):
        return f"builder {found[1]}"
    return head


def told(failure: Failure, message: str) -> str:
    """What is recorded of a failure: Nix's reason, and the class where that says more."""
    said = reason(message)
    match failure:
        case Failure.DEPENDENCY | Failure.DOWNLOAD | Failure.NO_SPACE | Failure.KILLED:
            # Nix often says no more than how the builder ended.
            return f"{failure}: {said}"
        case _:
            return said
