"""Which derivations have outputs that belong in a cache and are not on its queue, by which rule.

Derived from the database, or in step with what ends. Decides nothing, starts nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct, field

from reconciler.database import Database, push_roots
from reconciler.model import CacheName, Desired, Jobset, PushRule, PushScope
from reconciler.push_rules import fewest


class Untold(Struct):
    """What the store did not tell, and when it is asked again."""

    error: str = ""
    failures: int = 0
    not_before: float = 0.0


class Roots(Struct):
    """Derivations of one cache and one rule."""

    waiting: set[int] = field(default_factory=set)
    closing: set[int] = field(default_factory=set)
    """Those of which it is being found out what belongs to them."""
    untold: dict[int, Untold] = field(default_factory=dict)
    """Those that wait and of which that could not be found out."""


class Unqueued(Struct):
    """See the module's text."""

    caches: dict[CacheName, dict[PushRule, Roots]] = field(default_factory=dict)

    def of(self, cache: CacheName) -> Mapping[PushRule, Roots]:
        """What waits for a cache, by rule."""
        return self.caches.get(cache, {})

    def by(self, cache: CacheName, rule: PushRule) -> Roots:
        """What waits for a cache by one rule."""
        return self.caches.setdefault(cache, {}).setdefault(rule, Roots())

    def add(self, cache: CacheName, rule: PushRule, derivations: Collection[int]) -> None:
        """Note derivations, each once where one rule sends all that another one does."""
        others = [(each, roots) for each, roots in self.of(cache).items() if each != rule]
        wider = [roots.waiting for each, roots in others if each.covers(rule)]
        added = {each for each in derivations if not any(each in some for some in wider)}
        if not added:
            return
        self.by(cache, rule).waiting |= added
        for each, roots in others:
            if rule.covers(each):
                roots.waiting -= added
                for derivation in roots.untold.keys() & added:
                    del roots.untold[derivation]

    def add_for(self, jobsets: Iterable[Jobset], derivations: Collection[int]) -> None:
        """Note derivations for all caches of all jobsets."""
        rules: dict[CacheName, list[PushRule]] = {}
        for jobset in jobsets:
            for cache, rule in jobset.caches.items():
                rules.setdefault(cache, []).append(rule)
        for cache, several in rules.items():
            for rule in fewest(several):
                self.add(cache, rule, derivations)

    def drop(self, derivations: Collection[int]) -> None:
        """Forget derivations whose outputs are gone: they are noted again when they are built.

        Nothing of them would be found, and what belongs to them would pass for queued.
        """
        for by in self.caches.values():
            for roots in by.values():
                roots.waiting -= {*derivations}

    def look(self, database: Database, desired: Desired) -> None:
        """Find everything anew; what is being found out goes on."""
        self.caches = {
            cache: {rule: Roots(closing=each.closing) for rule, each in by.items() if each.closing}
            for cache, by in self.caches.items()
        }
        for jobset in desired.jobsets.values():
            self._look(database, jobset, jobset.caches)

    def look_for_intermediates(self, database: Database, jobset: Jobset) -> None:
        """Find what exists of all below a jobset's jobs, where that belongs in a cache: what an
        evaluation found there already was never built for it.
        """
        everything = {
            cache: rule for cache, rule in jobset.caches.items() if rule.scope is PushScope.ALL
        }
        self._look(database, jobset, everything)

    def _look(
        self, database: Database, jobset: Jobset, rules: Mapping[CacheName, PushRule]
    ) -> None:
        for cache, rule in rules.items():
            find = (
                push_roots.lacking_requisites
                if rule.scope is PushScope.ALL
                else push_roots.lacking_jobs
            )
            self.add(cache, rule, find(database, jobset.name, cache, rule))
