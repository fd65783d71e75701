"""Who builds what next.

Order of what is ready: asked for by a person; then fair share between jobsets; then a job's own
priority within its jobset; then the longest remaining path; then age. The first three flow down
to all that a derivation needs. A derivation that waits for one platform holds back no other.
What no job that can still succeed needs is not built.

Fair share: each jobset has a level, the slot-seconds it was given divided by its shares, and the
lowest level goes first. A build that runs is charged what it is expected to take, or what it
took so far if that is more, and in the end what it took; one that several jobsets want is shared
out evenly among them and comes as early as the neediest of them. A jobset that is new, or had
nothing to do, starts at the level that is being served: nobody saves up, so a newcomer neither
monopolises the builders nor waits for the others to be done.

It changes no state of a build and reads no clock. What happened is told to the graph, and starts
and ends to `started` and `finished` as well.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from reconciler.fair_share import SharedOut, Standing, Standings
from reconciler.fleet import BUILTIN, Fleet, Obstacle, Refusal, Slots
from reconciler.graph import Graph, Platform
from reconciler.model import BuilderName, JobsetName
from reconciler.occupancy import Occupancy
from reconciler.prospects import Prospects

__all__ = [
    "BUILTIN",
    "Assignment",
    "Demand",
    "Fleet",
    "Obstacle",
    "Refusal",
    "Scheduler",
    "Slots",
]


class Assignment(Struct, frozen=True):
    """Build this there now."""

    derivation: int
    builder: BuilderName


LAST = -(2**63)
"""The priority of what waits until nothing else can be built, whichever jobset wants that."""


class Demand(Struct, frozen=True, kw_only=True):
    """A jobset wants a derivation, and with it all that it needs."""

    jobset: JobsetName
    derivation: int
    priority: int = 0
    """`meta.schedulingPriority`."""
    requested: bool = False
    """A person asked for it: it goes before everything that nobody asked for."""


# Of what is ready, the least goes first: urgency, priority and path negated, id.
_Entry = tuple[int, int, float, int]


class Scheduler:
    """See the module's text."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._feed = graph.subscribe()
        self._ends = graph.subscribe_ends()
        self._prospects = Prospects(graph)
        self._hopeless: frozenset[Platform] = frozenset()  # what no builder fits
        self._demands: tuple[Demand, ...] = ()
        self._ranked: int | None = None  # the graph's shape when it was ranked

        self._names: list[JobsetName] = []  # by bit
        self._members: dict[int, tuple[JobsetName, ...]] = {}  # by mask
        self._masks: dict[int, int] = {}
        self._requested: Mapping[int, int] = {}
        self._priorities: Mapping[int, int] = {}
        self._paths: Mapping[int, float] = {}
        self._heaps: dict[Platform, dict[int, list[_Entry]]] = {}  # by who wants it, as bits
        self._queued: set[int] = set()  # what has an entry in a heap
        self._delayed: list[tuple[float, int]] = []

        self._fair = SharedOut()
        self._occupancy = Occupancy()
        self._look_again_at: float | None = None  # although nothing may happen until then
        self._turns: dict[BuilderName, int] = {}
        self._speeds: Mapping[BuilderName, float] = {}
        self.reserved: Mapping[BuilderName, Sequence[int]] = {}
        """For what resources of builders were kept free when builds were assigned last."""

    # --- What is told ----------------------------------------------------------------------

    def recall(self, usage: Mapping[JobsetName, float]) -> None:
        """Take over what jobsets were given before this began, in slot-seconds."""
        self._fair.recall(usage)

    def demand(
        self,
        demands: Iterable[Demand],
        shares: Mapping[JobsetName, int],
        groups: Mapping[JobsetName, JobsetName] | None = None,
    ) -> None:
        """Replace what is wanted, and the shares of the jobsets.

        `groups` has, for each that is a branch's, the declared one whose shares it has a part of.
        """
        wishes = tuple(demands)
        for wanted in wishes:
            if wanted.jobset not in shares:
                raise ValueError(f"jobset {wanted.jobset} wants something but has no shares")
        self._fair.declare(shares, groups or {})
        self._demands, self._names = wishes, list(shares)
        self._ranked = None

    def started(self, derivation: int, builder: BuilderName, *, now: float) -> None:
        """Charge the jobsets that want it from now on."""
        self._refresh(now)
        weight = self._graph[derivation].weight
        self._fair.start(
            derivation,
            self._jobsets(self._masks.get(derivation, 0)),
            weight=weight / self._speeds.get(builder, 1.0),
            waiting=self._waiting(now),
            now=now,
        )
        self._occupancy.start(derivation, builder, weight=weight, now=now)
        self._turns[builder] = max(self._turns.values(), default=0) + 1

    def finished(self, derivation: int, *, now: float) -> None:
        """Charge what it took in the end, however it ended."""
        self._fair.end(derivation, now=now)
        self._occupancy.end(derivation)

    def _waiting(self, now: float) -> Iterator[JobsetName]:
        """Give the jobsets that have something to build now."""
        union = 0
        for heaps in self._heaps.values():
            for mask, heap in heaps.items():
                if union | mask != union and self._head(heap, now) is not None:
                    union |= mask
        return (name for bit, name in enumerate(self._names) if union >> bit & 1)

    # --- What is asked ---------------------------------------------------------------------

    def assignments(self, slots: Sequence[Slots], *, now: float) -> list[Assignment]:
        """Give the builds to start now, best first. The same question has the same answer."""
        fleet = Fleet(slots, self._turns, self._occupancy, now=now)
        self._speeds = {each.builder.name: each.builder.speed_factor for each in slots}
        hopeless = frozenset(fleet.hopeless(self._graph.platforms))
        if hopeless != self._hopeless:
            self._hopeless, self._ranked = hopeless, None
        self._refresh(now)
        standings = self._fair.standings(now)
        taken: list[tuple[list[_Entry], _Entry]] = []
        assigned = []
        reserved: dict[BuilderName, list[int]] = {}
        while (best := self._best(fleet, standings, now)) is not None:
            mask, heap = best
            node = self._graph[heap[0][-1]]
            if not fleet.has_room(node.platform):
                # What goes first keeps what is there of what it takes: else others, which take
                # less and always find enough, would keep it waiting for ever.
                reserved.setdefault(fleet.reserve(node.platform), []).append(node.id)
                continue
            taken.append((heap, heapq.heappop(heap)))
            builder = fleet.choose(node)
            if builder is not None:
                assigned.append(Assignment(node.id, builder))
                seconds = node.weight / self._speeds[builder]
                self._fair.anticipate(standings, self._jobsets(mask), seconds)
        for heap, entry in taken:
            heapq.heappush(heap, entry)
        self.reserved = reserved
        wait = fleet.look_again_in
        self._look_again_at = None if wait is None else now + wait
        return assigned

    def next_wake(self, now: float) -> float | None:
        """Give the time at which the next back-off ends, or something that was left waiting for a
        faster builder is to be looked at again; None if there is neither.
        """
        self._refresh(now)
        while self._delayed:
            when, derivation = self._delayed[0]
            if self._is_due(derivation, when) and derivation in self._prospects:
                return when if self._look_again_at is None else min(when, self._look_again_at)
            heapq.heappop(self._delayed)
        return self._look_again_at

    def jobsets(self, derivation: int) -> tuple[JobsetName, ...]:
        """Give the jobsets that want it."""
        self._rank_if_stale()
        return self._jobsets(self._masks.get(derivation, 0))

    def useful(self, derivation: int) -> bool:
        """Tell whether something wanted that can still succeed needs it, or it is that."""
        self._rank_if_stale()
        return derivation in self._prospects

    def explain(
        self, derivation: int, slots: Sequence[Slots]
    ) -> dict[BuilderName, tuple[Refusal, ...]]:
        """Say of each builder why it does not take the derivation now; nothing: it would."""
        node = self._graph[derivation]
        fleet = Fleet(slots, self._turns)
        return {s.builder.name: fleet.refusals(s, node) for s in slots}

    def unsupported(self, slots: Sequence[Slots]) -> list[int]:
        """Give the queued ones that no declared builder can build, drained or not."""
        hopeless = Fleet(slots, self._turns).hopeless(self._graph.platforms)
        if not hopeless:
            return []
        return [
            node.id for node in self._graph.nodes if node.platform in hopeless and node.state.live
        ]

    # --- Keeping order -----------------------------------------------------------------------

    def _refresh(self, now: float) -> None:
        self._rank_if_stale()
        for heaps in self._heaps.values():
            for mask in [mask for mask, heap in heaps.items() if not heap]:
                del heaps[mask]  # there may be one for each set of jobsets
        for derivation in self._feed:
            self._enqueue(derivation)
        self._feed.clear()
        while self._delayed and self._delayed[0][0] <= now:
            when, derivation = heapq.heappop(self._delayed)
            if self._is_due(derivation, when):
                self._push(derivation)

    def _rank_if_stale(self) -> None:
        """Rank everything anew if there are new nodes or wishes: completions change no rank.

        Failures only take what has become useless out of it.
        """
        if self._ranked == self._graph.shape:
            for derivation in self._ends:
                self._prospects.lose(derivation)
            self._ends.clear()
            return
        self._ends.clear()
        self._ranked = self._graph.shape
        self._members = {}
        bits = {name: 1 << bit for bit, name in enumerate(self._names)}
        roots: dict[int, int] = {}
        priorities: dict[int, int] = {}
        for wanted in self._demands:
            key = wanted.derivation
            roots[key] = roots.get(key, 0) | bits[wanted.jobset]
            priorities[key] = max(priorities.get(key, wanted.priority), wanted.priority)
        self._masks = self._graph.wanted(roots)
        self._prospects.survey(roots, self._hopeless)
        self._requested = self._graph.wanted(
            {d.derivation: 1 for d in self._demands if d.requested}
        )
        self._priorities = self._graph.highest(priorities) if any(priorities.values()) else {}
        self._paths = self._graph.critical_paths()
        self._heaps, self._queued, self._delayed = {}, set(), []
        self._feed[:] = sorted(self._graph.ready)

    def _enqueue(self, derivation: int) -> None:
        if self._is_ready(derivation):
            when = self._graph[derivation].not_before
            if when:
                heapq.heappush(self._delayed, (when, derivation))
            else:
                self._push(derivation)

    def _push(self, derivation: int) -> None:
        mask = self._masks.get(derivation, 0)
        if derivation not in self._prospects or derivation in self._queued:
            return
        self._queued.add(derivation)
        heaps = self._heaps.setdefault(self._graph[derivation].platform, {})
        entry = (
            self._urgency(derivation),
            -self._priorities.get(derivation, 0),
            -self._paths[derivation],
            derivation,
        )
        heapq.heappush(heaps.setdefault(mask, []), entry)

    def _urgency(self, derivation: int) -> int:
        """What a person asked for goes first, and what can wait after all that cannot."""
        if derivation in self._requested:
            return 0
        return 2 if self._priorities.get(derivation) == LAST else 1

    def _is_ready(self, derivation: int) -> bool:
        return derivation in self._graph.ready

    def _is_due(self, derivation: int, when: float) -> bool:
        return self._is_ready(derivation) and self._graph[derivation].not_before == when

    def _head(self, heap: list[_Entry], now: float) -> _Entry | None:
        """Give the first entry that still counts; those that do not are dropped only here."""
        while heap:
            derivation = heap[0][-1]
            ready = self._is_ready(derivation) and derivation in self._prospects
            if ready and self._graph[derivation].not_before <= now:
                return heap[0]
            heapq.heappop(heap)
            self._queued.discard(derivation)
            if ready:
                heapq.heappush(self._delayed, (self._graph[derivation].not_before, derivation))
        return None

    def _best(
        self,
        fleet: Fleet,
        standings: Standings,
        now: float,
    ) -> tuple[int, list[_Entry]] | None:
        """Give the heap whose head goes first of all that a builder has room for, or a slot."""
        best: tuple[int, list[_Entry]] | None = None
        first: tuple[int, Standing, _Entry] | None = None
        for platform, heaps in self._heaps.items():
            if not fleet.has_room(platform) and not fleet.is_short(platform):
                continue
            for mask, heap in heaps.items():
                entry = self._head(heap, now)
                if entry is None:
                    continue
                neediest = standings.neediest(self._jobsets(mask))
                rank = (entry[0], neediest, entry)
                if first is None or rank < first:
                    best, first = (mask, heap), rank
        return best

    def _jobsets(self, mask: int) -> tuple[JobsetName, ...]:
        names = self._members.get(mask)
        if names is None:
            names = tuple(name for bit, name in enumerate(self._names) if mask >> bit & 1)
            self._members[mask] = names
        return names
