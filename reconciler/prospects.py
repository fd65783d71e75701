"""Which derivations still lead to something that is wanted and can succeed.

What ended badly, fits no builder, or needs such a one can no longer succeed; what only such ones
need would be built for nothing. Counted down as builds fail: what a failure changes costs only
what it concerns. Nothing comes back but by a new survey.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from reconciler.graph import Graph, Platform


class Prospects:
    """See the module's text. `node in prospects`: it is of use to build the node."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._lost: set[int] = set()
        self._wanted: set[int] = set()
        self._useful: set[int] = set()
        self._supports: dict[int, int] = {}
        """Of each node that is of use: by how many it is needed that are, itself if wanted. Empty:
        not counted yet."""

    def __contains__(self, node: object) -> bool:
        return node in self._useful

    def survey(self, wanted: Iterable[int], hopeless: Collection[Platform]) -> None:
        """Look at everything anew; `hopeless` are the platforms that no builder has."""
        nodes = self._graph.nodes
        lost = {node.id for node in nodes if node.ended}
        if hopeless:
            lost.update(node.id for node in nodes if node.platform in hopeless)
        if lost:
            for node in nodes:  # inputs first
                if not lost.isdisjoint(node.inputs):
                    lost.add(node.id)
        self._wanted = {key for key in wanted if key in self._graph and key not in lost}
        useful = set(self._wanted)
        for node in reversed([*nodes]):
            if node.id in useful:
                useful.update(node.inputs)
        self._lost, self._useful, self._supports = lost, useful, {}

    def lose(self, node: int) -> None:
        """Note that one ended badly: nothing above it can succeed."""
        if self._useful and not self._supports:
            self._count()
        useless = []
        above = [node]
        while above:
            key = above.pop()
            if key not in self._lost:
                self._lost.add(key)
                useless += [key] if key in self._useful else []
                self._useful.discard(key)
                above += self._graph.dependants(key)
        while useless:
            for needed in self._graph.waiting_on(useless.pop()):
                self._supports[needed] -= 1
                if not self._supports[needed] and needed in self._useful:
                    self._useful.discard(needed)
                    useless.append(needed)

    def _count(self) -> None:
        """Count who needs each: only when a first one is lost, which most surveys do not see."""
        self._supports = dict.fromkeys(self._wanted, 1)
        for node in self._graph.nodes:
            if node.id in self._useful:
                for needed in self._graph.waiting_on(node.id):
                    self._supports[needed] = self._supports.get(needed, 0) + 1
