"""Sends build logs and realisations to a cache, beside the paths they belong to. Every end is a
value.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from reconciler.binary_cache import Lines, Traffic, open_cache
from reconciler.build import log as build_log
from reconciler.database.companions import Companion
from reconciler.errors import CacheError
from reconciler.model import Cache
from reconciler.outcomes import Accompanied


async def accompany(
    cache: Cache,
    companions: Iterable[Companion],
    *,
    logs: Path,
    store_dir: str,
    traffic: Traffic,
    lines: Lines,
) -> Accompanied:
    """Send them; a log is read where builds leave it."""
    objects, unreadable = await asyncio.to_thread(_contents, tuple(companions), logs)
    gone = tuple(name for name, content in objects.items() if content is None)
    there = {name: content for name, content in objects.items() if content is not None}
    try:
        async with open_cache(cache, store_dir=store_dir, traffic=traffic, lines=lines) as opened:
            failed = await opened.accompany(there)
    except CacheError as error:
        failed = dict.fromkeys(there, str(error))
    return Accompanied(
        cache=cache.name,
        sent={name: len(content) for name, content in there.items() if name not in failed},
        gone=gone,
        failed={**unreadable, **failed},
    )


def _contents(
    companions: Iterable[Companion], logs: Path
) -> tuple[Mapping[str, bytes | None], Mapping[str, str]]:
    """What is to be sent, by name; None: it is gone. And what cannot be read, and why."""
    found: dict[str, bytes | None] = {}
    unreadable: dict[str, str] = {}
    for each in companions:
        if each.content is not None:
            found[each.name] = each.content.encode()
        elif each.attempt is not None:
            try:
                found[each.name] = b"".join(build_log.read(logs, each.attempt))
            except FileNotFoundError:
                found[each.name] = None
            except OSError as error:
                unreadable[each.name] = f"the log of attempt {each.attempt}: {error.strerror}"
    return found, unreadable
