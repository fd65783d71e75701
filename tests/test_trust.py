"""Which branches serve others, and whose intermediates each may start from."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from reconciler.bases import Base, Fingerprint, Trust
from reconciler.branches import jobset_of
from reconciler.model import Branches, GitSource, Incremental, Jobset, JobsetName, Strategy
from reconciler.trust import as_declared, is_untrusted, trust_of, trusted_by
from tests.support.jobsets import jobset

PULL = "refs/pull/7/head"


@pytest.mark.parametrize(
    ("patterns", "untrusted"),
    [
        ((), {PULL}),
        (("fork/*",), {PULL, "fork/ann"}),
        (("*", "!main"), {PULL, "fork/ann", "release-1"}),
        (("!main", "*"), {PULL, "fork/ann", "release-1"}),
        (("!refs/pull/*",), set()),
        (("!*/head", "fork/*"), {"fork/ann"}),
        (("release-[12]",), {PULL, "release-1"}),
    ],
)
def test_who_is_untrusted(patterns: tuple[str, ...], untrusted: set[str]) -> None:
    settings = Incremental(untrusted=patterns)
    branches = ["main", "release-1", "fork/ann", PULL]
    assert {each for each in branches if is_untrusted(settings, each)} == untrusted


def test_a_source_with_one_branch_is_trusted() -> None:
    assert not is_untrusted(Incremental(untrusted=("*",)), None)
    assert trusted_by(jobset()) == {trust_of(jobset())} == {"tested"}


def branch(name: str, **settings: object) -> Jobset:
    declared = replace(
        jobset(GitSource(url="https://git.example.org/web", ref="HEAD", file="x.nix")),
        name=JobsetName("web"),
        branches=Branches(patterns=("*",), limit=10),
        incremental=replace(Incremental(enable=True), **settings),
    )
    return jobset_of(declared, name)


def test_untrusted_branches_take_from_trusted_ones_and_give_nothing() -> None:
    assert trusted_by(branch("main")) == {"web"}
    assert trust_of(branch("main")) == "web"
    pull = branch(PULL)
    assert trust_of(pull) == f"web@{PULL}"
    assert trusted_by(pull) == {"web", f"web@{PULL}"}
    assert trust_of(branch("refs/pull/8/head")) not in trusted_by(pull)


@pytest.mark.parametrize("strategy", [Strategy.HIDDEN, Strategy.COMPILER_CACHE])
def test_where_no_derivation_names_bases_their_own_are_not_taken(strategy: Strategy) -> None:
    assert trusted_by(branch(PULL, strategy=strategy)) == {"web"}


def base(name: str | None, trust: str) -> Base:
    return Base(
        id=1,
        job="app",
        system="x86_64-linux",
        fingerprint=Fingerprint(digest="a"),
        branch=name,
        trust=Trust(trust),
        commit=None,
        depth=0,
        full_at=0.0,
        created_at=0.0,
    )


def test_what_was_left_while_its_branch_was_trusted_counts_as_it_is_declared_now() -> None:
    bases = [base("main", "web"), base("fork/ann", "web"), base(None, "web"), base("x", "web@x")]
    now = branch("main", untrusted=("fork/*",))
    assert [each.trust for each in as_declared(now, bases)] == [
        "web",
        "web@fork/ann",
        "web",
        "web@x",
    ]
    assert as_declared(branch("main"), bases) == bases, "what was untrusted stays so"
