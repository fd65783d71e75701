"""Connections to a cache that is a Nix store: when one serves again, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

import pytest
from msgspec.structs import replace

from reconciler.binary_cache import Lines, LocalNars, StreamedNars, open_cache
from reconciler.binary_cache.lines import MAX_AGE
from reconciler.errors import CacheError
from reconciler.model import Cache, StorePath
from reconciler.nix.ssh import peer_of
from tests.binary_cache.support import add_files, declare, infos_of, on_machine
from tests.nix.connection_daemons import newer_nix
from tests.support.builders import TestBuilder
from tests.support.private_store import PrivateStore


@pytest.fixture
def remote(store: PrivateStore) -> Iterator[TestBuilder]:
    made = TestBuilder(store, newer_nix())
    yield made
    made.close()


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    made = Lines(max_age=MAX_AGE)
    yield made
    await made.rest()


def declared(remote: TestBuilder) -> Cache:
    return on_machine(declare(remote.store.root), remote.declared())


async def send(store: PrivateStore, cache: Cache, paths: list[StorePath], lines: Lines) -> None:
    async with open_cache(cache, store_dir=str(store.store_dir), lines=lines) as opened:
        report = await opened.push(await infos_of(store, paths), LocalNars(store.store_dir))
    assert report.sent.keys() == set(paths)


async def test_batches_share_a_connection(
    store: PrivateStore, remote: TestBuilder, lines: Lines
) -> None:
    for path in add_files(store, 3):
        await send(store, declared(remote), [path], lines)
    assert remote.sshd.connections == 1


async def test_those_who_use_it_at_once_have_one_each(remote: TestBuilder, lines: Lines) -> None:
    peer = peer_of(declared(remote))
    first, second = await lines.take(peer), await lines.take(peer)
    assert first.connection is not second.connection
    await lines.leave(first)
    await lines.leave(second)
    kept = {first.connection, second.connection}
    assert {(await lines.take(peer)).connection for _ in range(2)} == kept
    for connection in kept:
        await connection.close()


async def test_one_that_was_lost_meanwhile_is_made_anew(
    store: PrivateStore, remote: TestBuilder, lines: Lines
) -> None:
    first, second = add_files(store, 2)
    await send(store, declared(remote), [first], lines)
    remote.sshd.hang_up()
    await send(store, declared(remote), [second], lines)
    assert remote.sshd.connections == 2


async def test_one_that_was_left_in_mid_transfer_serves_nobody_else(
    store: PrivateStore, remote: TestBuilder, lines: Lines
) -> None:
    first, second = add_files(store, 2)
    reached = asyncio.Event()

    async def stalling(path: StorePath) -> AsyncGenerator[bytes, None]:
        async for chunk in LocalNars(store.store_dir).stream(path):
            yield chunk[:50]
            reached.set()
            await asyncio.Event().wait()

    async def work() -> None:
        async with open_cache(
            declared(remote), store_dir=str(store.store_dir), lines=lines
        ) as opened:
            await opened.push(await infos_of(store, [first]), StreamedNars(stalling))

    task = asyncio.create_task(work())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await send(store, declared(remote), [first, second], lines)
    assert remote.sshd.connections == 2


async def test_a_cache_that_is_declared_otherwise_has_its_own(
    store: PrivateStore, remote: TestBuilder, lines: Lines
) -> None:
    (path,) = add_files(store, 1)
    cache = declared(remote)
    await send(store, cache, [path], lines)
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJhPb0xqvbcAWJv2MvYwwVBsYNlMCrEyRuTRnNvQ4J8Y"
    with pytest.raises(CacheError, match="another host key"):
        await send(store, replace(cache, public_host_key=other), [path], lines)


async def test_an_old_one_ends_by_itself_and_all_at_rest(
    store: PrivateStore, remote: TestBuilder
) -> None:
    (path,) = add_files(store, 1)
    short = Lines(max_age=0.3)
    await send(store, declared(remote), [path], short)
    await asyncio.to_thread(remote.settle)  # it fails where something runs on
    await send(store, declared(remote), [path], short)
    assert remote.sshd.connections == 2
    await short.rest()
    await asyncio.to_thread(remote.settle)
    long = Lines(max_age=MAX_AGE)
    await send(store, declared(remote), [path], long)
    await long.rest()
    await asyncio.to_thread(remote.settle)
    await send(store, declared(remote), [path], long)  # it may be used again
    await long.rest()
