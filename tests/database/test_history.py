"""What is counted as waste is what is forgotten."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from reconciler.database import bases, evaluated, history, incremental
from reconciler.model import JobsetName
from tests.cli.farm import DOCUMENT, Farm
from tests.database.test_incremental import SLOT, add, chain, new, start


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path)
    made.declare()
    yield made
    made.database.close()  # its events are forgotten too, so they tell no whole story


def names(farm: Farm) -> set[str]:
    return {row[0] for row in farm.database.query("SELECT name FROM derivation")}


def test_what_a_removed_jobset_alone_needs_is_waste(farm: Farm) -> None:
    farm.derivations({"shared-1.0": [], "own-1.0": [], "live-1.0": []})
    farm.derivations({"site-1.0": ["shared-1.0", "own-1.0", "live-1.0"], "next-1.0": []})
    for name in ("shared-1.0", "own-1.0", "next-1.0"):
        farm.attempt(name)
    farm.start("live-1.0")
    farm.evaluation("web", {"site": "site-1.0"})
    farm.evaluation("web.next", {"next": "next-1.0", "shared": "shared-1.0"})
    assert history.waste(farm.database, oldest=0).builds == 0
    kept = {"web.next": DOCUMENT["jobsets"]["web.next"]}
    farm.declare({**DOCUMENT, "jobsets": kept})
    evaluated.prune_jobset(farm.database, JobsetName("web"), now=farm.now)
    later = time.time() + 1
    waste = history.waste(farm.database, oldest=later)
    # Of what is being built nothing is forgotten.
    assert (waste.jobsets, waste.evaluations, waste.builds, waste.attempts) == (1, 1, 2, 1)
    assert len(history.forget(farm.database, oldest=later, now=later)) == waste.attempts
    assert names(farm) == {"shared-1.0", "live-1.0", "next-1.0"}
    left = history.waste(farm.database, oldest=later)
    assert (left.jobsets, left.evaluations, left.builds, left.attempts) == (0, 0, 0, 0)


def test_a_base_that_was_let_go_is_remembered_as_long_as_its_build(farm: Farm) -> None:
    """Or that would leave it anew, as if it had started from nothing."""
    database = farm.database
    farm.derivations({"app-1": []})
    first, second = chain(database, "a", "b")
    left = structs.replace(new("c", parent=second), built=farm.path("app-1"))
    third = incremental.add_base(database, SLOT, left, now=3.0)
    wrong = add(database, "wrong", at=4.0)
    old = add(database, "old", at=5.0)
    start(farm, "app-1", SLOT, base=second)
    farm.evaluation("web", {"app": "app-1"})
    incremental.quarantine(database, wrong, reason="it is", now=5.0)
    incremental.release(database, [first, second, third, wrong, old], cause="reset", now=6.0)
    later = time.time() + 1
    history.forget(database, oldest=later, now=later)
    known = {each.base.id for each in bases.of_jobset(database, SLOT.jobset)}
    assert known == {first, second, third, wrong}
    farm.evaluation("web", {})
    evaluated.forget_evaluations(database, [1], now=later)
    history.forget(database, oldest=later, now=later)
    assert {each.base.id for each in bases.of_jobset(database, SLOT.jobset)} == {wrong}
