from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from msgspec.structs import replace

from reconciler.explain import (
    Change,
    ComparedJob,
    Explanation,
    Health,
    JobDifference,
    compare,
    explain,
)
from reconciler.model import Builder, BuilderName, BuildState, DrvPath
from reconciler.resources import Amount, Needs
from reconciler.scheduler import Slots
from reconciler.status import JobState
from reconciler.work import LiveBuild

SYSTEM = "x86_64-linux"
NOW = 1000.0
LOCAL = Slots(
    builder=Builder(
        name=BuilderName("local"),
        uri=None,
        systems=(SYSTEM,),
        max_jobs=1,
        speed_factor=1,
        supported_features=(),
        mandatory_features=(),
        drain=False,
    ),
    systems=frozenset([SYSTEM]),
    free=1,
)
FULL = Slots(builder=LOCAL.builder, systems=LOCAL.systems, free=0)


def build(
    key: int,
    *inputs: int,
    state: BuildState = BuildState.QUEUED,
    system: str = SYSTEM,
    unsupported: str | None = None,
    failures: int = 0,
    not_before: float = 0,
) -> LiveBuild:
    return LiveBuild(
        id=key,
        path=DrvPath(f"/nix/store/{key}.drv"),
        name=f"n{key}",
        system=system,
        features=(),
        prefer_local=False,
        unsupported=unsupported,
        state=state,
        not_before=not_before,
        failures=failures,
        bumped=False,
        inputs=inputs,
    )


def why(*builds: LiveBuild, of: int = 1, slots: Sequence[Slots] = (LOCAL,)) -> Explanation:
    return explain(of, builds, slots, attempts=3, now=NOW)


def test_what_nothing_that_can_succeed_needs_is_not_built() -> None:
    found = explain(1, [build(1, 2), build(2)], [LOCAL], attempts=3, now=NOW, needless=True)
    assert found.state is JobState.QUEUED
    assert "only what cannot be built needs it" in found.message
    assert names(found) == ["n1"]


def names(found: Explanation) -> list[str]:
    return [each.name for each in found.chain]


@pytest.mark.parametrize(
    ("state", "job", "message"),
    [
        (BuildState.FAILED, JobState.FAILED, "its build ended as failed"),
        (BuildState.TIMED_OUT, JobState.FAILED, "its build ended as timed-out"),
        (BuildState.CANCELLED, JobState.CANCELLED, "it was cancelled, or nothing wanted it"),
    ],
)
def test_one_that_ended(state: BuildState, job: JobState, message: str) -> None:
    found = why(build(1, state=state))
    assert (found.state, names(found)) == (job, ["n1"])
    assert found.message.startswith(message)


def test_the_nearest_root_cause_by_the_shortest_way() -> None:
    failed = BuildState.FAILED
    found = why(
        build(5, state=failed), build(4, 5), build(3, 4), build(2, 6), build(6, state=failed),
        build(1, 2, 3, 4),
    )  # fmt: skip
    assert names(found) == ["n1", "n4", "n5"]
    assert found.message == "it needs n5, which failed"
    assert [each.state for each in found.chain] == [
        JobState.DEPENDENCY_FAILED,
        JobState.DEPENDENCY_FAILED,
        JobState.FAILED,
    ]


def test_one_that_no_builder_can_build() -> None:
    found = why(build(1, 2), build(2, system="riscv64-linux"))
    assert found.message == "it needs n2, which no builder can build"
    assert found.builders[0].reasons == (f"builds for {SYSTEM}, not for riscv64-linux",)


def test_one_that_waits_for_a_builder_to_be_declared() -> None:
    builds = [build(1, 2, 3), build(2, system="riscv64-linux"), build(3, 4), build(4)]
    found = explain(1, builds, [LOCAL], attempts=3, now=NOW, fails_at={2: NOW + 60})
    assert found.state is JobState.QUEUED
    assert found.message == "it needs n2, which no builder can build yet"
    assert [each.state for each in found.chain] == [JobState.QUEUED, JobState.WAITING]
    assert found.fails_at == NOW + 60
    own = explain(2, builds, [LOCAL], attempts=3, now=NOW, fails_at={2: NOW + 60})
    assert (own.state, own.fails_at) == (JobState.WAITING, NOW + 60)
    assert own.builders[0].reasons == (f"builds for {SYSTEM}, not for riscv64-linux",)
    # What failed for good, however far below, is what decides.
    builds[-1] = build(4, state=BuildState.FAILED)
    failed = explain(1, builds, [LOCAL], attempts=3, now=NOW, fails_at={2: NOW + 60})
    assert failed.message == "it needs n4, which failed"
    assert (failed.state, failed.fails_at) == (JobState.DEPENDENCY_FAILED, None)


def test_one_that_no_nix_can_build() -> None:
    found = why(build(1, unsupported="a dynamic derivation"))
    assert found.state is JobState.UNSUPPORTED
    assert found.message == "a dynamic derivation"
    assert found.builders == ()


def test_one_whose_attempts_are_used_up() -> None:
    found = why(build(1, failures=3, not_before=NOW + 60))
    assert found.state is JobState.FAILED
    assert "reasons of the infrastructure" in found.message
    assert found.retry_at == NOW + 60


def test_one_that_is_being_built() -> None:
    found = why(build(1, state=BuildState.BUILDING))
    assert (found.state, found.message) == (JobState.BUILDING, "it is being built")


def test_one_that_waits_for_inputs_that_come() -> None:
    found = why(
        build(2), build(3, state=BuildState.BUILDING), build(4, 3), build(5), build(6),
        build(1, 2, 4, 5, 6),
    )  # fmt: skip
    assert names(found) == ["n1", "n4", "n3"]
    assert found.message == "it waits for 4 inputs: n2, n4, n5 and 1 more"
    assert found.remaining == 5
    assert found.builders == ()


def test_one_whose_input_waits_for_a_builder() -> None:
    found = why(build(1, 2), build(2), slots=[FULL])
    assert names(found) == ["n1", "n2"]
    assert found.message == "it waits for 1 input: n2"
    assert found.builders[0].reasons == ("its one slot is taken",)


def test_one_that_is_ready() -> None:
    assert why(build(1)).message == "it is ready and starts next"
    assert why(build(1), slots=[FULL]).message == "it is ready, and no builder takes it now"
    later = why(build(1, not_before=NOW + 5))
    assert later.message == "it is ready, and tried again after a pause"
    assert later.retry_at == NOW + 5


# --- What is kept free for others ---

LICENCE: Needs = frozenset([("licences", Amount(1, is_size=False))])
KEPT = "keeps 1 of licences free for n9, which goes before it"


def licensed(name: str, *, free: int = 1) -> Slots:
    resources = {"licences": Amount(1, is_size=False)}
    builder = replace(LOCAL.builder, name=BuilderName(name), resources=resources)
    return replace(LOCAL, builder=builder, free=free)


def why_kept(
    *builds: LiveBuild, slots: Sequence[Slots], kept: Sequence[str], needs: Needs = LICENCE
) -> tuple[Explanation, list[int]]:
    """The last of the chain takes a licence; also what was asked for what is kept free."""
    asked_for: list[int] = []

    def kept_free(derivation: int) -> Mapping[BuilderName, str]:
        asked_for.append(derivation)
        return {BuilderName(name): KEPT for name in kept}

    last = builds[-1].id
    found = explain(1, builds, slots, attempts=3, now=NOW, asked={last: needs}, kept_free=kept_free)
    return found, asked_for


def test_one_that_is_ready_is_not_started_with_what_is_kept_for_another() -> None:
    slots = [licensed("full", free=0), licensed("keeps"), licensed("other")]
    found, asked_for = why_kept(build(1), slots=slots, kept=["full", "keeps", "other"])
    assert found.message == "it is ready, and no builder takes it now"
    assert {each.builder: each.reasons for each in found.builders} == {
        "full": ("its one slot is taken",),
        "keeps": (KEPT,),
        "other": (KEPT,),
    }
    assert asked_for == [1]


def test_one_builder_that_keeps_nothing_takes_it() -> None:
    found, _ = why_kept(build(1), slots=[licensed("keeps"), licensed("other")], kept=["keeps"])
    assert found.message == "it is ready and starts next"
    assert {each.builder: each.reasons for each in found.builders} == {
        "keeps": (KEPT,),
        "other": (),
    }


def test_what_is_kept_from_an_input_is_told_of_it() -> None:
    found, asked_for = why_kept(build(1, 2), build(2), slots=[licensed("keeps")], kept=["keeps"])
    assert found.message == "it waits for 1 input: n2"
    assert [each.reasons for each in found.builders] == [(KEPT,)]
    assert asked_for == [2]


@pytest.mark.parametrize(
    ("slots", "needs"),
    [([licensed("full", free=0)], LICENCE), ([licensed("keeps")], frozenset[tuple[str, Amount]]())],
)
def test_what_is_kept_free_is_looked_for_only_where_it_matters(
    slots: Sequence[Slots], needs: Needs
) -> None:
    found, asked_for = why_kept(build(1), slots=slots, kept=["full", "keeps"], needs=needs)
    assert asked_for == []
    assert all(KEPT not in each.reasons for each in found.builders)


# --- Differences -------------------------------------------------------------------------------

GOOD, BAD, BUSY = JobState.SUCCEEDED, JobState.FAILED, JobState.BUILDING


def one(
    before: tuple[str, JobState] | None, after: tuple[str, JobState] | None
) -> JobDifference | None:
    def side(job: tuple[str, JobState] | None) -> Mapping[str, ComparedJob]:
        return {} if job is None else {"a": ComparedJob(derivation=job[0], state=job[1])}

    found = compare(side(before), side(after))
    return found[0] if found else None


@pytest.mark.parametrize(
    ("before", "after", "change", "health"),
    [
        (None, ("x", GOOD), Change.ADDED, None),
        (None, ("x", BAD), Change.ADDED, Health.NEWLY_FAILING),
        (("x", BAD), None, Change.REMOVED, None),
        (("x", GOOD), ("y", GOOD), Change.CHANGED, None),
        (("x", GOOD), ("y", BAD), Change.CHANGED, Health.NEWLY_FAILING),
        (("x", BAD), ("y", BAD), Change.CHANGED, Health.STILL_FAILING),
        (("x", BAD), ("x", BAD), Change.UNCHANGED, Health.STILL_FAILING),
        (("x", BAD), ("y", GOOD), Change.CHANGED, Health.NEWLY_FIXED),
        (("x", BAD), ("y", BUSY), Change.CHANGED, None),
    ],
)
def test_a_difference(
    before: tuple[str, JobState] | None,
    after: tuple[str, JobState] | None,
    change: Change,
    health: Health | None,
) -> None:
    found = one(before, after)
    assert found is not None
    assert (found.change, found.health) == (change, health)


def test_what_is_unchanged_and_good_is_left_out() -> None:
    assert one(("x", GOOD), ("x", GOOD)) is None
    assert one(("x", BUSY), ("x", BUSY)) is None
