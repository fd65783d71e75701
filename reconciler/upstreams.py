"""What the upstreams of a cache have: by their signatures, by what they said before, by asking.

An upstream that does not answer never holds up a push: what it had when it answered last still
counts, and all else is taken to be absent, so that it is pushed.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from reconciler.database import Database, answers
from reconciler.database.events import event
from reconciler.errors import CacheError
from reconciler.model import Cache, StorePath, Upstream

AT_ONCE = 1000
"""Paths that are asked about before the answers are recorded."""
REST = 300.0
"""Seconds for which an upstream that did not answer is left alone, unless it asked for more."""


class Upstreams:
    """See the module's text. Without a database nothing is remembered."""

    def __init__(self, database: Database | None) -> None:
        self._database = database
        self._silent_until: dict[str, float] = {}

    async def having(
        self, cache: Cache, signatures: Mapping[StorePath, Sequence[str]]
    ) -> frozenset[StorePath]:
        """Those of the paths, each with its signatures, that readers of a cache get from its
        upstreams.
        """
        found = {path for path, each in signatures.items() if is_signed(cache, each)}
        for upstream in cache.upstreams:
            rest = [path for path in signatures if path not in found]
            if rest:
                found |= await self._having(cache, upstream, rest)
        return frozenset(found)

    async def _having(
        self, cache: Cache, upstream: Upstream, paths: Sequence[StorePath]
    ) -> frozenset[StorePath]:
        # Loading it, with its cryptography, takes longer than evaluating a small jobset.
        from reconciler.binary_cache import upstream as asking  # noqa: PLC0415
        from reconciler.binary_cache.traffic import Traffic  # noqa: PLC0415

        if not asking.can_be_asked(upstream):
            return frozenset()
        known = self._known(upstream, paths)
        there = {path for path, is_there in known.items() if is_there}
        rest = [path for path in paths if path not in known]
        for start in range(0, len(rest), AT_ONCE):
            some = rest[start : start + AT_ONCE]
            if self._silent_until.get(upstream.url, 0.0) > time.time():
                there |= self._once_there(upstream, some)
                continue
            traffic = Traffic()
            try:
                answer = await asking.ask(upstream, some, traffic)
            except CacheError as error:
                self._is_silent(cache, upstream, str(error), pause_until=traffic.take_pause())
                there |= self._once_there(upstream, some)
            else:
                there |= answer
                self._record(upstream, some, answer)
        return frozenset(there)

    # --- Memory ----------------------------------------------------------------------------

    def _known(self, upstream: Upstream, paths: Collection[StorePath]) -> dict[StorePath, bool]:
        if self._database is None:
            return {}
        return answers.known(self._database, _id(upstream), paths, now=time.time())

    def _once_there(self, upstream: Upstream, paths: Collection[StorePath]) -> frozenset[StorePath]:
        if self._database is None:
            return frozenset()
        return answers.once_there(self._database, _id(upstream), paths, now=time.time())

    def _record(
        self, upstream: Upstream, asked: Collection[StorePath], there: Collection[StorePath]
    ) -> None:
        if self._database is not None:
            answers.record(self._database, _id(upstream), asked, there, now=time.time())

    def _is_silent(self, cache: Cache, upstream: Upstream, why: str, *, pause_until: float) -> None:
        now = time.time()
        self._silent_until[upstream.url] = max(now + REST, pause_until)
        if self._database is None:
            return
        with self._database.transaction():
            event(
                self._database,
                at=now,
                kind="cache",
                subject=cache.name,
                before=None,
                after="pushed to without asking an upstream",
                cause=f"{upstream.url} does not answer: {why}",
            )


def _id(upstream: Upstream) -> str:
    """What answers are recorded under: another key asks another question."""
    return f"{upstream.url} {upstream.public_key or ''}".strip()


def is_signed(cache: Cache, signatures: Sequence[str]) -> bool:
    """Whether one of the cache's upstreams signed a path: then it is there."""
    keys = {each.public_key.split(":")[0] for each in cache.upstreams if each.public_key}
    return any(signature.split(":")[0] in keys for signature in signatures)
