"""The live work: names, wishes, limits and durations around the graph."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from reconciler.model import (
    Builder,
    BuilderName,
    BuildState,
    DrvPath,
    Jobset,
    JobsetName,
    Limits,
)
from reconciler.scheduler import Slots
from reconciler.work import DEFAULT_SECONDS, LiveBuild, WantedJob, Work, package_name
from tests.support import jobsets

A, B = JobsetName("a"), JobsetName("b")


def build(
    number: int, *inputs: int, state: BuildState = BuildState.QUEUED, unsupported: str | None = None
) -> LiveBuild:
    return LiveBuild(
        id=number,
        path=DrvPath(f"/nix/store/{number}.drv"),
        name=f"package{number}-1.0",
        system="x86_64-linux",
        features=("kvm",),
        prefer_local=False,
        unsupported=unsupported,
        state=state,
        not_before=0.0,
        failures=0,
        bumped=False,
        inputs=inputs,
    )


def job(
    jobset: JobsetName,
    derivation: int,
    *,
    timeout: float | None = None,
    max_silent: float | None = None,
) -> WantedJob:
    return WantedJob(
        jobset=jobset,
        evaluation=1,
        derivation=derivation,
        timeout=timeout,
        max_silent=max_silent,
        priority=0,
    )


def jobset(name: JobsetName, limits: Limits | None = None) -> Jobset:
    return replace(jobsets.jobset(), name=name, limits=limits or Limits())


def work(*builds: LiveBuild) -> Work:
    made = Work({})
    made.join(builds)
    return made


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("hello-2.12", "hello"),
        ("hello", "hello"),
        ("gcc-wrapper-13.2.0", "gcc-wrapper"),
        ("a-b-c", "a-b-c"),
        ("trailing-", "trailing-"),
        ("perl5.38-Foo-1", "perl5.38-Foo"),
        ("x--y", "x"),
    ],
)
def test_a_packages_name_is_what_comes_before_the_version(name: str, package: str) -> None:
    assert package_name(name) == package


def test_what_joins_twice_counts_once() -> None:
    made = work(build(1))
    made.join([build(1), build(2, 1)])
    assert {node.id for node in made.graph.nodes} == {1, 2}
    assert made.ids == {"/nix/store/1.drv": 1, "/nix/store/2.drv": 2}


def test_what_existed_once_joins_below_what_needs_it() -> None:
    made = work(build(2), build(3))
    made.join([build(1)], {1: [2]})
    assert made.graph.waiting_on(2) == (1,)
    assert set(made.graph.ready) == {1, 3}


def test_what_nobody_waits_for_joins_as_usual() -> None:
    made = work(build(2))
    made.join([build(1)], {1: []})
    assert set(made.graph.ready) == {1, 2}


def test_what_no_nix_can_build_asks_for_what_nobody_has() -> None:
    made = work(build(1), build(2, unsupported="is dynamic"), build(3))
    assert made.graph[2].platform.features == {"kvm", "is dynamic"}
    assert made.graph[1].platform is made.graph[3].platform


def test_leaving_forgets_names() -> None:
    made = work(build(1))
    made.graph.settle(1, BuildState.SUCCEEDED)
    made.leave([1, 7])
    assert made.builds == {}
    assert made.ids == {}


def test_withdrawing_takes_out_of_the_graph() -> None:
    made = work(build(1), build(2, 1))
    made.withdraw([1, 2])
    assert len(made.graph) == 0
    assert made.builds == {}


def test_failures_are_counted_and_forgiven() -> None:
    made = work(build(1))
    made.failed_again(1)
    made.failed_again(1)
    assert made.builds[1].failures == 2
    made.forgive([1])
    assert made.builds[1].failures == 0


def test_durations_are_learnt_by_package() -> None:
    made = Work({("hello", "x86_64-linux"): 10.0})
    assert made.expected_seconds("hello-2", "x86_64-linux") == 10.0
    made.learn("hello-3", "x86_64-linux", 20.0)
    assert made.expected_seconds("hello-4", "x86_64-linux") == 15.0
    made.learn("hello-3", "aarch64-linux", 7.0)
    assert made.expected_seconds("hello", "aarch64-linux") == 7.0


def test_what_was_never_built_is_expected_to_take_the_mean_of_what_was() -> None:
    made = Work({})
    assert made.expected_seconds("new", "x86_64-linux") == DEFAULT_SECONDS
    made.learn("hello-3", "x86_64-linux", 20.0)
    made.learn("other", "x86_64-linux", 100.0)
    assert made.expected_seconds("new", "x86_64-linux") == 60.0
    made.learn("hello-3", "x86_64-linux", 40.0)
    assert made.expected_seconds("new", "aarch64-linux") == 65.0
    known = Work({("hello", "x86_64-linux"): 3.0, ("other", "x86_64-linux"): 5.0})
    assert known.expected_seconds("new", "x86_64-linux") == 4.0


def test_who_wants_what_flows_down() -> None:
    made = work(build(1), build(2, 1), build(3, 1), build(4))
    made.want([job(A, 2), job(B, 3), job(B, 99)], [jobset(A), jobset(B)])
    assert made.wanting(1) == {A, B}
    assert made.wanting(2) == {A}
    assert made.wanting(4) == frozenset()
    assert made.unwanted() == {4}
    assert [each.jobset for each in made.jobs(2)] == [A]
    assert list(made.jobs(1)) == []
    assert set(made.scheduler.jobsets(1)) == {A, B}


def test_what_left_the_graph_is_not_unwanted() -> None:
    made = work(build(1), build(4))
    made.want([job(A, 1)], [jobset(A)])
    assert made.unwanted() == {4}
    made.graph.settle(4, BuildState.SUCCEEDED)
    assert made.unwanted() == frozenset()


def test_a_jobset_that_is_not_active_keeps_what_it_wants() -> None:
    made = work(build(1))
    made.want([job(A, 1)], [])
    assert made.wanting(1) == {A}
    assert made.unwanted() == frozenset()
    assert made.scheduler.jobsets(1) == ()


def test_a_lift_takes_effect_with_the_next_wishes() -> None:
    made = work(build(1), build(2), build(3))
    made.bump([3])
    assert made.builds[3].bumped
    made.want([job(A, 1), job(A, 2), job(A, 3), job(A, 9)], [jobset(A)])
    assert made.builds[1].bumped is False
    assert first(made) == 3


def test_a_lift_ends_with_the_build() -> None:
    made = work(build(1), build(2))
    jobs = [job(A, 1), job(A, 2)]
    made.bump([2])
    made.want(jobs, [jobset(A)])
    assert first(made) == 2
    made.graph.settle(2, BuildState.FAILED)
    assert made.end_bump(2)
    assert not made.end_bump(1)
    made.want(jobs, [jobset(A)])
    made.graph.reopen(2)
    assert first(made) == 1


def first(made: Work) -> int:
    """What the only slot there is would be given to."""
    builder = Builder(
        name=BuilderName("local"),
        uri=None,
        systems=None,
        max_jobs=1,
        speed_factor=1,
        supported_features=("kvm",),
        mandatory_features=(),
        drain=False,
    )
    slots = Slots(builder=builder, systems=frozenset({build(1).system}), free=1)
    (chosen,) = made.scheduler.assignments([slots], now=0)
    return chosen.derivation


# --- Limits --------------------------------------------------------------------------------------


def limits_of(jobs: list[WantedJob], declared: dict[JobsetName, Limits]) -> Limits:
    made = work(build(1), build(2, 1))
    made.want(jobs, [jobset(A), jobset(B)])
    return made.limits(1, {name: jobset(name, limits) for name, limits in declared.items()})


def test_the_largest_limit_counts_and_none_is_the_largest() -> None:
    both = [job(A, 1), job(B, 2)]
    narrow = Limits(timeout=1, max_silent=9, max_log=100, max_output=5)
    wide = Limits(timeout=2, max_silent=8, max_log=200, max_output=None)
    assert limits_of(both, {A: narrow, B: wide}) == Limits(
        timeout=2, max_silent=9, max_log=200, max_output=None
    )


def test_a_jobs_own_limits_go_before_its_jobsets() -> None:
    declared = {A: Limits(timeout=100, max_silent=50)}
    assert limits_of([job(A, 1, timeout=5, max_silent=3)], declared) == Limits(
        timeout=5, max_silent=3
    )
    assert limits_of([job(A, 1, timeout=500)], declared) == Limits(timeout=500, max_silent=50)


def test_of_several_jobs_of_one_jobset_the_most_patient_counts() -> None:
    declared = {A: Limits(timeout=100)}
    jobs = [job(A, 1, timeout=300), job(A, 1, timeout=5), job(A, 1, timeout=7)]
    assert limits_of(jobs, declared).timeout == 300


def test_a_job_above_leaves_its_own_limits_to_itself() -> None:
    assert limits_of([job(A, 2, timeout=5)], {A: Limits(timeout=100)}).timeout == 100


def test_jobsets_that_are_gone_do_not_count() -> None:
    assert limits_of([job(A, 1), job(B, 1)], {B: Limits(timeout=3)}) == Limits(timeout=3)
    assert limits_of([job(A, 1)], {}) == Limits()
