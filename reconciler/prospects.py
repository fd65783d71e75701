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
        self._supports: dict[int, int] = {}
        """Of each node that is of use: by how many it is needed that are, itself if wanted."""

    def __contains__(self, node: object) -> bool:
        return node in self._supports

    def survey(self, wanted: Iterable[int], hopeless: Collection[Platform]) -> None:
        """Look at everything anew; `hopeless` are the platforms that no builder has."""
        lost: set[int] = set()
        for node in self._graph.nodes:  # inputs first
            if node.ended or node.platform in hopeless or not lost.isdisjoint(node.inputs):
                lost.add(node.id)
        supports = {key: 1 for key in wanted if key in self._graph and key not in lost}
        known = supports.get
        for node in reversed([*self._graph.nodes]):
            if node.id in supports:
                for needed in node.inputs:
                    if needed in self._graph:
                        supports[needed] = known(needed, 0) + 1
        self._lost, self._supports = lost, supports

    def lose(self, node: int) -> None:
        """Note that one ended badly: nothing above it can succeed."""
        useless = []
        above = [node]
        while above:
            key = above.pop()
            if key not in self._lost:
                self._lost.add(key)
                useless += [key] if self._supports.pop(key, 0) else []
                above += self._graph.dependants(key)
        while useless:
            for needed in self._graph.waiting_on(useless.pop()):
                left = self._supports.get(needed, 0) - 1
                if left > 0:
                    self._supports[needed] = left
                elif self._supports.pop(needed, 0):
                    useless.append(needed)
