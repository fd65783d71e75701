from __future__ import annotations

from collections.abc import Mapping

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.graph import Graph, Node, Platform
from reconciler.model import BuildState
from reconciler.prospects import Prospects

HERE, NOWHERE = Platform("x86_64-linux"), Platform("riscv64-linux")
Edges = Mapping[int, tuple[int, ...]]


def graph_of(edges: Edges, *, elsewhere: frozenset[int] = frozenset()) -> Graph:
    graph = Graph()
    graph.add(
        Node(id=key, platform=NOWHERE if key in elsewhere else HERE, inputs=inputs)
        for key, inputs in edges.items()
    )
    return graph


def useful(edges: Edges, prospects: Prospects) -> set[int]:
    return {key for key in edges if key in prospects}


def surveyed(graph: Graph, *wanted: int) -> Prospects:
    prospects = Prospects(graph)
    prospects.survey(wanted, {NOWHERE})
    return prospects


def test_what_is_wanted_and_all_below_it_is_of_use() -> None:
    edges = {1: (), 2: (1,), 3: (1,), 4: ()}
    assert useful(edges, surveyed(graph_of(edges), 2, 99)) == {1, 2}


def test_what_ended_takes_all_above_it_and_what_only_those_need() -> None:
    edges = {1: (), 2: (), 3: (1, 2), 4: (2,), 5: (3,)}
    graph = graph_of(edges)
    prospects = surveyed(graph, 4, 5)
    assert useful(edges, prospects) == {1, 2, 3, 4, 5}
    graph.settle(1, BuildState.FAILED)
    prospects.lose(1)
    assert useful(edges, prospects) == {2, 4}
    prospects.lose(1)  # known already
    assert useful(edges, prospects) == {2, 4}
    assert useful(edges, surveyed(graph, 4, 5)) == {2, 4}


def test_what_no_builder_fits_counts_like_what_ended() -> None:
    edges = {1: (), 2: (1,), 3: (2,), 4: (1,)}
    graph = graph_of(edges, elsewhere=frozenset({2}))
    assert useful(edges, surveyed(graph, 3, 4)) == {1, 4}
    assert useful(edges, surveyed(graph, 3)) == set()


def test_a_failure_of_what_nobody_needs_changes_nothing() -> None:
    edges = {1: (), 2: (1,), 3: ()}
    graph = graph_of(edges)
    prospects = surveyed(graph, 3)
    prospects.lose(1)
    assert useful(edges, prospects) == {3}


@st.composite
def farms(draw: st.DrawFn) -> tuple[Edges, frozenset[int], set[int], list[int]]:
    size = draw(st.integers(1, 14))
    edges = {
        key: tuple(draw(st.sets(st.integers(1, key - 1), max_size=3))) if key > 1 else ()
        for key in range(1, size + 1)
    }
    keys = st.sampled_from(sorted(edges))
    elsewhere = draw(st.frozensets(keys, max_size=2))
    return edges, elsewhere, draw(st.sets(keys)), draw(st.lists(keys, unique=True))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(farms())
def test_counting_down_agrees_with_looking_anew(
    made: tuple[Edges, frozenset[int], set[int], list[int]],
) -> None:
    edges, elsewhere, wanted, failing = made
    graph = graph_of(edges, elsewhere=elsewhere)
    prospects = surveyed(graph, *wanted)
    for key in failing:
        graph.settle(key, BuildState.FAILED)
        prospects.lose(key)
        assert useful(edges, prospects) == useful(edges, surveyed(graph, *wanted))
