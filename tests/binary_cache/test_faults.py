"""Caches behind a line that spoils things: each fault is got over, or told in one message, and
never is half an object taken for a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import pytest

from reconciler.binary_cache import BinaryCache, Flaw, LocalNars, ObjectStore, Traffic, open_cache
from reconciler.binary_cache.http_store import HttpStore
from reconciler.binary_cache.s3_store import S3Store
from reconciler.errors import CacheError
from reconciler.model import Cache, StorePath
from tests.binary_cache.servers import dav_server, netrc, s3_credentials, s3_server
from tests.binary_cache.support import add_files, build_chain, declared_at, infos_of, push
from tests.support.fault_proxy import (
    Answer,
    CutAnswer,
    CutRequest,
    Fault,
    FaultProxy,
    LoseAnswer,
    Request,
    Silence,
    SlowAnswer,
    SpoilAnswer,
    SpoilRequest,
    fault_proxy,
)
from tests.support.private_store import PrivateStore

KINDS = ["s3", "http"]


@dataclass(frozen=True)
class Line:
    """A cache at the end of a line, and the way around it."""

    kind: str
    proxy: FaultProxy
    spoilt: str
    """The cache's URI by way of the proxy."""
    direct: str
    credentials: Path

    @property
    def cache(self) -> Cache:
        return declared_at(self.spoilt, credentials=self.credentials)

    @property
    def around(self) -> Cache:
        return declared_at(self.direct, credentials=self.credentials)

    async def store(self, *, patience: float = 20.0, traffic: Traffic | None = None) -> ObjectStore:
        opened: S3Store | HttpStore
        if self.kind == "s3":
            opened = await S3Store.open(
                self.spoilt,
                credentials_file=self.credentials,
                patience=patience,
                traffic=traffic,
            )
        else:
            opened = await HttpStore.open(
                self.spoilt,
                credentials_file=self.credentials,
                patience=patience,
                traffic=traffic,
            )
        return opened


@pytest.fixture(params=KINDS)
async def line(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Line]:
    folder, keys = tmp_path / "served", tmp_path / "keys"
    (folder / "bucket").mkdir(parents=True)
    if request.param == "s3":
        server, credentials = s3_server(folder), s3_credentials(keys)
        uri = "s3://bucket/cache?scheme=http&endpoint={}".format
    else:
        server, credentials = dav_server(folder), netrc(keys)
        uri = "http://{}/bucket/cache".format
    with server as running:
        async with fault_proxy(running.address) as proxy:
            direct = uri(running.address)
            yield Line(request.param, proxy, uri(proxy.address), direct, credentials)


@asynccontextmanager
async def opened(cache: Cache, store: PrivateStore) -> AsyncIterator[BinaryCache]:
    async with open_cache(cache, store_dir=str(store.store_dir)) as it:
        yield it


def each_once(fault: Fault, *methods: str) -> Callable[[Request], Fault | None]:
    """A judge: whatever is asked for by these methods fails the first time."""
    known: set[tuple[str, str]] = set()

    def judge(request: Request) -> Fault | None:
        # An object that is moved to its place has another name in each attempt.
        key = (request.method, re.sub(r"\.[0-9a-f]{8}-[0-9]+$", "", request.path))
        if request.method not in methods or key in known:
            return None
        known.add(key)
        return fault

    return judge


WRITES = ("PUT", "POST", "MOVE", "MKCOL", "OPTIONS")
READS = ("GET", "HEAD")


async def test_each_path_is_asked_for_once(store: PrivateStore, line: Line) -> None:
    paths = build_chain(store)
    assert (await push(store, line.cache, paths)).sent.keys() == set(paths)
    asked = [
        request.path
        for _, request in line.proxy.seen
        if request.method in READS and request.path.endswith(".narinfo")
    ]
    assert len(asked) == len(paths)
    assert len(set(asked)) == len(paths)


@pytest.mark.parametrize(
    "fault",
    [Answer(500), Answer(503, {"Retry-After": "0"}), Answer(429), CutRequest(), LoseAnswer()],
    ids=str,
)
async def test_a_fault_of_the_moment_is_got_over(
    store: PrivateStore, line: Line, fault: Fault
) -> None:
    paths = build_chain(store)
    line.proxy.judge = each_once(fault, *WRITES, *READS)
    infos = await infos_of(store, paths)
    async with opened(line.cache, store) as cache:
        report = await cache.push(infos, LocalNars(store.store_dir))
        assert not report.failed
        assert report.sent.keys() == set(paths)
        assert [await cache.verify(path) for path in paths] == [()] * 3
    async with opened(line.around, store) as cache:
        assert [await cache.verify(path) for path in paths] == [()] * 3


async def test_bytes_that_change_on_their_way_are_refused_or_found(
    store: PrivateStore, line: Line
) -> None:
    paths = build_chain(store)
    infos, nars = await infos_of(store, paths), LocalNars(store.store_dir)
    spoil = each_once(SpoilRequest(), "PUT")
    line.proxy.judge = lambda request: spoil(request) if "/nar/" in request.path else None
    async with opened(line.cache, store) as cache:
        assert (await cache.push(infos, nars)).sent.keys() == set(paths)
        found = [each.flaw for each in await cache.examine(paths)]
        # S3 is told a digest, and refuses what is another; HTTP has nothing to tell by.
        assert found == ([] if line.kind == "s3" else [Flaw.NAR_DAMAGED] * 3)
        assert not (await cache.push(infos, nars, replace=paths)).failed
        assert await cache.examine(paths) == ()


def large_path(store: PrivateStore) -> StorePath:
    file = store.root / "large"
    file.write_bytes(os.urandom(20_000_000))
    return StorePath(store.run("nix-store", "--add", str(file)).stdout.strip())


@pytest.mark.parametrize("fault", [Answer(500), CutRequest(), LoseAnswer()], ids=str)
async def test_a_large_nar_gets_through(store: PrivateStore, line: Line, fault: Fault) -> None:
    path = large_path(store)
    line.proxy.judge = each_once(fault, *WRITES)
    async with opened(line.cache, store) as cache:
        report = await cache.push(await infos_of(store, [path]), LocalNars(store.store_dir))
        assert not report.failed
    async with opened(line.around, store) as cache:
        assert await cache.verify(path) == ()


async def test_a_large_nar_whose_narinfo_failed_is_not_sent_again(
    store: PrivateStore, line: Line
) -> None:
    path = large_path(store)
    line.proxy.judge = refusing_narinfos
    infos = await infos_of(store, [path])
    async with opened(line.cache, store) as cache:
        assert (await cache.push(infos, LocalNars(store.store_dir))).failed.keys() == {path}
    line.proxy.judge = lambda _request: None
    line.proxy.seen.clear()
    async with opened(line.cache, store) as cache:
        assert (await cache.push(infos, LocalNars(store.store_dir))).sent.keys() == {path}
        assert await cache.verify(path) == ()
    sent = {each.path for _, each in line.proxy.seen if each.method in ("PUT", "POST")}
    again = [each for each in sent if "/nar/" in each]
    # Not every HTTP server shows only what is whole.
    assert bool(again) == (line.kind == "http")


def refusing_narinfos(request: Request) -> Fault | None:
    writes = request.method in WRITES and ".narinfo" in request.path
    return Answer(500) if writes else None


async def test_a_read_that_breaks_goes_on_where_it_broke(store: PrivateStore, line: Line) -> None:
    path = large_path(store)
    async with opened(line.around, store) as cache:
        await cache.push(await infos_of(store, [path]), LocalNars(store.store_dir))
    cuts: Iterator[Fault] = iter([CutAnswer(), CutAnswer(), SlowAnswer()])
    line.proxy.judge = lambda request: next(cuts, None) if ".nar." in request.path else None
    async with opened(line.cache, store) as cache:
        assert await cache.verify(path) == ()
    heads = [request.head for _, request in line.proxy.seen if ".nar." in request.path]
    assert len(heads) == 3
    assert [b"\nrange: bytes=" in head for head in heads] == [False, True, True]


async def test_answers_that_come_slowly_are_waited_for(store: PrivateStore, line: Line) -> None:
    paths = build_chain(store)
    line.proxy.judge = lambda _: SlowAnswer()
    async with opened(line.cache, store) as cache:
        report = await cache.push(await infos_of(store, paths), LocalNars(store.store_dir))
        assert report.sent.keys() == set(paths)
        assert await cache.examine(paths) == ()


async def test_wrong_bytes_are_told_from_right_ones(store: PrivateStore, line: Line) -> None:
    paths = build_chain(store)
    async with opened(line.around, store) as cache:
        await cache.push(await infos_of(store, paths), LocalNars(store.store_dir))
    line.proxy.judge = lambda request: SpoilAnswer() if ".nar." in request.path else None
    async with opened(line.cache, store) as cache:
        assert [each.flaw for each in await cache.verify(paths[0])] == [Flaw.NAR_DAMAGED]


@pytest.mark.parametrize("object_", [".nar", ".narinfo"])
async def test_what_never_gets_through_is_told_and_leaves_nothing_half(
    store: PrivateStore, line: Line, object_: str
) -> None:
    paths = build_chain(store)
    infos = await infos_of(store, paths)
    async with opened(line.cache, store) as cache:
        line.proxy.judge = lambda request: (
            CutRequest() if request.method == "PUT" and object_ in request.path else None
        )
        report = await cache.push(infos, LocalNars(store.store_dir))
    assert not report.sent
    assert report.failed.keys() | report.waiting.keys() == set(paths)
    assert all("attempts" in message for message in report.failed.values())
    async with opened(line.around, store) as cache:
        assert await cache.missing(paths) == set(paths)
        report = await cache.push(infos, LocalNars(store.store_dir))
        assert all(report.sent.values())
        assert [await cache.verify(path) for path in paths] == [()] * 3


async def test_no_answer_is_never_an_absence(store: PrivateStore, line: Line) -> None:
    paths = build_chain(store)
    async with opened(line.cache, store) as cache:
        line.proxy.judge = lambda _: Answer(500)
        with pytest.raises(CacheError, match="500"):
            await cache.missing(paths)


async def test_a_server_that_asks_for_a_pause_gets_it(line: Line) -> None:
    store = await line.store()
    line.proxy.judge = each_once(Answer(429, {"Retry-After": "1"}), "PUT", "HEAD", "OPTIONS")
    assert await store.present(["a.narinfo"]) == set()
    (first, _), (second, _) = line.proxy.seen[:2]
    assert second - first >= 1
    await store.close()


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("as_date", [False, True])
async def test_a_server_that_wants_a_long_pause_is_left_alone(
    line: Line, status: int, as_date: bool
) -> None:
    traffic, begun = Traffic(), time.time()
    store = await line.store(traffic=traffic)
    pause = formatdate(begun + 1800, usegmt=True) if as_date else "1800"
    said = Answer(status, {"Retry-After": pause}, b"<html>not now</html>")
    line.proxy.judge = lambda _: said
    with pytest.raises(CacheError, match=r"left alone until [0-9:]{8} UTC"):
        await store.present(["a.narinfo"])
    assert len(line.proxy.seen) == 1
    assert 1799 <= traffic.take_pause() - begun <= 1800 + (time.time() - begun)
    assert not traffic.take_pause(), "it is told once"
    failed = await store.put({f"{number}.narinfo": b"x" for number in range(200)})
    assert len(failed) == 200
    assert len(line.proxy.seen) < 50, "the others are not even tried"
    await store.close()


async def test_a_request_does_not_wait_again_and_again(line: Line) -> None:
    traffic = Traffic()
    store = await line.store(traffic=traffic)
    pauses = iter(["1", "60"])
    line.proxy.judge = lambda _: Answer(503, {"Retry-After": next(pauses)})
    with pytest.raises(CacheError, match="left alone until"):
        await store.present(["a.narinfo"])
    assert len(line.proxy.seen) == 2
    assert traffic.take_pause()
    await store.close()


async def test_a_server_that_falls_silent(line: Line) -> None:
    store = await line.store(patience=0.3)
    line.proxy.judge = lambda _: Silence()
    with pytest.raises(CacheError, match="falls silent"):
        await store.read("a.narinfo")
    await store.close()


async def test_a_push_that_is_cancelled_ends_and_leaves_nothing_half(
    store: PrivateStore, line: Line
) -> None:
    paths = build_chain(store)
    infos = await infos_of(store, paths)
    reached = asyncio.Event()

    def judge(request: Request) -> Fault | None:
        if request.method != "PUT" or "cache-info" in request.path:
            return None
        reached.set()
        return Silence()

    line.proxy.judge = judge

    async def work() -> None:
        async with opened(line.cache, store) as cache:
            await cache.push(infos, LocalNars(store.store_dir))

    task = asyncio.create_task(work())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with opened(line.around, store) as cache:
        assert await cache.missing(paths) == set(paths)


async def test_a_server_that_moves_nothing_is_written_to_directly(
    store: PrivateStore, line: Line
) -> None:
    paths = build_chain(store)
    line.proxy.judge = lambda request: Answer(405) if request.method == "MOVE" else None
    async with opened(line.cache, store) as cache:
        report = await cache.push(await infos_of(store, paths), LocalNars(store.store_dir))
        assert report.sent.keys() == set(paths)
        assert [await cache.verify(path) for path in paths] == [()] * 3


async def test_a_fifth_of_all_requests_fails_and_all_gets_there(
    store: PrivateStore, line: Line
) -> None:
    paths = [*build_chain(store), *add_files(store, 30)]
    infos = await infos_of(store, paths)
    chance = random.Random(7)  # noqa: S311 no secret depends on it
    faults: list[Fault] = [Answer(500), Answer(503), CutRequest(), LoseAnswer(), CutAnswer()]
    line.proxy.judge = lambda _: chance.choice(faults) if chance.random() < 0.2 else None
    lacking = set(paths)
    for _ in range(5):
        with contextlib.suppress(CacheError):
            async with opened(line.cache, store) as cache:
                await cache.push(infos, LocalNars(store.store_dir))
                lacking = await cache.missing(paths)
        if not lacking:
            break
    async with opened(line.around, store) as cache:
        assert await cache.missing(paths) == set()
        assert [await cache.verify(path) for path in paths] == [()] * len(paths)
