"""What a tick costs of incremental builds does not grow with what is recorded of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler import config, reconcile
from reconciler.database import Database, audits, bases, built, declared, kept_bases, open_memory
from reconciler.model import BuildState, CacheName, JobsetName, Outcome
from reconciler.places import Places
from reconciler.reconcile.farm import KEYLESS, Farm
from reconciler.reconcile.opening import open_farm, open_store
from reconciler.transitions import Cause
from tests.support.recorded import SYSTEM, Recorded

IT, MAIN = JobsetName("it"), CacheName("main")
REMEMBERED = "SELECT jobset, id, state, fingerprint, locked, error FROM evaluation"
"""As many rows as `keep` says: the one read of a tick that is not of what is open."""


def document(*, strict: bool = False, strategy: str = "pure") -> dict[str, Any]:
    """No jobset is enabled and nothing can be sent: nothing is begun, but all is looked at."""
    return {
        "jobsets": {
            "it": {
                "source": {"path": "/srv/it", "file": "release.nix"},
                "enabled": False,
                "keep": 1000,
                "caches": ["main"],
                "incremental": {
                    "enable": True,
                    "strategy": strategy,
                    "audit": {"fraction": 0, "beforeRelease": strict},
                    "retention": {"perSlot": 2},
                },
            }
        },
        "builders": {"local": {"maxJobs": 2, "systems": [SYSTEM]}},
        "caches": {"main": {"uri": "file:///srv/cache"}},
        "artifactStores": {"builds": {"url": "file:///srv/artifacts"}},
    }


@contextmanager
def recorded(
    document: dict[str, Any], folder: Path, *, jobs: int, evaluations: int
) -> Iterator[tuple[Farm, Recorded]]:
    """A farm that has built all jobs so many times, over a database in memory."""
    with closing(open_memory(now=0.0)) as database:
        desired = config.parse(json.dumps(document).encode(), name="farm.json")
        declared.adopt(database, desired, now=0.0)
        places = Places(state_dir=folder, environment={})
        farm = open_farm(
            database, desired, frozenset({SYSTEM}), places, open_store(places), wake=lambda: None
        )
        farm.tidied = desired.digest
        farm.faults["cache", MAIN, KEYLESS] = "its key is missing"
        strategy = document["jobsets"]["it"]["incremental"]["strategy"]
        history = Recorded(
            database=database,
            jobset=desired.jobsets[IT],
            jobs=jobs,
            hidden=strategy == "hidden",
            cache=MAIN,
            store=desired.artifact_stores["builds"],
        )
        for number in range(evaluations):
            last = number == evaluations - 1
            history.evaluation(failing=None if last else 7)
        farm.adopt(desired, now=history.now)
        for _ in range(2):  # what is due at first, and what comes of that
            reconcile.tick(farm, now=history.now)
            history.send_all()
        reconcile.tick(farm, now=history.now)
        yield farm, history


@contextmanager
def counted(database: Database) -> Iterator[Counter[str]]:
    """SQLite's own steps of each statement."""
    found: Counter[str] = Counter()
    current = ""

    def begins(statement: str) -> None:
        nonlocal current
        if not statement.startswith("--"):  # what a trigger does is the statement's
            current = re.sub(r"\d+", "N", statement)

    def step() -> int:
        found[current] += 1
        return 0

    database.connection.set_trace_callback(begins)
    database.connection.set_progress_handler(step, 1)
    try:
        yield found
    finally:
        database.connection.set_progress_handler(None, 0)
        database.connection.set_trace_callback(None)


def costs(
    folder: Path, *, jobs: int, evaluations: int, **given: Any
) -> tuple[Counter[str], Counter[str]]:
    """Of a tick in which nothing is new, and of ticks after a build, with what records that."""
    given_document = document(**given)
    with recorded(given_document, folder, jobs=jobs, evaluations=evaluations) as (farm, history):
        database = farm.database
        with counted(database) as quiet:
            reconcile.tick(farm, now=history.now)
        with counted(database) as busy:
            built_again(database, history)
            reconcile.tick(farm, now=history.now)
            reconcile.tick(farm, now=history.now)
        assert bases.left(database) == []
        assert audits.wrong(database) == []
    return quiet, busy


def built_again(database: Database, history: Recorded) -> None:
    """What the newest build left was lost."""
    row = database.one("SELECT max(derivation) FROM build_base")
    assert row is not None
    lost = [(row[0], BuildState.SUCCEEDED, BuildState.QUEUED)]
    built.set_build_states(database, lost, cause=Cause.OUTPUTS_LOST, now=history.now)
    history.end(row[0], Outcome.SUCCEEDED)


@pytest.mark.parametrize(
    "given", [{}, {"strict": True}, {"strategy": "hidden"}], ids=["pure", "strict", "hidden"]
)
def test_a_tick_does_not_grow_with_history(tmp_path: Path, given: dict[str, Any]) -> None:
    few = costs(tmp_path, jobs=30, evaluations=10, **given)
    many = costs(tmp_path, jobs=30, evaluations=50, **given)
    for before, after in zip(few, many, strict=True):
        assert grown(before, after) == {}


def test_a_tick_does_not_grow_with_the_jobs_in_force(tmp_path: Path) -> None:
    few = costs(tmp_path, jobs=51, evaluations=3)
    many = costs(tmp_path, jobs=501, evaluations=3)
    for before, after in zip(few, many, strict=True):
        assert grown(before, after) == {}


def test_what_is_to_be_let_go_or_shared_is_found_without_history(tmp_path: Path) -> None:
    """And what is to be shared: after each build that left something, of all that is kept."""
    found = []
    for evaluations in (10, 50):
        with recorded(document(), tmp_path, jobs=30, evaluations=evaluations) as (farm, history):
            with counted(farm.database) as steps:
                assert kept_bases.unneeded(farm.database, farm.desired) == {}
                farm.share_due = True
                reconcile.tick(farm, now=history.now)
            assert not farm.share_due
            found.append(steps)
    assert grown(*found) == {}


def grown(before: Counter[str], after: Counter[str]) -> dict[str, tuple[int, int]]:
    """The statements that took more than a step or two more, with how many."""
    assert sum(before.values()) > 300  # it did look
    return {
        each: (before[each], after[each])
        for each in after
        if after[each] > before[each] + 10 and not each.startswith(REMEMBERED)
    }
