"""What failures in a row do to a builder."""

from __future__ import annotations

import pytest

from reconciler.quarantine import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Trouble,
    due,
    failed,
    free,
    recalled,
)

ERROR = "it does not answer"


def after(count: int, *, pause: float = 10_000.0) -> Trouble:
    """So many failures in a row, each of an attempt begun after the one before."""
    trouble = failed(None, started_at=0.0, now=1.0, error=ERROR)
    for number in range(1, count):
        at = number * pause
        trouble = failed(trouble, started_at=at, now=at + 1, error=ERROR)
    return trouble


def test_one_failure_costs_nothing() -> None:
    once = after(1)
    assert not once.quarantined
    assert once.until == once.failed_at
    assert free(once, slots=4, taken=1, now=once.failed_at) == 3


def test_what_lasts_until_somebody_mends_it_counts_at_once() -> None:
    once = failed(None, started_at=0.0, now=1.0, error=ERROR, unfit=True)
    assert once.quarantined
    assert once.until == 1.0 + FIRST_PAUSE
    assert once.message == f"quarantined until 00:00:31 UTC, then tried by one build: {ERROR}"
    assert free(once, slots=4, taken=0, now=once.until - 1) == 0
    assert free(once, slots=4, taken=0, now=once.until) == 1
    twice = failed(once, started_at=40.0, now=41.0, error=ERROR, unfit=True)
    assert twice.until == 41.0 + FIRST_PAUSE
    assert "after 2 failures in a row" in twice.message


def test_pauses_grow_to_a_bound() -> None:
    pauses = [after(count).until - after(count).failed_at for count in range(2, 9)]
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert after(2000).until - after(2000).failed_at == LONGEST_PAUSE


def test_what_was_under_way_is_the_same_incident() -> None:
    first = failed(None, started_at=0.0, now=10.0, error=ERROR)
    assert failed(first, started_at=10.0, now=11.0, error="another") == first
    assert failed(first, started_at=10.5, now=11.0, error="another").failures == 2


@pytest.mark.parametrize(
    ("now", "taken", "expected"),
    [(-0.001, 0, 0), (0.0, 0, 1), (0.0, 1, 0), (500.0, 0, 1)],
)
def test_a_quarantined_builder_is_tried_by_one_build(now: float, taken: int, expected: int) -> None:
    trouble = after(3)
    assert free(trouble, slots=4, taken=taken, now=trouble.until + now) == expected


def test_without_slots_nothing_is_tried() -> None:
    trouble = after(3)
    assert free(trouble, slots=0, taken=0, now=trouble.until) == 0
    assert free(None, slots=0, taken=0, now=0.0) == 0
    assert free(None, slots=2, taken=3, now=0.0) == 0


def test_the_message_says_until_when_why_and_what_then() -> None:
    trouble = Trouble(failures=3, failed_at=0.0, until=3661.0, error=ERROR)
    assert trouble.message == (
        "quarantined until 01:01:01 UTC after 3 failures in a row, then tried by one build; "
        "the last was: it does not answer"
    )


def test_a_restart_changes_nothing_but_what_no_pause_can_be() -> None:
    trouble = after(3)
    assert recalled(trouble, now=trouble.failed_at) == trouble
    set_back = recalled(trouble, now=trouble.failed_at - 100_000)
    assert set_back.until == trouble.failed_at - 100_000 + LONGEST_PAUSE
    assert set_back.failures == trouble.failures


def test_what_is_tried_without_a_pause_still_has_to_prove_itself() -> None:
    trouble = due(after(3), now=50.0)
    assert trouble.until == 50.0
    assert free(trouble, slots=4, taken=0, now=50.0) == 1
    again = failed(trouble, started_at=trouble.failed_at + 1, now=60_000.0, error=ERROR)
    assert again.failures == 4
    assert again.until == 60_000.0 + 4 * FIRST_PAUSE
