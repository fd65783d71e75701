"""No slot is spent on what leads to nothing that can succeed."""

from __future__ import annotations

from tests.support.trial import Trial

FAILED_BEFORE = """
let broken = job "broken" "test -e %s; touch $out"; in { it = job "it" "cat ${broken} > $out"; }
"""
BROKEN = """
let
  broken = job "broken" "test -e %s; touch $out";
  common = job "common" "echo common > $out";
  side = job "side" "cat ${common}; echo side > $out";
in {
  top = job "top" "cat ${broken} ${side} > $out";
  other = job "other" "cat ${common} > $out";
}
"""


def test_what_only_a_failed_job_needs_is_not_built_until_a_retry(trial: Trial) -> None:
    # What a build depends on besides its inputs is what makes a retry worth while.
    flag = trial.root / "outside" / "flag"
    flag.parent.mkdir()
    with (trial.store.root / "conf/nix.conf").open("a") as file:
        file.write(f"extra-sandbox-paths = {flag.parent}\n")
    trial.declare({"a": FAILED_BEFORE % flag})
    assert trial.once()
    trial.declare({"a": BROKEN % flag})
    assert trial.once()
    left_out = {"broken": "failed", "side": "queued", "top": "queued", "it": "cancelled"}
    assert trial.builds() == {**left_out, "common": "succeeded", "other": "succeeded"}
    assert trial.attempts("side") == []
    flag.touch()
    trial.request("retry", "a.top")
    assert trial.once()
    assert trial.builds() == {**dict.fromkeys(trial.builds(), "succeeded"), "it": "cancelled"}


def test_what_only_an_unsupported_job_needs_waits_for_a_builder(trial: Trial) -> None:
    expression = """
    let needed = job "needed" "echo > $out"; in {
      far = with_ { requiredSystemFeatures = [ "kvm" ]; } "far" "cat ${needed} > $out";
      near = job "near" "echo > $out";
    }
    """
    trial.declare({"a": expression})
    assert trial.once()
    assert trial.builds() == {"far": "queued", "needed": "queued", "near": "succeeded"}
    builders = {"local": {"maxJobs": 2, "supportedFeatures": ["kvm"]}}
    trial.declare({"a": expression}, builders=builders)
    assert trial.once()
    assert trial.builds() == {"far": "succeeded", "needed": "succeeded", "near": "succeeded"}
