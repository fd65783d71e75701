"""No slot is spent on what leads to nothing that can succeed."""

from __future__ import annotations

import os

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


def test_what_is_being_built_for_a_job_that_fails_is_finished_and_used_once_it_is_mended(
    trial: Trial,
) -> None:
    gate = trial.root / "gate"
    os.mkfifo(gate)
    writer = os.open(gate, os.O_RDWR)
    with (trial.store.root / "conf/nix.conf").open("a") as file:
        file.write(f"extra-sandbox-paths = {gate}\n")
    expression = """
    let
      broken = job "broken" "%s";
      side = job "side" "read -r line < %s; echo > $out";
      above = job "above" "cat ${side} > $out";
    in { top = job "top" "cat ${broken} ${above} > $out"; }
    """
    trial.declare({"a": expression % ("exit 1", gate)})
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.builds().get("broken") == "failed")
        daemon.eventually(lambda: trial.builds()["side"] == "building")
        daemon.wake()
        assert trial.attempts("side") == [None], "it is not stopped"
        os.write(writer, b"\n")
        daemon.eventually(lambda: trial.builds()["side"] == "succeeded")
    os.close(writer)
    assert trial.builds() == {
        "broken": "failed", "side": "succeeded", "above": "queued", "top": "queued",
    }  # fmt: skip
    assert trial.attempts("above") == [], "nothing more is begun for it"
    trial.declare({"a": expression % ("echo > $out", gate)})
    assert trial.once()
    assert trial.attempts("side") == ["succeeded"]
    assert trial.attempts("above") == ["succeeded"]
