from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from reconciler.fair_share import FairShare, SharedOut
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


# --- Branches share what their jobset has ---

WEB = JobsetName("web")
BRANCHES = [JobsetName(f"web@{number}") for number in range(50)]


def shared_out(*alone: JobsetName) -> SharedOut:
    fair = SharedOut()
    fair.declare(
        {**dict.fromkeys(BRANCHES, 100), **dict.fromkeys(alone, 100)},
        dict.fromkeys(BRANCHES, WEB),
    )
    return fair


def served(
    fair: SharedOut, wanting: Sequence[JobsetName], *, builds: int, start: int = 0
) -> Counter[JobsetName]:
    """Who gets each of so many builds of 10 s, one after the other, of those that want any."""
    found: Counter[JobsetName] = Counter()
    for build in range(start, start + builds):
        now = 1000.0 + 10 * build
        standings = fair.standings(now)
        first = min(wanting, key=lambda name: standings.neediest([name]))
        fair.start(build, (first,), weight=10, waiting=wanting, now=now)
        fair.end(build, now=now + 10)
        found[first] += 1
    return found


def test_fifty_branches_have_no_more_than_one_other_jobset() -> None:
    found = served(shared_out(A), [*BRANCHES, A], builds=200)
    assert found[A] == 100
    assert {found[branch] for branch in BRANCHES} == {2}


def test_idle_branches_cost_the_busy_one_nothing() -> None:
    found = served(shared_out(A), [BRANCHES[7], A], builds=100)
    assert found == {A: 50, BRANCHES[7]: 50}


def test_a_branch_that_was_idle_does_not_wait_for_the_others_nor_keeps_them_waiting() -> None:
    fair = shared_out(A)
    served(fair, [BRANCHES[0], BRANCHES[1], A], builds=100)
    found = served(fair, [*BRANCHES[:3], A], builds=60, start=100)
    assert found[A] == 30
    assert {found[branch] for branch in BRANCHES[:3]} == {10}


def test_what_several_branches_want_is_charged_to_their_jobset_once() -> None:
    fair = shared_out(A)
    fair.start(1, (*BRANCHES[:2], A), weight=60, waiting=(), now=1000)
    standings = fair.standings(1000)
    assert standings.all[WEB][0] == standings.all[A][0] == 60 / 2 / 100
    assert standings.within[WEB][BRANCHES[0]][0] == 60 / 2 / 100


def test_a_restart_remembers_what_branches_were_given() -> None:
    fair = SharedOut()
    fair.recall({BRANCHES[0]: 3000.0, BRANCHES[1]: 1000.0, A: 1000.0})
    fair.declare(
        {BRANCHES[0]: 100, BRANCHES[1]: 100, A: 100},
        {BRANCHES[0]: WEB, BRANCHES[1]: WEB},
    )
    standings = fair.standings(0)
    assert {name: level for name, (level, _) in standings.all.items()} == {WEB: 40.0, A: 10.0}
    assert standings.within[WEB] == {BRANCHES[0]: (30.0, 0), BRANCHES[1]: (10.0, 0)}


def test_what_is_assigned_at_once_is_shared_out_too() -> None:
    fair = shared_out(A)
    standings = fair.standings(0)
    found: Counter[JobsetName] = Counter()
    for _ in range(8):
        first = min([*BRANCHES[:2], A], key=lambda name: standings.neediest([name]))
        fair.anticipate(standings, [first], 10)
        found[first] += 1
    assert found == {A: 4, BRANCHES[0]: 2, BRANCHES[1]: 2}
