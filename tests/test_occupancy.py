from __future__ import annotations

from reconciler.occupancy import Occupancy
from tests.test_scheduler import machine

FAST, SLOW = machine("fast", speed=2).builder, machine("slow", speed=0.5).builder


def test_it_tells_when_each_build_of_a_builder_is_expected_to_be_done() -> None:
    occupancy = Occupancy()
    occupancy.start(1, FAST.name, weight=60, now=100)
    occupancy.start(2, FAST.name, weight=20, now=110)
    occupancy.start(3, SLOW.name, weight=60, now=100)
    assert sorted(occupancy.remaining(FAST, now=110)) == [10, 20]
    assert occupancy.remaining(SLOW, now=110) == [110]
    occupancy.end(2)
    occupancy.end(2)
    assert occupancy.remaining(FAST, now=110) == [20]


def test_what_is_overdue_is_given_as_long_again() -> None:
    occupancy = Occupancy()
    occupancy.start(1, FAST.name, weight=60, now=100)
    assert occupancy.remaining(FAST, now=129) == [1]
    assert occupancy.remaining(FAST, now=130) == [30]
    assert occupancy.remaining(FAST, now=200) == [100]


def test_a_clock_that_is_set_back_takes_nothing_off() -> None:
    occupancy = Occupancy()
    occupancy.start(1, FAST.name, weight=60, now=100)
    assert occupancy.remaining(FAST, now=0) == [30]
