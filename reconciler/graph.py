"""The live graph: derivations that are not yet good, and what each of them waits for.

It answers what is ready, what the longest remaining path is, who wants what and why something
cannot be built. It holds only what is not yet good, so it shrinks as work is done; what it is
told must have been recorded already. It must not decide who builds what (`scheduler`), nor
whether a change of state is legal (`transitions`).

The nodes are kept in topological order, inputs first: a dict keeps the order of insertion, a
batch is sorted before it is inserted, and what leaves does not disturb the rest. Each analysis
is therefore one plain pass, forwards or backwards, without recursion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from msgspec import Struct

from reconciler.errors import StateError
from reconciler.model import BuilderName, BuildState
from reconciler.resources import NOTHING, Needs

SHOWN = 12
"""How much of a cycle a message shows."""


class DependencyCycleError(StateError):
    """Derivations that depend on each other: Nix cannot make them, so the database is damaged."""


class Platform(NamedTuple):
    """What a derivation asks of a builder; one object serves all nodes that ask the same.

    A tuple, since it is a key that is looked up for every node.
    """

    system: str
    features: frozenset[str] = frozenset()
    needs: Needs = NOTHING
    """What it takes of the builder's resources while it is being built."""


class Node(Struct, kw_only=True, eq=False):
    """One derivation that is not yet good. The graph owns it once it is added."""

    id: int
    platform: Platform
    inputs: tuple[int, ...] = ()
    """Its inputs that are not yet good; those that are good are left out."""
    state: BuildState = BuildState.QUEUED
    weight: float = 1.0
    """Expected seconds of the build."""
    prefer_local: bool = False
    not_before: float = 0.0
    """Back-off: no attempt before this time."""
    avoid: BuilderName | None = None
    """The builder whose fault ended the last attempt: another one is asked if one fits."""
    unmet: int = 0
    """How many inputs are not yet good; kept by the graph."""

    @property
    def ended(self) -> bool:
        """Whether it ended without outputs: nothing above it can be built."""
        return not self.state.live


class Graph:
    """See the module's text. Ids are the database's."""

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {}
        self._above: dict[int, list[int]] = {}  # who has it as an input; empty: not known yet
        self._ready: set[int] = set()
        self._stale: set[int] = set()  # nodes whose list of dependants needs cleaning
        self._platforms: Counter[Platform] = Counter()
        self._feeds: list[list[int]] = []
        self._end_feeds: list[list[int]] = []
        self._shape = 0

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, node: int) -> Node:
        return self._nodes[node]

    @property
    def nodes(self) -> Collection[Node]:
        """All nodes, inputs before what needs them."""
        return self._nodes.values()

    @property
    def ready(self) -> AbstractSet[int]:
        """The queued ones whose inputs are all good; back-off is not looked at."""
        return self._ready

    @property
    def platforms(self) -> Collection[Platform]:
        """Every platform that some node asks for."""
        return self._platforms.keys()

    @property
    def shape(self) -> int:
        """A number that grows when nodes or edges are added, what ended is queued again, or one
        asks something else of a builder: rankings are then out of date.
        """
        return self._shape

    def subscribe(self) -> list[int]:
        """Get a list to which every id that becomes ready is appended; the reader empties it."""
        feed: list[int] = []
        self._feeds.append(feed)
        return feed

    def subscribe_ends(self) -> list[int]:
        """Get a list to which every id that ends badly is appended; the reader empties it."""
        feed: list[int] = []
        self._end_feeds.append(feed)
        return feed

    # --- Growing ---------------------------------------------------------------------------

    def add(self, nodes: Iterable[Node]) -> None:
        """Add a batch, all or nothing.

        ValueError if an input is neither in the graph nor in the batch: an edge that is not
        loaded must never make a leaf. DependencyCycleError if the batch has a cycle.
        """
        batch, in_order = self._checked(nodes)
        if not in_order:
            batch = {key: batch[key] for key in _sorted(_edges_within(batch))}
        self._place(batch.values())
        for node in batch.values():
            if not node.inputs:
                self._update(node)
        self._shape += bool(batch)

    def restore(self, nodes: Iterable[Node], needed_by: Mapping[int, Iterable[int]]) -> None:
        """Put back nodes that were good and lost their outputs, all or nothing.

        `needed_by` names for each of them who has it as an input: those that are in the graph
        wait again, except one that is being built already, which goes on. Errors as of `add`.
        """
        batch, _ = self._checked(nodes)
        everything = self._nodes | batch
        for lost in needed_by:
            if lost not in batch:
                raise ValueError(f"derivation {lost} is not among those that are put back")
        edges = _edges_within(everything)
        for lost, dependants in needed_by.items():
            for dependant in dependants:
                if dependant in self._nodes:
                    edges[dependant].append(lost)
        order = _sorted(edges)
        self._nodes, self._above, self._platforms, self._stale = {}, {}, Counter(), set()
        for key, node in everything.items():
            node.inputs = tuple(dict.fromkeys(edges[key]))
        self._place([everything[key] for key in order])
        for node in self._nodes.values():
            self._update(node)
        self._shape += bool(batch)

    def _checked(self, nodes: Iterable[Node]) -> tuple[dict[int, Node], bool]:
        """Give the batch, and whether it has inputs before what needs them already."""
        known = self._nodes
        batch: dict[int, Node] = {}
        placed: set[int] = set()
        early: list[Node] = []
        for node in nodes:
            if node.id in known or node.id in batch:
                raise ValueError(f"derivation {node.id} is in the graph already")
            if node.state.good:
                raise ValueError(f"derivation {node.id} is {node.state}: nothing is to be done")
            inputs = set(node.inputs)
            if len(inputs) < len(node.inputs):
                node.inputs = tuple(dict.fromkeys(node.inputs))
            if not (inputs <= placed or all(i in placed or i in known for i in inputs)):
                early.append(node)
            batch[node.id] = node
            placed.add(node.id)
        for node in early:
            for needed in node.inputs:
                if needed not in batch and needed not in known:
                    raise ValueError(
                        f"derivation {node.id} needs {needed}, which is neither in the graph"
                        " nor in the batch"
                    )
        return batch, not early

    def _place(self, nodes: Collection[Node]) -> None:
        """Put nodes behind those that are there; their inputs come first, each named once."""
        for node in nodes:
            node.unmet = len(node.inputs)
            self._nodes[node.id] = node
        if self._above:
            self._turn(nodes)
        self._platforms.update(node.platform for node in nodes)

    # --- Changing --------------------------------------------------------------------------

    def start(self, node: int) -> None:
        """Mark a ready one as being built; ValueError if it is not ready."""
        if node not in self._ready:
            raise ValueError(f"derivation {node} is not ready to be built")
        known = self._nodes[node]
        known.state, known.avoid, known.not_before = BuildState.BUILDING, None, 0.0
        self._update(known)

    def requeue(
        self, node: int, *, not_before: float = 0.0, avoid: BuilderName | None = None
    ) -> None:
        """Queue one again whose attempt settled nothing; ValueError if it is not being built."""
        known = self._nodes[node]
        if known.state is not BuildState.BUILDING:
            raise ValueError(f"derivation {node} is {known.state}, not building")
        self._queue(known, not_before, avoid)

    def reopen(self, node: int) -> None:
        """Queue one again that ended or waits out a back-off; with it all that it failed."""
        known = self._nodes[node]
        if known.state is BuildState.BUILDING:
            raise ValueError(f"derivation {node} is being built")
        self._shape += known.ended
        self._queue(known, 0.0, None)

    def settle(self, node: int, state: BuildState) -> list[int]:
        """Note how one ended; a good one leaves the graph. Gives those that are ready by it.

        Also what was waiting may become good (fetched, found valid) or be cancelled.
        """
        if state.live:
            raise ValueError(f"derivation {node} cannot end as {state}")
        known = self._nodes[node]
        known.state = state
        if not state.good:
            self._update(known)
            for feed in self._end_feeds:
                feed.append(node)
            return []
        unlocked = []
        for dependant in self._dependants(known):
            above = self._nodes[dependant]
            above.unmet -= 1
            if self._update(above):
                unlocked.append(dependant)
        self._drop(known)
        return unlocked

    def ask(self, node: int, platform: Platform) -> None:
        """Have one ask something else of a builder."""
        known = self._nodes[node]
        if known.platform != platform:
            self._forget_platform(known)
            known.platform = platform
            self._platforms[platform] += 1
            self._shape += 1

    def remove(self, nodes: Iterable[int]) -> None:
        """Take out withdrawn ones, all or nothing; ValueError if what stays needs one of them."""
        gone = {key: self._nodes[key] for key in nodes}
        for node in gone.values():
            for dependant in self._dependants(node):
                if dependant not in gone:
                    raise ValueError(f"derivation {node.id} is needed by {dependant}")
        for node in gone.values():
            self._drop(node)

    def _queue(self, node: Node, not_before: float, avoid: BuilderName | None) -> None:
        node.state, node.not_before, node.avoid = BuildState.QUEUED, not_before, avoid
        self._ready.discard(node.id)  # so that the feeds hear of it, whatever it was before
        self._update(node)

    def _update(self, node: Node) -> bool:
        """Keep `ready` true of one node; True if it became ready."""
        if node.unmet or node.state is not BuildState.QUEUED:
            self._ready.discard(node.id)
            return False
        if node.id in self._ready:
            return False
        self._ready.add(node.id)
        for feed in self._feeds:
            feed.append(node.id)
        return True

    def _drop(self, node: Node) -> None:
        del self._nodes[node.id], self._above[node.id]
        self._ready.discard(node.id)
        self._stale.update(i for i in node.inputs if i in self._nodes)
        self._stale.discard(node.id)
        self._forget_platform(node)

    def _forget_platform(self, node: Node) -> None:
        self._platforms[node.platform] -= 1
        if not self._platforms[node.platform]:
            del self._platforms[node.platform]

    def _dependants(self, node: Node) -> list[int]:
        """Who has it as an input, once each.

        What leaves before its inputs (found valid, withdrawn) stays in their lists, since
        searching those costs too much for an input that thousands have; they are cleaned here.
        """
        if not self._above:
            # Only now, when a first one ends: the first builds need not wait for it.
            self._turn(self._nodes.values())
        if node.id in self._stale:
            self._stale.discard(node.id)
            self._above[node.id] = [
                key
                for key in dict.fromkeys(self._above[node.id])
                if key in self._nodes and node.id in self._nodes[key].inputs
            ]
        return self._above[node.id]

    def _turn(self, nodes: Collection[Node]) -> None:
        """Note for each input of the nodes that they have it."""
        above = self._above
        for node in nodes:
            above[node.id] = []
            for needed in node.inputs:
                above[needed].append(node.id)

    # --- Asking ----------------------------------------------------------------------------

    def dependants(self, node: int) -> Collection[int]:
        """Give who in the graph has it as an input."""
        return self._dependants(self._nodes[node])

    def waiting_on(self, node: int) -> tuple[int, ...]:
        """Give the inputs that are not yet good."""
        return self._missing(self._nodes[node])

    def _missing(self, node: Node) -> tuple[int, ...]:
        """Give a node's inputs that are not yet good, having dropped the others from it."""
        if node.unmet < len(node.inputs):
            node.inputs = tuple(i for i in node.inputs if i in self._nodes)
        return node.inputs

    def critical_paths(self) -> dict[int, float]:
        """Give for each node the seconds of the longest path from its start to the graph's end."""
        longest = dict.fromkeys(self._nodes, 0.0)
        for node in reversed(self._nodes.values()):
            path = longest[node.id] + node.weight
            longest[node.id] = path
            for needed in self._missing(node):
                if longest[needed] < path:
                    longest[needed] = path
        return longest

    def wanted(self, roots: Mapping[int, int]) -> dict[int, int]:
        """Carry bits from roots down to all they need; roots that are not here are good."""
        given = {key: mask for key, mask in roots.items() if mask and key in self._nodes}
        if not given:
            return {}
        masks = dict.fromkeys(self._nodes, 0) | given
        for node in reversed(self._nodes.values()):
            mask = masks[node.id]
            if mask:
                for needed in self._missing(node):
                    if masks[needed] != mask:
                        masks[needed] |= mask
        return {key: mask for key, mask in masks.items() if mask}

    def highest(self, roots: Mapping[int, int]) -> dict[int, int]:
        """Carry priorities from roots down to all they need, where the greatest counts."""
        priorities = {key: own for key, own in roots.items() if key in self._nodes}
        for node in reversed(self._nodes.values()):
            priority = priorities.get(node.id)
            if priority is not None:
                for needed in self._missing(node):
                    priorities[needed] = max(priorities.get(needed, priority), priority)
        return priorities

    def root_cause(self, node: int) -> int | None:
        """Give the ended node for which this one cannot be built; None if it can, or ended.

        Of several the nearest, of those the lowest id. A cancelled one is a cause as well: what
        needs it waits in vain.
        """
        start = self._nodes.get(node)
        level = [] if start is None or start.ended else [start]
        seen = {node}
        while level:
            below = [
                self._nodes[i]
                for n in level
                for i in n.inputs
                if i in self._nodes and i not in seen
            ]
            ended = [n.id for n in below if n.ended]
            if ended:
                return min(ended)
            seen.update(n.id for n in below)
            level = list({n.id: n for n in below}.values())
        return None

    def dependency_failed(self) -> dict[int, int]:
        """Give all that cannot be built, each with its root cause, as `root_cause` would."""
        causes: dict[int, int] = {}
        level = {n.id: n.id for n in self._nodes.values() if n.ended}
        while level:
            above: dict[int, int] = {}
            for key, cause in level.items():
                for dependant in self._dependants(self._nodes[key]):
                    if dependant not in causes and not self._nodes[dependant].ended:
                        above[dependant] = min(above.get(dependant, cause), cause)
            causes.update(above)
            level = above
        return causes


def _edges_within(nodes: Mapping[int, Node]) -> dict[int, list[int]]:
    return {key: [i for i in node.inputs if i in nodes] for key, node in nodes.items()}


def _sorted(edges: Mapping[int, list[int]]) -> list[int]:
    """Order ids so that inputs come first; DependencyCycleError where there is no such order.

    `graphlib` does the same seven times slower, which is seconds for a large farm.
    """
    above: dict[int, list[int]] = {key: [] for key in edges}
    for key, inputs in edges.items():
        for needed in inputs:
            above[needed].append(key)
    unmet = {key: len(inputs) for key, inputs in edges.items()}
    order = [key for key, count in unmet.items() if not count]
    for key in order:  # grows while it is walked
        for dependant in above[key]:
            unmet[dependant] -= 1
            if not unmet[dependant]:
                order.append(dependant)
    if len(order) < len(edges):
        raise DependencyCycleError(_describe_cycle(edges, {k for k, n in unmet.items() if n}))
    return order


def _describe_cycle(edges: Mapping[int, list[int]], stuck: AbstractSet[int]) -> str:
    """Walk down among what has no order until something comes again: that is a cycle."""
    walked: dict[int, None] = {}
    current = min(stuck)
    while current not in walked:
        walked[current] = None
        current = min(i for i in edges[current] if i in stuck)
    path = list(walked)
    cycle = [str(key) for key in (*path[path.index(current) :], current)]
    shown = cycle if len(cycle) <= SHOWN else [*cycle[: SHOWN - 1], "…", cycle[-1]]
    return (
        f"derivations need each other in a circle ({' → '.join(shown)}), which Nix does not allow:"
        " the database is damaged. Put a backup of it in its place, or remove it: evaluations"
        " fill it again"
    )
