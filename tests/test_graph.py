from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.graph import DependencyCycleError, Graph, Node, Platform
from reconciler.model import BuilderName, BuildState

LINUX = Platform("x86_64-linux")
ARM = Platform("aarch64-linux")
Edges = dict[int, tuple[int, ...]]
# A busy machine is no fault of the code.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def node(key: int, *inputs: int, state: BuildState = BuildState.QUEUED, weight: float = 1) -> Node:
    return Node(id=key, platform=LINUX, inputs=inputs, state=state, weight=weight)


def graph(edges: Mapping[int, tuple[int, ...]]) -> Graph:
    made = Graph()
    made.add(node(key, *inputs) for key, inputs in edges.items())
    return made


def diamond() -> Graph:
    return graph({1: (), 2: (1,), 3: (1,), 4: (2, 3)})


def finish(target: Graph, key: int, state: BuildState = BuildState.SUCCEEDED) -> list[int]:
    target.start(key)
    return target.settle(key, state)


@st.composite
def dags(draw: st.DrawFn, most: int = 14) -> Edges:
    """A DAG whose ids say nothing of its order, listed in any order."""
    size = draw(st.integers(1, most))
    ids = draw(st.permutations(range(1, size + 1)))
    edges = {
        key: tuple(draw(st.lists(st.sampled_from(ids[:place]), max_size=4))) if place else ()
        for place, key in enumerate(ids)
    }
    return {key: edges[key] for key in draw(st.permutations(ids))}


def below(edges: Mapping[int, tuple[int, ...]], key: int) -> set[int]:
    found: set[int] = set()
    left = [key]
    while left:
        for needed in edges[left.pop()]:
            if needed not in found:
                found.add(needed)
                left.append(needed)
    return found


# --- Growing -------------------------------------------------------------------------------


def test_leaves_are_ready_and_each_success_unlocks_what_it_completes() -> None:
    target = diamond()
    assert target.ready == {1}
    assert finish(target, 1) == [2, 3]
    assert 1 not in target
    assert finish(target, 3) == []
    assert target.waiting_on(4) == (2,)
    assert finish(target, 2) == [4]
    assert finish(target, 4) == []
    assert len(target) == 0
    assert list(target.platforms) == []


def test_a_batch_may_come_in_any_order() -> None:
    target = graph({4: (2, 3), 2: (1,), 3: (1,), 1: ()})
    order = [known.id for known in target.nodes]
    assert order.index(1) < min(order.index(2), order.index(3))
    assert order[-1] == 4


def test_an_edge_to_what_is_not_loaded_is_refused_and_nothing_is_added() -> None:
    target = diamond()
    with pytest.raises(ValueError, match="derivation 6 needs 7"):
        target.add([node(5, 4), node(6, 7)])
    assert 5 not in target
    assert list(target.dependants(4)) == []
    assert target.shape == 1


def test_what_is_there_already_is_refused() -> None:
    with pytest.raises(ValueError, match="4 is in the graph already"):
        diamond().add([node(4)])
    with pytest.raises(ValueError, match="5 is in the graph already"):
        diamond().add([node(5), node(5)])


@pytest.mark.parametrize("state", [s for s in BuildState if s.good])
def test_what_is_good_is_refused(state: BuildState) -> None:
    with pytest.raises(ValueError, match="nothing is to be done"):
        Graph().add([node(1, state=state)])


def test_an_input_named_twice_counts_once() -> None:
    target = graph({1: (), 2: (1, 1)})
    assert finish(target, 1) == [2]


def test_an_empty_batch_changes_no_shape() -> None:
    target = Graph()
    target.add([])
    target.restore([], {})
    assert target.shape == 0


@pytest.mark.parametrize(
    ("edges", "shown"),
    [
        ({1: (1,)}, "(1 → 1)"),
        ({1: (2,), 2: (3,), 3: (1,), 4: (1,), 5: ()}, "(1 → 2 → 3 → 1)"),
        ({0: (1,), 1: (2,), 2: (1,)}, "(1 → 2 → 1)"),
        (
            {i: ((i + 1) % 50,) for i in range(50)},
            "(0 → 1 → 2 → 3 → 4 → 5 → 6 → 7 → 8 → 9 → 10 → … → 0)",
        ),
    ],
)
def test_a_cycle_is_shown_and_nothing_is_added(edges: Edges, shown: str) -> None:
    target = Graph()
    with pytest.raises(DependencyCycleError) as caught:
        target.add(node(key, *inputs) for key, inputs in edges.items())
    assert shown in str(caught.value)
    assert "the database is damaged" in str(caught.value)
    assert len(target) == 0


def test_a_chain_of_any_length_needs_no_recursion() -> None:
    size = 20_000
    target = graph({i: (i - 1,) if i else () for i in reversed(range(size))})
    assert target.critical_paths()[0] == size
    target.start(0)
    target.settle(0, BuildState.FAILED)
    assert target.root_cause(size - 1) == 0
    assert len(target.dependency_failed()) == size - 1


def test_feeds_hear_of_all_that_becomes_ready() -> None:
    target = Graph()
    feed = target.subscribe()
    target.add([node(1), node(2, 1), node(3, state=BuildState.FAILED)])
    assert feed == [1]
    finish(target, 1)
    target.reopen(3)
    target.start(2)
    target.requeue(2)
    assert feed == [1, 2, 3, 2]


def test_platforms_are_those_of_what_is_here() -> None:
    target = Graph()
    target.add([node(1), node(2), Node(id=3, platform=ARM)])
    assert set(target.platforms) == {LINUX, ARM}
    finish(target, 3)
    finish(target, 1)
    assert set(target.platforms) == {LINUX}


# --- Changing ------------------------------------------------------------------------------


def test_only_what_is_ready_starts() -> None:
    target = diamond()
    with pytest.raises(ValueError, match="2 is not ready"):
        target.start(2)
    target.start(1)
    with pytest.raises(ValueError, match="1 is not ready"):
        target.start(1)
    assert target[1].state is BuildState.BUILDING
    assert target.ready == set()


def test_an_attempt_that_settles_nothing_queues_again_with_its_back_off() -> None:
    target = diamond()
    target.start(1)
    target.requeue(1, not_before=60, avoid=BuilderName("big"))
    assert target.ready == {1}
    assert (target[1].not_before, target[1].avoid) == (60, "big")
    with pytest.raises(ValueError, match="1 is queued, not building"):
        target.requeue(1)
    target.start(1)
    assert (target[1].not_before, target[1].avoid) == (0, None)


def test_a_person_can_end_a_back_off_but_not_reopen_what_is_being_built() -> None:
    target = diamond()
    target.start(1)
    with pytest.raises(ValueError, match="1 is being built"):
        target.reopen(1)
    target.requeue(1, not_before=60)
    target.reopen(1)
    assert target[1].not_before == 0


@pytest.mark.parametrize("state", [s for s in BuildState if not s.live and not s.good])
def test_what_ended_badly_stays_and_reopening_it_reopens_what_it_failed(state: BuildState) -> None:
    target = diamond()
    assert finish(target, 1, state) == []
    assert target.ready == set()
    assert target.dependency_failed() == {2: 1, 3: 1, 4: 1}
    target.reopen(1)
    assert target.dependency_failed() == {}
    assert target.ready == {1}


def test_a_live_state_is_no_end() -> None:
    with pytest.raises(ValueError, match="1 cannot end as queued"):
        diamond().settle(1, BuildState.QUEUED)


def test_what_waits_can_be_found_valid() -> None:
    target = diamond()
    assert target.settle(2, BuildState.SUBSTITUTED) == []
    assert finish(target, 1) == [3]
    assert finish(target, 3) == [4]


def test_what_was_found_valid_and_is_added_anew_counts_once() -> None:
    target = diamond()
    assert target.settle(4, BuildState.SUBSTITUTED) == []
    target.add([node(4, 2, 3), node(5, 1)])
    assert finish(target, 1) == [2, 3, 5]
    target.add([node(6, 3)])
    assert finish(target, 3) == [6]
    assert finish(target, 2) == [4]
    assert 4 in target.ready


def test_withdrawn_ones_leave_unless_something_needs_them() -> None:
    target = diamond()
    with pytest.raises(ValueError, match="2 is needed by 4"):
        target.remove([2])
    target.remove([4, 2])
    assert [known.id for known in target.nodes] == [1, 3]
    assert finish(target, 1) == [3]
    target.remove([3])
    assert len(target) == 0
    assert target.ready == set()


def test_lost_outputs_make_dependants_wait_again() -> None:
    target = diamond()
    finish(target, 1)
    target.start(2)
    feed = target.subscribe()
    target.restore([node(1)], {1: [2, 3, 99]})
    assert target.ready == {1}
    assert feed == [1]
    assert target.waiting_on(3) == (1,)
    assert target[2].state is BuildState.BUILDING
    assert target.settle(2, BuildState.SUCCEEDED) == []
    assert finish(target, 1) == [3]
    assert finish(target, 3) == [4]


def test_putting_back_leaves_alone_what_does_not_need_it() -> None:
    target = graph({1: (), 2: (1,), 3: ()})
    finish(target, 1)
    feed = target.subscribe()
    target.restore([node(1)], {1: [2]})
    assert target.ready == {1, 3}
    assert feed == [1]
    assert target.shape == 2


def test_what_comes_back_without_an_edge_is_not_counted_by_it() -> None:
    target = graph({1: (), 2: (), 3: (1, 2)})
    target.remove([3])
    target.add([node(3, 2)])
    assert finish(target, 1) == []
    assert finish(target, 2) == [3]


def test_lost_outputs_of_what_was_never_loaded_gain_their_edges() -> None:
    target = Graph()
    target.add([node(3), node(4, 3)])
    target.restore([node(2, 1), node(1)], {2: [3]})
    assert target.ready == {1}
    assert target.waiting_on(3) == (2,)
    assert [known.id for known in target.nodes] == [1, 2, 3, 4]


def test_putting_back_is_checked_like_adding() -> None:
    target = diamond()
    with pytest.raises(ValueError, match="9 is not among those"):
        target.restore([node(8)], {9: [1]})
    with pytest.raises(DependencyCycleError, match="1 → 8 → 4"):
        target.restore([node(8, 4)], {8: [1]})
    assert 8 not in target
    assert target.ready == {1}
    assert target.waiting_on(1) == ()


# --- Asking --------------------------------------------------------------------------------


def test_critical_paths_look_up_to_the_end() -> None:
    target = Graph()
    target.add([node(1, weight=1), node(2, 1, weight=10), node(3, 1, weight=5), node(4, 2, 3)])
    assert target.critical_paths() == {1: 12, 2: 11, 3: 6, 4: 1}
    finish(target, 1)
    assert target.critical_paths() == {2: 11, 3: 6, 4: 1}


def test_wishes_flow_down() -> None:
    target = graph({1: (), 2: (1,), 3: (1,), 4: (2,), 5: ()})
    finish(target, 5)
    assert target.wanted({4: 1, 3: 2, 5: 4, 2: 0}) == {4: 1, 3: 2, 2: 1, 1: 3}
    assert target.highest({4: -5, 3: 2, 5: 4}) == {4: -5, 3: 2, 2: -5, 1: 2}
    finish(target, 1)
    assert target.wanted({4: 1}) == {4: 1, 2: 1}
    assert target.highest({4: 1}) == {4: 1, 2: 1}


def test_the_root_cause_is_the_nearest_and_of_those_the_lowest() -> None:
    target = graph({1: (), 2: (), 3: (), 4: (1,), 5: (3, 2), 6: (4, 5), 7: (1,), 8: ()})
    for key in (3, 2, 1):
        finish(target, key, BuildState.FAILED)
    assert target.root_cause(6) == 1
    assert target.root_cause(5) == 2
    assert target.root_cause(1) is None
    assert target.root_cause(8) is None
    assert target.root_cause(99) is None
    assert target.dependency_failed() == {4: 1, 5: 2, 6: 1, 7: 1}


def test_the_shortest_way_to_a_failure_counts_where_there_are_several() -> None:
    target = graph({1: (), 2: (1,), 3: (1, 2), 4: (3, 2)})
    finish(target, 1, BuildState.FAILED)
    assert target.dependency_failed() == {2: 1, 3: 1, 4: 1}
    target.settle(3, BuildState.CANCELLED)
    assert target.dependency_failed() == {2: 1, 4: 3}


# --- Properties ----------------------------------------------------------------------------


@settings(UNTIMED)
@given(dags(), st.data())
def test_settling_step_by_step_equals_loading_what_is_left(
    edges: Edges, data: st.DataObject
) -> None:
    target = graph(edges)
    states = dict.fromkeys(edges, BuildState.QUEUED)
    for _ in range(data.draw(st.integers(0, len(edges)))):
        if not target.ready:
            break
        key = data.draw(st.sampled_from(sorted(target.ready)))
        end = data.draw(st.sampled_from([BuildState.SUCCEEDED, BuildState.TIMED_OUT]))
        before = set(target.ready)
        states[key] = end
        unlocked = finish(target, key, end)
        assert set(unlocked) == target.ready - before
    fresh = Graph()
    fresh.add(
        node(key, *(i for i in inputs if not states[i].good), state=states[key])
        for key, inputs in edges.items()
        if not states[key].good
    )
    assert {n.id for n in target.nodes} == {n.id for n in fresh.nodes}
    assert target.ready == fresh.ready
    assert target.critical_paths() == fresh.critical_paths()
    assert target.dependency_failed() == fresh.dependency_failed()
    for left in fresh.nodes:
        assert set(target.waiting_on(left.id)) == set(fresh.waiting_on(left.id))


@settings(UNTIMED)
@given(dags(), st.data())
def test_leaving_out_of_order_and_coming_back_keeps_the_graph_true(
    edges: Edges, data: st.DataObject
) -> None:
    target = graph(edges)
    for _ in range(data.draw(st.integers(1, 12))):
        key = data.draw(st.sampled_from(sorted(edges)))
        if key in target:
            target.settle(key, BuildState.SUBSTITUTED)
        else:
            inputs = tuple(i for i in edges[key] if i in target)
            needed_by = [k for k, needs in edges.items() if key in needs]
            if any(k in target for k in needed_by):
                target.restore([node(key, *inputs)], {key: needed_by})
            else:
                target.add([node(key, *inputs)])
        order = [n.id for n in target.nodes]
        for place, known in enumerate(order):
            unmet = {i for i in edges[known] if i in target}
            assert set(target.waiting_on(known)) == unmet
            assert unmet <= set(order[:place])
            assert (known in target.ready) == (not unmet)


@settings(UNTIMED)
@given(dags(), st.data())
def test_failures_reach_exactly_their_transitive_dependants(
    edges: Edges, data: st.DataObject
) -> None:
    target = graph(edges)
    bad = data.draw(st.sets(st.sampled_from(sorted(edges))))
    while target.ready:
        key = min(target.ready)
        finish(target, key, BuildState.FAILED if key in bad else BuildState.SUCCEEDED)
    failed = {n.id for n in target.nodes if n.ended}
    causes = target.dependency_failed()
    assert failed <= bad
    assert set(causes) == {k for k in edges if below(edges, k) & failed}
    assert {n.id for n in target.nodes} == failed | set(causes)
    for key in edges:
        assert target.root_cause(key) == causes.get(key)
    for key, cause in causes.items():
        assert cause in below(edges, key) & failed


@settings(UNTIMED)
@given(dags(), st.data())
def test_wishes_reach_exactly_what_is_needed(edges: Edges, data: st.DataObject) -> None:
    target = graph(edges)
    roots = data.draw(st.dictionaries(st.sampled_from(sorted(edges)), st.integers(1, 7)))
    expected: dict[int, int] = {}
    greatest: dict[int, int] = {}
    for root, value in roots.items():
        for key in {root} | below(edges, root):
            expected[key] = expected.get(key, 0) | value
            greatest[key] = max(greatest.get(key, value), value)
    assert target.wanted(roots) == expected
    assert target.highest(roots) == greatest


@settings(UNTIMED)
@given(dags(), st.data())
def test_critical_paths_are_the_longest_of_all_paths(edges: Edges, data: st.DataObject) -> None:
    weights = {key: data.draw(st.integers(0, 9)) for key in sorted(edges)}
    target = Graph()
    target.add(node(key, *inputs, weight=weights[key]) for key, inputs in edges.items())

    def longest(key: int) -> int:
        above = [longest(k) for k, inputs in edges.items() if key in inputs]
        return weights[key] + max(above, default=0)

    assert target.critical_paths() == {key: longest(key) for key in edges}
