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
    assert [row[0] for row in names][0] == "base"
    assert [row[0] for row in names][-1] == "top"
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
    assert "exit code 3" in trial.message("broken")
