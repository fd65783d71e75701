from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from reconciler.errors import UsageError
from reconciler.fleet import Obstacle, Slots
from reconciler.graph import Graph, Node
from reconciler.model import BuilderName
from reconciler.resources import Amount, Needs, amount, is_need, most, needs
from reconciler.scheduler import Scheduler
from reconciler.work import Work, platform_of
from tests.test_scheduler import UNTIMED, WEB, X86, Farm, machine, want
from tests.test_work import build

GIB = 2**30


def memory(count: int) -> Needs:
    return frozenset([("memory", Amount(count, is_size=True))])


def with_memory(slots: Slots, count: int, **more: int) -> Slots:
    resources = {"memory": Amount(count, is_size=True)}
    resources |= {name: Amount(number, is_size=False) for name, number in more.items()}
    return replace(slots, builder=replace(slots.builder, resources=resources))


def asking(key: int, asked: Needs, *, weight: float = 1) -> Node:
    return Node(id=key, platform=platform_of(X86, (), asked), weight=weight)


def scheduled(*nodes: Node) -> tuple[Graph, Scheduler]:
    graph = Graph()
    graph.add(nodes)
    scheduler = Scheduler(graph)
    scheduler.demand(want(WEB, *(node.id for node in nodes)), {WEB: 1})
    return graph, scheduler


def test_amounts_are_sizes_or_numbers() -> None:
    assert amount("32GiB") == Amount(32 * GIB, is_size=True)
    assert amount(2) == amount(2.0) == Amount(2, is_size=False)
    assert (str(amount("8GiB")), str(amount(3))) == ("8GiB", "3")
    with pytest.raises(UsageError):
        amount("8")


def test_features_that_ask_for_resources() -> None:
    asked = ["kvm", "resource:memory=8GiB", "resource:memory=4GiB", "resource:licences=2"]
    assert needs(asked) == memory(8 * GIB) | {("licences", Amount(2, is_size=False))}
    for odd in ("resource:memory", "resource:memory=", "resource:=8GiB", "resource:memory=lots",
                "resource:memory=0", "resource:memory=0.5", "Resource:memory=8GiB"):  # fmt: skip
        assert not is_need(odd)
        assert needs([odd]) == frozenset()
        assert platform_of(X86, [odd]).features == {odd}, "nobody has it: it is never built"
    platform = platform_of(X86, asked, memory(16 * GIB))
    assert platform.features == {"kvm"}
    assert dict(platform.needs)["memory"] == Amount(16 * GIB, is_size=True)
    assert most([]) == frozenset()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (memory(33 * GIB), "has 32GiB of memory in all, less than the 33GiB that is needed"),
        (needs(["resource:gpu=1"]), "declares no gpu, of which 1 is needed"),
        (needs(["resource:memory=8"]), "has 32GiB of memory, of which 8 cannot be taken"),
    ],
)
def test_what_a_builder_can_never_give(asked: Needs, said: str) -> None:
    _, scheduler = scheduled(asking(1, asked))
    slots = [with_memory(machine("m"), 32 * GIB)]
    assert scheduler.unsupported(slots) == [1]
    assert scheduler.assignments(slots, now=0) == []
    (refusal,) = scheduler.explain(1, slots)[BuilderName("m")]
    assert (refusal.obstacle, refusal.message) == (Obstacle.RESOURCE, said)


def test_a_slip_in_a_feature_is_explained() -> None:
    graph = Graph()
    graph.add([Node(id=1, platform=platform_of(X86, ["resource:memory=lots"]))])
    (refusal,) = Scheduler(graph).explain(1, [machine("m")])[BuilderName("m")]
    assert refusal.message.startswith("lacks the system feature resource:memory=lots (to ask")


def test_what_is_short_just_now() -> None:
    _, scheduler = scheduled(asking(1, memory(8 * GIB)))
    slots = with_memory(machine("m", jobs=3, free=2), 32 * GIB)
    busy = replace(slots, taken={"memory": 28 * GIB})
    assert scheduler.assignments([busy], now=0) == []
    assert scheduler.unsupported([busy]) == []
    (refusal,) = scheduler.explain(1, [busy])[BuilderName("m")]
    assert refusal.obstacle is Obstacle.SHORT
    assert refusal.message == "needs 8GiB of memory: 4GiB of 32GiB are free"
    assert len(scheduler.assignments([slots], now=0)) == 1


def test_of_several_resources_only_what_is_short_is_told() -> None:
    asked = memory(8 * GIB) | {("licences", Amount(1, is_size=False))}
    _, scheduler = scheduled(asking(1, asked))
    busy = replace(with_memory(machine("m"), 32 * GIB, licences=1), taken={"licences": 1})
    refusals = scheduler.explain(1, [busy])[BuilderName("m")]
    assert [each.message for each in refusals] == ["needs 1 of licences: 0 of 1 are free"]


def test_what_lacks_resources_holds_back_only_what_takes_them() -> None:
    _, scheduler = scheduled(
        asking(1, memory(8), weight=9), asking(2, memory(1), weight=5), asking(3, frozenset())
    )
    slots = with_memory(machine("m", jobs=4), 8)
    busy = replace(slots, free=3, taken={"memory": 4})
    assert [each.derivation for each in scheduler.assignments([busy], now=0)] == [3]


class Meter(Farm):
    """A farm that knows what its builders' resources are taken for."""

    def state(self) -> list[Slots]:
        used = Counter(builder for _, _, builder in self.running)
        found = []
        for each in self.slots:
            name = each.builder.name
            taken: Counter[str] = Counter()
            for _, key, builder in self.running:
                for resource, wanted in self.graph[key].platform.needs if builder == name else ():
                    taken[resource] += wanted.count
            for resource, count in taken.items():
                assert count <= each.builder.resources[resource].count, "oversubscribed"
            free = each.builder.max_jobs - used[name]
            found.append(replace(each, free=free, taken=taken))
        return found


asked = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=25
)
machines = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(1, 2)), min_size=1, max_size=3
)


@UNTIMED
@given(asked, machines)
def test_nothing_is_oversubscribed_and_all_that_can_be_built_is(
    wishes: list[tuple[int, int, int]], farm: list[tuple[int, int, int]]
) -> None:
    nodes = []
    for key, (bytes_, licences, weight) in enumerate(wishes):
        wanted = memory(bytes_) if bytes_ else frozenset()
        if licences:
            wanted |= {("licences", Amount(licences, is_size=False))}
        nodes.append(asking(key, wanted, weight=weight))
    graph, scheduler = scheduled(*nodes)
    slots = [
        with_memory(machine(f"m{place}", jobs=jobs), size, licences=count)
        for place, (jobs, size, count) in enumerate(farm)
    ]
    Meter(graph, scheduler, slots).run()
    fits = [
        key
        for key, (bytes_, licences, _) in enumerate(wishes)
        if any(bytes_ <= size and licences <= count for _, size, count in farm)
    ]
    assert {node.id for node in graph.nodes} == {*range(len(wishes))}.difference(fits)


def test_much_is_not_kept_waiting_by_many_that_take_little() -> None:
    # Small ones end one at a time: without a reservation there would never be room for eight.
    small = [asking(key, memory(1), weight=1 + key / 1000) for key in range(1, 200)]
    graph, scheduler = scheduled(asking(0, memory(8), weight=100), *small)
    farm = Meter(graph, scheduler, [with_memory(machine("m", jobs=8), 8)])
    graph.start(1)
    scheduler.started(1, BuilderName("m"), now=0)
    farm.running.append((3.5, 1, BuilderName("m")))
    farm.run()
    assert farm.built.index(0) == 1, "only what ran already came before"


def test_rules_of_jobsets_change_what_is_asked() -> None:
    work = Work({})
    plain, asks = build(1), build(2)._replace(features=("resource:memory=4GiB", "kvm"))
    work.join([plain, asks])
    work.need({1: memory(8 * GIB), 2: memory(2 * GIB), 99: memory(1)})
    assert work.graph[1].platform.needs == memory(8 * GIB)
    assert work.graph[2].platform.needs == memory(4 * GIB), "the most that anybody asks for"
    work.need({2: memory(16 * GIB)})
    assert work.graph[1].platform.needs == frozenset()
    assert work.graph[2].platform.needs == memory(16 * GIB)
    assert work.graph[2].platform.features == {"kvm"}
    work.need({})
    work.join([build(3)])
    assert {*work.graph.platforms} == {each.platform for each in work.graph.nodes}
