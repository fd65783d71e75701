from __future__ import annotations

import pytest
from msgspec.structs import replace

from reconciler.model import BuilderName, BuildState, CacheName, EvaluationState, JobsetName
from reconciler.status import (
    BuilderFacts,
    CacheFacts,
    Condition,
    DocumentDrift,
    DocumentFacts,
    EvaluationFacts,
    Facts,
    JobsetFacts,
    JobState,
    Stuck,
    Suspension,
    Verdict,
    count_jobs,
    counted,
    gist,
    job_state,
    judge_builder,
    judge_cache,
    judge_jobset,
    report,
    worst,
)

DONE = EvaluationFacts(
    id=1,
    state=EvaluationState.SUCCEEDED,
    cause="first",
    locked="here",
    started_at=1,
    finished_at=2,
    error=None,
)
JOBSET = JobsetFacts(
    name=JobsetName("web"),
    removed_at=None,
    enabled=True,
    suspended=None,
    source="/srv/web",
    caches=(),
    newest=DONE,
    current=DONE,
    jobs={JobState.SUCCEEDED: 2},
)
LISTED = replace(JOBSET, newest=None, current=None, jobs={}, patterns=("release-*",))
CACHE = CacheFacts(
    name=CacheName("main"),
    uri="file:///srv/cache",
    removed_at=None,
    open=0,
    failing=0,
    error=None,
    next_due_at=None,
)
BUILDER = BuilderFacts(
    name=BuilderName("local"),
    uri=None,
    systems=None,
    features=(),
    mandatory_features=(),
    max_jobs=2,
    speed_factor=1,
    running=0,
    drain=False,
)
DOCUMENT = DocumentFacts(file="farm.yaml", generation=1, digest="d", applied_at=1)
WRONG = Condition(kind="jobset", name="web", reason="source-unavailable", message="no", since=1)
FACTS = Facts(document=DOCUMENT, daemon=7, jobsets=(JOBSET,), caches=(CACHE,), builders=(BUILDER,))


@pytest.mark.parametrize("build", BuildState)
def test_a_job_is_as_its_build(build: BuildState) -> None:
    expected = {
        BuildState.QUEUED: JobState.QUEUED,
        BuildState.BUILDING: JobState.BUILDING,
        BuildState.SUCCEEDED: JobState.SUCCEEDED,
        BuildState.SUBSTITUTED: JobState.SUCCEEDED,
        BuildState.CANCELLED: JobState.CANCELLED,
    }.get(build, JobState.FAILED)
    assert job_state(build) is expected


def test_a_job_is_good_bad_or_under_way() -> None:
    live = {JobState.BUILDING, JobState.QUEUED, JobState.WAITING}
    assert {each for each in JobState if each.live} == live
    assert not JobState.SUCCEEDED.bad
    assert {each for each in JobState if each.bad} == set(JobState) - live - {JobState.SUCCEEDED}


@pytest.mark.parametrize(
    ("facts", "verdict", "summary"),
    [
        (JOBSET, Verdict.IN_SYNC, "in sync"),
        (replace(JOBSET, removed_at=1.0), Verdict.IN_SYNC, "pruned"),
        (replace(JOBSET, enabled=False), Verdict.IN_SYNC, "disabled"),
        (
            replace(JOBSET, suspended=Suspension(since=1, by="ann", why="")),
            Verdict.IN_SYNC,
            "suspended by ann",
        ),
        (
            replace(JOBSET, newest=None, current=None, jobs={}),
            Verdict.IN_PROGRESS,
            "not evaluated yet",
        ),
        (
            replace(JOBSET, newest=replace(DONE, state=EvaluationState.RUNNING)),
            Verdict.IN_PROGRESS,
            "evaluating",
        ),
        (replace(JOBSET, current=None, jobs={}), Verdict.IN_PROGRESS, "to be evaluated again"),
        (
            replace(JOBSET, current=None, jobs={}, conditions=(WRONG,)),
            Verdict.FAILED,
            "source unavailable",
        ),
        (
            replace(JOBSET, jobs={JobState.BUILDING: 1, JobState.QUEUED: 1}),
            Verdict.IN_PROGRESS,
            "building",
        ),
        (replace(JOBSET, jobs={JobState.QUEUED: 1}), Verdict.IN_PROGRESS, "waiting for builds"),
        (replace(JOBSET, jobs={JobState.WAITING: 1}), Verdict.IN_PROGRESS, "waiting for a builder"),
        (
            replace(JOBSET, jobs={JobState.FAILED: 1, JobState.CANCELLED: 1, JobState.BUILDING: 1}),
            Verdict.FAILED,
            "2 failed, building",
        ),
        (replace(LISTED, branches=0), Verdict.IN_PROGRESS, "not listed yet"),
        (
            replace(LISTED, branches=0, conditions=(replace(WRONG, reason="no-branches"),)),
            Verdict.FAILED,
            "no branches",
        ),
        (replace(LISTED, branches=1), Verdict.IN_SYNC, "1 branch"),
        (replace(LISTED, branches=3), Verdict.IN_SYNC, "3 branches"),
    ],
)
def test_a_jobset(facts: JobsetFacts, verdict: Verdict, summary: str) -> None:
    found = judge_jobset(facts)
    assert (found.verdict, found.summary) == (verdict, summary)


@pytest.mark.parametrize(
    ("facts", "verdict", "summary"),
    [
        (CACHE, Verdict.IN_SYNC, "in sync"),
        (replace(CACHE, removed_at=1.0, open=3), Verdict.IN_SYNC, "pruned"),
        (replace(CACHE, open=2), Verdict.IN_PROGRESS, "2 pending"),
        (replace(CACHE, open=3, failing=1), Verdict.FAILED, "1 failing, 2 pending"),
        (replace(CACHE, conditions=(WRONG,)), Verdict.FAILED, "source unavailable"),
        (replace(CACHE, beside=4), Verdict.IN_PROGRESS, "4 logs or realisations pending"),
        (
            replace(CACHE, beside=4, beside_error="refused"),
            Verdict.FAILED,
            "4 logs or realisations pending",
        ),
        (replace(CACHE, lost=2), Verdict.IN_PROGRESS, "2 lost, to be built again"),
        (
            replace(CACHE, lost=2, gone=1),
            Verdict.FAILED,
            "1 lost, and not to be built again, 1 lost, to be built again",
        ),
        (
            replace(CACHE, unseen=True),
            Verdict.UNKNOWN,
            "not looked into for too long: run the daemon, or reconciler caches verify",
        ),
    ],
)
def test_a_cache(facts: CacheFacts, verdict: Verdict, summary: str) -> None:
    found = judge_cache(facts)
    assert (found.verdict, found.summary) == (verdict, summary)


@pytest.mark.parametrize(
    ("facts", "verdict", "summary"),
    [
        (BUILDER, Verdict.IN_SYNC, "idle"),
        (replace(BUILDER, running=1), Verdict.IN_SYNC, "building"),
        (replace(BUILDER, drain=True), Verdict.IN_SYNC, "drained"),
        (replace(BUILDER, drain=True, running=1), Verdict.IN_SYNC, "draining"),
        (replace(BUILDER, conditions=(WRONG,)), Verdict.FAILED, "source unavailable"),
        (
            replace(BUILDER, conditions=(replace(WRONG, reason="not-asked-for"),)),
            Verdict.IN_SYNC,
            "not asked for",
        ),
    ],
)
def test_a_builder(facts: BuilderFacts, verdict: Verdict, summary: str) -> None:
    found = judge_builder(facts)
    assert (found.verdict, found.summary) == (verdict, summary)


QUEUED = replace(JOBSET, jobs={JobState.QUEUED: 1})
FAILED = replace(JOBSET, jobs={JobState.FAILED: 1})


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        (FACTS, 0),
        (replace(FACTS, jobsets=(QUEUED,)), 3),
        (replace(FACTS, jobsets=(FAILED, QUEUED)), 1),
        (replace(FACTS, jobsets=(replace(FAILED, enabled=False),)), 0),
        (replace(FACTS, caches=(replace(CACHE, failing=1, open=1),)), 1),
        (replace(FACTS, caches=(replace(CACHE, open=1),)), 3),
        (replace(FACTS, builders=(replace(BUILDER, conditions=(WRONG,)),)), 1),
        (replace(FACTS, conditions=(WRONG,)), 1),
        (replace(FACTS, document=replace(DOCUMENT, drift=DocumentDrift.CHANGED)), 3),
        (replace(FACTS, document=replace(DOCUMENT, drift=DocumentDrift.INVALID)), 1),
        (replace(FACTS, document=replace(DOCUMENT, drift=DocumentDrift.UNREADABLE)), 0),
        (
            replace(
                FACTS, stuck=(Stuck(derivation="x", state=JobState.UNSUPPORTED, message="no"),)
            ),
            1,
        ),
        (
            replace(FACTS, stuck=(Stuck(derivation="x", state=JobState.WAITING, message="no"),)),
            3,
        ),
    ],
)
def test_the_whole(facts: Facts, status: int) -> None:
    assert report(facts).exit_status == status


def test_what_cannot_be_told_counts_most() -> None:
    assert worst([Verdict.FAILED, Verdict.UNKNOWN]) is Verdict.UNKNOWN
    assert worst([]) is Verdict.IN_SYNC


def test_the_summary() -> None:
    assert report(FACTS).summary == "in sync: 1 jobset, 2 jobs succeeded"
    gone = replace(JOBSET, removed_at=1.0)
    going_on = replace(FACTS, daemon=None, jobsets=(QUEUED, gone), caches=(replace(CACHE, open=1),))
    assert report(going_on).summary == (
        "in progress: 1 jobset, 0 of 1 succeeded, 1 queued · 1 path to push"
        " · the daemon is not running"
    )


def test_the_summary_leaves_out_what_is_held() -> None:
    resting = replace(QUEUED, enabled=False)
    found = report(replace(FACTS, jobsets=(*FACTS.jobsets, resting)))
    assert found.verdict is Verdict.IN_SYNC
    assert found.summary == "in sync: 1 jobset, 2 jobs succeeded · 1 jobset suspended or disabled"


def test_counts_in_words() -> None:
    assert count_jobs({}) == "no jobs"
    assert count_jobs({JobState.SUCCEEDED: 1}) == "1 job succeeded"
    assert count_jobs({JobState.FAILED: 1, JobState.SUCCEEDED: 2}) == "2 of 3 succeeded, 1 failed"
    assert counted(2, "path") == "2 paths"


def test_the_gist_of_a_message() -> None:
    assert gist("\n  first\nsecond") == "first"
    assert gist(" \n") == ""
