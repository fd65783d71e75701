"""Real graphs, built to the end: what is built, what is not, and what is recorded of it."""

from __future__ import annotations

from tests.support.trial import Trial

DIAMOND = """
rec {
  base = job "base" "echo base > $out";
  left = job "left" "{ cat ${base}; echo left; } > $out";
  right = job "right" "{ cat ${base}; echo right; } > $out";
  top = job "top" "cat ${left} ${right} > $out";
}
"""


def test_a_diamond_is_built_from_the_leaf_up_each_once(trial: Trial) -> None:
    trial.declare({"diamond": DIAMOND})
    assert trial.once()
    assert trial.builds() == dict.fromkeys(["base", "left", "right", "top"], "succeeded")
    assert trial.output("top").read_text() == "base\nleft\nbase\nright\n"
    names = trial.query(
        "SELECT d.name FROM attempt a JOIN derivation d ON d.id = a.derivation ORDER BY a.id"
    )
    assert [names[0][0], names[-1][0]] == ["base", "top"]
    assert len(names) == 4


def test_a_failure_fails_what_needs_it_and_nothing_else(trial: Trial) -> None:
    trial.declare(
        {
            "mixed": """
            rec {
              broken = job "broken" "echo no such luck; exit 3";
              above = job "above" "cat ${broken} > $out";
              top = job "top" "cat ${above} > $out";
              beside = job "beside" "echo fine > $out";
            }
            """
        }
    )
    assert trial.once()
    assert trial.builds() == {
        "broken": "failed",
        "above": "queued",
        "top": "queued",
        "beside": "succeeded",
    }
    assert trial.attempts("broken") == ["failed"]
    assert trial.attempts("above") == []
    assert trial.message("broken") == "builder failed with exit code 3"


def test_a_build_that_says_it_failed_is_failed_with_its_output_kept(trial: Trial) -> None:
    trial.declare(
        {
            "selftest": """
            rec {
              tests = job "tests" ''
                mkdir -p $out/nix-support
                echo 3 of 5 > $out/report
                touch $out/nix-support/failed
              '';
              above = job "above" "cat ${tests}/report > $out";
            }
            """
        }
    )
    assert trial.once()
    assert trial.builds() == {"tests": "failed", "above": "queued"}
    assert "nix-support/failed" in trial.message("tests")
    assert (trial.output("tests") / "report").read_text() == "3 of 5\n"
    roots = trial.store.run("nix-store", "--query", "--roots", str(trial.output("tests"))).stdout
    assert str(trial.state_dir) in roots
    # It stays failed, although its output is valid: after a new evaluation, and in a new state.
    trial.declare({"selftest": {"source": trial.source("selftest", SELF_TEST_AND_MORE)}})
    assert trial.once()
    assert trial.builds() == {"tests": "failed", "above": "queued", "more": "succeeded"}
    assert trial.attempts("tests") == ["failed"]


SELF_TEST_AND_MORE = """
rec {
  tests = job "tests" ''
                mkdir -p $out/nix-support
                echo 3 of 5 > $out/report
                touch $out/nix-support/failed
              '';
  above = job "above" "cat ${tests}/report > $out";
  more = job "more" "touch $out";
}
"""


def test_a_failed_self_test_found_in_the_store_is_still_failed(trial: Trial) -> None:
    trial.declare({"selftest": SELF_TEST_AND_MORE})
    release = trial.root / "sources/selftest/release.nix"
    trial.store.run("nix-build", "--no-out-link", str(release), "-A", "tests")
    assert trial.once()
    assert trial.builds() == {"tests": "failed", "above": "queued", "more": "succeeded"}


def test_products_metrics_sizes_and_durations_are_recorded(trial: Trial) -> None:
    trial.declare(
        {
            "facts": """
            {
              it = job "it-1.0" ''
                mkdir -p $out/nix-support
                echo 0123456789 > $out/manual.txt
                echo "doc text \\"$out/manual.txt\\"" > $out/nix-support/hydra-build-products
                echo "file" >> $out/nix-support/hydra-build-products
                echo "lines 17 loc" > $out/nix-support/hydra-metrics
                echo "ratio 0.5" >> $out/nix-support/hydra-metrics
                echo "nonsense x y" >> $out/nix-support/hydra-metrics
              '';
            }
            """
        }
    )
    assert trial.once()
    out = trial.output("it-1.0")
    assert trial.query("SELECT kind, subtype, path FROM product") == [
        ("doc", "text", f"{out}/manual.txt")
    ]
    assert trial.query("SELECT name, value, unit FROM metric ORDER BY name") == [
        ("lines", 17.0, "loc"),
        ("ratio", 0.5, None),
    ]
    size = trial.store.run("nix-store", "--query", "--size", str(out)).stdout.strip()
    assert trial.value("SELECT size FROM output") == int(size)
    assert trial.value("SELECT count(*) FROM duration WHERE name = 'it' AND seconds > 0") == 1


def test_a_broken_attribute_costs_itself(trial: Trial) -> None:
    trial.declare(
        {
            "attrs": """
            {
              good = job "good" "touch $out";
              thrown = throw "not today";
              missing = job "missing" "${{ }.nothing}";
            }
            """
        }
    )
    assert trial.once()
    assert trial.builds() == {"good": "succeeded"}
    errors = dict(trial.query("SELECT attr, error FROM job WHERE error IS NOT NULL"))
    assert errors.keys() == {"thrown", "missing"}
    assert "not today" in errors["thrown"]
    assert "nothing" in errors["missing"]
    assert [state for state, _ in trial.evaluations("attrs")] == ["succeeded"]


def test_a_jobset_without_jobs_has_failed(trial: Trial) -> None:
    trial.declare({"empty": "{ }", "full": '{ a = job "a" "touch $out"; }'})
    assert trial.once()
    ((state, error),) = trial.evaluations("empty")
    assert state == "failed"
    assert error is not None
    assert "no job" in error
    assert ("jobset", "empty", "evaluation-failed") in trial.conditions()
    assert trial.builds() == {"a": "succeeded"}


def test_an_expression_that_does_not_parse_fails_its_jobset_alone(trial: Trial) -> None:
    trial.declare({"garbled": "{ a = ; }", "full": '{ a = job "a" "touch $out"; }'})
    assert trial.once()
    ((state, error),) = trial.evaluations("garbled")
    assert state == "failed"
    assert error is not None
    assert "syntax error" in error
    assert trial.builds() == {"a": "succeeded"}


def test_two_jobsets_share_what_they_both_need(trial: Trial) -> None:
    trial.declare({"one": DIAMOND, "two": DIAMOND})
    assert trial.once()
    assert trial.value("SELECT count(*) FROM attempt") == 4
    assert trial.value("SELECT count(*) FROM job") == 8


def test_nothing_changed_writes_nothing(trial: Trial) -> None:
    trial.declare({"diamond": DIAMOND, "broken": '{ b = job "b" "exit 1"; bad = throw "no"; }'})
    assert trial.once()
    before = trial.dump()
    roots = sorted(map(str, (trial.state_dir / "gcroots").rglob("*")))
    assert trial.once()
    assert trial.dump() == before
    assert sorted(map(str, (trial.state_dir / "gcroots").rglob("*"))) == roots


def test_what_is_in_the_store_already_is_not_built(trial: Trial) -> None:
    trial.declare({"diamond": DIAMOND})
    release = trial.root / "sources/diamond/release.nix"
    trial.store.run("nix-build", "--no-out-link", str(release), "-A", "top")
    trial.store.run("nix-store", "--delete", str(output_of(trial, "base")))
    assert trial.once()
    assert trial.value("SELECT count(*) FROM attempt") == 1


def output_of(trial: Trial, attribute: str) -> str:
    release = trial.root / "sources/diamond/release.nix"
    drv = trial.store.run("nix-instantiate", str(release), "-A", attribute).stdout.strip()
    return trial.store.run("nix-store", "--query", "--outputs", drv).stdout.strip()


def test_many_outputs_and_what_wants_only_some_of_them(trial: Trial) -> None:
    trial.declare(
        {
            "outputs": """
            rec {
              lib = with_ { outputs = [ "out" "dev" "doc" ]; } "lib"
                "echo o > $out; echo d > $dev; echo m > $doc";
              user = job "user" "cat ${lib.dev} > $out";
            }
            """
        }
    )
    assert trial.once()
    assert trial.builds() == {"lib": "succeeded", "user": "succeeded"}
    assert trial.value("SELECT count(*) FROM output WHERE size > 0") == 4


# --- Content-addressed and dynamic derivations ---------------------------------------------------

CONTENT_ADDRESSED = """
let
  ca = with_ {
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  };
in rec {
  bottom = ca "bottom" "echo content > $out";
  middle = ca "middle" "cat ${bottom} > $out";
  plain = job "plain" "cat ${middle} > $out";
  apart = job "apart" "touch $out";
}
"""


def experimental(trial: Trial, *features: str) -> None:
    with (trial.store.root / "conf/nix.conf").open("a") as file:
        file.write(f"extra-experimental-features = {' '.join(features)}\n")


def test_content_addressed_derivations_are_built(trial: Trial) -> None:
    experimental(trial, "ca-derivations")
    trial.declare({"ca": CONTENT_ADDRESSED})
    assert trial.once()
    assert trial.builds() == dict.fromkeys(["bottom", "middle", "plain", "apart"], "succeeded")
    assert trial.output("plain").read_text() == "content\n"
    before = trial.dump()
    assert trial.once()
    assert trial.dump() == before


def test_content_addressed_derivations_that_exist_are_found(trial: Trial) -> None:
    experimental(trial, "ca-derivations")
    trial.declare({"ca": CONTENT_ADDRESSED})
    release = trial.root / "sources/ca/release.nix"
    out = trial.store.run("nix-build", "--no-out-link", str(release), "-A", "plain").stdout.strip()
    assert trial.once()
    assert trial.attempts("plain") == []
    assert trial.attempts("middle") == []
    assert str(trial.output("plain")) == out
    roots = trial.store.run("nix-store", "--query", "--roots", out).stdout
    assert str(trial.state_dir) in roots


def test_content_addressed_derivations_without_the_feature_cost_themselves(trial: Trial) -> None:
    trial.declare({"ca": CONTENT_ADDRESSED})
    assert trial.once()
    assert trial.builds() == {"apart": "succeeded"}
    errors = dict(trial.query("SELECT attr, error FROM job WHERE error IS NOT NULL"))
    assert errors.keys() == {"bottom", "middle", "plain"}
    assert "ca-derivations" in errors["bottom"]


def test_dynamic_derivations_are_refused_each_with_its_reason(trial: Trial) -> None:
    experimental(trial, "ca-derivations", "dynamic-derivations", "recursive-nix")
    trial.declare(
        {
            "dynamic": {
                "source": trial.source(
                    "dynamic",
                    """
            let
              maker = with_ {
                __contentAddressed = true; outputHashMode = "text"; outputHashAlgo = "sha256";
              } "maker.drv" "cp ${builtins.unsafeDiscardOutputDependency inner.drvPath} $out";
              inner = job "inner" "echo > $out";
            in {
              user = job "user" "cat ${builtins.outputOf maker.outPath "out"} > $out";
              beside = job "beside" "touch $out";
            }
            """,
                ),
                "retry": {"attempts": 1},
            },
        }
    )
    assert trial.once()
    assert trial.builds()["beside"] == "succeeded"
    assert trial.builds().get("user", "queued") == "queued"
    assert trial.attempts("user") == []
    reasons = trial.query(
        "SELECT coalesce(j.error, d.unsupported) FROM job j"
        " LEFT JOIN derivation d ON d.id = j.derivation WHERE j.attr = 'user'"
    )
    assert "dynamic" in str(reasons[0][0])
