"""Every status of Nix's build results has its class."""

from __future__ import annotations

import pytest

from reconciler.build import failures
from reconciler.model import Outcome
from reconciler.nix.protocol import BuildStatus

FIXED = {
    BuildStatus.BUILT: Outcome.SUCCEEDED,
    BuildStatus.SUBSTITUTED: Outcome.SUCCEEDED,
    BuildStatus.ALREADY_VALID: Outcome.SUCCEEDED,
    BuildStatus.RESOLVES_TO_ALREADY_VALID: Outcome.SUCCEEDED,
    BuildStatus.TIMED_OUT: Outcome.TIMED_OUT,
    BuildStatus.LOG_LIMIT_EXCEEDED: Outcome.LOG_LIMIT,
    BuildStatus.NOT_DETERMINISTIC: Outcome.NOT_DETERMINISTIC,
    BuildStatus.TRANSIENT_FAILURE: Outcome.INFRASTRUCTURE,
    BuildStatus.DEPENDENCY_FAILED: Outcome.INFRASTRUCTURE,
    BuildStatus.NO_SUBSTITUTERS: Outcome.INFRASTRUCTURE,
}
VAGUE = [status for status in BuildStatus if status not in FIXED]


@pytest.mark.parametrize("status", FIXED)
def test_a_status_that_tells_decides(status: BuildStatus) -> None:
    assert failures.outcome(status, "No space left on device") is FIXED[status]


@pytest.mark.parametrize("status", VAGUE)
def test_a_vague_one_is_the_builds_own_failure(status: BuildStatus) -> None:
    assert failures.outcome(status, "builder failed with exit code 1") is Outcome.FAILED


@pytest.mark.parametrize("status", VAGUE)
@pytest.mark.parametrize(
    "message",
    [
        "error: writing to file: No space left on device",
        "builder for '/nix/store/x.drv' failed due to signal 9 (Killed)",
        "unable to download 'https://example.org/x': Couldn't resolve host name (6)",
        "error: executing SQLite statement: database or disk is full (in '/nix/var/nix/db')",
    ],
)
def test_unless_its_text_blames_the_machine(status: BuildStatus, message: str) -> None:
    assert failures.outcome(status, message) is Outcome.INFRASTRUCTURE


def test_there_are_vague_ones() -> None:
    assert BuildStatus.PERMANENT_FAILURE in VAGUE


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "Cannot build '/x'.\nReason: builder failed with exit code 3.\nOutput paths:\n  /y",
            "builder failed with exit code 3",
        ),
        (
            "builder for '/x-a.drv' failed with exit code 1;\n  last 1 log lines:\n  > no\n",
            "builder failed with exit code 1",
        ),
        ("something else entirely", "something else entirely"),
    ],
)
def test_the_reason_leaves_out_what_is_known(message: str, reason: str) -> None:
    assert failures.reason(message) == reason
