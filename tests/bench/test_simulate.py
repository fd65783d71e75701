from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import workloads
from bench.contenders import Contender, FirstCome, Free, NixBuild, Reconciler
from bench.fairness import longest_wait, share_error
from bench.simulate import (
    Build,
    ImpossibleError,
    Machines,
    Simulation,
    declared,
    lower_bound,
    makespan,
)
from bench.workloads import PARALLEL, PLAIN, Workload
from reconciler.model import BuilderName, Desired, JobsetName
from reconciler.scheduler import Assignment

TWO: Machines = {"a": {"maxJobs": 4}, "b": {"maxJobs": 4}}
UNEQUAL: Machines = {
    "fast": {"maxJobs": 2, "speedFactor": 2, "supportedFeatures": ["big-parallel", "kvm"]},
    "plain": {"maxJobs": 2, "supportedFeatures": ["big-parallel"]},
    "slow": {"maxJobs": 5, "speedFactor": 0.5, "supportedFeatures": []},
}
A, B = BuilderName("a"), BuilderName("b")
J0, J1 = JobsetName("j0"), JobsetName("j1")
CONTENDERS: tuple[Callable[[Workload, Desired], Contender], ...] = (
    Reconciler,
    FirstCome,
    NixBuild,
)
SHAPES = (
    workloads.layered(400, seed=1),
    workloads.skewed(400, seed=1, slots=8),
    workloads.packages(400, seed=1, features=True),
)
UNTIMED = settings(deadline=None, max_examples=40)


def farm(workload: Workload, machines: Machines) -> Desired:
    return declared(machines, dict.fromkeys(workload.jobs, 100))


def one_jobset(
    inputs: Sequence[tuple[int, ...]], seconds: Sequence[float], *features: int
) -> Workload:
    """Those named want the feature big-parallel."""
    platforms = [PARALLEL if each in features else PLAIN for each in range(len(inputs))]
    return workloads.workload(inputs, seconds, seed=0, platforms=platforms)


def check(workload: Workload, desired: Desired, builds: Sequence[Build]) -> None:
    """What must hold of any schedule, found out from what was built alone."""
    assert sorted(each.derivation for each in builds) == [*range(len(workload))]
    ends = {each.derivation: each.end for each in builds}
    for each in builds:
        assert all(ends[needed] <= each.start for needed in workload.inputs[each.derivation])
        builder = desired.builders[each.builder]
        took = workload.seconds[each.derivation] / builder.speed_factor
        assert each.end == each.start + took
        assert workload.platforms[each.derivation].features <= {*builder.supported_features}
    for name, builder in desired.builders.items():
        here = [each for each in builds if each.builder == name]
        changes = sorted([(each.start, 1) for each in here] + [(each.end, -1) for each in here])
        running = 0
        for _, change in changes:  # what ends does so before what starts at the same time
            running += change
            assert running <= builder.max_jobs


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("workload", SHAPES, ids=["layered", "skewed", "packages"])
def test_each_is_built_once_after_its_inputs_in_a_slot_that_is_free(
    workload: Workload, contender: Callable[[Workload, Desired], Contender]
) -> None:
    desired = farm(workload, UNEQUAL)
    builds = Simulation(workload, desired, contender(workload, desired)).run()
    check(workload, desired, builds)


@pytest.mark.parametrize("contender", CONTENDERS)
def test_the_same_seed_gives_the_same_builds(
    contender: Callable[[Workload, Desired], Contender],
) -> None:
    first, again = (workloads.packages(300, seed=3, features=True) for _ in range(2))
    assert first == again
    assert first != workloads.packages(300, seed=4, features=True)
    desired = farm(first, UNEQUAL)
    runs = [Simulation(w, desired, contender(w, desired)).run() for w in (first, again)]
    assert runs[0] == runs[1]


@UNTIMED
@given(size=st.integers(1, 30), seed=st.integers(0, 10_000))
def test_no_order_beats_the_lower_bound(size: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 # a graph is no secret
    inputs = [
        tuple(sorted({chance.randrange(n) for _ in range(chance.randrange(3))})) if n else ()
        for n in range(size)
    ]
    seconds = [chance.choice([1.0, 2.0, 30.0]) for _ in inputs]
    workload = one_jobset(inputs, seconds, *(n for n in range(size) if chance.random() < 0.3))
    desired = farm(workload, UNEQUAL)
    bound = lower_bound(workload, desired)
    assert 0 < bound.plain <= bound.sharp
    for contender in CONTENDERS:
        builds = Simulation(workload, desired, contender(workload, desired)).run()
        check(workload, desired, builds)
        assert makespan(builds) >= bound.sharp * (1 - 1e-9)


def test_the_bound_is_the_longest_path_at_the_fastest() -> None:
    workload = one_jobset([(), (0,), (1,)], [10, 20, 30])
    bound = lower_bound(workload, farm(workload, UNEQUAL))
    assert (bound.plain, bound.sharp) == (30, 30)


def test_the_bound_is_all_work_over_all_speed() -> None:
    workload = one_jobset([()] * 16, [10] * 16)
    bound = lower_bound(workload, farm(workload, TWO))
    assert (bound.plain, bound.sharp) == (20, 20)


def test_the_bound_looks_at_what_only_some_builders_can_do() -> None:
    workload = one_jobset([()] * 10, [12] * 10, *range(10))
    assert lower_bound(workload, farm(workload, UNEQUAL)).plain == 20  # 120 / (2 * 2 + 2)


def test_the_sharp_bound_adds_what_comes_before_and_after_all_else() -> None:
    middle = range(1, 17)
    workload = one_jobset([(), *((0,) for _ in middle), tuple(middle)], [5, *([10] * 16), 7])
    bound = lower_bound(workload, farm(workload, TWO))
    assert (bound.plain, bound.sharp) == (5 + 10 + 7, 5 + 20 + 7)


def test_the_critical_path_is_not_kept_waiting() -> None:
    workload = workloads.skewed(1000, seed=1, slots=8)
    desired = farm(workload, TWO)
    took = {
        contender: makespan(Simulation(workload, desired, contender(workload, desired)).run())
        for contender in CONTENDERS
    }
    assert took[Reconciler] <= 1.05 * lower_bound(workload, desired).plain
    assert min(took[FirstCome], took[NixBuild]) > 1.5 * took[Reconciler]


def test_nothing_of_a_jobset_starts_before_it_comes() -> None:
    workload = workloads.separate([50, 10], seed=1)
    desired = farm(workload, TWO)
    simulation = Simulation(workload, desired, Reconciler(workload, desired), arrivals={J1: 40.0})
    builds = simulation.run()
    check(workload, desired, builds)
    assert min(each.start for each in builds if each.derivation >= 50) >= 40


class Stubborn:
    """Wants the same at every turn, whatever is so."""

    def __init__(self, *turns: list[tuple[int, BuilderName]]) -> None:
        self._turns = [*turns]

    def arrive(self, jobset: JobsetName, derivations: Collection[int], *, now: float) -> None:
        pass

    def assign(self, free: Free, *, now: float) -> list[Assignment]:
        del free, now
        return [Assignment(*each) for each in self._turns.pop(0)] if self._turns else []

    def finished(self, derivation: int, *, now: float) -> None:
        pass

    def wake_at(self, *, now: float) -> None:
        del now


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([[(1, A)]], "1 lacks inputs"),
        ([[(0, A)], [(0, A)]], "0 is not to be built"),
        ([[(0, A)], [(3, A)]], "3 is not to be built"),
        ([[(0, A)], [(2, B)]], "2 does not fit b"),
        ([[(0, A)], [(1, A), (2, A)]], "a has no free slot"),
        ([[(0, A)], [(1, A)]], "1 derivations are never built"),
    ],
)
def test_what_cannot_be_is_refused(
    turns: list[list[tuple[int, BuilderName]]], message: str
) -> None:
    workload = one_jobset([(), (0,), (0,)], [1, 1, 1], 2)
    machines: Machines = {
        "a": {"maxJobs": 1},
        "b": {"maxJobs": 1, "supportedFeatures": []},
    }
    with pytest.raises(ImpossibleError, match=message):
        Simulation(workload, farm(workload, machines), Stubborn(*turns)).run()


def test_nix_takes_names_in_order_and_the_machine_with_the_least_load_for_its_speed() -> None:
    workload = one_jobset([()] * 6, [10] * 6)
    desired = farm(
        workload, {"a": {"maxJobs": 3, "speedFactor": 2}, "b": {"maxJobs": 3, "speedFactor": 1}}
    )
    builds = Simulation(workload, desired, NixBuild(workload, desired)).run()
    assert [workload.ranks[each.derivation] for each in builds] == [*range(6)]
    # Running builds over speed: 0/2 (the faster), 0/1, 1/2, then 1 = 1 (the faster).
    assert [each.builder for each in builds] == [A, B, A, A, B, B]


def test_first_come_takes_what_was_ready_first() -> None:
    workload = one_jobset([(), (), (0,), (1,)], [2, 1, 1, 1])
    desired = farm(workload, {"a": {"maxJobs": 1}})
    builds = Simulation(workload, desired, FirstCome(workload, desired)).run()
    assert [each.derivation for each in builds] == [0, 1, 2, 3]


def _one_after_another(seconds: float, *derivations: int) -> list[Build]:
    return [
        Build(each, A, number * seconds, (number + 1) * seconds)
        for number, each in enumerate(derivations)
    ]


def test_the_share_error_is_the_worst_windows() -> None:
    workload = workloads.separate([4, 4], seed=1)
    shares = {J0: 100, J1: 100}
    fair = _one_after_another(1, 0, 4, 1, 5, 2, 6, 3, 7)
    assert share_error(workload, fair, shares, windows=3) == 0
    # j0 has the first half of the window before its last start, and all of the second.
    unfair = _one_after_another(1, 0, 4, 1, 2, 3, 5, 6, 7)
    assert share_error(workload, unfair, shares, windows=2) == pytest.approx(0.5)


def test_the_longest_wait_counts_only_time_without_any_build() -> None:
    workload = workloads.separate([3, 3], seed=1)
    builds = _one_after_another(5, 0, 1, 3, 2, 4, 5)
    assert longest_wait(workload, builds, J1, since=0) == 10
    assert longest_wait(workload, builds, J1, since=7) == 5
    assert longest_wait(workload, builds, J0, since=0) == 5
