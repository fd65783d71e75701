"""Whose failure it is decides whether a build is tried again."""

from __future__ import annotations

import pytest

from tests.support.trial import Trial

RETRY = {"attempts": 2, "backoff": "1s"}


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ('with_ { __noChroot = true; } "it" "touch $out"', "has '__noChroot' set"),
        (
            'with_ { exportReferencesGraph = [ "odd" ]; } "it" "touch $out"',
            "odd number of tokens",
        ),
        ('job "it" "mkfifo $out"', "has an unsupported type"),
    ],
)
def test_what_nix_refuses_is_final_after_one_attempt(trial: Trial, job: str, said: str) -> None:
    trial.declare({"a": {"source": trial.source("a", f"{{ it = {job}; }}"), "retry": RETRY}})
    assert trial.once()
    assert trial.builds() == {"it": "failed"}
    assert trial.attempts("it") == ["failed"]
    assert said in trial.message("it")
    assert trial.once()
    assert trial.attempts("it") == ["failed"]


def test_what_a_build_prints_does_not_blame_the_machine(trial: Trial) -> None:
    job = 'job "it" "echo No space left on device; echo Connection refused; exit 1"'
    trial.declare({"a": {"source": trial.source("a", f"{{ it = {job}; }}"), "retry": RETRY}})
    assert trial.once()
    assert trial.attempts("it") == ["failed"]


def test_a_download_that_fails_is_tried_again_and_never_remembered(trial: Trial) -> None:
    """Nothing listens there; what the next run finds may be another answer."""
    fetch = """
      derivation {
        name = "it"; system = "builtin"; builder = "builtin:fetchurl";
        url = "http://127.0.0.1:1/it"; outputHashMode = "flat";
        outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
      }
    """
    trial.environment["NIX_CONFIG"] = "download-attempts = 1"
    trial.declare({"a": {"source": trial.source("a", f"{{ it = {fetch}; }}"), "retry": RETRY}})
    assert trial.once()
    assert trial.attempts("it") == ["infrastructure", "infrastructure"]
    assert trial.builds() == {"it": "queued"}
    assert trial.message("it").startswith("download failed: ")
    trial.settled = False  # it is due again later
