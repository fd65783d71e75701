"""Asks a cache of somebody else what it has. Writes nothing there."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reconciler.binary_cache.file_store import folder_of
from reconciler.binary_cache.interface import ObjectStore
from reconciler.binary_cache.narinfo import fingerprint, narinfo_name, parse
from reconciler.binary_cache.signing import PublicKey
from reconciler.binary_cache.traffic import Traffic
from reconciler.binary_cache.verification import PARALLEL_READS, each_of
from reconciler.errors import CacheError
from reconciler.model import StorePath, Upstream

if TYPE_CHECKING:
    from reconciler.binary_cache.http_store import HttpStore
    from reconciler.binary_cache.s3_store import S3Store

PATIENCE = 5.0
"""Seconds without a byte: a push waits for it, and does as well without."""
KINDS = frozenset({"http", "https", "s3", "file"})


def can_be_asked(upstream: Upstream) -> bool:
    """Whether it is of a kind that has narinfo files."""
    return urlsplit(upstream.url).scheme in KINDS


async def ask(
    upstream: Upstream, paths: Collection[StorePath], traffic: Traffic
) -> frozenset[StorePath]:
    """Those of the paths that it has: signed with its key, where that is declared.

    Raises CacheError where it does not answer; `traffic` knows if it asks to be left alone.
    """
    key = None if upstream.public_key is None else PublicKey.parse(upstream.public_key)
    if urlsplit(upstream.url).scheme == "file":
        return await asyncio.to_thread(_in_folder, folder_of(upstream.url), paths, key)
    store = await asyncio.to_thread(_kind, upstream.url)
    opened = await store.open(
        upstream.url, credentials_file=None, patience=PATIENCE, traffic=traffic
    )
    try:
        return await _in_store(opened, paths, key)
    finally:
        await opened.close()


def _kind(url: str) -> type[HttpStore | S3Store]:
    if urlsplit(url).scheme == "s3":
        from reconciler.binary_cache.s3_store import S3Store  # noqa: PLC0415 - 0.15 s

        return S3Store
    from reconciler.binary_cache.http_store import HttpStore  # noqa: PLC0415 - 0.05 s

    return HttpStore


async def _in_store(
    store: ObjectStore, paths: Collection[StorePath], key: PublicKey | None
) -> frozenset[StorePath]:
    if key is None:
        present = await store.present({narinfo_name(path) for path in paths})
        return frozenset(path for path in paths if narinfo_name(path) in present)
    texts = await each_of((store.read(narinfo_name(path)) for path in paths), PARALLEL_READS)
    return frozenset(
        path for path, text in zip(paths, texts, strict=True) if _good(path, text, key)
    )


def _in_folder(
    folder: Path, paths: Collection[StorePath], key: PublicKey | None
) -> frozenset[StorePath]:
    if not folder.is_dir():
        raise CacheError(f"{folder} is no folder")
    return frozenset(path for path in paths if _good(path, _read(folder / narinfo_name(path)), key))


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CacheError(f"{file} cannot be read: {error.strerror}") from error


def _good(path: StorePath, text: bytes | None, key: PublicKey | None) -> bool:
    """Whether a narinfo is the path's, and signed as it should be."""
    if text is None:
        return False
    try:
        info = parse(text.decode())
    except (CacheError, UnicodeDecodeError):
        return False
    signed = fingerprint(
        info.path, nar_hash=info.nar_hash, nar_size=info.nar_size, references=info.references
    )
    return info.path == path and (key is None or key.signed(signed, info.signatures))
