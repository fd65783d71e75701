"""Branches by pattern in a document."""

from __future__ import annotations

import pytest

from reconciler.branches import expanded
from reconciler.config import ConfigError, parse
from reconciler.model import Branches, Desired, FlakeSource, GitSource, JobsetName

WEB = JobsetName("web")


def read(text: str) -> Desired:
    return parse(text.encode(), name="farm.yaml")


def git(branches: str, more: str = "") -> str:
    return f"jobsets: {{web: {{source: {{git: {{url: /srv/x, branches: {branches}{more}}}}}}}}}"


def flake(url: str) -> str:
    return f"jobsets: {{web: {{source: {{flake: '{url}', branches: [main]}}}}}}"


def test_a_jobset_for_branches_stands_apart_from_those_that_are_built() -> None:
    desired = read(git('[main, "release-*"]', ", maxBranches: 5"))
    assert desired.jobsets == {}
    web = desired.patterns[WEB]
    assert web.branches == Branches(patterns=("main", "release-*"), limit=5)
    assert web.source == GitSource(url="/srv/x", ref="HEAD", file="default.nix")


def test_branches_of_a_flake() -> None:
    web = read(flake("git+https://git.example.org/web?dir=nix")).patterns[WEB]
    assert web.branches == Branches(patterns=("main",), limit=200)
    assert web.source == FlakeSource(url="git+https://git.example.org/web?dir=nix")


def test_without_branches_all_is_as_it_was() -> None:
    desired = read("jobsets: {web: {source: {git: {url: /srv/x}}}}")
    assert desired.patterns == {}
    assert desired.jobsets[WEB].source == GitSource(url="/srv/x", ref="HEAD", file="default.nix")
    null = read("jobsets: {web: {source: {git: {url: /srv/x, ref: null, branches: null}}}}")
    assert null == desired


@pytest.mark.parametrize("text", [git('["*", "!wip/*"]'), flake("git+file:///srv/x")])
def test_the_document_in_force_is_read_back(text: str) -> None:
    desired = read(text)
    known = {WEB: {JobsetName("web@main"): "main"}}
    whole = expanded(desired, known)
    assert set(whole.jobsets) == {"web@main"}
    assert whole.document == desired.document
    assert expanded(read(desired.document), known) == whole


@pytest.mark.parametrize(
    ("marked", "path", "words"),
    [
        (git("^^[]"), "git.branches", "it is empty: nothing would be built; begin with what"),
        (git('^^["!a", "!b"]'), "git.branches", "only leaves out branches; begin with what"),
        (git('["a", ^^"a"]'), "git.branches[1]", "is listed twice"),
        (git('["a[", ^^""]').replace("a[", "a"), "git.branches[1]", "name of a branch, or a"),
        (git('["a", ^^"b c"]'), "git.branches[1]", '"b c" does not fit here; write the name'),
        (git('["a", ^^"b:c"]'), "git.branches[1]", "write the name of a branch, or a pattern"),
        (git('["a", ^^"!!b"]'), "git.branches[1]", "write the name of a branch, or a pattern"),
        (git('[^^"v[12", "a"]'), "git.branches[0]", "matches nothing: a [ is not closed"),
        (git('["a", ^^"!v[12"]'), "git.branches[1]", "write one of several characters as [abc]"),
        (git('[^^"refs/heads/a"]'), "git.branches[0]", 'without refs/heads/; write "a"'),
        (git('["a", ^^"!refs/heads/b"]'), "git.branches[1]", 'write "!b"'),
        (git('["a", ^^"refs/tags/*"]'), "git.branches[1]", "tags are not followed as branches"),
        (git("^^main"), "git.branches", 'write it as a list: ["main"]'),
        (git("[a]", ", ref: ^^main"), "git.ref", "ref and branches exclude each other; keep one"),
        (git("[a]", ", maxBranches: ^^0"), "git.maxBranches", "must be at least 1"),
        (git("[a]", ", maxBranches: ^^20000"), "git.maxBranches", "from 1 to 10000"),
        (
            flake("git+https://h/x?ref=main").replace("'git", "^^'git"),
            "flake",
            "ref and branches exclude each other; leave out ref=main",
        ),
        (
            flake("git+https://h/x?rev=0&dir=a").replace("'git", "^^'git"),
            "flake",
            "rev and branches exclude each other",
        ),
        (
            flake("github:o/r").replace("'git", "^^'git"),
            "flake",
            "cannot be listed; write a URL such as git+https://git.example.org/website",
        ),
        (
            flake("./here").replace("'./", "^^'./"),
            "flake",
            "cannot be listed",
        ),
    ],
)
def test_each_mistake_is_named_with_the_mend(marked: str, path: str, words: str) -> None:
    before, after = marked.split("^^")
    with pytest.raises(ConfigError) as refused:
        read(before + after)
    (problem,) = refused.value.problems
    assert problem.path == f"jobsets.web.source.{path}"
    assert words in f"{problem.message}; {problem.mend}"
    assert (problem.line, problem.column) == (1, len(before) + 1)


def test_a_fallback_branch_is_one_branch() -> None:
    text = "jobsets: {web: {source: {flake: x}, incremental: {search: {fallbackBranch: %s}}}}"
    with pytest.raises(ConfigError) as refused:
        read(text % "'release-*'")
    (problem,) = refused.value.problems
    assert problem.path == "jobsets.web.incremental.search.fallbackBranch"
    assert str(problem).endswith("names no one branch; write the name of a branch, such as main")
    assert read(text % "trunk").jobsets[WEB].incremental.fallback_branch == "trunk"


UNTRUSTED = "jobsets: {web: {source: {git: {url: /srv/x%s}}, incremental: {untrusted: %s}}}"


def test_untrusted_branches() -> None:
    text = UNTRUSTED % (", branches: ['*', 'refs/pull/*/head']", "['*', '!main']")
    web = read(text).patterns[WEB]
    assert web.incremental.untrusted == ("*", "!main")
    assert web.branches is not None
    assert web.branches.patterns == ("*", "refs/pull/*/head")
    for pattern in ("release-2*", "*-next", "rel?ase-1", "*[0-9]", "release-x", "!mian", "refs/x"):
        read(UNTRUSTED % (", branches: [main, 'release-*', 'v[0-9]']", f"['{pattern}']"))
    assert read(UNTRUSTED % ("", "[]")).jobsets[WEB].incremental.untrusted == ()


@pytest.mark.parametrize(
    ("branches", "marked", "place", "words"),
    [
        ("", "^^[x]", "", "no branches to tell apart; name them as branches in the source"),
        (", branches: [a]", "[^^refs/heads/x]", "[0]", 'without refs/heads/; write "x"'),
        (", branches: [a]", "[a, ^^'!v[1']", "[1]", "matches nothing: a [ is not closed"),
        (", branches: [a]", "^^main", "", 'write it as a list: ["main"]'),
        (
            ", branches: [main, 'release-*']",
            "['release-0*', ^^'relase-*']",
            "[1]",
            '"relase-*" fits no branch that is built; did you mean "release-*"? (built are: main',
        ),
        (", branches: ['release-*', '!x']", "[^^main]", "[0]", "built are: release-*"),
        (", branches: ['*-next']", "[^^'*-old']", "[0]", "fits no branch that is built"),
        (", branches: [a]", "[^^'a b']", "[0]", "write the name of a branch, or a pattern"),
    ],
)
def test_what_cannot_be_untrusted(branches: str, marked: str, place: str, words: str) -> None:
    before, after = (UNTRUSTED % (branches, marked)).split("^^")
    with pytest.raises(ConfigError) as refused:
        read(before + after)
    (problem,) = refused.value.problems
    assert problem.path == f"jobsets.web.incremental.untrusted{place}"
    assert words in f"{problem.message}; {problem.mend}"
    assert (problem.line, problem.column) == (1, len(before) + 1)


def test_nothing_else_may_be_called_as_a_branch_is() -> None:
    text = git("[main]")[:-1] + ", 'web@main': {source: {path: /x}}, 'web@': {source: {path: /y}}}"
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert [problem.path for problem in refused.value.problems] == [
        "jobsets.web@main",
        "jobsets.web@",
    ]
    assert read("jobsets: {web@main: {source: {path: /x}}}").jobsets.keys() == {"web@main"}
