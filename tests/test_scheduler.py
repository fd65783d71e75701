from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from reconciler.fair_share import CREDIT
from reconciler.graph import Graph, Node, Platform
from reconciler.model import Builder, BuilderName, BuildState, JobsetName
from reconciler.scheduler import (
    BUILTIN,
    LAST,
    Assignment,
    Demand,
    Obstacle,
    Scheduler,
    Slots,
)

X86, ARM = "x86_64-linux", "aarch64-linux"
KVM = frozenset({"kvm"})
WEB, LIB, NEW = JobsetName("web"), JobsetName("lib"), JobsetName("new")
# A busy machine is no fault of the code.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def machine(
    name: str,
    *systems: str,
    jobs: int = 1,
    free: int | None = None,
    local: bool = False,
    speed: float = 1,
    features: Sequence[str] = (),
    mandatory: Sequence[str] = (),
    drain: bool = False,
    unavailable: str | None = None,
) -> Slots:
    return Slots(
        builder=Builder(
            name=BuilderName(name),
            uri=None if local else f"ssh-ng://{name}",
            systems=(),
            max_jobs=jobs,
            speed_factor=speed,
            supported_features=tuple(features),
            mandatory_features=tuple(mandatory),
            drain=drain,
        ),
        systems=frozenset(systems or (X86,)),
        free=jobs if free is None else free,
        unavailable=unavailable,
    )


def node(
    key: int, *inputs: int, system: str = X86, features: frozenset[str] = frozenset(), **more: float
) -> Node:
    made = Node(id=key, platform=Platform(system, features), inputs=inputs)
    made.weight = more.get("weight", 1)
    made.prefer_local = bool(more.get("prefer_local", 0))
    return made


def want(
    jobset: JobsetName, *keys: int, priority: int = 0, requested: bool = False
) -> list[Demand]:
    return [
        Demand(jobset=jobset, derivation=key, priority=priority, requested=requested)
        for key in keys
    ]


def scheduled(
    nodes: Sequence[Node],
    demands: Sequence[Demand] | None = None,
    shares: Mapping[JobsetName, int] | None = None,
) -> tuple[Graph, Scheduler]:
    graph = Graph()
    graph.add(nodes)
    scheduler = Scheduler(graph)
    everything = want(WEB, *(n.id for n in nodes))
    scheduler.demand(everything if demands is None else demands, shares or {WEB: 100, LIB: 100})
    return graph, scheduler


def given_to(assigned: Sequence[Assignment]) -> list[tuple[int, str]]:
    return [(a.derivation, str(a.builder)) for a in assigned]


def order_of(scheduler: Scheduler, *, now: float = 0) -> list[int]:
    """The order in which one builder with slots for all would be given them."""
    return [a.derivation for a in scheduler.assignments([machine("m", jobs=1000)], now=now)]


@dataclass
class Farm:
    """Builds by a clock of its own, and checks on the way what must always hold."""

    graph: Graph
    scheduler: Scheduler
    slots: list[Slots]
    takes: Mapping[int, float] = field(default_factory=dict)
    ends: Mapping[int, BuildState] = field(default_factory=dict)
    now: float = 0
    built: list[int] = field(default_factory=list)
    running: list[tuple[float, int, BuilderName]] = field(default_factory=list)

    def state(self) -> list[Slots]:
        used = Counter(builder for _, _, builder in self.running)
        return [replace(s, free=s.builder.max_jobs - used[s.builder.name]) for s in self.slots]

    def begin(self) -> list[Assignment]:
        assigned = self.scheduler.assignments(self.state(), now=self.now)
        assert assigned == self.scheduler.assignments(self.state(), now=self.now)
        for each in assigned:
            assert not self.graph.waiting_on(each.derivation)
            takes = self.takes.get(each.derivation, self.graph[each.derivation].weight)
            self.graph.start(each.derivation)
            self.scheduler.started(each.derivation, each.builder, now=self.now)
            heapq.heappush(self.running, (self.now + takes, each.derivation, each.builder))
        assert all(s.free >= 0 for s in self.state())
        return assigned

    def end(self) -> int:
        self.now, key, _ = heapq.heappop(self.running)
        self.scheduler.finished(key, now=self.now)
        self.graph.settle(key, self.ends.get(key, BuildState.SUCCEEDED))
        self.built.append(key)
        return key

    def run(self, *, most: int = 1_000_000) -> None:
        while len(self.built) < most:
            self.begin()
            if not self.running:
                break
            self.end()


# --- Order ---------------------------------------------------------------------------------


def test_longest_remaining_path_first_then_age() -> None:
    _, scheduler = scheduled([node(1), node(2), node(3, weight=5), node(4), node(5, 4, weight=9)])
    assert order_of(scheduler) == [4, 3, 1, 2]


def test_a_jobs_own_priority_goes_before_its_path_and_flows_down() -> None:
    nodes = [node(1), node(2, weight=50), node(3, 1)]
    _, scheduler = scheduled(nodes, [*want(WEB, 3, priority=10), *want(WEB, 2)])
    assert order_of(scheduler) == [1, 2]
    _, scheduler = scheduled(nodes, [*want(WEB, 3, 3, priority=-1), *want(WEB, 2)])
    assert order_of(scheduler) == [2, 1]


def test_what_a_person_asked_for_goes_before_fair_share_and_flows_down() -> None:
    nodes = [node(1), node(2, weight=50), node(3, 1), node(4)]
    demands = [*want(WEB, 3, requested=True), *want(WEB, 2, priority=5), *want(LIB, 4)]
    graph, scheduler = scheduled([node(9, weight=1000), *nodes], [*demands, *want(WEB, 9)])
    graph.start(9)
    scheduler.started(9, BuilderName("m"), now=0)
    assert order_of(scheduler) == [1, 4, 2]


def test_what_nobody_wants_is_not_built() -> None:
    graph, scheduler = scheduled([node(1), node(2)], want(WEB, 1))
    assert order_of(scheduler) == [1]
    assert scheduler.jobsets(2) == ()
    graph.start(2)
    scheduler.started(2, BuilderName("m"), now=0)
    scheduler.finished(2, now=100)
    assert order_of(scheduler) == [1]


def test_new_wishes_and_new_nodes_are_ranked() -> None:
    graph, scheduler = scheduled([node(1)], want(WEB, 1))
    assert order_of(scheduler) == [1]
    graph.add([node(2), node(3, 2)])
    assert order_of(scheduler) == [1]
    scheduler.demand([*want(WEB, 1), *want(LIB, 3)], {WEB: 1, LIB: 1})
    assert order_of(scheduler) == [2, 1]
    assert scheduler.jobsets(2) == (LIB,)
    scheduler.demand(want(WEB, 1), {WEB: 1})
    assert order_of(scheduler) == [1]


def test_shares_must_be_there_and_positive() -> None:
    scheduler = Scheduler(Graph())
    with pytest.raises(ValueError, match="jobset web has 0 shares"):
        scheduler.demand([], {WEB: 0})
    with pytest.raises(ValueError, match="jobset web wants something but has no shares"):
        scheduler.demand(want(WEB, 1), {LIB: 1})


def test_asking_changes_nothing_and_what_starts_is_gone() -> None:
    graph, scheduler = scheduled([node(1), node(2)])
    slots = [machine("m")]
    first = scheduler.assignments(slots, now=0)
    assert given_to(first) == [(1, "m")]
    assert scheduler.assignments(slots, now=0) == first
    graph.start(1)
    scheduler.started(1, BuilderName("m"), now=0)
    assert given_to(scheduler.assignments(slots, now=0)) == [(2, "m")]


# --- Routing -------------------------------------------------------------------------------


def test_one_platform_never_holds_back_another() -> None:
    nodes = [node(key, system=ARM, weight=1000) for key in range(1, 50)]
    _, scheduler = scheduled([*nodes, node(50), node(51, features=KVM)])
    slots = [machine("arm", ARM, free=0), machine("pc", jobs=4)]
    assert given_to(scheduler.assignments(slots, now=0)) == [(50, "pc")]


def test_features_and_mandatory_features_decide_who_fits() -> None:
    _, scheduler = scheduled([node(1), node(2, features=KVM)])
    picky = machine("picky", mandatory=["kvm"], jobs=9)
    assert given_to(scheduler.assignments([picky], now=0)) == [(2, "picky")]
    plain = machine("plain", jobs=9)
    assert given_to(scheduler.assignments([plain], now=0)) == [(1, "plain")]
    able = machine("able", features=["kvm", "big-parallel"], jobs=9)
    assert given_to(scheduler.assignments([able], now=0)) == [(1, "able"), (2, "able")]


def test_builtin_is_built_on_the_local_builder_where_there_is_one() -> None:
    _, scheduler = scheduled([node(1, system=BUILTIN)])
    far, near = machine("far", speed=10), machine("near", local=True)
    assert given_to(scheduler.assignments([far, near], now=0)) == [(1, "near")]
    assert scheduler.assignments([far, replace(near, free=0)], now=0) == []
    assert given_to(scheduler.assignments([far], now=0)) == [(1, "far")]
    idle = machine("near", local=True, jobs=0)
    assert given_to(scheduler.assignments([far, idle], now=0)) == [(1, "far")]


def test_local_is_preferred_by_those_who_say_so_while_it_has_room() -> None:
    _, scheduler = scheduled([node(1, prefer_local=1), node(2, prefer_local=1), node(3)])
    slots = [machine("far", jobs=3, speed=10), machine("near", local=True)]
    assert given_to(scheduler.assignments(slots, now=0)) == [(1, "near"), (2, "far"), (3, "far")]


def test_the_fastest_goes_first_until_its_load_outweighs_its_speed() -> None:
    _, scheduler = scheduled([node(key) for key in range(1, 7)])
    slots = [machine("slow", jobs=3), machine("fast", jobs=4, speed=1.6)]
    names = [name for _, name in given_to(scheduler.assignments(slots, now=0))]
    assert names == ["fast", "fast", "fast", "slow", "fast", "slow"]


def test_equal_builders_take_turns() -> None:
    three = [machine("a"), machine("b"), machine("c")]
    farm = Farm(*scheduled([node(key) for key in range(1, 7)]), three)
    assert [name for _, name in given_to(farm.begin())] == ["a", "b", "c"]
    two = [machine("a", jobs=2), machine("b", jobs=2)]
    one = Farm(*scheduled([node(key) for key in range(1, 7)]), two)
    turns = []
    for _ in range(4):  # never more than one at a time, so load never tells them apart
        (first, *_) = one.scheduler.assignments(one.state(), now=one.now)
        one.graph.start(first.derivation)
        one.scheduler.started(first.derivation, first.builder, now=one.now)
        one.running.append((one.now + 1, first.derivation, first.builder))
        turns.append(str(first.builder))
        one.end()
    assert turns == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("slots", "obstacles", "words"),
    [
        (
            machine("m", ARM, "i686-linux"),
            [Obstacle.SYSTEM],
            "builds for aarch64-linux, i686-linux",
        ),
        (replace(machine("m"), systems=frozenset()), [Obstacle.SYSTEM], "no system, not for x86"),
        (machine("m", jobs=0), [Obstacle.NO_SLOTS, Obstacle.FULL], "maxJobs is 0"),
        (machine("m", drain=True), [Obstacle.DRAINED], "drained"),
        (machine("m", unavailable="quarantined until 9:00"), [Obstacle.UNAVAILABLE], "until 9:00"),
        (machine("m", jobs=4, free=0), [Obstacle.FULL], "all 4 slots are taken"),
        (
            machine("m", mandatory=["benchmark", "kvm"]),
            [Obstacle.MANDATORY, Obstacle.MANDATORY],
            "requires the system feature benchmark",
        ),
        (machine("m"), [], ""),
    ],
)
def test_why_a_builder_does_not_take_it(
    slots: Slots, obstacles: list[Obstacle], words: str
) -> None:
    _, scheduler = scheduled([node(1)])
    refusals = scheduler.explain(1, [slots])[BuilderName("m")]
    assert [r.obstacle for r in refusals] == obstacles
    assert words in "; ".join(r.message for r in refusals)
    taken = scheduler.assignments([slots], now=0)
    assert bool(taken) == (not obstacles)


def test_why_names_each_missing_feature_and_the_local_builder() -> None:
    _, scheduler = scheduled(
        [node(1, features=frozenset({"kvm", "big-parallel"})), node(2, system=BUILTIN)]
    )
    slots = [machine("far", features=["nixos-test"]), machine("near", local=True, features=["kvm"])]
    why = scheduler.explain(1, slots)
    assert [r.message for r in why[BuilderName("far")]] == [
        "lacks the system feature big-parallel",
        "lacks the system feature kvm",
    ]
    assert [r.obstacle for r in why[BuilderName("near")]] == [Obstacle.FEATURE]
    why = scheduler.explain(2, slots)
    assert [r.message for r in why[BuilderName("far")]] == [
        "builtin derivations are built on the local builder"
    ]
    assert why[BuilderName("near")] == ()


def test_unsupported_is_what_no_declared_builder_can_ever_build() -> None:
    nodes = [node(1), node(2, 1, system=ARM), node(3, features=KVM), node(4, system=ARM)]
    graph, scheduler = scheduled(nodes)
    closed = machine("m", features=["kvm"], drain=True, unavailable="unreachable", free=0)
    assert scheduler.unsupported([closed]) == [2, 4]
    assert scheduler.unsupported([]) == [1, 2, 3, 4]
    assert scheduler.unsupported([closed, machine("arm", ARM)]) == []
    graph.settle(4, BuildState.CANCELLED)
    assert scheduler.unsupported([closed]) == [2]


# --- Back-off ------------------------------------------------------------------------------


def test_back_off_waits_and_names_the_time_to_wake() -> None:
    graph, scheduler = scheduled([node(1), node(2), node(3)])
    assert scheduler.next_wake(0) is None
    for key, until in ((1, 60.0), (2, 30.0)):
        graph.start(key)
        scheduler.started(key, BuilderName("m"), now=0)
        scheduler.finished(key, now=1)
        graph.requeue(key, not_before=until)
    assert order_of(scheduler, now=1) == [3]
    assert scheduler.next_wake(1) == 30
    assert order_of(scheduler, now=30) == [2, 3]
    assert scheduler.next_wake(30) == 60
    assert order_of(scheduler, now=60) == [1, 2, 3]
    assert scheduler.next_wake(60) is None


def test_a_back_off_ended_by_a_person_is_over() -> None:
    graph, scheduler = scheduled([node(1), node(2)])
    for key in (1, 2):
        graph.start(key)
        graph.requeue(key, not_before=60)
    assert scheduler.next_wake(0) == 60
    graph.reopen(1)
    graph.settle(2, BuildState.CANCELLED)
    assert order_of(scheduler) == [1]
    assert scheduler.next_wake(0) is None
    graph.start(1)
    graph.requeue(1, not_before=70)
    assert order_of(scheduler) == []
    graph.start(1)
    graph.requeue(1, not_before=90)
    assert order_of(scheduler, now=80) == []
    assert scheduler.next_wake(80) == 90
    assert order_of(scheduler, now=90) == [1]


def test_a_back_off_survives_a_new_ranking() -> None:
    graph, scheduler = scheduled([node(1)])
    graph.start(1)
    graph.requeue(1, not_before=60)
    graph.add([node(2)])
    scheduler.demand(want(WEB, 1, 2), {WEB: 1})
    assert order_of(scheduler) == [2]
    assert order_of(scheduler, now=60) == [1, 2]


def test_a_queue_that_goes_away_before_it_is_looked_at_is_dropped() -> None:
    graph, scheduler = scheduled([node(1), node(2)])
    assert order_of(scheduler) == [1, 2]
    graph.start(1)
    graph.requeue(1)
    graph.settle(1, BuildState.SUBSTITUTED)
    assert order_of(scheduler) == [2]


def test_the_builder_of_the_fault_is_avoided_where_another_can_be_had() -> None:
    graph, scheduler = scheduled([node(1, weight=9), node(2)])
    graph.start(1)
    graph.requeue(1, avoid=BuilderName("bad"))
    bad, good = machine("bad", speed=9), machine("good")
    assert given_to(scheduler.assignments([bad, good], now=0)) == [(1, "good"), (2, "bad")]
    busy = replace(good, free=0)
    assert given_to(scheduler.assignments([bad, busy], now=0)) == [(2, "bad")]
    why = scheduler.explain(1, [bad, busy])
    assert [r.obstacle for r in why[BuilderName("bad")]] == [Obstacle.AVOIDED]
    lost = replace(good, unavailable="unreachable")
    assert given_to(scheduler.assignments([bad, lost], now=0)) == [(1, "bad")]
    assert given_to(scheduler.assignments([bad, machine("arm", ARM)], now=0)) == [(1, "bad")]


def test_what_failed_goes_to_a_good_builder_rather_than_to_one_on_trial() -> None:
    graph, scheduler = scheduled([node(1, weight=9), node(2)])
    graph.start(1)
    graph.requeue(1, avoid=BuilderName("bad"))
    bad = replace(machine("bad", speed=9), on_trial=True)
    dead, good = replace(machine("dead", speed=5), on_trial=True), machine("good")
    slots = [bad, dead, good]
    assert given_to(scheduler.assignments(slots, now=0)) == [(1, "good"), (2, "bad")]
    # It waits for the good one, but not if there is none.
    slots = [bad, dead, replace(good, free=0)]
    assert given_to(scheduler.assignments(slots, now=0)) == [(2, "bad")]
    why = scheduler.explain(1, slots)[BuilderName("dead")]
    assert [each.message for each in why] == [
        "the last attempt failed elsewhere, and this is on trial: another builder is awaited"
    ]
    assert given_to(scheduler.assignments([bad, dead], now=0)) == [(1, "dead"), (2, "bad")]


def test_a_clock_that_steps_back_makes_a_back_off_wait_again() -> None:
    graph, scheduler = scheduled([node(1)])
    graph.start(1)
    graph.requeue(1, not_before=60)
    assert order_of(scheduler, now=60) == [1]
    assert order_of(scheduler, now=50) == []
    assert scheduler.next_wake(50) == 60
    assert order_of(scheduler, now=60) == [1]


def test_what_is_queued_again_at_once_is_given_out_once() -> None:
    graph, scheduler = scheduled([node(1), node(2)])
    assert order_of(scheduler) == [1, 2]
    graph.start(1)
    graph.requeue(1)
    assert order_of(scheduler) == [1, 2]


# --- Fair share ----------------------------------------------------------------------------


def crowd(sizes: Mapping[JobsetName, int], weight: float = 1) -> tuple[list[Node], list[Demand]]:
    nodes: list[Node] = []
    demands: list[Demand] = []
    for name, size in sizes.items():
        keys = range(len(nodes) + 1, len(nodes) + 1 + size)
        nodes += [node(key, weight=weight) for key in keys]
        demands += want(name, *keys)
    return nodes, demands


@pytest.mark.parametrize("slots", [1, 2, 7])
@pytest.mark.parametrize(("one", "other"), [(1, 3), (100, 100), (5, 2)])
def test_slots_are_given_by_shares(slots: int, one: int, other: int) -> None:
    nodes, demands = crowd({WEB: 400, LIB: 400})
    farm = Farm(*scheduled(nodes, demands, {WEB: one, LIB: other}), [machine("m", jobs=slots)])
    farm.run(most=350)
    web = sum(key <= 400 for key in farm.built)
    assert abs(web - 350 * one / (one + other)) <= slots + 1


def test_what_is_fair_is_time_not_number() -> None:
    long = [node(key, weight=10) for key in range(1, 101)]
    short = [node(key, weight=1) for key in range(101, 1101)]
    demands = [*want(WEB, *range(1, 101)), *want(LIB, *range(101, 1101))]
    farm = Farm(*scheduled([*long, *short], demands), [machine("m", jobs=2)])
    farm.run(most=550)
    web = sum(10 for key in farm.built if key <= 100)
    lib = sum(1 for key in farm.built if key > 100)
    assert abs(web - lib) <= 20


def test_a_build_that_takes_longer_than_expected_is_charged_while_it_runs() -> None:
    nodes, demands = crowd({WEB: 60, LIB: 60})
    graph, scheduler = scheduled(nodes, demands)
    graph.start(1)
    scheduler.started(1, BuilderName("m"), now=0)
    farm = Farm(graph, scheduler, [machine("m")], now=50)
    farm.run(most=30)
    assert all(key > 60 for key in farm.built)


def test_a_jobset_with_one_job_does_not_starve_behind_thousands() -> None:
    nodes, demands = crowd({WEB: 3000, LIB: 1})
    farm = Farm(*scheduled(nodes, demands), [machine("m", jobs=2)])
    farm.run(most=10)
    assert 3001 in farm.built


def test_a_newcomer_neither_monopolises_nor_waits() -> None:
    nodes, demands = crowd({WEB: 500})
    farm = Farm(*scheduled(nodes, demands, {WEB: 1}), [machine("m")])
    farm.run(most=200)
    farm.graph.add(node(key) for key in range(1001, 1501))
    farm.scheduler.demand([*demands, *want(LIB, *range(1001, 1501))], {WEB: 1, LIB: 1})
    farm.run(most=240)
    assert abs(sum(key > 1000 for key in farm.built[200:]) - 20) <= 2


def test_idleness_is_not_saved_up() -> None:
    nodes, demands = crowd({WEB: 500, LIB: 1})
    farm = Farm(*scheduled(nodes, demands, {WEB: 1, LIB: 1}), [machine("m")])
    farm.run(most=200)
    farm.graph.add(node(key) for key in range(1001, 1501))
    farm.scheduler.demand([*demands, *want(LIB, *range(1001, 1501))], {WEB: 1, LIB: 1})
    farm.run(most=240)
    assert abs(sum(key > 1000 for key in farm.built[200:]) - 20) <= 2


def test_what_was_given_before_a_restart_counts() -> None:
    graph = Graph()
    graph.add(node(key) for key in range(1, 10))
    scheduler = Scheduler(graph)
    scheduler.recall({WEB: 60.0, LIB: 20.0})
    demands = [*want(WEB, 1, 2, 3), *want(LIB, 4, 5, 6), *want(NEW, 7, 8, 9)]
    # By its shares lib is at 2 only, and so is the newcomer; the id decides between them.
    scheduler.demand(demands, {WEB: 10, LIB: 10, NEW: 1})
    chosen = scheduler.assignments([machine("m", jobs=9)], now=0)
    assert sorted(each.derivation for each in chosen[:6]) == [4, 5, 6, 7, 8, 9]
    assert [each.derivation for each in chosen[6:]] == [1, 2, 3]
    # Later wishes begin nothing anew.
    scheduler.demand(demands, {WEB: 10, LIB: 10, NEW: 1})
    assert scheduler.assignments([machine("m", jobs=9)], now=0) == chosen


def test_one_that_waited_for_a_lost_builder_is_preferred_for_a_bounded_time() -> None:
    step = CREDIT / 10
    web = [node(key, weight=step) for key in range(1, 101)]
    lib = [node(key, weight=step, system=ARM) for key in range(101, 201)]
    late = [node(key, weight=step, system=ARM) for key in range(201, 301)]
    demands = [*want(WEB, *range(1, 101), *range(201, 301)), *want(LIB, *range(101, 201))]
    shares = {WEB: 1, LIB: 1}
    lost = machine("arm", ARM, unavailable="it does not answer")
    farm = Farm(*scheduled([*web, *lib, *late], demands, shares), [machine("pc"), lost])
    farm.run(most=80)
    farm.slots = [machine("arm", ARM)]
    farm.run(most=110)
    assert [key > 200 for key in farm.built[80:91]].count(True) <= 2
    assert [key > 200 for key in farm.built[92:]].count(True) >= 7


def test_what_two_want_comes_as_early_as_for_the_neediest() -> None:
    demands = [*want(WEB, 1, 2, 4), *want(LIB, 1, 3)]
    nodes = [node(1, weight=100), node(2), node(3), node(4, weight=40)]
    graph, scheduler = scheduled(nodes, demands)
    graph.start(4)
    scheduler.started(4, BuilderName("m"), now=0)
    assert order_of(scheduler) == [1, 3, 2]


def test_what_two_want_is_paid_by_both_by_halves() -> None:
    other = JobsetName("other")
    demands = [*want(WEB, 1, 2), *want(LIB, 1, 3), *want(other, 4, 5)]
    nodes = [node(1), node(2), node(3), node(4), node(5)]
    graph, scheduler = scheduled(nodes, demands, {WEB: 1, LIB: 1, other: 1})
    for key in (1, 4):
        graph.start(key)
        scheduler.started(key, BuilderName("m"), now=0)
    scheduler.finished(1, now=100)
    scheduler.finished(4, now=60)
    assert order_of(scheduler) == [2, 3, 5]


def test_a_jobset_that_is_removed_while_it_builds_is_forgotten() -> None:
    graph, scheduler = scheduled([node(1), node(2)], [*want(WEB, 1), *want(LIB, 2)])
    graph.start(1)
    scheduler.started(1, BuilderName("m"), now=0)
    scheduler.demand(want(LIB, 2), {LIB: 1})
    assert order_of(scheduler) == [2]
    scheduler.finished(1, now=10)
    assert order_of(scheduler) == [2]


def test_a_clock_that_steps_back_gives_no_share_back() -> None:
    graph, scheduler = scheduled([node(1), node(2), node(3)], [*want(WEB, 1, 2), *want(LIB, 3)])
    graph.start(1)
    scheduler.started(1, BuilderName("m"), now=1000)
    scheduler.finished(1, now=10)
    assert order_of(scheduler, now=10) == [3, 2]


def test_builds_without_weight_take_turns_too() -> None:
    nodes, demands = crowd({WEB: 50, LIB: 50}, weight=0)
    farm = Farm(*scheduled(nodes, demands), [machine("m")])
    farm.run(most=20)
    assert sum(key <= 50 for key in farm.built) == 10


def test_one_round_is_as_fair_as_many() -> None:
    web = [node(key, weight=10) for key in range(1, 20)]
    lib = [node(key, weight=1) for key in range(20, 50)]
    demands = [*want(WEB, *range(1, 20)), *want(LIB, *range(20, 50))]
    _, scheduler = scheduled([*web, *lib], demands)
    assigned = scheduler.assignments([machine("m", jobs=11)], now=0)
    assert [a.derivation for a in assigned] == [1, *range(20, 30)]
    nodes, demands = crowd({WEB: 50, LIB: 50}, weight=0)
    _, scheduler = scheduled(nodes, demands)
    assigned = scheduler.assignments([machine("m", jobs=6)], now=0)
    assert [a.derivation for a in assigned] == [1, 51, 2, 52, 3, 53]


# --- What leads nowhere --------------------------------------------------------------------


def test_what_only_a_failed_job_needs_is_not_built() -> None:
    # 4 needs 1, 2 and 3; of these 5 needs 3 as well.
    nodes = [node(1), node(2), node(3), node(4, 1, 2, 3), node(5, 3)]
    graph, scheduler = scheduled(nodes, want(WEB, 4, 5))
    wide = [machine("m", jobs=9)]
    assert given_to(scheduler.assignments(wide, now=0)) == [(1, "m"), (2, "m"), (3, "m")]
    graph.start(1)
    graph.settle(1, BuildState.FAILED)
    assert given_to(scheduler.assignments(wide, now=0)) == [(3, "m")]
    assert [key for key in range(1, 6) if scheduler.useful(key)] == [3, 5]
    graph.reopen(1)
    assert given_to(scheduler.assignments(wide, now=0)) == [(1, "m"), (2, "m"), (3, "m")]


def test_what_only_an_unsupported_job_needs_waits_until_a_builder_is_declared() -> None:
    nodes = [node(1), node(2, 1, system=ARM), node(3)]
    _, scheduler = scheduled(nodes, want(WEB, 2, 3))
    pc = machine("pc", jobs=9)
    assert given_to(scheduler.assignments([pc], now=0)) == [(3, "pc")]
    drained = machine("arm", ARM, drain=True)
    assert given_to(scheduler.assignments([pc, drained], now=0)) == [(1, "pc"), (3, "pc")]
    assert given_to(scheduler.assignments([pc], now=0)) == [(3, "pc")]


def test_a_back_off_that_leads_nowhere_wakes_nobody() -> None:
    graph, scheduler = scheduled([node(1), node(2), node(3, 1, 2)], want(WEB, 3))
    for key in (1, 2):
        graph.start(key)
    graph.requeue(1, not_before=50)
    assert scheduler.next_wake(0) == 50
    graph.settle(2, BuildState.FAILED)
    assert scheduler.next_wake(0) is None
    assert scheduler.assignments([machine("m")], now=60) == []


# --- Whole runs ----------------------------------------------------------------------------


@st.composite
def farms(draw: st.DrawFn) -> tuple[dict[int, tuple[int, ...]], Farm]:
    size = draw(st.integers(1, 20))
    platforms = [Platform(X86), Platform(ARM), Platform(X86, KVM), Platform(BUILTIN)]
    edges: dict[int, tuple[int, ...]] = {}
    nodes = []
    for key in range(1, size + 1):
        edges[key] = tuple(draw(st.sets(st.integers(1, key - 1), max_size=3))) if key > 1 else ()
        nodes.append(
            Node(
                id=key,
                platform=draw(st.sampled_from(platforms)),
                inputs=edges[key],
                weight=draw(st.integers(0, 9)),
                prefer_local=draw(st.booleans()),
            )
        )
    demands = [
        Demand(
            jobset=draw(st.sampled_from([WEB, LIB])),
            derivation=key,
            priority=draw(st.integers(-1, 1)),
            requested=draw(st.booleans()),
        )
        for key in edges
    ]
    graph, scheduler = scheduled(nodes, demands, {WEB: 1, LIB: 3})
    slots = [
        machine("near", local=True, jobs=draw(st.integers(1, 2))),
        machine("far", X86, ARM, jobs=draw(st.integers(1, 3)), features=["kvm"]),
        machine("picky", jobs=draw(st.integers(0, 2)), mandatory=["kvm"]),
    ]
    bad = draw(st.sets(st.sampled_from(sorted(edges))))
    ends = dict.fromkeys(bad, BuildState.FAILED)
    takes = {key: float(draw(st.integers(0, 9))) for key in edges}
    return edges, Farm(graph, scheduler, slots, takes, ends)


def doomed(edges: Mapping[int, tuple[int, ...]], bad: Mapping[int, BuildState]) -> set[int]:
    """What needs a bad one that is built itself; ids are in topological order here."""
    found: set[int] = set()
    for key in sorted(edges):
        if any(i in found or i in bad for i in edges[key]):
            found.add(key)
    return found


@settings(UNTIMED, max_examples=150)
@given(farms())
def test_all_is_built_but_what_needs_a_bad_one(
    made: tuple[dict[int, tuple[int, ...]], Farm],
) -> None:
    edges, farm = made
    farm.run()
    failed = doomed(edges, farm.ends)
    assert set(farm.graph.dependency_failed()) == failed
    assert sorted(farm.built) == sorted(set(edges) - failed)
    for place, key in enumerate(farm.built):
        assert set(edges[key]) <= set(farm.built[:place])


@settings(UNTIMED, max_examples=150)
@given(farms(), st.data())
def test_what_is_wanted_and_can_succeed_is_built_and_little_else(
    made: tuple[dict[int, tuple[int, ...]], Farm], data: st.DataObject
) -> None:
    edges, farm = made
    wanted = data.draw(st.sets(st.sampled_from(sorted(edges)), min_size=1))
    farm.scheduler.demand(want(WEB, *wanted), {WEB: 1})
    farm.run()
    failed = doomed(edges, farm.ends)
    needed: dict[int, set[int]] = {}
    for key in sorted(edges):
        needed[key] = {key}.union(*(needed[i] for i in edges[key]))
    good = set().union(*(needed[key] for key in wanted - failed))
    assert good <= set(farm.built)
    assert set(farm.built) <= set().union(*(needed[key] for key in wanted)) - failed


@settings(UNTIMED, max_examples=60)
@given(farms(), st.data())
def test_infrastructure_failures_delay_but_lose_nothing(
    made: tuple[dict[int, tuple[int, ...]], Farm], data: st.DataObject
) -> None:
    edges, farm = made
    farm.ends = {}
    faults = data.draw(st.dictionaries(st.sampled_from(sorted(edges)), st.integers(1, 3)))
    while True:
        farm.begin()
        if not farm.running:
            wake = farm.scheduler.next_wake(farm.now)
            if wake is None:
                break
            assert wake > farm.now
            farm.now = wake
            continue
        _, key, builder = farm.running[0]
        if faults.get(key, 0):
            faults[key] -= 1
            farm.now = heapq.heappop(farm.running)[0]
            farm.scheduler.finished(key, now=farm.now)
            farm.graph.requeue(key, not_before=farm.now + 30, avoid=builder)
        else:
            farm.end()
    assert sorted(farm.built) == sorted(edges)


@settings(UNTIMED, max_examples=60)
@given(farms(), st.data())
def test_a_scheduler_made_anew_agrees_with_one_that_saw_it_all(
    made: tuple[dict[int, tuple[int, ...]], Farm], data: st.DataObject
) -> None:
    """Before anything was charged both know the same; after, both know the same to be ready."""
    edges, farm = made
    demands = [Demand(jobset=WEB, derivation=key) for key in edges]
    farm.scheduler.demand(demands, {WEB: 1})
    farm.run(most=data.draw(st.integers(0, len(edges))))
    fresh = Scheduler(farm.graph)
    fresh.demand(demands, {WEB: 1})
    wide = [machine("all", X86, ARM, jobs=99, features=["kvm"])]
    assert given_to(fresh.assignments(wide, now=farm.now)) == given_to(
        farm.scheduler.assignments(wide, now=farm.now)
    )


def test_a_build_is_charged_what_its_builder_takes_and_not_what_another_would() -> None:
    fast, slow = BuilderName("fast"), BuilderName("slow")
    nodes = [node(1, features=KVM, weight=100), node(2, weight=50), node(3), node(4)]
    graph, scheduler = scheduled(nodes, [*want(WEB, 1, 3), *want(LIB, 2, 4)], {WEB: 1, LIB: 1})

    def slots(*, free: int) -> list[Slots]:
        first = machine(fast, speed=10, mandatory=["kvm"], free=free)
        return [first, machine(slow, jobs=2, free=1)]

    scheduler.assignments(slots(free=1), now=0)
    for key, builder in ((1, fast), (2, slow)):
        graph.start(key)
        scheduler.started(key, builder, now=0)
    # Of 100 seconds' work the fast one takes 10: less than the 50 of the other jobset.
    assert given_to(scheduler.assignments(slots(free=0), now=0)) == [(3, "slow")]


def test_what_can_wait_goes_after_all_that_cannot_whoever_wants_it() -> None:
    """Also what a jobset wants that was given nothing so far, and that others do not wait for."""
    demands = [
        *want(LIB, 1, priority=LAST),
        *want(WEB, 2, 3, priority=-5),
        *want(LIB, 4, priority=LAST),
        *want(WEB, 4),
    ]
    _, scheduler = scheduled([node(1, weight=100), node(2), node(3), node(4)], demands)
    scheduler.recall({WEB: 1e6})
    assert order_of(scheduler)[-1] == 1
