"""The document, the sources or the store change between runs: only what follows from it is done."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from reconciler import preview
from reconciler.plan import Plan
from tests.support.trial import Trial
from tests.system.test_graphs import DIAMOND

ONE = '{ one = job "one" "echo one > $out"; }'
TWO = '{ two = job "two" "echo two > $out"; }'


def ahead(trial: Trial) -> Plan:
    """What a tick would do."""
    looked = preview.preview(
        config_path=trial.config, state_dir=trial.state_dir, environment=trial.env
    )
    return asyncio.run(looked).plan


def roots(trial: Trial) -> set[str]:
    found = trial.store.run("nix-store", "--gc", "--print-roots").stdout.splitlines()
    return {line.split(" -> ")[1] for line in found if str(trial.state_dir) in line}


def test_a_removed_jobset_is_pruned_and_comes_back_for_nothing(trial: Trial) -> None:
    trial.declare({"one": ONE, "two": TWO})
    assert trial.once()
    assert str(trial.output("two")) in roots(trial)
    trial.declare({"one": ONE})
    assert trial.once()
    assert str(trial.output("two")) not in roots(trial)
    assert str(trial.output("one")) in roots(trial)
    assert trial.evaluations("two") == [("superseded", None)]
    assert trial.value("SELECT removed_at FROM jobset WHERE name = 'two'") is not None
    assert trial.query("SELECT after FROM event WHERE kind = 'jobset' AND subject = 'two'") == [
        ("declared",),
        ("pruned",),
    ]
    trial.declare({"one": ONE, "two": TWO})
    assert trial.once()
    assert trial.attempts("two") == ["succeeded"]
    assert str(trial.output("two")) in roots(trial)
    assert trial.evaluations("two")[-1] == ("succeeded", None)


def test_what_failed_for_a_removed_jobset_leaves_nothing_to_do(trial: Trial) -> None:
    broken = 'rec { bad = job "bad" "exit 1"; above = job "above" "cat ${bad} > $out"; }'
    trial.declare({"one": ONE, "broken": broken})
    assert trial.once()
    trial.declare({"one": ONE})
    assert trial.once()
    before = trial.dump()
    assert ahead(trial).actions == ()
    assert trial.once()
    assert trial.dump() == before
    trial.declare({"one": ONE, "broken": broken})
    assert trial.once()
    # A verdict stands.
    assert trial.attempts("bad") == ["failed"]
    assert trial.builds() == {"one": "succeeded", "bad": "failed", "above": "queued"}


def test_an_edit_builds_what_changed_alone(trial: Trial) -> None:
    trial.declare({"diamond": DIAMOND})
    assert trial.once()
    trial.declare({"diamond": DIAMOND.replace("echo right", "echo RIGHT")})
    assert trial.once()
    assert trial.output("top").read_text() == "base\nleft\nbase\nRIGHT\n"
    names = trial.query(
        "SELECT d.name FROM attempt a JOIN derivation d ON d.id = a.derivation ORDER BY a.id"
    )
    assert sorted(name for (name,) in names[4:]) == ["right", "top"]
    assert [state for state, _ in trial.evaluations("diamond")] == ["superseded", "succeeded"]


def test_another_source_is_evaluated_at_once(trial: Trial) -> None:
    trial.declare({"it": {"source": trial.source("first", ONE)}})
    assert trial.once()
    trial.declare({"it": {"source": trial.source("second", TWO)}})
    assert trial.once()
    assert trial.builds() == {"one": "succeeded", "two": "succeeded"}


def test_settings_that_matter_to_an_evaluation_cause_one(trial: Trial) -> None:
    source = trial.source("it", '{ a.x = job "x" "touch $out"; b.y = job "y" "touch $out"; }')
    trial.declare({"it": {"source": source, "attributes": ["a"]}})
    assert trial.once()
    assert trial.builds() == {"x": "succeeded"}
    trial.declare({"it": {"source": source, "attributes": ["a"], "shares": 7}})
    assert trial.once()
    assert len(trial.evaluations("it")) == 1
    trial.declare({"it": {"source": source, "attributes": ["b"]}})
    assert trial.once()
    assert len(trial.evaluations("it")) == 2
    assert trial.builds() == {"x": "succeeded", "y": "succeeded"}


def test_a_disabled_jobset_keeps_its_results_and_starts_nothing(trial: Trial) -> None:
    source = trial.source("it", ONE)
    trial.declare({"it": {"source": source, "enabled": False}})
    assert trial.once()
    assert trial.builds() == {}
    trial.declare({"it": {"source": source}})
    assert trial.once()
    trial.source("it", TWO)
    trial.declare({"it": {"source": source, "enabled": False}})
    assert trial.once()
    assert trial.builds() == {"one": "succeeded"}
    assert str(trial.output("one")) in roots(trial)


def test_only_so_many_evaluations_are_kept(trial: Trial) -> None:
    for number in range(4):
        trial.declare(
            {
                "it": {
                    "source": trial.source("it", f'{{ a = job "a{number}" "echo > $out"; }}'),
                    "keep": 2,
                }
            }
        )
        assert trial.once()
    assert [state for state, _ in trial.evaluations("it")] == ["superseded", "succeeded"]
    assert {Path(path).name.split("-")[1] for path in roots(trial)} >= {"a2", "a3"}
    assert {Path(path).name.split("-")[1] for path in roots(trial)}.isdisjoint({"a0", "a1"})
    assert trial.builds() == {"a2": "succeeded", "a3": "succeeded"}
    trial.declare(
        {"it": {"source": trial.source("it", '{ a = job "a3" "echo > $out"; }'), "keep": 1}}
    )
    assert trial.once()
    assert trial.builds() == {"a3": "succeeded"}


# --- Garbage collection --------------------------------------------------------------------------


def test_what_was_collected_is_built_again_only_if_it_is_wanted(trial: Trial) -> None:
    trial.collected = True
    trial.declare({"it": DIAMOND.replace("rec {", "let", 1).replace("top =", "in { top =")})
    assert trial.once()
    collected = trial.output("base")
    trial.store.run("nix-collect-garbage")
    assert not collected.exists()
    assert trial.output("top").exists()
    before = trial.dump()
    assert trial.once()
    assert trial.dump() == before


def test_a_lost_job_is_built_again(trial: Trial) -> None:
    trial.declare({"diamond": DIAMOND})
    assert trial.once()
    lost = [str(trial.output(name)) for name in ("top", "right")]
    trial.store.run("nix-store", "--delete", "--ignore-liveness", *lost)
    assert trial.once()
    assert trial.attempts("top") == ["succeeded", "succeeded"]
    assert trial.attempts("right") == ["succeeded", "succeeded"]
    assert trial.attempts("left") == ["succeeded"]
    assert trial.output("top").exists()


def test_lost_inputs_of_what_is_still_to_be_built_are_built_first(trial: Trial) -> None:
    trial.collected = True
    chain = """
    let
      low = job "low" "echo low > $out";
      fails = job "fails" "exit 1";
    in { high = job "high" "cat ${low} ${fails} > $out"; }
    """
    trial.declare({"it": chain})
    assert trial.once()
    assert trial.attempts("low") == ["succeeded"]
    trial.store.run("nix-collect-garbage")
    assert not trial.output("low").exists()
    mended = chain.replace("exit 1", "echo well > $out")
    trial.declare({"it": mended})
    assert trial.once()
    assert trial.builds()["high"] in ("succeeded", "queued")
    assert trial.attempts("low") == ["succeeded", "succeeded"]
    assert trial.output("high").read_text() == "low\nwell\n"


def test_a_lost_root_is_made_again(trial: Trial) -> None:
    trial.declare({"one": ONE})
    assert trial.once()
    for link in (trial.state_dir / "gcroots").rglob("*-one"):
        link.unlink()
    assert str(trial.output("one")) not in roots(trial)
    assert trial.once()
    assert str(trial.output("one")) in roots(trial)


def test_lost_derivations_are_evaluated_anew(trial: Trial) -> None:
    trial.collected = True
    trial.declare({"it": DIAMOND})
    assert trial.once()
    shutil.rmtree(trial.state_dir / "gcroots")
    trial.store.run("nix-collect-garbage")
    assert not trial.output("top").exists()
    assert trial.once()
    assert trial.output("top").exists()
    assert trial.attempts("top") == ["succeeded", "succeeded"]


def test_what_waits_for_a_lost_derivation_is_evaluated_anew(trial: Trial) -> None:
    trial.declare({"it": DIAMOND}, builders={})
    assert trial.once()
    assert set(trial.builds().values()) == {"queued"}
    shutil.rmtree(trial.state_dir / "gcroots")
    trial.store.run("nix-collect-garbage")
    trial.declare({"it": DIAMOND})
    assert trial.once()
    assert set(trial.builds().values()) == {"succeeded"}
    assert trial.value("SELECT count(*) FROM attempt") == 4
