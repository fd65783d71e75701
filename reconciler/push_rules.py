"""Which paths of a jobset go to a cache: how much of what is built, and which names do not. Pure.

A cache has a rule, and each jobset may say otherwise for what it pushes there. Several jobsets may
want one derivation in one cache: then goes there what any of their rules sends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from msgspec import Struct

from reconciler.states import CacheName, StorePath


class PushScope(StrEnum):
    """Which paths of a jobset go to a cache."""

    JOBS = "jobs"
    REQUISITES = "requisites"
    ALL = "all"


class PushRule(Struct, frozen=True, kw_only=True):
    """What goes to a cache for a jobset."""

    scope: PushScope
    exclude: tuple[str, ...] = ()
    """Globs of the names of store paths that do not go there; sorted, each once."""

    @property
    def alone(self) -> bool:
        """Whether an output goes without what it refers to."""
        return self.scope is PushScope.JOBS

    def excludes(self, path: StorePath) -> bool:
        """Whether a path is not to go there for its name."""
        name = path.rpartition("/")[2].partition("-")[2]
        return any(fnmatchcase(name, pattern) for pattern in self.exclude)

    def covers(self, other: PushRule) -> bool:
        """Whether all that the other one sends of a derivation's outputs and of what they refer to
        is sent by this one, too.

        `all` sends of one derivation what `requisites` does; it sends more derivations.
        """
        return (not self.alone or other.alone) and {*self.exclude} <= {*other.exclude}

    def __str__(self) -> str:
        but = f", without {', '.join(self.exclude)}" if self.exclude else ""
        return f"{self.scope}{but}"

    def text(self) -> str:
        """As it is stored."""
        return json.dumps([self.scope, *self.exclude])


def from_text(text: str) -> PushRule:
    """Read a rule that was stored."""
    scope, *exclude = json.loads(text)
    return rule(PushScope(scope), exclude)


def rule(scope: PushScope, exclude: Iterable[str]) -> PushRule:
    """Make a rule; the order of what is excluded means nothing."""
    return PushRule(scope=scope, exclude=tuple(sorted({*exclude})))


def declared(
    items: Iterable[str | Mapping[str, Any]], caches: Mapping[str, Mapping[str, Any]]
) -> dict[CacheName, PushRule]:
    """By which rule a jobset pushes to each of its caches, from what a complete document says of
    both; also one of an earlier version, which knew no exclusions and nothing but names.

    What the jobset says of how much goes there replaces what the cache says; what it excludes, and
    what the cache excludes, both stays out.
    """
    found = {}
    for item in items:
        own: Mapping[str, Any] = {"name": item} if isinstance(item, str) else item
        cache = caches[own["name"]]
        found[CacheName(own["name"])] = rule(
            PushScope(own.get("push") or cache["push"]),
            [*cache.get("exclude", ()), *own.get("exclude", ())],
        )
    return found


def fewest(rules: Iterable[PushRule]) -> list[PushRule]:
    """Those that send what all of them do."""
    kept: list[PushRule] = []
    for each in rules:
        if not any(other.covers(each) for other in kept):
            kept = [other for other in kept if not each.covers(other)] + [each]
    return kept
