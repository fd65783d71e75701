"""How far pushing is: what is told of it between batches, within one, and when it is over."""

from __future__ import annotations

import pytest

from reconciler import config
from reconciler.database import Database, declared, open_memory, progress, pushed
from reconciler.model import CacheName, PushState, StorePath
from reconciler.push_progress import PushProgress, outlook
from reconciler.transitions import Cause

MAIN = CacheName("main")
MIB = 1024 * 1024
PATHS = [StorePath(f"/nix/store/{number:032}-p") for number in range(10)]


@pytest.fixture
def database() -> Database:
    made = open_memory(now=0.0)
    document = b'{"caches": {"main": {"uri": "file:///srv/cache"}}}'
    declared.adopt(made, config.parse(document, name="test"), now=0.0)
    pushed.queue_pushes(
        made, MAIN, roots=(), paths=PATHS, now=0.0, sizes=dict.fromkeys(PATHS, 10 * MIB)
    )
    return made


def move(database: Database, paths: list[StorePath], state: PushState, *, now: float) -> None:
    before = PushState.PENDING if state is PushState.PUSHING else PushState.PUSHING
    cause = Cause.STARTED if state is PushState.PUSHING else Cause.SUCCEEDED
    changes = [
        pushed.PushChange(path=path, before=before, after=state, cause=cause, bytes=5 * MIB)
        for path in paths
    ]
    pushed.set_push_states(database, MAIN, changes, now=now)


def begin(database: Database, paths: list[StorePath], *, now: float) -> None:
    move(database, paths, PushState.PUSHING, now=now)
    progress.begin_batch(database, MAIN, now=now)


def end(database: Database, paths: list[StorePath], *, now: float) -> None:
    move(database, paths, PushState.PUSHED, now=now)
    progress.end_batch(database, MAIN, done=paths, sent=len(paths) * 5 * MIB, now=now)


def told(database: Database, *, now: float) -> PushProgress | None:
    row = database.one("SELECT id FROM cache")
    assert row is not None
    return progress.of_cache(database, row[0], now=now)


def test_before_anything_is_sent_nothing_is_told(database: Database) -> None:
    assert told(database, now=1.0) is None


def test_between_batches(database: Database) -> None:
    begin(database, PATHS[:5], now=100.0)
    end(database, PATHS[:5], now=110.0)
    found = told(database, now=111.0)
    assert found is not None
    assert (found.since, found.sent_paths, found.sent_bytes) == (100.0, 5, 25 * MIB)
    assert (found.left_paths, found.left_bytes) == (5, 50 * MIB)
    assert found.rate == pytest.approx(2.5 * MIB)
    assert found.estimate == pytest.approx(10.0)
    assert outlook(found) == " (50MiB, 2.5MiB/s, about 10s left)"


def test_within_the_first_batch_and_a_later_one(database: Database) -> None:
    begin(database, PATHS[:5], now=100.0)
    progress.advance(database, MAIN, sent=10 * MIB, now=105.0)
    found = told(database, now=106.0)
    assert found is not None
    assert (found.sent_bytes, found.left_bytes) == (10 * MIB, 90 * MIB)
    assert found.rate == pytest.approx(2 * MIB)
    assert found.estimate == pytest.approx((90 * MIB + 10 * progress.OVERHEAD) / (2 * MIB))
    end(database, PATHS[:5], now=110.0)
    begin(database, PATHS[5:], now=110.0)
    progress.advance(database, MAIN, sent=15 * MIB, now=115.0)
    found = told(database, now=116.0)
    assert found is not None
    # As the first batch compressed to half, 15 MiB stand for 30.
    assert (found.sent_bytes, found.left_bytes) == (40 * MIB, 20 * MIB)
    assert found.rate == pytest.approx(3 * MIB)


def test_more_bytes_sent_than_a_batch_has_are_no_less_than_nothing_left(
    database: Database,
) -> None:
    begin(database, PATHS, now=100.0)
    progress.advance(database, MAIN, sent=1000 * MIB, now=105.0)  # attempts that failed count too
    found = told(database, now=106.0)
    assert found is not None
    assert found.left_bytes == 0
    assert found.estimate is not None
    assert found.estimate >= 0


def test_where_nobody_sends_nothing_is_foretold(database: Database) -> None:
    begin(database, PATHS[:5], now=100.0)
    end(database, PATHS[:5], now=110.0)
    found = told(database, now=110.0 + progress.FRESH + 1)
    assert found is not None
    assert (found.left_paths, found.rate, found.estimate) == (5, None, None)
    assert outlook(found) == " (50MiB)"


def test_when_all_is_there_the_next_begins_anew(database: Database) -> None:
    begin(database, PATHS, now=100.0)
    end(database, PATHS, now=110.0)
    assert told(database, now=111.0) is None
    new = [StorePath(f"/nix/store/{99:032}-new")]
    pushed.queue_pushes(database, MAIN, roots=(), paths=new, now=200.0, sizes={new[0]: MIB})
    begin(database, new, now=200.0)
    found = told(database, now=201.0)
    assert found is not None
    assert (found.since, found.sent_paths, found.sent_bytes) == (200.0, 0, 0)
    assert found.estimate is not None  # the speed of before is remembered
