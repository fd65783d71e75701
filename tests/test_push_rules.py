"""What goes to a cache for a jobset, and which rules send what others do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from reconciler.model import StorePath
from reconciler.push_rules import PushRule, PushScope, declared, fewest, from_text, rule

JOBS = rule(PushScope.JOBS, [])
WHOLE = rule(PushScope.REQUISITES, [])
ALL = rule(PushScope.ALL, [])
LESS = rule(PushScope.REQUISITES, ["*-vm-test", "steam-*"])
LEAST = rule(PushScope.JOBS, ["steam-*", "*-vm-test", "x"])
RULES = (JOBS, WHOLE, ALL, LESS, LEAST)
CACHES: dict[str, dict[str, Any]] = {
    "main": {"push": "requisites", "exclude": ["steam-*"]},
    "old": {"push": "all"},  # of a document from before there were exclusions
}


def test_a_jobset_says_how_much_instead_of_the_cache_and_what_not_beside_it() -> None:
    found = declared(
        [{"name": "main", "push": None, "exclude": ["*-vm-test", "steam-*"]}, "old"], CACHES
    )
    assert found == {"main": LESS, "old": ALL}
    found = declared(["main", {"name": "old", "push": "jobs", "exclude": []}], CACHES)
    assert found == {"main": rule(PushScope.REQUISITES, ["steam-*"]), "old": JOBS}
    assert [*found] == ["main", "old"]


def test_the_order_of_what_is_excluded_means_nothing() -> None:
    assert rule(PushScope.REQUISITES, ["steam-*", "*-vm-test", "steam-*"]) == LESS


@pytest.mark.parametrize("each", RULES)
def test_a_rule_is_read_as_it_was_stored(each: PushRule) -> None:
    assert from_text(each.text()) == each


def test_a_rule_in_words() -> None:
    assert [str(each) for each in (ALL, LESS)] == [
        "all",
        "requisites, without *-vm-test, steam-*",
    ]


def test_a_rule_covers_what_sends_no_more_of_a_derivation() -> None:
    covered = {
        (wide.text(), other.text())
        for wide, other in itertools.permutations(RULES, 2)
        if wide.covers(other)
    }
    whole = {(wide, other) for wide in (WHOLE, ALL) for other in RULES if wide != other}
    some = {(JOBS, LEAST), (LESS, LEAST)}
    assert covered == {(wide.text(), other.text()) for wide, other in whole | some}
    assert all(each.covers(each) for each in RULES)


def test_the_fewest_rules_send_what_all_do() -> None:
    assert fewest([]) == []
    assert fewest([LEAST, LESS, JOBS]) == [LESS, JOBS]
    for order in itertools.permutations(RULES):
        (only,) = fewest(order)
        assert only in (WHOLE, ALL)  # of one derivation they send the same


@pytest.mark.parametrize(
    ("name", "excluded"),
    [("a-vm-test", True), ("a-vm-test-1", False), ("steam-1.0", True), ("hello", False)],
)
def test_names_are_excluded_by_pattern_without_their_hash(name: str, excluded: bool) -> None:
    assert LESS.excludes(StorePath(f"/nix/store/{'0' * 32}-{name}")) is excluded
    assert not WHOLE.excludes(StorePath(f"/nix/store/{'0' * 32}-{name}"))
