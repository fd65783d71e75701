"""Bases from artifact stores, for jobs of which nobody here has left any.

Asked between the two evaluations. Whatever goes wrong is a sentence beside the reason for a full
build, and no failure: a store that does not answer is left alone for a while. What is fetched comes
into the local store by its content alone, as what builds here left does.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

from reconciler.bases import Fingerprint, worn
from reconciler.binary_cache.interface import ObjectStore
from reconciler.database import Database
from reconciler.database import artifacts as recorded
from reconciler.database.incremental import Slot
from reconciler.errors import CacheError, NixError
from reconciler.incremental import artifacts
from reconciler.incremental.artifacts import Description, Found, UnfitError, Wanted
from reconciler.incremental.policy import Policy
from reconciler.model import ArtifactStore, DrvPath, Incremental, StorePath
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import OPEN_TIMEOUT
from reconciler.nix.protocol import ClientOptions
from reconciler.nix.store_path import by_content, digest_of_sri
from reconciler.store import Store

PATIENCE = 900.0
"""Seconds for all that an evaluation has of a store."""
LEFT_ALONE = 60.0
"""Seconds for which one that did not answer is not asked."""
_CHUNK = 1024 * 1024

Report = Callable[[str, str | None], None]
"""Told a store's name and what is wrong with it; None: nothing."""


class Need(Struct, frozen=True, kw_only=True):
    """A job that is to be built in full, unless an artifact store has something."""

    slot: Slot
    canonical: DrvPath
    fingerprint: Fingerprint
    policy: Policy
    bucket: str

    @property
    def kept_as(self) -> tuple[str, ...]:
        """The names under which its bases are, the better first."""
        names = (self.policy.slot or self.slot.job, self.policy.fallback)
        return tuple(dict.fromkeys(name for name in names if name is not None))


class Sharing(Struct, kw_only=True):
    """The declared artifact stores, as one process sees them."""

    database: Database
    store: Store
    scratch: Path
    report: Report
    stores: Mapping[str, ArtifactStore] = field(default_factory=dict)
    """By name, as they are declared now."""
    silent: dict[str, float] = field(default_factory=dict)
    """By address of those that did not answer: until when they are not asked."""

    async def look_again(self) -> None:
        """See whether those that did not answer do now, although nothing is wanted of them."""
        for store in self.stores.values():
            if time.monotonic() >= self.silent.get(store.url, time.monotonic() + 1):
                await self._from(store, (), Incremental())

    async def bring(
        self, needs: Iterable[Need], settings: Incremental
    ) -> tuple[bool, dict[str, str]]:
        """Fetch a base for each of the jobs, where there is one; whether there was any, and why
        there was none, by job.
        """
        by_bucket: dict[str, list[Need]] = {}
        for need in needs:
            by_bucket.setdefault(need.bucket, []).append(need)
        brought = False
        reasons: dict[str, str] = {}
        for bucket, some in by_bucket.items():
            store = self.stores.get(bucket)
            if store is None:
                reasons |= dict.fromkeys(
                    (each.slot.job for each in some),
                    f"artifactStores.{bucket}, which it names, is not declared",
                )
                continue
            why = await self._from(store, some, settings)
            brought = brought or len(why) < len(some)
            reasons |= {
                job: f"the artifact store {bucket}: {reason}" for job, reason in why.items()
            }
        return brought, reasons

    async def _from(
        self, store: ArtifactStore, needs: Sequence[Need], settings: Incremental
    ) -> dict[str, str]:
        """Fetch what one store has; why it has nothing, by job."""
        open_ = {each.slot.job: each for each in needs}
        if time.monotonic() < self.silent.get(store.url, 0.0):
            return dict.fromkeys(open_, "it did not answer lately")
        reasons: dict[str, str] = {}
        fault: str | None = None
        try:
            async with asyncio.timeout(PATIENCE), artifacts.opened(store) as objects:
                if not open_:
                    await objects.present([artifacts.ANY])
                for job, need in open_.items():
                    why = await self._one(store, objects, need, settings)
                    if why is not None:
                        reasons[job] = why
                    open_ = {name: each for name, each in open_.items() if name != job}
        except CacheError as error:
            fault = str(error)
        except TimeoutError:
            fault = f"{store.url} took longer than {PATIENCE:.0f} s"
        self.silent.pop(store.url, None)
        if fault is not None:
            self.silent[store.url] = time.monotonic() + LEFT_ALONE
            reasons |= dict.fromkeys(open_, fault)
        self.report(store.name, fault)
        return reasons

    async def _one(
        self, store: ArtifactStore, objects: ObjectStore, need: Need, settings: Incremental
    ) -> str | None:
        """Fetch one job's base; why there is none. CacheError."""
        after = recorded.not_before(self.database, need.slot)
        unfit: list[str] = []
        for name in need.kept_as:
            wanted = Wanted(
                system=need.slot.system,
                fingerprint=need.fingerprint.digest,
                slot=name,
                after=after,
                max_size=settings.max_size,
            )
            found, why = await artifacts.find(objects, wanted)
            unfit += why
            for each in found:
                reason = self._unwanted(need, each.description, settings)
                try:
                    if reason is None:
                        await self._take(store, objects, need, each)
                        return None
                except (UnfitError, NixError) as error:
                    reason = str(error)
                unfit.append(reason)
        if unfit:
            more = f" (and {len(unfit) - 1} more)" if len(unfit) > 1 else ""
            return unfit[0] + more
        return f"it has nothing built alike in {' or '.join(need.kept_as)}"

    def _unwanted(self, need: Need, said: Description, settings: Incremental) -> str | None:
        if recorded.is_bad(self.database, need.slot, said.nar_hash):
            return "what it has is in quarantine here"
        tired = worn(depth=said.depth, full_at=said.full_at, settings=settings, now=time.time())
        return None if tired is None else f"what it has {tired}"

    async def _take(
        self, store: ArtifactStore, objects: ObjectStore, need: Need, found: Found
    ) -> None:
        """Bring one into the local store, and record it. CacheError, UnfitError, NixError."""
        said = found.description
        digest = digest_of_sri(said.nar_hash)
        assert digest is not None
        store_dir = str(Path(said.canonical).parent)
        if store_dir != str(Path(need.canonical).parent):
            raise UnfitError(f"it is of a store in {store_dir}")
        path = by_content(store_dir, said.name, digest)
        await self.store.protect([path])
        if path not in await self.store.valid([path]):
            with tempfile.TemporaryDirectory(prefix="artifact-", dir=self.scratch) as folder:
                file = Path(folder, "nar")
                await artifacts.fetch(objects, found, file)
                await self._add(said.name, file)
        recorded.take(
            self.database,
            need.slot,
            recorded.Fetched(
                store=store.name,
                name=said.name,
                path=path,
                nar_hash=said.nar_hash,
                size=said.nar_size,
                fingerprint=need.fingerprint,
                kept_as=said.slot,
                canonical=DrvPath(said.canonical),
                built=DrvPath(said.built),
                revision=said.commit,
                depth=said.depth,
                full_at=said.full_at,
                bucket=need.bucket,
            ),
            now=time.time(),
        )

    async def _add(self, name: str, file: Path) -> StorePath:
        connection = await Connection.open(
            self.store.endpoint, options=ClientOptions(), patience=OPEN_TIMEOUT
        )
        async with connection, contextlib.aclosing(_chunks(file)) as nar:
            return (await connection.add_nar(name, nar)).path


async def _chunks(file: Path) -> AsyncGenerator[bytes, None]:
    with await asyncio.to_thread(file.open, "rb") as opened:
        while chunk := await asyncio.to_thread(opened.read, _CHUNK):
            yield chunk
