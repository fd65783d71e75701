"""What was found out of derivations for a cache is queued by its rule, if that is in force yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.database import pushed
from reconciler.model import CacheName, PushState, StorePath
from reconciler.outcomes import Closed, Pushed
from reconciler.places import Places
from reconciler.push_rules import PushScope, rule
from reconciler.reconcile import collect
from reconciler.reconcile.farm import Farm
from reconciler.reconcile.opening import open_farm, open_store
from reconciler.transitions import Cause
from tests.cli.farm import DOCUMENT
from tests.cli.farm import Farm as Recorded
from tests.support.invariants import checked

MAIN = CacheName("main")
LESS = rule(PushScope.REQUISITES, ["b*"])
LEAST = rule(PushScope.JOBS, ["a*", "b*"])
WHOLE = rule(PushScope.REQUISITES, [])
SAID = [{"name": "main"}, {"name": "main", "push": "jobs", "exclude": ["a*"]}]


def path(name: str) -> StorePath:
    return StorePath(f"/nix/store/{'0' * 32}-{name}")


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """Two jobsets that push by two rules, and a job."""
    made = Recorded(tmp_path)
    jobsets = {
        name: {**DOCUMENT["jobsets"]["web"], "caches": [said]}
        for name, said in zip(("web", "next"), SAID, strict=True)
    }
    main = {**DOCUMENT["caches"]["main"], "exclude": ["b*"]}
    desired = made.declare({**DOCUMENT, "jobsets": jobsets, "caches": {"main": main}})
    made.derivations({"app": []})
    places = Places(state_dir=tmp_path / "state", environment={})
    systems = frozenset({"x86_64-linux"})
    store = open_store(places)
    with checked(made.database):
        yield open_farm(made.database, desired, systems, places, store, wake=lambda: None)


def queued(farm: Farm) -> dict[str, int]:
    """The paths on the queue, and whether they go there alone."""
    rows = farm.database.query("SELECT path, alone FROM push WHERE state = 'pending'")
    return {row["path"].partition("-")[2]: row["alone"] for row in rows}


def test_what_was_found_is_queued_by_its_rule(farm: Farm) -> None:
    for by in (LEAST, LESS):
        farm.unqueued.by(MAIN, by).closing.add(1)
    found = Closed(cache=MAIN, rule=LEAST, derivations=(1,), paths=(path("c"),))
    collect.collect(farm, found, now=1.0)
    assert queued(farm) == {"c": 1}
    assert [roots.closing for roots in farm.unqueued.of(MAIN).values()] == [set(), {1}]
    found = Closed(cache=MAIN, rule=LESS, derivations=(1,), paths=(path("a"), path("c")))
    collect.collect(farm, found, now=2.0)
    assert queued(farm) == {"a": 0, "c": 0}
    assert farm.database.query("SELECT count(*) FROM push_root")[0][0] == 2


def test_by_a_rule_that_is_declared_no_longer_nothing_is_queued(farm: Farm) -> None:
    """Whoever declared another one had everything found anew."""
    farm.unqueued.by(MAIN, WHOLE).closing |= {1, 2}
    found = Closed(
        cache=MAIN, rule=WHOLE, derivations=(1,), paths=(path("b"),), unknown={2: "damaged"}
    )
    collect.collect(farm, found, now=1.0)
    assert queued(farm) == {}
    roots = farm.unqueued.by(MAIN, WHOLE)
    assert (roots.waiting, roots.closing, roots.untold) == (set(), set(), {})
    assert not farm.faults


def test_what_the_store_does_not_tell_is_a_fault_until_it_does(farm: Farm) -> None:
    farm.unqueued.by(MAIN, LESS).closing.add(1)
    for failures in (1, 2):
        unknown = Closed(cache=MAIN, rule=LESS, unknown={1: "it is damaged"})
        collect.collect(farm, unknown, now=1.0)
        roots = farm.unqueued.by(MAIN, LESS)
        assert (roots.waiting, roots.untold[1].failures) == ({1}, failures)
    other = Closed(cache=MAIN, rule=LEAST, derivations=(1,), paths=(path("c"),))
    collect.collect(farm, other, now=2.0)
    assert farm.faults == {("cache", MAIN, "closure-unknown"): "it is damaged"}
    told = Closed(cache=MAIN, rule=LESS, derivations=(1,), paths=(path("a"), path("c")))
    collect.collect(farm, told, now=3.0)
    assert not farm.faults


def test_of_what_paths_wait_for_goes_there_what_any_rule_sends(farm: Farm) -> None:
    waiting = {path("x"): path("a-1"), path("y"): path("b-1")}  # the one excludes both, LESS one
    pushed.queue_pushes(farm.database, MAIN, roots=(), paths=waiting, now=0.0)
    started = [
        pushed.PushChange(
            path=each, before=PushState.PENDING, after=PushState.PUSHING, cause=Cause.STARTED
        )
        for each in waiting
    ]
    pushed.set_push_states(farm.database, MAIN, started, now=0.0)
    collect.collect(farm, Pushed(cache=MAIN, waiting=waiting), now=1.0)
    assert queued(farm).keys() == {"x", "y", "a-1"}
