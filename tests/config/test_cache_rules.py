"""What a jobset says of the caches that it pushes to."""

from __future__ import annotations

import pytest

from reconciler import config
from reconciler.model import CacheName, JobsetName, PushScope
from reconciler.push_rules import rule
from tests.config.test_config import J, read, refused

MAIN = "\ncaches: {main: {uri: 'file:/x', exclude: [steam-*]}, nix: {uri: 'ssh-ng://h'}}"


def test_each_of_a_jobsets_caches_has_its_rule() -> None:
    said = "caches: [nix, {name: main, push: jobs, exclude: ['*-vm-test', steam-*]}]}}"
    desired = read(J + said + MAIN)
    assert desired.jobsets[JobsetName("a")].caches == {
        "nix": rule(PushScope.REQUISITES, []),
        "main": rule(PushScope.JOBS, ["*-vm-test", "steam-*"]),
    }
    # It is read again as it was stored.
    again = config.parse(desired.document.encode(), name="the document in force")
    assert (again.jobsets, again.digest) == (desired.jobsets, desired.digest)


def test_what_is_not_said_is_as_the_cache_has_it() -> None:
    desired = read(J + "caches: [{name: main}]}}" + MAIN)
    plain = read(J + "caches: [main]}}" + MAIN)
    assert desired.jobsets == plain.jobsets
    assert desired.jobsets[JobsetName("a")].caches[CacheName("main")] == (
        desired.caches[CacheName("main")].rule
    )


def test_a_cache_has_the_rules_of_all_that_push_there() -> None:
    text = (
        "jobsets:\n"
        "  a: {source: {path: /x}, caches: [{name: main, push: all}]}\n"
        "  b:\n"
        "    source: {git: {url: 'https://x', branches: [m]}}\n"
        "    caches: [{name: main, push: jobs}]"
    )
    desired = read(text + MAIN)
    assert desired.rules_of(CacheName("main")) == {
        rule(PushScope.ALL, ["steam-*"]),
        rule(PushScope.JOBS, ["steam-*"]),
    }
    assert desired.rules_of(CacheName("nix")) == {rule(PushScope.REQUISITES, [])}
    assert desired.rules_of(CacheName("gone")) == frozenset()


@pytest.mark.parametrize(
    ("said", "path", "words"),
    [
        ("{name: ^^mian}", "jobsets.a.caches[0].name",
         'there is no cache "mian"; did you mean "main"? (declared: main, nix)'),
        ("main, {name: ^^main, push: jobs}", "jobsets.a.caches[1].name",
         "jobsets.a.caches[0] is the same cache; say all of it at one place"),
        ("{name: main, push: jobs}, ^^main", "jobsets.a.caches[1]",
         "jobsets.a.caches[0] is the same cache"),
        ("{name: main}, nix, {name: ^^main}", "jobsets.a.caches[2].name", "jobsets.a.caches[0]"),
        ("main, ^^main", "jobsets.a.caches[1]", '"main" is listed twice'),
        ("{name: nix, push: ^^jobs}", "jobsets.a.caches[0].push",
         "a Nix store keeps nothing without what that refers to; write requisites"),
        ("{name: main, push: ^^job}", "jobsets.a.caches[0].push", 'did you mean "jobs"?'),
        ("{name: main, push: ^^3}", "jobsets.a.caches[0].push", "must be a text or null"),
        ("{name: main, ^^exlude: [x]}", "jobsets.a.caches[0].exlude", 'did you mean "exclude"?'),
        ("{name: main, exclude: ^^3}", "jobsets.a.caches[0].exclude", 'like ["*-vm-test"]'),
        ("{name: main, exclude: ^^x}", "jobsets.a.caches[0].exclude", 'write it as a list: ["x"]'),
        ("{name: main, exclude: [^^/nix/x]}", "jobsets.a.caches[0].exclude[0]", "without the hash"),
        ("{name: main, exclude: [x, ^^x]}", "jobsets.a.caches[0].exclude[1]", "listed twice"),
        ("^^{push: jobs}", "jobsets.a.caches[0]", '"name" is missing; add name: "main"'),
        ("{name: ^^-x}", "jobsets.a.caches[0].name", "starting with a letter or digit"),
        ("^^3", "jobsets.a.caches[0]", "or {name: main, push: jobs}"),
        ("^^[main]", "jobsets.a.caches[0]", "or {name: main, push: jobs}"),
        ("^^main cache", "jobsets.a.caches[0]", "or {name: main, push: jobs}"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_place(said: str, path: str, words: str) -> None:
    text = J + f"caches: [{said}]}}}}" + MAIN
    before, _, after = text.partition("^^")
    told = {
        (each.path, each.line, each.column)
        for each in refused(before + after)
        if words in f"{each.message}; {each.mend}"
    }
    lines = before.split("\n")
    assert told == {(path, len(lines), len(lines[-1]) + 1)}


def test_a_cache_that_is_said_twice_is_refused_once() -> None:
    (problem,) = refused(J + "caches: [main, {name: main}]}}" + MAIN)
    assert problem.path == "jobsets.a.caches[1].name"
