"""What nothing needs is deleted, and nothing that anything needs; in an order that readers bear."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from reconciler.binary_cache import CACHE_INFO, open_cache
from reconciler.binary_cache.collection import ABANDONED_AGE
from reconciler.binary_cache.landing import PAGE
from reconciler.errors import CacheError
from reconciler.model import Cache
from tests.binary_cache.servers import dav_server, netrc, nginx_server, s3_credentials, s3_server
from tests.binary_cache.support import add_files, build_chain, declare, make_key, push
from tests.support.private_store import PrivateStore


@pytest.fixture(params=["file", "s3", "http", "nginx"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Cache, Path]]:
    """A cache, and its files. Of a server of its own: rclone remembers deletions."""
    folder = tmp_path / "root" / "bucket" / "cache"
    folder.parent.mkdir(parents=True)
    cache = declare(folder)
    with ExitStack() as stack:
        if request.param == "s3":
            server = stack.enter_context(s3_server(tmp_path / "root"))
            uri = f"s3://bucket/cache?endpoint={server.address}&scheme=http"
            keys = s3_credentials(tmp_path / "keys")
            cache = replace(cache, uri=uri, credentials_file=str(keys))
        elif request.param != "file":
            serve = dav_server if request.param == "http" else nginx_server
            server = stack.enter_context(serve(tmp_path / "root"))
            uri = f"http://{server.address}/bucket/cache"
            cache = replace(cache, uri=uri, credentials_file=str(netrc(tmp_path / "keys")))
        yield cache, folder


async def test_what_nothing_needs_is_deleted(
    store: PrivateStore, place: tuple[Cache, Path]
) -> None:
    declared, folder = place
    declared = replace(declared, signing_key_file=str(make_key(store)))
    base, middle, top = paths = build_chain(store)
    await push(store, declared, paths)
    async with open_cache(declared, store_dir=str(store.store_dir)) as cache:
        assert await cache.unneeded(ours=paths, wanted=[middle]) == {top}
        assert await cache.unneeded(ours=[middle, base], wanted=[]) == set()  # top needs both
        assert await cache.delete([top, base], keep=[middle]) == {top}
        assert await cache.missing(paths) == {top}
        assert await cache.examine([base, middle]) == ()
        assert await cache.delete(paths, keep=[]) == set(paths)
    left = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert left == {CACHE_INFO, PAGE}


@pytest.mark.parametrize("place", ["file"], indirect=True)
async def test_what_cannot_be_deleted_is_told_and_is_deleted_later(
    store: PrivateStore, place: tuple[Cache, Path]
) -> None:
    declared, folder = place
    paths = add_files(store, 2)
    await push(store, declared, paths)
    stuck, *_ = (folder / "nar").iterdir()
    content = stuck.read_bytes()
    async with open_cache(declared, store_dir=str(store.store_dir)) as cache:
        stuck.unlink()
        stuck.mkdir()  # not even root unlinks a folder
        with pytest.raises(CacheError):
            await cache.delete(paths, keep=[])
        stuck.rmdir()
        stuck.write_bytes(content)
        assert await cache.delete(paths, keep=[]) == set(paths)
        assert stuck.exists()  # it could be of a push that is under way
        old = time.time() - ABANDONED_AGE - 1
        os.utime(stuck, (old, old))
        assert await cache.delete(paths, keep=[]) == set(paths)
    assert not [*folder.glob("*.narinfo"), *(folder / "nar").iterdir()]


async def test_a_cache_that_does_not_list_what_it_has_is_left_as_it_is(
    store: PrivateStore, tmp_path: Path
) -> None:
    with nginx_server(tmp_path, lists=False) as server:
        uri = f"http://{server.address}/cache"
        keys = str(netrc(tmp_path / "keys"))
        cache = replace(declare(tmp_path), uri=uri, credentials_file=keys)
        paths = add_files(store, 2)
        await push(store, cache, paths)
        async with open_cache(cache, store_dir=str(store.store_dir)) as it:
            with pytest.raises(CacheError, match="PROPFIND, or set gc to false"):
                await it.delete(paths, keep=[])
            assert await it.hashes() is None
            assert await it.examine(paths) == ()


@pytest.mark.parametrize("place", ["file"], indirect=True)
async def test_a_list_that_lacks_what_is_there_deletes_nothing(
    store: PrivateStore, place: tuple[Cache, Path]
) -> None:
    declared, folder = place
    paths = add_files(store, 2)
    await push(store, declared, paths)
    async with open_cache(declared, store_dir=str(store.store_dir)) as cache:
        (folder / CACHE_INFO).unlink()
        with pytest.raises(CacheError, match="lacks nix-cache-info"):
            await cache.delete(paths, keep=[])
    assert len([*folder.glob("*.narinfo")]) == 2
