"""What values tell that is not written in them, but follows."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from reconciler.model import (
    Cache,
    CacheName,
    Compression,
    Desired,
    DrvPath,
    EvaluatedJob,
    EvaluationFailure,
    Jobset,
    JobsetName,
    PushRule,
    PushScope,
)
from tests.support import jobsets

MAIN = CacheName("main")
JOBS, ALL = PushRule(scope=PushScope.JOBS), PushRule(scope=PushScope.ALL)
CACHE = Cache(
    name=MAIN,
    uri="file:/cache",
    signing_key_file=None,
    credentials_file=None,
    compression=Compression.ZSTD,
    rule=PushRule(scope=PushScope.REQUISITES),
    upstreams=(),
)


@pytest.mark.parametrize(
    ("one", "more", "all_of_them"),
    [
        (None, (), ()),
        ("/keys/a", (), ("/keys/a",)),
        (None, ("/keys/b",), ("/keys/b",)),
        ("/keys/a", ("/keys/b", "/keys/c"), ("/keys/a", "/keys/b", "/keys/c")),
    ],
)
def test_a_cache_is_signed_by_its_key_and_by_further_ones(
    one: str | None, more: tuple[str, ...], all_of_them: tuple[str, ...]
) -> None:
    assert replace(CACHE, signing_key_file=one, signing_key_files=more).key_files == all_of_them


def pushing(name: str, rule: PushRule | None) -> Jobset:
    caches = {} if rule is None else {MAIN: rule}
    return replace(jobsets.jobset(), name=JobsetName(name), caches=caches)


@pytest.mark.parametrize(
    ("plain", "pattern", "expected"),
    [
        (None, None, {CACHE.rule}),
        (JOBS, None, {JOBS}),
        (None, ALL, {ALL}),
        (JOBS, ALL, {JOBS, ALL}),
    ],
)
def test_jobsets_say_what_goes_to_a_cache_and_otherwise_it_does(
    plain: PushRule | None, pattern: PushRule | None, expected: set[PushRule]
) -> None:
    """The branches of a pattern may be unknown as yet: its rule counts without them."""
    one, other = pushing("one", plain), pushing("other", pattern)
    desired = Desired(
        jobsets={one.name: one},
        patterns={other.name: other},
        builders={},
        caches={MAIN: CACHE},
        digest="d",
    )
    assert desired.rules_of(MAIN) == expected


def test_nothing_goes_to_a_cache_that_is_declared_no_more() -> None:
    desired = Desired(jobsets={}, builders={}, caches={}, digest="d")
    assert desired.rules_of(MAIN) == frozenset()


def test_attributes_are_written_with_dots() -> None:
    path = ("packages", "x86_64-linux", "hello")
    job = EvaluatedJob(
        attr_path=path,
        name="hello-2.12",
        system="x86_64-linux",
        drv_path=DrvPath("/nix/store/a.drv"),
        outputs={},
    )
    failure = EvaluationFailure(attr_path=path, message="it throws")
    assert job.attr == failure.attr == "packages.x86_64-linux.hello"
    assert replace(failure, attr_path=()).attr == "", "the evaluation as a whole"
