"""What a build takes of its builder beyond a slot: so much memory, a licence. Pure.

A builder declares amounts; a derivation asks for some by a rule of its jobset, or by an entry of
its `requiredSystemFeatures` of the form `resource:NAME=AMOUNT`. For Nix that is a feature like any
other, which no Nix offers: it is taken out of what Nix is given (`nix.basic_derivation`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from reconciler.errors import UsageError
from reconciler.quantities import format_size, size

PREFIX = "resource:"
_FEATURE = re.compile(r"resource:([A-Za-z0-9][A-Za-z0-9._-]*)=(\S+)")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")


class Amount(Struct, frozen=True):
    """So many bytes (`is_size`), or so many of what is counted."""

    count: int
    is_size: bool

    def __str__(self) -> str:
        return format_size(self.count) if self.is_size else str(self.count)


Needs = frozenset[tuple[str, Amount]]
"""What a build takes, by the resource's name."""

NOTHING: Needs = frozenset()


def amount(written: str | float) -> Amount:
    """Read what a document says: a size with its unit, or a number. UsageError for another text."""
    if isinstance(written, str):
        return Amount(size(written), is_size=True)
    return Amount(int(written), is_size=False)


def needs(features: Iterable[str]) -> Needs:
    """What required system features ask for."""
    return most(frozenset([found]) for each in features if (found := _asked_for(each)) is not None)


def is_need(feature: str) -> bool:
    """Whether a required system feature asks for a resource, and for nothing of Nix."""
    return _asked_for(feature) is not None


def most(asked: Iterable[Needs]) -> Needs:
    """The largest of each resource: what is enough for all."""
    largest: dict[tuple[str, bool], Amount] = {}
    for each in asked:
        for name, wanted in each:
            key = name, wanted.is_size
            if key not in largest or largest[key].count < wanted.count:
                largest[key] = wanted
    return frozenset((name, wanted) for (name, _), wanted in largest.items())


def _asked_for(feature: str) -> tuple[str, Amount] | None:
    """None for an ordinary feature, also for one that only looks like a resource: nobody has it."""
    if not feature.startswith(PREFIX):
        return None
    found = _FEATURE.fullmatch(feature)
    if found is None:
        return None
    name, written = found.groups()
    if _COUNT.fullmatch(written):
        return name, Amount(int(written), is_size=False)
    try:
        return name, amount(written)
    except UsageError:
        return None
