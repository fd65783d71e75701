"""Waiting for a slot of a faster builder, where that is expected to be done sooner."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from reconciler.fleet import LOOK_AGAIN, MOST_AWAITING, Obstacle, Slots
from reconciler.graph import Graph, Node
from reconciler.model import BuilderName, BuildState
from reconciler.scheduler import Scheduler
from tests.test_scheduler import given_to, machine, node, scheduled

FAST, SLOW = BuilderName("fast"), BuilderName("slow")


def farm(*, fast: int = 0) -> list[Slots]:
    """A fast builder with two slots, of which so many are free, and a slow one that is free."""
    return [machine("fast", jobs=2, free=fast, speed=4), machine("slow")]


def busy(nodes: Sequence[Node], *, until: tuple[float, float]) -> tuple[Graph, Scheduler]:
    """Two builds run on the fast builder since 0, expected to end then."""
    running = [node(900 + n, weight=seconds * 4) for n, seconds in enumerate(until)]
    graph, scheduler = scheduled([*nodes, *running])
    for each in running:
        graph.start(each.id)
        scheduler.started(each.id, FAST, now=0)
    return graph, scheduler


def test_the_longest_path_waits_for_the_fast_builder_and_the_next_takes_the_slow_one() -> None:
    _, scheduler = busy([node(1, weight=100), node(2, weight=10)], until=(20, 500))
    assert given_to(scheduler.assignments(farm(), now=0)) == [(2, "slow")]


def test_what_the_slow_builder_is_done_with_sooner_does_not_wait() -> None:
    _, scheduler = busy([node(1, weight=100)], until=(70, 500))
    assert given_to(scheduler.assignments(farm(), now=0)) == [(1, "slow")]
    assert scheduler.next_wake(0) is None


def test_a_slot_is_awaited_by_one_only() -> None:
    # Done there: 1 after 20 + 50, 2 after 40 + 50, 3 only after 70 + 50.
    _, scheduler = busy([node(n, weight=100) for n in (1, 2, 3)], until=(20, 40))
    assert given_to(scheduler.assignments(farm(), now=0)) == [(3, "slow")]


def test_what_starts_there_in_the_same_round_is_awaited_as_well() -> None:
    _, scheduler = scheduled([node(n, weight=100) for n in (1, 2, 3)])
    # The slots are free again after 25 and, the builder being busier, 38: then 3 takes 50.
    assigned = scheduler.assignments(farm(fast=2), now=0)
    assert given_to(assigned) == [(1, "fast"), (2, "fast")]


def test_the_awaited_slot_goes_to_who_waited() -> None:
    graph, scheduler = busy([node(1, weight=100), node(2, weight=10)], until=(20, 500))
    scheduler.finished(900, now=20)
    graph.settle(900, BuildState.SUCCEEDED)
    assert given_to(scheduler.assignments(farm(fast=1), now=20)) == [(1, "fast"), (2, "slow")]


def test_an_overdue_build_is_awaited_as_long_again_as_it_took() -> None:
    _, scheduler = busy([node(1, weight=100)], until=(20, 500))
    assert scheduler.assignments(farm(), now=0) == []
    assert scheduler.next_wake(0) == 20
    assert scheduler.assignments(farm(), now=25) == []  # 25 more, then 50: before 100
    assert scheduler.next_wake(25) == pytest.approx(25 + 25)
    assert scheduler.assignments(farm(), now=49) == []
    assert scheduler.next_wake(49) == 49 + LOOK_AGAIN  # and no sooner
    assert given_to(scheduler.assignments(farm(), now=51)) == [(1, "slow")]


def test_the_earlier_of_a_pause_and_a_second_look_wakes() -> None:
    graph, scheduler = busy([node(1, weight=100), node(2)], until=(20, 500))
    graph.start(2)
    graph.requeue(2, not_before=7)
    assert scheduler.assignments(farm(), now=0) == []
    assert scheduler.next_wake(0) == 7


def test_a_builder_of_which_nothing_is_known_is_not_awaited() -> None:
    _, scheduler = scheduled([node(1, weight=100)])
    assert given_to(scheduler.assignments(farm(), now=0)) == [(1, "slow")]


@pytest.mark.parametrize(
    "closed",
    [
        machine("fast", jobs=2, free=0, speed=4, drain=True),
        machine("fast", jobs=2, free=0, speed=4, unavailable="lost"),
    ],
    ids=["drained", "unavailable"],
)
def test_a_closed_builder_is_not_awaited(closed: Slots) -> None:
    _, scheduler = busy([node(1, weight=100)], until=(1, 1))
    assert given_to(scheduler.assignments([closed, machine("slow")], now=0)) == [(1, "slow")]


def test_the_builder_that_failed_last_is_not_awaited() -> None:
    graph, scheduler = busy([node(1, weight=100)], until=(1, 1))
    graph[1].avoid = FAST
    assert given_to(scheduler.assignments(farm(), now=0)) == [(1, "slow")]


def test_what_prefers_the_local_builder_awaits_no_other() -> None:
    _, scheduler = busy([node(1, weight=100, prefer_local=1)], until=(1, 1))
    slots = [farm()[0], machine("local", local=True)]
    assert given_to(scheduler.assignments(slots, now=0)) == [(1, "local")]


def test_so_many_at_most_are_left_waiting() -> None:
    _, scheduler = busy([node(n, weight=1000) for n in range(2 * MOST_AWAITING)], until=(1, 1))
    slots = [farm()[0], machine("slow", jobs=200, speed=1e-6)]
    assert len(scheduler.assignments(slots, now=0)) == MOST_AWAITING


def test_a_slower_builder_says_that_it_is() -> None:
    _, scheduler = busy([node(1, weight=100)], until=(20, 500))
    said = scheduler.explain(1, farm())
    assert [each.obstacle for each in said[SLOW]] == [Obstacle.SLOWER]
    assert [each.obstacle for each in said[FAST]] == [Obstacle.FULL]
    assert scheduler.explain(1, farm(fast=1))[SLOW] == ()
