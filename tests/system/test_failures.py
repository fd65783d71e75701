"""Whose failure it is decides whether a build is tried again."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from reconciler.database import database_path
from reconciler.reconcile import expiry
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


def test_an_evaluation_without_jobs_says_where_it_looked(trial: Trial) -> None:
    trial.declare({"none": "{ a = { }; b = 7; }", "broken": '{ a = throw "no"; b = throw "no"; }'})
    assert trial.once()
    said = {row[0]: row[1] for row in trial.query("SELECT name, message FROM condition")}
    assert "no derivation in what release.nix evaluates to" in said["none"]
    assert "cannot be evaluated: `reconciler why broken." in said["broken"]


def test_what_a_build_prints_does_not_blame_the_machine(trial: Trial) -> None:
    job = 'job "it" "echo No space left on device; echo Connection refused; exit 1"'
    trial.declare({"a": {"source": trial.source("a", f"{{ it = {job}; }}"), "retry": RETRY}})
    assert trial.once()
    assert trial.attempts("it") == ["failed"]


def test_lines_of_many_mebibytes_are_no_fault_of_the_builder(trial: Trial) -> None:
    """Nix quotes the last 25 lines in its error."""
    lines = (
        "for i in 1 2 3 4 5 6 7 8; do head -c 3000000 /dev/zero | tr '\\0' x; echo $i; done; exit 3"
    )
    trial.declare({"a": {"source": trial.source("a", f"{{ it = job \"it\" ''{lines}''; }}")}})
    assert trial.once()
    assert trial.attempts("it") == ["failed"]
    assert trial.message("it") == "builder failed with exit code 3"
    assert trial.conditions() == {}


def test_what_only_claims_to_be_a_derivation_costs_only_itself(trial: Trial) -> None:
    claims = """
      { good = job "good" "echo > $out"; }
      // builtins.mapAttrs (name: drvPath: {
        type = "derivation"; system = "x86_64-linux"; out.outPath = builtins.storeDir;
        inherit name drvPath;
      }) {
        away = "/nix/store/00000000000000000000000000000000-x.drv";
        gone = "${builtins.storeDir}/00000000000000000000000000000000-x.drv";
        text = builtins.toFile "x.drv" "no derivation";
      }
    """
    other = '{ other = job "other" "echo > $out"; }'
    trial.declare({"a": claims, "b": other})
    assert trial.once()
    assert trial.builds() == {"good": "succeeded", "other": "succeeded"}
    assert [state for state, _ in trial.evaluations("a")] == ["succeeded"]
    assert trial.conditions() == {}
    errors = dict(trial.query("SELECT attr, error FROM job WHERE error IS NOT NULL"))
    assert errors.keys() == {"away", "gone", "text"}


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


def test_a_failure_counts_for_a_week(trial: Trial) -> None:
    flag = trial.root / "outside" / "flag"
    flag.parent.mkdir()
    with (trial.store.root / "conf/nix.conf").open("a") as conf:
        conf.write(f"extra-sandbox-paths = {flag.parent}\n")
    flaky = f'flaky = job "flaky" "test -e {flag}; echo > $out";'
    trial.declare({"it": f"{{ {flaky} }}"})
    assert trial.once()
    flag.touch()
    trial.declare({"it": f'{{ {flaky} other = job "other" "echo > $out"; }}'})
    assert trial.once()
    assert trial.builds() == {"flaky": "failed", "other": "succeeded"}
    week = expiry.FAILURE_COUNTS_FOR
    with closing(sqlite3.connect(database_path(trial.state_dir))) as connection, connection:
        connection.execute("UPDATE build SET finished_at = finished_at - ?", (week,))
    assert trial.once(), "by time alone nothing is done"
    assert trial.attempts("flaky") == ["failed"]
    trial.declare({"it": f'{{ {flaky} other = job "another" "echo > $out"; }}'})
    assert trial.once()
    assert trial.attempts("flaky") == ["failed", "succeeded"]
