from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from reconciler.fair_share import FairShare
from reconciler.model import JobsetName

SHARES = {JobsetName("a"): 100, JobsetName("b"): 200, JobsetName("c"): 300}
A, B, C = SHARES


def declared() -> FairShare:
    fair = FairShare()
    fair.declare(SHARES)
    return fair


def start(
    fair: FairShare, build: int, jobsets: Sequence[JobsetName], *, weight: float, now: float
) -> None:
    fair.start(build, tuple(jobsets), weight=weight, waiting=SHARES, now=now)


def test_what_runs_costs_its_weight_at_once_and_what_it_takes_when_it_is_late() -> None:
    fair = declared()
    start(fair, 1, [A, B], weight=60, now=1000)
    assert fair.levels(1000) == {A: 60 / 2 / 100, B: 60 / 2 / 200, C: 0}
    assert fair.levels(1060) == fair.levels(1000)
    assert fair.levels(1100) == {A: 100 / 2 / 100, B: 100 / 2 / 200, C: 0}


def test_a_clock_that_is_set_back_takes_no_more_off_than_it_added() -> None:
    fair = declared()
    start(fair, 1, [A], weight=60, now=1000)
    assert fair.levels(5000)[A] == 4000 / 100
    assert fair.levels(500)[A] == 60 / 100
    assert fair.levels(1090)[A] == 90 / 100


def test_what_ended_costs_what_it_took() -> None:
    fair = declared()
    start(fair, 1, [C], weight=60, now=1000)
    fair.end(1, now=1030)
    assert fair.levels(2000)[C] == 30 / 300
    start(fair, 1, [C], weight=60, now=2000)  # again: what was expected of the first is past
    assert fair.levels(2050)[C] == pytest.approx((30 + 60) / 300)


def test_the_sums_are_those_of_each_build_looked_at_alone() -> None:
    chance = random.Random(7)  # noqa: S311 # no secret
    fair = FairShare()
    fair.declare(dict.fromkeys(SHARES, 100))  # equal: none falls so far behind that it is raised
    running: dict[int, tuple[float, float, list[JobsetName]]] = {}
    ended = dict.fromkeys(SHARES, 0.0)
    now = 1_700_000_000.0
    for build in range(3000):
        now += chance.choice([0.0, 0.5, 3.0, 40.0, -5.0 if build % 100 == 0 else 1.0])
        if len(running) > chance.randrange(60):
            key = chance.choice([*running])
            began, _, jobsets = running.pop(key)
            fair.end(key, now=now)
            for name in jobsets:
                ended[name] += max(0.0, now - began) / len(jobsets) / 100
        jobsets = chance.sample([*SHARES], chance.randrange(1, 4))
        running[build] = now, chance.choice([1.0, 7.0, 300.0]), jobsets
        start(fair, build, jobsets, weight=running[build][1], now=now)
        levels = fair.levels(now)
        for name in SHARES:
            charged = sum(
                max(weight, now - began) / len(theirs)
                for began, weight, theirs in running.values()
                if name in theirs
            )
            assert levels[name] == pytest.approx(ended[name] + charged / 100, rel=1e-9)
