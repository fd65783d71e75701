"""Evaluations to repeat, through the database and back."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from reconciler import config
from reconciler.database import Database, declared, evaluated, incremental, open_memory
from reconciler.database.incremental import EvaluationInput
from reconciler.errors import UsageError
from reconciler.incremental import recorded
from reconciler.model import Incremental, JobsetName, Protocol
from reconciler.source import LockedFlake, LockedGit, LockedSource, LockedTree
from tests.support.jobsets import jobset

JOBSET = replace(
    jobset(systems=("x86_64-linux",)),
    incremental=Incremental(enable=True, protocols=(Protocol.CACHE_NIX, Protocol.ARG)),
)
ORIGINS = [
    LockedFlake("git+https://git.example.org/web?rev=1"),
    LockedGit({"url": "https://git.example.org/web", "rev": "1" * 40, "allRefs": True}),
    LockedTree(f"/nix/store/{'1' * 32}-source", "sha256-x"),
]


def evaluation(database: Database) -> int:
    document = {
        "jobsets": {"web": {"source": {"path": "/srv/web", "file": "a.nix"}}},
        "builders": {"local": {"maxJobs": 1}},
    }
    declared.adopt(database, config.parse(json.dumps(document).encode(), name="farm"), now=1)
    return evaluated.begin_evaluation(
        database, JobsetName("web"), fingerprint="f", locked="l", cause="c", now=1
    )


@pytest.mark.parametrize("origin", ORIGINS, ids=lambda each: type(each).__name__)
def test_what_is_recorded_is_what_is_repeated(
    origin: LockedFlake | LockedGit | LockedTree,
) -> None:
    database = open_memory(now=1)
    number = evaluation(database)
    locked = LockedSource(
        locked="l", origin=origin, file="a.nix", args={"deep": [1, {"x": None}]}, revision="1" * 40
    )
    given = [
        EvaluationInput(protocol=Protocol.CACHE_NIX, reference="2" * 40, text="{ }", revision="1"),
        EvaluationInput(protocol=Protocol.ARG, reference="r", text="{ }", revision="1"),
    ]
    incremental.give(database, number, given, [], now=1)
    jobs = [("app",), ("deep", "a.b")]
    recorded.record(database, number, locked=locked, jobset=JOBSET, jobs=jobs, others=[])
    found = recorded.of_evaluation(database, number)
    assert found.source == locked
    assert found.jobs == (("app",), ("deep", "a.b"))
    assert found.systems == ("x86_64-linux",)
    assert found.texts == {Protocol.CACHE_NIX: "{ }", Protocol.ARG: "{ }"}
    assert found.overlay == "2" * 40
    assert found.pure == JOBSET.evaluation.pure
    with pytest.raises(UsageError, match="no evaluation 9"):
        recorded.of_evaluation(database, 9)
