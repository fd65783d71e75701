"""Which builder takes a build: the one where it is expected to be done first."""

from __future__ import annotations

from collections import Counter

from reconciler.fleet import COPYING, Slots
from reconciler.model import BuilderName
from tests.test_scheduler import Farm, given_to, machine, node, scheduled

HERE = machine("here", local=True, jobs=4)
FAST = machine("fast", jobs=4, speed=10)


def place(weight: float, *slots: Slots, prefer_local: bool = False) -> str:
    _, scheduler = scheduled([node(1, weight=weight, prefer_local=prefer_local)])
    ((_, builder),) = given_to(scheduler.assignments(slots, now=0))
    return builder


def test_what_is_small_stays_here_if_copying_takes_longer() -> None:
    even = COPYING / (1 - 1 / 10)
    assert place(even * 0.9, HERE, FAST) == "here"
    assert place(even * 1.1, HERE, FAST) == "fast"


def test_what_prefers_to_be_local_stays_here_unless_it_would_have_to_wait() -> None:
    assert place(3600, HERE, FAST, prefer_local=True) == "here"
    full = machine("here", local=True, jobs=4, free=0)
    assert place(3600, full, FAST, prefer_local=True) == "fast"


def test_the_load_counts() -> None:
    busy = machine("busy", jobs=4, free=1, speed=1.5)
    idle = machine("idle", jobs=4)
    assert place(3600, busy, idle) == "idle"
    assert place(3600, machine("busy", jobs=4, free=1, speed=2), idle) == "busy"


def test_equal_builders_take_turns() -> None:
    graph, scheduler = scheduled([node(key, weight=100) for key in range(30)])
    farm = Farm(graph, scheduler, [machine(name, jobs=2) for name in ("a", "b", "c")])
    places: Counter[BuilderName] = Counter()
    while assigned := farm.begin():
        places.update(each.builder for each in assigned)
        while farm.running:
            farm.end()
    assert set(places.values()) == {10}


def test_turns_are_taken_one_build_at_a_time() -> None:
    graph, scheduler = scheduled([node(1), node(2, 1), node(3, 2), node(4, 3)])
    farm = Farm(graph, scheduler, [machine("a"), machine("b")])
    places = []
    while assigned := farm.begin():
        places += [builder for _, builder in given_to(assigned)]
        farm.end()
    assert places in (["a", "b", "a", "b"], ["b", "a", "b", "a"])
