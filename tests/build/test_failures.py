"""Every status of Nix's build results has its class, and so have the words that matter."""

from __future__ import annotations

import pytest

from reconciler.build import failures
from reconciler.build.failures import Failure
from reconciler.model import Outcome
from reconciler.nix.protocol import BuildStatus

CLEAR: dict[BuildStatus, Failure | None] = {
    BuildStatus.BUILT: None,
    BuildStatus.SUBSTITUTED: None,
    BuildStatus.ALREADY_VALID: None,
    BuildStatus.RESOLVES_TO_ALREADY_VALID: None,
    BuildStatus.TIMED_OUT: Failure.TIMED_OUT,
    BuildStatus.LOG_LIMIT_EXCEEDED: Failure.LOG_LIMIT,
    BuildStatus.NOT_DETERMINISTIC: Failure.NOT_DETERMINISTIC,
    BuildStatus.DEPENDENCY_FAILED: Failure.DEPENDENCY,
    BuildStatus.NO_SUBSTITUTERS: Failure.DEPENDENCY,
}
VAGUE = {
    BuildStatus.PERMANENT_FAILURE: Failure.BUILD,
    BuildStatus.CACHED_FAILURE: Failure.BUILD,
    BuildStatus.MISC_FAILURE: Failure.BUILD,
    BuildStatus.INPUT_REJECTED: Failure.REFUSED,
    BuildStatus.OUTPUT_REJECTED: Failure.OUTPUT_REJECTED,
    BuildStatus.TRANSIENT_FAILURE: Failure.DOWNLOAD,
}


def test_every_status_is_clear_or_vague() -> None:
    assert {*CLEAR, *VAGUE} == {*BuildStatus}
    assert not CLEAR.keys() & VAGUE.keys()


@pytest.mark.parametrize("status", CLEAR)
def test_a_status_that_tells_decides(status: BuildStatus) -> None:
    assert failures.of_result(status, "No space left on device") is CLEAR[status]


@pytest.mark.parametrize("status", VAGUE)
def test_a_vague_one_has_its_class_if_no_words_tell(status: BuildStatus) -> None:
    assert failures.of_result(status, "builder failed with exit code 1") is VAGUE[status]


BLAMED = {
    "error: writing to file: No space left on device": Failure.NO_SPACE,
    "error: executing SQLite statement: database or disk is full (in '/db')": Failure.NO_SPACE,
    "builder for '/nix/store/x.drv' failed due to signal 9 (Killed)": Failure.KILLED,
    "unable to download 'https://example.org/x': Couldn't resolve host": Failure.DOWNLOAD,
    "cannot build missing derivation '/nix/store/x.drv'": Failure.DEPENDENCY,
    "unable to fork: Cannot allocate memory": Failure.NO_MEMORY,
    "Cannot build '/x.drv'.\nReason: local builds are disabled (max-jobs = 0)": Failure.MACHINE,
}


@pytest.mark.parametrize("status", VAGUE)
@pytest.mark.parametrize("message", BLAMED)
def test_words_that_blame_the_machine_count_first(status: BuildStatus, message: str) -> None:
    assert failures.of_result(status, message) is BLAMED[message]
    assert failures.of_refusal(message) is BLAMED[message]
    assert BLAMED[message].outcome is Outcome.INFRASTRUCTURE


@pytest.mark.parametrize("status", VAGUE)
@pytest.mark.parametrize(
    "printed",
    [
        "No space left on device",
        "note: build failure may have been caused by lack of free disk space",
    ],
)
def test_what_a_build_prints_decides_nothing(status: BuildStatus, printed: str) -> None:
    log = f"last 1 log lines:\n> {printed}\nFor full logs, run:\n  nix log /x.drv"
    older = f"builder for '/x.drv' failed with exit code 1;\n{log}"
    newer = f"Cannot build '/x.drv'.\nReason: builder failed with exit code 1.\nL{log[1:]}"
    assert failures.of_result(status, older) is VAGUE[status]
    assert failures.of_result(status, newer) is VAGUE[status]


def test_a_full_disk_is_noted_below_the_log() -> None:
    message = (
        "builder for '/x.drv' failed with exit code 7;\nlast 1 log lines:\n> hm\nFor full logs,"
        " run:\n  nix log /x.drv\nnote: build failure may have been caused by lack of free disk"
        " space"
    )
    assert failures.of_result(BuildStatus.TRANSIENT_FAILURE, message) is Failure.NO_SPACE
    told = failures.told(Failure.NO_SPACE, message)
    assert told == "no space left: builder failed with exit code 7"


def test_unknown_words_of_a_refusal_are_the_machines() -> None:
    assert failures.of_refusal("something nobody has ever read") is Failure.MACHINE


def test_a_refusal_for_good_is_the_derivations() -> None:
    said = "a 'riscv64-linux' with features {} is required to build '/x.drv', but I am another"
    assert failures.of_refusal(said) is Failure.REFUSED
    assert failures.told(Failure.REFUSED, said) == said
    said = "cannot build /made.drv.drv: error parsing derivation '/made.drv': expected string 'D'"
    assert failures.of_refusal(said) is Failure.REFUSED


PERMANENT = {
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


@pytest.mark.parametrize("failure", Failure)
def test_a_class_is_final_or_tried_again(failure: Failure) -> None:
    expected = PERMANENT.get(failure, Outcome.INFRASTRUCTURE)
    assert failure.outcome is expected
    assert failure.outcome.final is (failure in PERMANENT)


def test_silence_is_told_apart_where_nix_does() -> None:
    silent = "building of '/x.drv^*' from .drv file timed out after 1 seconds of silence"
    assert failures.of_result(BuildStatus.TIMED_OUT, silent) is Failure.SILENT


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
