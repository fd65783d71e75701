"""Large NARs that go to S3 while they are packed: never is half of one taken for it, whatever ends
when; and neither side runs ahead of the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import asdict, replace

from reconciler.binary_cache import Flaw, LocalNars, StreamedNars, open_cache
from reconciler.binary_cache.compression import Encoder
from reconciler.binary_cache.nar_cache import GROUP_SIZE
from reconciler.binary_cache.narinfo import narinfo_name, parse
from reconciler.binary_cache.s3_address import address_of
from reconciler.binary_cache.s3_client import connect
from reconciler.binary_cache.s3_store import S3Store
from reconciler.binary_cache.streaming import NarSource, name_of
from reconciler.errors import CacheError
from reconciler.model import Cache, Compression, PathInfo, StorePath
from tests.binary_cache.harm import flip, nar
from tests.binary_cache.servers import Server, s3_credentials, s3_server
from tests.binary_cache.support import damage, declared_at, infos_of
from tests.support.fault_proxy import Fault, FaultProxy, Request, Silence, fault_proxy
from tests.support.private_store import PrivateStore

MIB = 1024 * 1024
SIZE = 24 * MIB


@dataclass(frozen=True)
class Bucket:
    """A bucket behind a proxy, and the way around it."""

    proxy: FaultProxy
    server: Server
    folder: Path
    credentials: Path

    def uri(self, address: str) -> str:
        return f"s3://bucket?endpoint={address}&scheme=http"

    @property
    def cache(self) -> Cache:
        return declared_at(self.uri(self.proxy.address), credentials=self.credentials)

    @property
    def around(self) -> Cache:
        return declared_at(self.uri(self.server.address), credentials=self.credentials)

    def nars(self) -> list[str]:
        """As they lie on the server's disk."""
        return [file.name for file in self.folder.glob("nar/*")]

    def under_way(self) -> int:
        """Uploads in parts that neither ended nor were given up."""
        client = connect(address_of(self.uri(self.server.address)), self.credentials, 20.0)
        return len(client.list_multipart_uploads(Bucket="bucket").get("Uploads", ()))


@pytest.fixture
async def bucket(tmp_path: Path) -> AsyncIterator[Bucket]:
    folder = tmp_path / "served" / "bucket"
    folder.mkdir(parents=True)
    with s3_server(folder.parent) as server:
        async with fault_proxy(server.address) as proxy:
            yield Bucket(proxy, server, folder, s3_credentials(tmp_path / "keys"))


CONTENT = os.urandom(SIZE)


def add_large(store: PrivateStore, name: str = "large", content: bytes = CONTENT) -> StorePath:
    file = store.root / name
    file.write_bytes(content)
    return StorePath(store.run("nix-store", "--add", str(file)).stdout.strip())


def is_part(request: Request) -> bool:
    return request.method == "PUT" and "partNumber=" in request.path


async def test_it_is_sent_while_it_is_packed_and_not_read_further_than_there_is_room(
    store: PrivateStore, bucket: Bucket
) -> None:
    (info,) = await infos_of(store, [add_large(store)])
    given, arrived, ahead = 0, 0, 0
    began = asyncio.Event()

    def judge(request: Request) -> None:
        nonlocal arrived
        if is_part(request):
            arrived += len(request.body)
            began.set()

    async def stream(path: StorePath) -> AsyncGenerator[bytes, None]:
        nonlocal given, ahead
        async for chunk in LocalNars(store.store_dir).stream(path):
            given += len(chunk)
            ahead = max(ahead, given - arrived)
            if given > SIZE // 2:
                await began.wait()  # for ever, were all of it packed first
            yield chunk

    bucket.proxy.judge = judge
    async with open_cache(bucket.cache, store_dir=str(store.store_dir)) as cache:
        report = await cache.push([info], StreamedNars(stream))
        assert report.sent.keys() == {info.path}
        assert await cache.verify(info.path) == ()
    assert ahead <= 20 * MIB + 3 * MIB  # the parts there is room for, and what is being packed
    assert bucket.under_way() == 0


async def test_one_that_is_found_damaged_at_its_end_is_not_there(
    store: PrivateStore, bucket: Bucket
) -> None:
    path = add_large(store)
    infos = await infos_of(store, [path])
    damage(path)
    async with open_cache(bucket.cache, store_dir=str(store.store_dir)) as cache:
        report = await cache.push(infos, LocalNars(store.store_dir))
        assert "damaged in the store" in report.failed[path]
        assert any(is_part(request) for _, request in bucket.proxy.seen)
        assert not bucket.nars()
        assert bucket.under_way() == 0
        store.run("nix-store", "--delete", path)
        assert add_large(store) == path
        assert (await cache.push(infos, LocalNars(store.store_dir))).sent.keys() == {path}
        assert await cache.verify(path) == ()


async def test_what_the_store_loses_meanwhile_is_told_and_not_there(
    store: PrivateStore, bucket: Bucket
) -> None:
    path = add_large(store)
    infos = await infos_of(store, [path])
    store.run("nix-store", "--delete", path)
    async with open_cache(bucket.cache, store_dir=str(store.store_dir)) as cache:
        report = await cache.push(infos, LocalNars(store.store_dir))
    assert report.gone == (path,)
    assert not bucket.nars()


async def test_killed_in_the_middle_it_leaves_nothing_that_is_taken_for_it(
    store: PrivateStore, bucket: Bucket
) -> None:
    (info,) = await infos_of(store, [add_large(store)])
    reached = asyncio.Event()

    def judge(request: Request) -> Fault | None:
        if not is_part(request) or "partNumber=1&" in request.path:
            return None
        reached.set()
        return Silence()

    bucket.proxy.judge = judge
    place = f"{bucket.cache.uri} {bucket.credentials}"
    argv = ["-m", "tests.binary_cache.pushing_child", place, str(store.store_dir), ""]
    child = await asyncio.create_subprocess_exec(
        sys.executable, *argv, stdin=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps([asdict(info)]).encode())
    child.stdin.close()
    await reached.wait()
    child.kill()
    await child.wait()
    assert not bucket.nars()
    assert not (bucket.folder / narinfo_name(info.path)).exists()
    assert bucket.under_way() == 1
    async with open_cache(bucket.around, store_dir=str(store.store_dir)) as cache:
        assert await cache.missing([info.path]) == {info.path}
        sent = (await cache.push([info], LocalNars(store.store_dir))).sent
        assert sent.keys() == {info.path}
        assert await cache.verify(info.path) == ()
    objects = await S3Store.open(bucket.around.uri, credentials_file=bucket.credentials)
    await objects.give_up(before=time.time() - 3600)
    assert bucket.under_way() == 1, "it could be of another process"
    await objects.give_up(before=time.time() + 3600)
    assert bucket.under_way() == 0
    await objects.close()


async def test_a_cancelled_push_gives_up_what_it_began(store: PrivateStore, bucket: Bucket) -> None:
    infos = await infos_of(store, [add_large(store)])
    reached = asyncio.Event()

    async def stream(path: StorePath) -> AsyncGenerator[bytes, None]:
        async with aclosing(LocalNars(store.store_dir).stream(path)) as chunks:
            async for chunk in chunks:
                yield chunk
                if any(is_part(request) for _, request in bucket.proxy.seen):
                    reached.set()
                    await asyncio.Event().wait()

    async def work() -> None:
        async with open_cache(bucket.cache, store_dir=str(store.store_dir)) as cache:
            await cache.push(infos, StreamedNars(stream))

    task = asyncio.create_task(work())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bucket.under_way() == 0
    assert not bucket.nars()


async def test_what_was_damaged_there_is_replaced(store: PrivateStore, bucket: Bucket) -> None:
    path = add_large(store)
    infos = await infos_of(store, [path])
    async with open_cache(bucket.cache, store_dir=str(store.store_dir)) as cache:
        await cache.push(infos, LocalNars(store.store_dir))
        flip(bucket.folder, path)
        bucket.server.refresh()
        assert [each.flaw for each in await cache.verify(path)] == [Flaw.NAR_DAMAGED]
        report = await cache.push(infos, LocalNars(store.store_dir), replace=[path])
        assert report.sent[path] > 0
        assert await cache.verify(path) == ()


async def test_two_paths_of_one_content_share_a_nar_until_neither_is_needed(
    store: PrivateStore, bucket: Bucket
) -> None:
    first, second = add_large(store, "first"), add_large(store, "second")
    infos = await infos_of(store, [first, second])
    async with open_cache(bucket.cache, store_dir=str(store.store_dir)) as cache:
        for info in infos:
            await cache.push([info], LocalNars(store.store_dir))
        assert nar(bucket.folder, first) == nar(bucket.folder, second)
        assert sum("uploads" in request.path for _, request in bucket.proxy.seen) == 1
        assert await cache.examine([first, second]) == ()
        await cache.delete([first], keep=[second])
        assert await cache.examine([second]) == ()
        await cache.delete([second], keep=[])
    assert not bucket.nars()


async def test_one_that_compresses_to_less_than_a_part_is_one_request(
    store: PrivateStore, bucket: Bucket
) -> None:
    infos = await infos_of(store, [add_large(store, content=b"text " * (GROUP_SIZE // 2))])
    async with open_cache(bucket.cache, store_dir=str(store.store_dir)) as cache:
        report = await cache.push(infos, LocalNars(store.store_dir))
        assert report.sent.keys() == {infos[0].path}
        assert await cache.verify(infos[0].path) == ()
    assert not any("upload" in request.path for _, request in bucket.proxy.seen)


@pytest.mark.parametrize("compression", Compression)
async def test_of_every_compression(
    store: PrivateStore, bucket: Bucket, compression: Compression
) -> None:
    path = add_large(store, content=CONTENT[: GROUP_SIZE + 1])
    infos = await infos_of(store, [path])
    declared = replace(bucket.cache, compression=compression)
    async with open_cache(declared, store_dir=str(store.store_dir)) as cache:
        report = await cache.push(infos, LocalNars(store.store_dir))
        assert report.sent[path] > GROUP_SIZE
        assert await cache.verify(path) == ()
    info = parse((bucket.folder / narinfo_name(path)).read_text())
    # Of what nobody knows how it is packed, the name is the file's own hash.
    own = info.url.startswith(f"nar/{info.file_hash.partition(':')[2]}.nar")
    assert own == (compression is not Compression.ZSTD)


FORETOLD = [Compression.NONE, Compression.ZSTD]
"""Of xz nobody knows before what comes out."""


# --- The source alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("compression", FORETOLD)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_source_gives_one_file_in_pieces_of_any_size(
    store: PrivateStore, compression: Compression, *, streamed: bool
) -> None:
    (info,) = await infos_of(store, [add_large(store, content=CONTENT[:MIB])])
    local = LocalNars(store.store_dir)
    files = set()
    for size in (100_000, MIB // 2, 100 * MIB):
        nars = StreamedNars(local.stream) if streamed else local
        stop = threading.Event()
        async with NarSource(info, nars, Encoder(compression), stop) as source:
            pieces = []
            while piece := await source.read(size):
                pieces.append(bytes(piece))
            assert await source.read(size) == b""
            assert all(len(piece) == size for piece in pieces[:-1])
            assert source.packed().file_size == sum(map(len, pieces))
            files.add((b"".join(pieces), source.packed().file_hash, source.name))
    assert len(files) == 1


async def test_a_source_that_is_stopped_says_so(store: PrivateStore) -> None:
    (info,) = await infos_of(store, [add_large(store)])
    stop = threading.Event()
    nars = LocalNars(store.store_dir)
    async with NarSource(info, nars, Encoder(Compression.ZSTD), stop) as source:
        assert len(await source.read(MIB)) == MIB
        stop.set()
        with pytest.raises(CacheError, match="stopped"):
            await source.read_all()


def test_a_name_stands_for_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    info = PathInfo(
        path=StorePath("/nix/store/0123-name"),
        deriver=None,
        nar_hash=f"sha256:{'0' * 52}",
        nar_size=1,
        references=(),
    )
    names = {name_of(info, Encoder(each)) for each in FORETOLD}
    names.add(name_of(replace(info, nar_hash=f"sha256:{'1' * 52}"), Encoder(Compression.ZSTD)))
    monkeypatch.setattr("zstandard.ZSTD_VERSION", (9, 9, 9))
    names.add(name_of(info, Encoder(Compression.ZSTD)))
    assert len(names) == len(FORETOLD) + 2
    elsewhere = replace(info, path=StorePath("/nix/store/4567-other"))
    assert name_of(elsewhere, Encoder(Compression.ZSTD)) in names
