"""Which branches become jobsets, what these are called, and where their commits come from."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from reconciler.branches import (
    Commit,
    Head,
    ancestors,
    chosen,
    expanded,
    first_parents,
    jobset_name,
    jobset_of,
    matches,
    merge_base,
    places,
    repository,
)
from reconciler.model import (
    Branches,
    Desired,
    FlakeSource,
    GitSource,
    Jobset,
    JobsetName,
    PathSource,
    Source,
)
from tests.support.jobsets import jobset

WEB = JobsetName("web")


def wanted(*patterns: str, limit: int = 200) -> Branches:
    return Branches(patterns=patterns, limit=limit)


def head(branch: str, at: float | None = None) -> Head:
    return Head(branch=branch, revision="0" * 40, committed_at=at)


# --- Patterns ---


@pytest.mark.parametrize(
    ("patterns", "branch", "expected"),
    [
        (("main",), "main", True),
        (("main",), "maintenance", False),
        (("main",), "Main", False),
        (("release-*",), "release-", True),
        (("release-*",), "release-1/hotfix", True),
        (("*",), "feature/x", True),
        (("*", "!wip/*"), "wip/x", False),
        (("!wip/*", "*"), "wip/x", False),
        (("*", "!wip/*", "wip/x"), "wip/x", False),
        (("v?",), "v1", True),
        (("v?",), "v10", False),
        (("v[12]",), "v2", True),
        (("v[!12]",), "v2", False),
        (("*",), "refs/pull/1/head", False),
        (("refs/pull/*/head",), "refs/pull/1/head", True),
        (("refs/pull/*/head",), "refs/pull/1/merge", False),
        (("refs/*", "!refs/pull/1/*"), "refs/pull/1/head", False),
        (("refs/*", "!*"), "refs/pull/1/head", True),
        (("refs/*",), "main", False),
    ],
)
def test_what_a_pattern_asks_for(patterns: tuple[str, ...], branch: str, expected: bool) -> None:
    assert matches(branch, wanted(*patterns)) is expected


def test_of_too_many_the_named_ones_come_first_then_the_newest() -> None:
    heads = [head("old", 1), head("new", 3), head("middle", 2), head("main", 0.5), head("unknown")]
    taken = chosen(heads, wanted("*", "main", limit=3), before=())
    assert [each.branch for each in taken] == ["main", "new", "middle"]


def test_where_no_commit_is_known_those_stay_that_were_there() -> None:
    heads = [head("a"), head("b"), head("c")]
    taken = chosen(heads, wanted("*", limit=2), before={"c"})
    assert [each.branch for each in taken] == ["c", "a"]


def test_the_repositorys_own_come_before_pull_requests() -> None:
    heads = [head("refs/pull/1/head", 9), head("old", 1), head("refs/pull/2/head", 8)]
    taken = chosen(heads, wanted("*", "refs/pull/*/head", limit=2), before={"refs/pull/2/head"})
    assert [each.branch for each in taken] == ["old", "refs/pull/1/head"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("main", "release-*"), ("refs/heads/",)),
        (("main", "!refs/pull/1/head"), ("refs/heads/",)),
        (("refs/pull/*/head", "refs/for/main"), ("refs/for/main", "refs/heads/", "refs/pull/")),
    ],
)
def test_where_refs_are_looked_for(patterns: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert places(wanted(*patterns)) == expected


# --- Jobsets ---


@pytest.mark.parametrize(
    ("branch", "name"),
    [
        ("main", "web@main"),
        ("feature/x", "web@feature/x"),
        ("release-1.0", "web@release-1.0"),
        ("refs/pull/1/head", "web@refs/pull/1/head"),
        ("fix#1,a=b+c@d", "web@fix#1,a=b+c@d"),
        ("größe", "web@größe"),
        ("a%20b", "web@a%2520b"),
        ("a'b$(c)", "web@a%27b%24%28c%29"),
        ("a\u202eb", "web@a%E2%80%AEb"),
    ],
)
def test_what_a_branch_is_called(branch: str, name: str) -> None:
    assert jobset_name(WEB, branch) == name


def declared(source: Source, *patterns: str) -> Jobset:
    return replace(jobset(source), name=WEB, interval=60.0, branches=wanted(*patterns))


def test_a_branch_has_the_settings_of_its_jobset() -> None:
    web = declared(GitSource(url="https://git.example.org/web", ref="HEAD", file="x.nix"), "*")
    assert repository(web.source) == "https://git.example.org/web"
    made = jobset_of(web, "a/b")
    assert made.name == "web@a/b"
    assert made.source == replace(web.source, ref="refs/heads/a/b")
    assert jobset_of(web, "refs/pull/1/head").source == replace(web.source, ref="refs/pull/1/head")
    assert (made.branch_of, made.branch, made.branches) == (WEB, "a/b", None)
    assert made.interval is None  # it is the list that is looked at
    kept = replace(
        made,
        name=WEB,
        source=web.source,
        interval=web.interval,
        branch_of=None,
        branch=None,
        branches=web.branches,
    )
    assert kept == web


@pytest.mark.parametrize(
    ("url", "git", "at"),
    [
        (
            "git+https://git.example.org/web",
            "https://git.example.org/web",
            "git+https://git.example.org/web?ref=refs/heads/a%23b",
        ),
        (
            "git+file:///srv/web?dir=nix&submodules=1",
            "file:///srv/web",
            "git+file:///srv/web?dir=nix&submodules=1&ref=refs/heads/a%23b",
        ),
    ],
)
def test_a_flake_is_asked_at_the_branch(url: str, git: str, at: str) -> None:
    web = declared(FlakeSource(url=url), "*")
    assert repository(web.source) == git
    assert jobset_of(web, "a#b").source == FlakeSource(url=at)


def test_a_folder_has_no_branches() -> None:
    web = declared(PathSource(path="/srv/web", file="release.nix"), "*")
    with pytest.raises(AssertionError, match="a folder has no branches"):
        repository(web.source)
    with pytest.raises(AssertionError, match="a folder has no branches"):
        jobset_of(web, "main")


def test_a_document_is_expanded_by_the_branches_that_are_known_and_asked_for() -> None:
    web = declared(FlakeSource(url="git+https://git.example.org/web"), "release-*", "!*-old")
    plain = replace(jobset(), name=JobsetName("plain"))
    whole = Desired(
        jobsets={plain.name: plain}, patterns={WEB: web}, builders={}, caches={}, digest=""
    )
    known = {
        WEB: {jobset_name(WEB, each): each for each in ("release-1", "release-old", "main")},
        JobsetName("gone"): {JobsetName("gone@x"): "x"},
    }
    first = expanded(whole, known)
    assert set(first.jobsets) == {"plain", "web@release-1"}
    assert expanded(first, {}).jobsets == whole.jobsets


# --- Ancestry ---

#   a - b - c ------- f      main: f
#        \    \      /
#         d -- e ---+  - g    topic: g, which merged c at e
HISTORY = {
    "a": Commit((), 1),
    "b": Commit(("a",), 2),
    "c": Commit(("b",), 3),
    "d": Commit(("b",), 4),
    "e": Commit(("d", "c"), 5),
    "f": Commit(("c",), 6),
    "g": Commit(("e",), 7),
}


def test_first_parents_are_followed_as_far_as_they_are_known() -> None:
    assert first_parents(HISTORY, "g", limit=20) == ("e", "d", "b", "a")
    assert first_parents(HISTORY, "g", limit=2) == ("e", "d")
    shallow = {each: HISTORY[each] for each in ("g", "e")}
    assert first_parents(shallow, "g", limit=20) == ("e", "d")
    assert first_parents({}, "g", limit=20) == ()


@pytest.mark.parametrize(
    ("revision", "other", "expected"),
    [("g", "f", "c"), ("d", "f", "b"), ("f", "f", "f"), ("c", "f", "c"), ("f", "c", "c")],
)
def test_where_a_branch_left_another(revision: str, other: str, expected: str) -> None:
    assert merge_base(HISTORY, revision, ancestors(HISTORY, other)) == expected


def test_a_commit_that_two_ways_lead_to_is_met_once() -> None:
    fork = {
        "base": Commit((), 1),
        "left": Commit(("base",), 2),
        "right": Commit(("base",), 3),
        "merge": Commit(("left", "right"), 4),
    }
    assert ancestors(fork, "merge") == {"merge", "left", "right", "base"}
    assert merge_base(fork, "merge", {"base"}) == "base"
    assert merge_base(fork, "merge", frozenset()) is None


def test_branches_that_have_nothing_in_common() -> None:
    history = {**HISTORY, "z": Commit(("y",), 9)}
    assert merge_base(history, "z", ancestors(history, "f")) is None
    assert merge_base(history, "z", frozenset()) is None
