"""What a source with branches must fulfil beyond the schema: patterns that can match something,
of a repository that can be asked.

Pure, as `rules`, whose part this is; what has the wrong shape is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from urllib.parse import parse_qsl, urlsplit

from reconciler.branches import HEADS, REFS, TAGS
from reconciler.config.tree import Json
from reconciler.problems import did_you_mean, quote

Refusal = tuple[list[str | int], str, str]
"""Document path, message and mend."""

_FLAKE = re.compile(r"git\+(https|http|ssh|git|file)://")
_GLOB = re.compile(r"[*?\[]")
_FIXED = ("ref", "rev")
"""Parts of a flake reference that name one commit or branch."""


def refusals(
    at: list[str | int], source: dict[str, Json], names: Iterable[str]
) -> Iterator[Refusal]:
    """Refuse a jobset's branches; `at` is the jobset's place, `names` are all that are declared."""
    place = [*at, "source"]
    holder, other = source, source.get("flake")
    git = source.get("git")
    if isinstance(git, dict):
        place, holder, other = [*place, "git"], git, None
    branches = holder.get("branches")
    if not isinstance(branches, list):
        return
    if holder.get("ref") is not None:
        yield [*place, "ref"], "ref and branches exclude each other", "keep one of them"
    if isinstance(other, str):
        yield from _flake([*place, "flake"], other)
    yield from _patterns([*place, "branches"], branches)
    yield from _taken(str(at[-1]), names)


def _flake(at: list[str | int], url: str) -> Iterator[Refusal]:
    if not _FLAKE.match(url):
        yield (
            at,
            f"the branches of {quote(url)} cannot be listed",
            "write a URL such as git+https://git.example.org/website",
        )
        return
    try:
        query = parse_qsl(urlsplit(url).query)
    except ValueError:
        return
    for name, value in query:
        if name in _FIXED:
            mend = f"leave out {name}={value}, or keep it instead of branches"
            yield at, f"{name} and branches exclude each other", mend


def _patterns(at: list[str | int], patterns: list[Json]) -> Iterator[Refusal]:
    texts = [each for each in patterns if isinstance(each, str)]
    if all(each.startswith("!") for each in texts) and len(texts) == len(patterns):
        message = "it only leaves out branches" if texts else "it is empty: nothing would be built"
        yield at, message, 'begin with what is wanted, such as "*" for every branch'
    yield from _each(at, patterns)


def untrusted(at: list[str | int], patterns: Json, source: dict[str, Json]) -> Iterator[Refusal]:
    """Refuse patterns for untrusted branches that can match nothing."""
    if not isinstance(patterns, list) or not patterns:
        return
    git = source.get("git")
    branches = (git if isinstance(git, dict) else source).get("branches")
    if branches is None:
        message = "the source has no branches to tell apart"
        yield at, message, "name them as branches in the source, or leave this out"
    yield from _each(at, patterns)
    listed = branches if isinstance(branches, list) else []
    built = [each for each in listed if isinstance(each, str) and not each.startswith("!")]
    for index, pattern in enumerate(patterns if built else []):
        if not isinstance(pattern, str) or pattern.startswith(("!", REFS)):
            continue
        if not re.search(r"\s", pattern) and not any(_may_meet(pattern, each) for each in built):
            message = f"{quote(pattern)} fits no branch that is built"
            yield [*at, index], message, did_you_mean(pattern, built, label="built are")


def fallback(at: list[str | int], search: Json) -> Iterator[Refusal]:
    """Refuse a pattern where one branch is named: git allows none of these in a name."""
    name = search.get("fallbackBranch") if isinstance(search, dict) else None
    if isinstance(name, str) and _GLOB.search(name):
        mend = "write the name of a branch, such as main"
        yield [*at, "fallbackBranch"], f"{quote(name)} is a pattern, and names no one branch", mend


def _may_meet(one: str, other: str) -> bool:
    """Whether some branch may fit both patterns; False only where none does."""
    if not _GLOB.search(one):
        return fnmatchcase(one, other)
    if not _GLOB.search(other):
        return fnmatchcase(other, one)
    begins = [_GLOB.split(each)[0] for each in (one, other)]
    ends = [re.split(r"[*?\]]", each)[-1][::-1] for each in (one, other)]
    return all(
        first.startswith(second) or second.startswith(first) for first, second in (begins, ends)
    )


def _each(at: list[str | int], patterns: list[Json]) -> Iterator[Refusal]:
    for index, pattern in enumerate(patterns):
        if not isinstance(pattern, str):
            continue
        bare = pattern.removeprefix("!")
        if bare.startswith(HEADS):
            mend = f"write {quote(pattern.replace(HEADS, '', 1))}"
            yield [*at, index], "a branch is named without refs/heads/", mend
        elif bare.startswith(TAGS):
            mend = "write the tag as ref, in a jobset of its own"
            yield [*at, index], "tags are not followed as branches are", mend
        elif "[" in re.sub(r"\[!?\]?[^\]]*\]", "", bare):
            message = f"{quote(pattern)} matches nothing: a [ is not closed"
            yield [*at, index], message, "write one of several characters as [abc]"


def _taken(jobset: str, names: Iterable[str]) -> Iterator[Refusal]:
    """Refuse other jobsets that are called as a branch of this one could be."""
    for name in names:
        if name.startswith(f"{jobset}@"):
            message = f"this is what a branch of {jobset} is called"
            yield ["jobsets", name], message, "give it another name"
