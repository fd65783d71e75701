"""How long pauses after failures are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.backoff import LONGEST, doubled, jittered

FIRSTS = st.floats(0.001, LONGEST)
FAILURES = st.integers(0, 10**6)
CHANCES = st.floats(0, 1, exclude_max=True)


def test_it_doubles_up_to_a_bound() -> None:
    assert [doubled(5, failures) for failures in range(4)] == [5, 10, 20, 40]
    assert doubled(5, 10) == doubled(5, 10**6) == LONGEST


@given(first=FIRSTS, failures=FAILURES, chance=CHANCES)
def test_between_half_and_all_of_it_is_waited(first: float, failures: int, chance: float) -> None:
    whole = doubled(first, failures)
    assert whole / 2 <= jittered(first, failures, chance=chance) <= whole <= LONGEST


@given(first=FIRSTS, failures=FAILURES, some=CHANCES, other=CHANCES)
def test_who_draws_otherwise_comes_back_otherwise(
    first: float, failures: int, some: float, other: float
) -> None:
    apart = jittered(first, failures, chance=some) - jittered(first, failures, chance=other)
    assert abs(apart - (some - other) * doubled(first, failures) / 2) < 1e-6
