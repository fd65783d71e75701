"""Branches by pattern: which of a repository's become jobsets, what these are called, and what the
commits behind them have in common.

Pure: asks no repository (`listing` does).
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

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

EXCLUDES = "!"
REFS = "refs/"
"""How those begin that are asked for by the whole name of their ref: they are no branches of the
repository itself, but what forges keep there of pull requests and the like."""
HEADS = "refs/heads/"
"""How the refs of all others begin."""
TAGS = "refs/tags/"
_GLOB = re.compile(r"[*?\[]")
_UNPRINTABLE = re.compile(r"[^\w./+=,@#-]")
"""What the name of a jobset does not show as it is: neither a shell nor a terminal takes all that
git allows in the name of a branch."""


_NOT_OF_URLS = re.compile(r"[^A-Za-z0-9_./-]")


class Head(Struct, frozen=True, kw_only=True):
    """Where a branch stands."""

    branch: str
    revision: str
    committed_at: float | None = None
    """Seconds since the epoch; None: the commit could not be looked at."""
    ancestors: tuple[str, ...] = ()
    """The commits before it along first parents, the nearest first."""
    merge_base: str | None = None
    """Where it left the branch that serves others."""


class Commit(Struct, frozen=True):
    """A commit as far as ancestry goes."""

    parents: tuple[str, ...]
    at: float


# --- Choosing ----------------------------------------------------------------------------------


def matches(branch: str, wanted: Branches) -> bool:
    """Whether a branch is asked for; what one pattern leaves out, none brings back."""
    excluded = (each[1:] for each in wanted.patterns if each.startswith(EXCLUDES))
    return any(_fits(branch, each) for each in included(wanted)) and not any(
        _fits(branch, each) for each in excluded
    )


def _fits(branch: str, pattern: str) -> bool:
    """Of whole refs only a pattern for such speaks: all branches are not all pull requests, too."""
    return branch.startswith(REFS) == pattern.startswith(REFS) and fnmatchcase(branch, pattern)


def places(wanted: Branches) -> tuple[str, ...]:
    """Below what refs all that is asked for lies; a superset."""
    found = {HEADS}
    for each in included(wanted):
        if each.startswith(REFS):
            glob = _GLOB.search(each)
            found.add(each if glob is None else each[: glob.start()])
    return tuple(sorted(found))


def ref_of(branch: str) -> str:
    """The whole name of a branch's ref."""
    return branch if branch.startswith(REFS) else HEADS + branch


def included(wanted: Branches) -> list[str]:
    """The patterns that ask for branches."""
    return [each for each in wanted.patterns if not each.startswith(EXCLUDES)]


def chosen(heads: Iterable[Head], wanted: Branches, *, before: Collection[str]) -> tuple[Head, ...]:
    """The branches that become jobsets, as many as allowed.

    First those asked for by name, then the repository's own, then the newest commits, then those
    that were chosen `before`.
    """
    named = {each for each in included(wanted) if not _GLOB.search(each)}

    def rank(head: Head) -> tuple[bool, bool, float, bool, str]:
        branch, newest = head.branch, -(head.committed_at or 0.0)
        return branch not in named, branch.startswith(REFS), newest, branch not in before, branch

    fitting = sorted((each for each in heads if matches(each.branch, wanted)), key=rank)
    return tuple(fitting[: wanted.limit])


# --- Jobsets -----------------------------------------------------------------------------------


def jobset_name(declared: JobsetName, branch: str) -> JobsetName:
    """What a branch's jobset is called: no two branches' are called the same."""
    return JobsetName(f"{declared}@{_UNPRINTABLE.sub(_encoded, branch)}")


def jobset_of(declared: Jobset, branch: str) -> Jobset:
    """A branch's jobset: with the settings of the declared one, which has its branches listed."""
    return replace(
        declared,
        name=jobset_name(declared.name, branch),
        source=_at(declared.source, branch),
        interval=None,
        branches=None,
        branch_of=declared.name,
        branch=branch,
    )


def expanded(desired: Desired, known: Mapping[JobsetName, Mapping[JobsetName, str]]) -> Desired:
    """A document with the jobsets of the branches that are known, and of no others."""
    jobsets = {name: each for name, each in desired.jobsets.items() if each.branch_of is None}
    for name, declared in desired.patterns.items():
        assert declared.branches is not None
        for branch in known.get(name, {}).values():
            if matches(branch, declared.branches):
                jobset = jobset_of(declared, branch)
                jobsets.setdefault(jobset.name, jobset)
    return replace(desired, jobsets=jobsets)


def repository(source: Source) -> str:
    """The URL that git is asked for a source's branches."""
    match source:
        case FlakeSource():
            return source.url.partition("?")[0].removeprefix("git+")
        case GitSource():
            return source.url
        case PathSource():
            raise AssertionError("a folder has no branches")
        case _:
            assert_never(source)


def _encoded(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())


def _at(source: Source, branch: str) -> Source:
    ref = ref_of(branch)
    match source:
        case FlakeSource():
            joint = "&" if "?" in source.url else "?"
            return FlakeSource(url=f"{source.url}{joint}ref={_NOT_OF_URLS.sub(_encoded, ref)}")
        case GitSource():
            return replace(source, ref=ref)
        case PathSource():
            raise AssertionError("a folder has no branches")
        case _:
            assert_never(source)


# --- Ancestry ----------------------------------------------------------------------------------


def first_parents(commits: Mapping[str, Commit], revision: str, *, limit: int) -> tuple[str, ...]:
    """The commits before one along first parents, the nearest first, as far as they are known."""
    found: list[str] = []
    while len(found) < limit and revision in commits and commits[revision].parents:
        revision = commits[revision].parents[0]
        found.append(revision)
    return tuple(found)


def ancestors(commits: Mapping[str, Commit], revision: str) -> frozenset[str]:
    """A commit and all before it, as far as they are known."""
    found: set[str] = set()
    todo = [revision]
    while todo:
        each = todo.pop()
        if each not in found:
            found.add(each)
            todo.extend(commits[each].parents if each in commits else ())
    return frozenset(found)


def merge_base(commits: Mapping[str, Commit], revision: str, other: Collection[str]) -> str | None:
    """The newest commit at or before one that is among the `other`s; None: none is known."""
    seen = {revision}
    todo = [(-_at_time(commits, revision), revision)]
    while todo:
        _, each = heapq.heappop(todo)
        if each in other:
            return each
        for parent in commits[each].parents if each in commits else ():
            if parent not in seen:
                seen.add(parent)
                heapq.heappush(todo, (-_at_time(commits, parent), parent))
    return None


def _at_time(commits: Mapping[str, Commit], revision: str) -> float:
    return commits[revision].at if revision in commits else 0.0
