"""What waits to be put on a queue waits by as few rules as send all that is wanted."""

from __future__ import annotations

from msgspec.structs import replace

from reconciler.model import CacheName, PushRule, PushScope
from reconciler.push_rules import rule
from reconciler.reconcile.unqueued import Unqueued, Untold
from tests.support.jobsets import jobset

MAIN, OTHER = CacheName("main"), CacheName("other")
JOBS = rule(PushScope.JOBS, [])
WHOLE = rule(PushScope.REQUISITES, [])
LESS = rule(PushScope.REQUISITES, ["x"])


def waiting(unqueued: Unqueued, cache: CacheName = MAIN) -> dict[PushRule, set[int]]:
    return {rule: roots.waiting for rule, roots in unqueued.of(cache).items() if roots.waiting}


def test_what_waits_by_a_rule_waits_by_none_that_sends_no_more() -> None:
    unqueued = Unqueued()
    unqueued.add(MAIN, JOBS, [1, 2])
    unqueued.add(MAIN, LESS, [2, 3])
    assert waiting(unqueued) == {JOBS: {1, 2}, LESS: {2, 3}}  # neither sends all of the other
    unqueued.add(MAIN, WHOLE, [2, 4])
    assert waiting(unqueued) == {JOBS: {1}, LESS: {3}, WHOLE: {2, 4}}
    unqueued.add(MAIN, LESS, [4, 5])
    unqueued.add(MAIN, rule(PushScope.ALL, []), [2, 6])
    assert waiting(unqueued) == {
        JOBS: {1},
        LESS: {3, 5},
        WHOLE: {2, 4},
        rule(PushScope.ALL, []): {6},
    }
    assert waiting(unqueued, OTHER) == {}


def test_what_could_not_be_found_out_by_a_rule_is_no_fault_once_another_covers_it() -> None:
    unqueued = Unqueued()
    for each in (1, 2):
        unqueued.add(MAIN, JOBS, [each])
        unqueued.by(MAIN, JOBS).untold[each] = Untold(error="it is damaged")
    unqueued.add(MAIN, WHOLE, [1])
    assert unqueued.by(MAIN, JOBS).untold.keys() == {2}


def test_what_is_being_found_out_by_a_wider_rule_is_found_out_by_the_other_as_well() -> None:
    """It may come to nothing."""
    unqueued = Unqueued()
    unqueued.by(MAIN, WHOLE).closing.add(1)
    unqueued.add(MAIN, JOBS, [1])
    assert waiting(unqueued) == {JOBS: {1}}


def test_jobsets_have_their_jobs_wait_for_each_of_their_caches() -> None:
    unqueued = Unqueued()
    narrow = replace(jobset(), caches={MAIN: JOBS, OTHER: LESS})
    wide = replace(jobset(), caches={MAIN: WHOLE})
    unqueued.add_for([narrow, wide], [1, 2])
    assert waiting(unqueued) == {WHOLE: {1, 2}}
    assert waiting(unqueued, OTHER) == {LESS: {1, 2}}
