"""What is done to a cache from time to time: looking into it, and deleting what nothing needs.

Pure: what is declared and what is known of a cache in; what is due, and when, out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from reconciler.model import Cache, CacheName, PushRule, StorePath
from reconciler.states import InspectionScope

SAMPLE_INTERVAL = 300.0
"""Seconds between looks into a cache, each at a few of the paths that were pushed."""
SAMPLE = 50
"""Paths that are looked at then: those that were not for the longest time."""
WHOLE_INTERVAL = 86400.0
"""Seconds within which every path is looked at: what samples do not get to is looked at at once."""
MARK_INTERVAL = 21600.0
"""Seconds between looks for what nothing needs in a cache that is ours, and for what was begun to
be written there and never came to its end."""


ASKED_TO_WAIT = "asked-to-wait"
"""The reason of a cache's condition: its server wants to be left alone for a while."""


class ObservedCache(Struct, frozen=True, kw_only=True):
    """A cache's queue."""

    due: tuple[StorePath, ...] = ()
    """Paths to push now: a batch, references first is the pusher's business."""
    further: tuple[StorePath, ...] = ()
    """Those behind it, as far as it was not asked for them yet: perhaps they are there."""
    next_due_at: float | None = None
    """When the next path that waits after a failure is due."""
    failures: int = 0
    """The most failures in a row that such a path has."""
    unqueued: Mapping[PushRule, tuple[int, ...]] = field(default_factory=dict)
    """Derivations whose outputs exist and belong in the cache, but are not on the queue yet, by the
    rule that says what belongs there."""
    busy: bool = False
    """A batch is on its way."""
    beside: tuple[str, ...] = ()
    """Logs and realisations to push now, by their names there."""
    accompanying: bool = False
    """Some of them are on their way."""
    seen_at: float | None = None
    """When the pushed path that was looked at longest ago was last seen there; None: none is."""
    looked_at: float | None = None
    """When it was looked into last, or that was tried."""
    inspecting: bool = False
    """It is being looked into."""
    collecting: bool = False
    """It is being found out what nothing needs, or that is being deleted."""
    marked_at: float | None = None
    """When it was last found out what of it is needed, or that was tried."""
    unneeded_since: float | None = None
    """Since when nothing needs one of its paths; the earliest."""
    collected_at: float | None = None
    """When it was last tried to delete such, and failed."""
    settled: bool = True
    """All that belongs there is known, and is there."""
    left_alone_until: float | None = None
    """Its server asks not to be spoken to before."""


class Inspect(Struct, frozen=True, kw_only=True):
    """Look whether what was pushed to a cache is there."""

    cache: CacheName
    scope: InspectionScope


class Mark(Struct, frozen=True, kw_only=True):
    """Find out what of a cache that is ours no kept evaluation needs."""

    cache: CacheName


class Collect(Struct, frozen=True, kw_only=True):
    """Delete from a cache what nothing has needed since before a time."""

    cache: CacheName
    before: float


def upkeep(
    declared: Cache, cache: ObservedCache, *, evaluating: bool, now: float
) -> Iterator[tuple[float, Inspect | Mark | Collect]]:
    """What is done to a cache from time to time, and when; nothing while any of it is under way, or
    its server wants to be left alone.
    """
    if cache.inspecting or cache.collecting or cache.left_alone_until is not None:
        return
    if cache.seen_at is not None:
        due = max(cache.seen_at, cache.looked_at or 0.0) + SAMPLE_INTERVAL
        whole = now >= cache.seen_at + WHOLE_INTERVAL
        scope = InspectionScope.WHOLE if whole else InspectionScope.SAMPLE
        yield due, Inspect(cache=declared.name, scope=scope)
    # Nothing may be on its way that would refer to what is deleted.
    on_its_way = cache.busy or cache.accompanying or not cache.settled
    if not declared.gc or on_its_way or evaluating:
        return
    if cache.unneeded_since is not None:
        before = now - declared.grace_period
        due = cache.unneeded_since + declared.grace_period
        tried = 0.0 if cache.collected_at is None else cache.collected_at + SAMPLE_INTERVAL
        yield max(due, tried), Collect(cache=declared.name, before=before)
    if cache.seen_at is not None:
        yield (cache.marked_at or 0.0) + MARK_INTERVAL, Mark(cache=declared.name)
