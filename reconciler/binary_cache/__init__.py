"""Binary caches: signed paths into them, and proof that they are there.

`open_cache` makes the right kind of a declared cache. A further kind of files with narinfo (S3,
HTTP) is one module with an ObjectStore and one case here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reconciler.binary_cache import landing
from reconciler.binary_cache.file_store import FileStore, folder_of
from reconciler.binary_cache.interface import (
    BinaryCache,
    Finding,
    Flaw,
    ObjectStore,
    PushReport,
)
from reconciler.binary_cache.lines import Lines
from reconciler.binary_cache.nar_cache import NarCache
from reconciler.binary_cache.nars import GoneError, LocalNars, Nars, StreamedNars
from reconciler.binary_cache.nix_store import NixStoreCache
from reconciler.binary_cache.signing import PublicKey, SecretKey, read_secret_key, signing_keys
from reconciler.binary_cache.traffic import Traffic
from reconciler.errors import CacheError
from reconciler.model import Cache

if TYPE_CHECKING:
    from reconciler.binary_cache.http_store import HttpStore
    from reconciler.binary_cache.s3_store import S3Store

__all__ = [
    "BinaryCache",
    "Finding",
    "Flaw",
    "GoneError",
    "Lines",
    "LocalNars",
    "Nars",
    "ObjectStore",
    "PublicKey",
    "PushReport",
    "SecretKey",
    "StreamedNars",
    "Traffic",
    "open_cache",
    "open_objects",
    "reach",
    "read_secret_key",
]

CACHE_INFO = "nix-cache-info"
PRIORITY = 30
"""Asked before cache.nixos.org, which has 40."""


@asynccontextmanager
async def open_cache(
    cache: Cache, *, store_dir: str, traffic: Traffic | None = None, lines: Lines | None = None
) -> AsyncIterator[BinaryCache]:
    """Open a declared cache for paths of the store at `store_dir`. `traffic` is shared by all that
    send to it at the same time, `lines` by those that use it one after the other.

    Raises CacheError, with what is wrong and how to mend it, where it cannot be used.
    """
    keys = await asyncio.to_thread(signing_keys, cache, store_dir=store_dir)
    pace, kept = traffic or Traffic(cache.bandwidth), lines or Lines()
    try:
        if _is_nix_store(cache):
            opened: BinaryCache = await NixStoreCache.open(
                cache, keys=keys, store_dir=store_dir, lines=kept, traffic=pace
            )
        else:
            opened = await _open_files(cache, keys, store_dir, pace)
        try:
            yield opened
        finally:
            await opened.close()
    finally:
        if lines is None:
            await kept.rest()


async def _open_files(
    cache: Cache, keys: Sequence[SecretKey], store_dir: str, traffic: Traffic
) -> NarCache:
    store = await _open_store(cache, traffic)
    try:
        await _agree_on_store_dir(store, cache.uri, store_dir)
        await landing.place(store, cache.uri, [key.public for key in keys], store_dir=store_dir)
    except BaseException:
        await store.close()
        raise
    return NarCache(store, keys=keys, compression=cache.compression)


async def reach(cache: Cache, *, store_dir: str) -> str:
    """Ask a declared cache for what every cache has, and change nothing; a sentence for people.

    Raises CacheError where no answer is to be had, or where it is a cache of another store.
    """
    if _is_nix_store(cache):
        keys = await asyncio.to_thread(signing_keys, cache, store_dir=store_dir)
        lines = Lines()
        try:
            opened = await NixStoreCache.open(cache, keys=keys, store_dir=store_dir, lines=lines)
            try:
                return await opened.describe()
            finally:
                await opened.close()
        finally:
            await lines.rest()
    store = await _open_store(cache, Traffic())
    try:
        raw = await store.read(CACHE_INFO)
    finally:
        await store.close()
    if raw is None:
        return f"{cache.uri} answers, and is empty"
    _check_store_dir(raw, cache.uri, store_dir)
    return f"{cache.uri} answers"


def _is_nix_store(cache: Cache) -> bool:
    """Whether it is no set of files."""
    return cache.uri.startswith("ssh-ng:")


async def _open_store(cache: Cache, traffic: Traffic) -> ObjectStore:
    return await open_objects(cache.uri, credentials_file=cache.credentials_file, traffic=traffic)


async def open_objects(
    uri: str, *, credentials_file: str | None, traffic: Traffic | None = None
) -> ObjectStore:
    """Open a folder, bucket or server of objects, whatever they mean. CacheError."""
    credentials = None if credentials_file is None else Path(credentials_file)
    scheme = urlsplit(uri).scheme
    match scheme:
        case "file":
            return await FileStore.open(folder_of(uri), traffic)
        case "s3":
            s3_store = await asyncio.to_thread(_s3_store)
            return await s3_store.open(uri, credentials_file=credentials, traffic=traffic)
        case "http" | "https":
            http_store = await asyncio.to_thread(_http_store)
            return await http_store.open(uri, credentials_file=credentials, traffic=traffic)
        case _:
            raise CacheError(
                f"{uri}: a cache of kind {scheme or '(none)'}: is not served; "
                "use file:, s3:, http:, https: or ssh-ng:"
            )


def _s3_store() -> type[S3Store]:
    # boto3 takes 0.15 s to import: only those who have such a cache pay for it.
    from reconciler.binary_cache.s3_store import S3Store  # noqa: PLC0415

    return S3Store


def _http_store() -> type[HttpStore]:
    from reconciler.binary_cache.http_store import HttpStore  # noqa: PLC0415 as above: 0.05 s

    return HttpStore


async def _agree_on_store_dir(store: ObjectStore, uri: str, store_dir: str) -> None:
    """Write `nix-cache-info` where there is none; CacheError where it is of another store."""
    raw = await store.read(CACHE_INFO)
    if raw is None:
        text = f"StoreDir: {store_dir}\nWantMassQuery: 1\nPriority: {PRIORITY}\n"
        for reason in (await store.put({CACHE_INFO: text.encode()})).values():
            raise CacheError(reason)
        return
    _check_store_dir(raw, uri, store_dir)


def _check_store_dir(raw: bytes, uri: str, store_dir: str) -> None:
    for line in raw.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition(":")
        if key != "StoreDir":
            continue
        if value.strip() != store_dir:
            raise CacheError(
                f"{uri} holds paths of the store {value.strip()}, ours is {store_dir}: "
                "no Nix could use both; give this store a cache of its own"
            )
        return
    raise CacheError(
        f"{uri}: what is there as {CACHE_INFO} is none, it names no StoreDir: mend the uri, or "
        "remove that file"
    )
