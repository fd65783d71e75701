"""Which base a build starts from: the order, what rules bases out and the reasons given."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from reconciler.bases import (
    Base,
    Fingerprint,
    History,
    Trust,
    Wanted,
    choose,
    difference,
    is_sampled,
)
from reconciler.model import Incremental

NOW = 100 * 86400.0
OURS, FORK = Trust("repository"), Trust("fork")
MEANS = Fingerprint(digest="a", parts={"the input gcc-13": "1", "the variable CFLAGS": "1"})
OTHER = Fingerprint(digest="b", parts={"the input gcc-13": "2", "the variable CFLAGS": "1"})
SETTINGS = Incremental(enable=True, parents=3, max_depth=5, full_every=7 * 86400.0)
WANTED = Wanted(
    job="app", system="x86_64-linux", fingerprint=MEANS, branch="topic", trusts=frozenset({OURS})
)
HISTORY = History(parents=("c1", "c2", "c3", "c4"), fork_point="c9")


def base(
    number: int,
    *,
    branch: str | None = "topic",
    commit: str | None = None,
    depth: int = 0,
    age: float = 0.0,
    made: float | None = None,
    trust: Trust = OURS,
) -> Base:
    return Base(
        id=number,
        job="app",
        system="x86_64-linux",
        fingerprint=MEANS,
        branch=branch,
        trust=trust,
        commit=commit,
        depth=depth,
        full_at=NOW - age,
        created_at=NOW - 1000 + number if made is None else made,
    )


SAME = base(1, commit="c0ffee" * 7)
OLDER = base(0, commit="0ld")
PARENT = base(2, branch="main", commit="c1")
GRANDPARENT = base(3, branch="main", commit="c2")
TOO_FAR = base(4, branch="other", commit="c4")
FORK_POINT = base(5, branch="main", commit="c9")
MAIN = base(7, branch="main", commit="d1")
MAIN_BEFORE = base(6, branch="main", commit="d0")
ELSEWHERE = base(9, branch="other", commit="e1")
IN_ORDER = [SAME, OLDER, PARENT, GRANDPARENT, FORK_POINT, MAIN, MAIN_BEFORE]


def reason(*bases: Base, wanted: Wanted = WANTED, given: Incremental = SETTINGS) -> str:
    return choose(wanted, bases, HISTORY, given, now=NOW).reason


@pytest.mark.parametrize("left", range(len(IN_ORDER)))
def test_the_nearest_is_taken(left: int) -> None:
    bases = [*reversed(IN_ORDER[left:]), TOO_FAR, ELSEWHERE]
    assert choose(WANTED, bases, HISTORY, SETTINGS, now=NOW).base == IN_ORDER[left]


def test_out_of_reach_is_none() -> None:
    choice = choose(WANTED, [TOO_FAR, ELSEWHERE], HISTORY, SETTINGS, now=NOW)
    assert choice.base is None
    assert choice.reason == (
        "built in full: none are left of its branch, of the 3 commits before it or of main"
    )


def test_without_a_fallback_the_branch_stands_alone() -> None:
    alone = replace(SETTINGS, fallback_branch=None, parents=0)
    choice = choose(WANTED, [MAIN, PARENT], History(), alone, now=NOW)
    assert choice.base is None
    assert choice.reason == (
        "built in full: none are left of its branch, of the 0 commits before it"
    )


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (SAME, "the newest build of branch topic (commit c0ffeec0ffee), a full one"),
        (replace(SAME, commit=None, depth=1), "the newest build of branch topic, 1 build after"),
        (PARENT, "the build of the commit before (commit c1), a full one"),
        (replace(GRANDPARENT, depth=2), "the build of 2 commits back (commit c2), 2 builds after"),
        (FORK_POINT, "the build of where its branch left main (commit c9), a full one"),
        (MAIN, "the newest build of branch main (commit d1), a full one"),
    ],
)
def test_the_reason_says_where_a_base_comes_from(chosen: Base, words: str) -> None:
    assert reason(chosen).startswith(f"starts from {words}")


def test_a_source_of_one_branch_needs_no_name_for_it() -> None:
    wanted = replace(WANTED, branch=None)
    assert reason(base(1, branch=None), wanted=wanted) == (
        "starts from the newest build, a full one"
    )


@pytest.mark.parametrize(
    ("bases", "words"),
    [
        ([], "no earlier build of this job has left intermediates"),
        ([replace(SAME, job="else")], "no earlier build of this job has left intermediates"),
        ([replace(SAME, system="else")], "no earlier build of this job has left intermediates"),
        ([replace(SAME, trust=FORK)], "only branches that it must not trust have built this job"),
        (
            [replace(SAME, quarantined="its audit found another result")],
            (
                "the newest build of branch topic (commit c0ffeec0ffee) is in quarantine: "
                "its audit found another result"
            ),
        ),
        (
            [replace(SAME, fingerprint=OTHER)],
            (
                "since the newest build of branch topic (commit c0ffeec0ffee), "
                "the input gcc-13 changed"
            ),
        ),
        (
            [replace(SAME, depth=5), OLDER],
            (
                "the newest build of branch topic (commit c0ffeec0ffee) is 5 builds after a full "
                "one, and chain.maxDepth is 5"
            ),
        ),
        (
            [replace(SAME, full_at=NOW - 8 * 86400), MAIN],
            (
                "the newest build of branch topic (commit c0ffeec0ffee) goes back to a full one "
                "made 8d ago, and chain.fullEvery is 7d"
            ),
        ),
    ],
)
def test_the_reason_says_why_a_build_is_a_full_one(bases: list[Base], words: str) -> None:
    choice = choose(WANTED, bases, HISTORY, SETTINGS, now=NOW)
    assert choice.base is None
    assert choice.reason == f"built in full: {words}"


def test_the_nearest_one_that_was_refused_is_the_reason() -> None:
    bases = [replace(MAIN, quarantined="wrong"), replace(SAME, fingerprint=OTHER)]
    assert reason(*bases).endswith("the input gcc-13 changed")


def test_what_was_made_by_other_means_is_passed_over() -> None:
    bases = [replace(SAME, fingerprint=OTHER), replace(PARENT, quarantined="wrong"), MAIN]
    assert choose(WANTED, bases, HISTORY, SETTINGS, now=NOW).base == MAIN
    assert "an earlier build of branch topic (commit 0ld)" in reason(bases[0], OLDER)


def test_a_chain_of_any_age_is_allowed_where_none_is_too_old() -> None:
    old = replace(SAME, full_at=0.0)
    ageless = replace(SETTINGS, full_every=None)
    assert choose(WANTED, [old], HISTORY, ageless, now=NOW).base == old


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"a": "1"}, {"a": "2"}, "a changed"),
        ({"a": "1"}, {"b": "1"}, "b was added and a was removed"),
        ({"a": "1", "b": "1"}, {"a": "2", "b": "2"}, "a changed and b changed"),
        (
            {"its outputs": "1", "the variable a": "1"},
            {"its outputs": "2", "the variable a": "2", "the file c": "1", "the input b": "1"},
            "the input b was added, the file c was added, the variable a changed and 1 more",
        ),
        (
            dict.fromkeys("abcde", "1"),
            dict.fromkeys("abcde", "2"),
            "a changed, b changed, c changed and 2 more",
        ),
        ({"a": "1"}, {"a": "1"}, "how it is fingerprinted changed"),
    ],
)
def test_differences_read_as_the_end_of_a_sentence(
    before: dict[str, str], after: dict[str, str], words: str
) -> None:
    old, new = Fingerprint(digest="1", parts=before), Fingerprint(digest="2", parts=after)
    assert difference(old, new) == words


# --- Properties --------------------------------------------------------------------------------

BASES = st.builds(
    Base,
    id=st.integers(1, 50),
    job=st.sampled_from(["app", "lib"]),
    system=st.sampled_from(["x86_64-linux", "aarch64-linux"]),
    fingerprint=st.sampled_from([MEANS, OTHER]),
    branch=st.sampled_from([None, "topic", "main", "other"]),
    trust=st.sampled_from([OURS, FORK]),
    commit=st.sampled_from([None, "c1", "c2", "c3", "c4", "c9", "d1"]),
    depth=st.integers(0, 7),
    full_at=st.floats(NOW - 9 * 86400, NOW),
    created_at=st.floats(NOW - 86400, NOW),
    quarantined=st.sampled_from([None, None, "its audit found another result"]),
)
MANY = st.lists(BASES, max_size=12, unique_by=lambda each: each.id)


@given(bases=MANY, data=st.data())
def test_the_order_in_which_bases_come_does_not_matter(
    bases: list[Base], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(bases))
    expected = choose(WANTED, bases, HISTORY, SETTINGS, now=NOW)
    assert choose(WANTED, shuffled, HISTORY, SETTINGS, now=NOW) == expected


@given(bases=MANY)
def test_what_is_chosen_is_allowed(bases: list[Base]) -> None:
    choice = choose(WANTED, bases, HISTORY, SETTINGS, now=NOW)
    chosen = choice.base
    assert choice.reason
    assert "\n" not in choice.reason
    assert choice.reason.startswith("starts from" if chosen else "built in full:")
    if chosen is None:
        return
    assert chosen in bases
    assert (chosen.job, chosen.system, chosen.trust) == ("app", "x86_64-linux", OURS)
    assert chosen.fingerprint == MEANS
    assert chosen.quarantined is None
    assert chosen.depth + 1 <= SETTINGS.max_depth
    assert SETTINGS.full_every is not None
    assert NOW - chosen.full_at < SETTINGS.full_every
    assert chosen.branch in ("topic", "main") or chosen.commit in ("c1", "c2", "c3", "c9")


@given(bases=MANY, stranger=BASES)
def test_a_fork_changes_nothing_for_others(bases: list[Base], stranger: Base) -> None:
    """Whatever it builds, as often as it likes."""
    forked = replace(stranger, trust=FORK, id=99)
    expected = choose(WANTED, bases, HISTORY, SETTINGS, now=NOW).base
    assert choose(WANTED, [*bases, forked], HISTORY, SETTINGS, now=NOW).base == expected


@given(bases=MANY)
@settings(max_examples=50)
def test_a_chain_ends_by_depth_however_its_builds_are_chosen(bases: list[Base]) -> None:
    """Build after build on one branch: at least one of so many is a full one."""
    known, full = list(bases), 0
    assert SETTINGS.max_depth == 5
    for number in range(6):
        chosen = choose(WANTED, known, HISTORY, SETTINGS, now=NOW).base
        full += chosen is None
        made = base(
            100 + number, depth=0 if chosen is None else chosen.depth + 1, made=NOW + number
        )
        known.append(made)
    assert full >= 1


@given(bases=MANY)
def test_quarantine_takes_a_base_out(bases: list[Base]) -> None:
    chosen = choose(WANTED, bases, HISTORY, SETTINGS, now=NOW).base
    if chosen is not None:
        rest = [replace(each, quarantined="x") if each == chosen else each for each in bases]
        again = choose(WANTED, rest, HISTORY, SETTINGS, now=NOW).base
        assert again is None or again.id != chosen.id


# --- Samples -----------------------------------------------------------------------------------

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
PATHS = st.text(DIGITS, min_size=32, max_size=32).map("/nix/store/{}-x.drv".format)
SAMPLE = [
    f"/nix/store/{''.join(random.Random(number).choices(DIGITS, k=32))}-x.drv"  # noqa: S311
    for number in range(1000)
]


@pytest.mark.parametrize(
    ("fraction", "least", "most"), [(0.0, 0, 0), (1.0, 1000, 1000), (0.05, 20, 90), (0.5, 400, 600)]
)
def test_a_share_of_all_is_in_a_sample(fraction: float, least: int, most: int) -> None:
    assert least <= sum(is_sampled(each, fraction) for each in SAMPLE) <= most


@given(path=PATHS, few=st.floats(0, 1), many=st.floats(0, 1))
def test_a_larger_sample_has_all_of_a_smaller(path: str, few: float, many: float) -> None:
    if is_sampled(path, min(few, many)):
        assert is_sampled(path, max(few, many))


# --- Slots -------------------------------------------------------------------------------------

NAMED = replace(WANTED, slot="topic-cache", fallback="main-cache")
IN_SLOT = replace(ELSEWHERE, job="other", slot="topic-cache")
IN_FALLBACK = replace(ELSEWHERE, id=20, slot="main-cache")


def test_a_named_slot_is_near_enough_of_any_branch_and_job_and_the_fallback_comes_last() -> None:
    order = [replace(SAME, slot="topic-cache"), replace(MAIN, slot="topic-cache"), IN_SLOT]
    order += [IN_FALLBACK, replace(IN_FALLBACK, id=19, created_at=NOW - 9999)]
    for left in range(len(order)):
        chosen = choose(NAMED, reversed(order[left:]), HISTORY, SETTINGS, now=NOW)
        assert chosen.base == order[left]
    assert reason(IN_SLOT, wanted=NAMED) == (
        "starts from the newest build of the slot topic-cache (commit e1), a full one"
    )
    assert reason(IN_FALLBACK, wanted=NAMED) == (
        "starts from the newest build of the fallback slot main-cache (commit e1), a full one"
    )


def test_what_is_kept_under_another_name_serves_no_job_but_those_that_name_it() -> None:
    """A job's own name is one, too."""
    assert choose(NAMED, [SAME, MAIN], HISTORY, SETTINGS, now=NOW).base is None
    assert choose(WANTED, [replace(SAME, slot="x")], HISTORY, SETTINGS, now=NOW).base is None
    by_name = replace(WANTED, job="lib", slot="app")
    assert choose(by_name, [SAME], HISTORY, SETTINGS, now=NOW).base == SAME
    assert choose(by_name, [replace(SAME, trust=FORK)], HISTORY, SETTINGS, now=NOW).base is None


def test_where_a_base_is_from_is_told() -> None:
    fetched = replace(SAME, slot="main-cache", fetched_from="builds")
    assert reason(fetched, wanted=NAMED).startswith(
        "starts from the newest build of the fallback slot main-cache in the artifact store builds"
    )


def test_only_where_a_full_build_is_due_nothing_else_is_wanted() -> None:
    def due(*bases: Base) -> bool:
        return choose(WANTED, bases, HISTORY, SETTINGS, now=NOW).due

    assert due(replace(SAME, depth=5))
    assert not due()
    assert not due(replace(SAME, quarantined="wrong"))
