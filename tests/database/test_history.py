"""What is counted as waste is what is forgotten."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.database import evaluated, history
from reconciler.model import JobsetName
from tests.cli.farm import DOCUMENT, Farm


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
