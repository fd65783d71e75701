"""A binary cache of narinfo files and NARs, on whatever keeps objects: pushing into it.

Order is everything here: NARs first, durable; then narinfo files, references before referrers.
Judging what is there already is `verification`'s business.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from itertools import islice
from pathlib import Path
from typing import assert_never

from msgspec import Struct, field

from reconciler.binary_cache import collection, realisation
from reconciler.binary_cache.compression import Encoder
from reconciler.binary_cache.interface import Finding, ObjectStore, PushReport, SourceStore
from reconciler.binary_cache.narinfo import NarInfo, hash_of, narinfo_name, render
from reconciler.binary_cache.nars import GoneError, LocalNars, Nars, StreamedNars
from reconciler.binary_cache.order import first_absent, hold_back, reference_levels
from reconciler.binary_cache.packing import PackedNar, StagedNar, StagingPacker, pack
from reconciler.binary_cache.signing import SecretKey, signatures
from reconciler.binary_cache.streaming import NarSource
from reconciler.binary_cache.verification import Verifier
from reconciler.errors import CacheError, NixError
from reconciler.model import Compression, PathInfo, StorePath

GROUP_COUNT = 256
GROUP_SIZE = 8 * 1024 * 1024
"""Small paths go to a worker thread together, up to so many and so many bytes: a hop to a thread
costs as much as packing one of them, and two threads with small ones wait for each other."""

WORTH_ASKING = 1024 * 1024
"""Bytes of a NAR from which on it is asked for before it is sent."""

PARALLEL_GROUPS = 4
"""More than one a core: half of the time is waiting for the disk."""


class _Upload(Struct, frozen=True):
    """What is known of a batch while its NARs are uploaded."""

    nars: Nars
    staging: Path
    replace: frozenset[StorePath]
    stop: threading.Event = field(default_factory=threading.Event)
    ready: dict[StorePath, PackedNar] = field(default_factory=dict)
    gone: list[StorePath] = field(default_factory=list)
    failed: dict[StorePath, str] = field(default_factory=dict)

    @contextmanager
    def judging(self, path: StorePath) -> Iterator[None]:
        """Record a fault of one path as that path's."""
        try:
            yield
        except GoneError:
            self.gone.append(path)
        except (NixError, CacheError) as error:
            self.failed[path] = str(error)
        except OSError as error:
            self.failed[path] = f"{path} cannot be packed in {self.staging}: {error.strerror}"


class NarCache:
    """See the module's text, and BinaryCache for the methods."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        keys: Sequence[SecretKey],
        compression: Compression,
    ) -> None:
        self._store = store
        self._keys = keys
        self._compression = compression
        self._slots = asyncio.Semaphore(PARALLEL_GROUPS)

    async def missing(self, paths: Collection[StorePath]) -> set[StorePath]:
        """Ask for the narinfo files."""
        present = await self._store.present({narinfo_name(path) for path in paths})
        return {path for path in paths if narinfo_name(path) not in present}

    async def verify(self, path: StorePath) -> tuple[Finding, ...]:
        """Read a path back and check it against our keys."""
        return await self.examine([path])

    async def examine(
        self,
        paths: Collection[StorePath],
        *,
        foreign: Collection[StorePath] = (),
        alone: Collection[StorePath] = (),
        read_up_to: int | None = None,
    ) -> tuple[Finding, ...]:
        """Read many paths back and check them against our keys."""
        verifier = Verifier(self._store, [key.public for key in self._keys])
        return await verifier.examine(paths, foreign=foreign, alone=alone, read_up_to=read_up_to)

    async def accompany(self, objects: Mapping[str, bytes]) -> Mapping[str, str]:
        """See BinaryCache. As they are: where a server sends no Content-Encoding, Nix unpacks
        neither.
        """
        return await self._put(
            {
                name: realisation.signed(content, self._keys)
                if name.startswith(realisation.FOLDER)
                else content
                for name, content in objects.items()
            }
        )

    async def withdraw(self, names: Collection[str]) -> None:
        """See BinaryCache."""
        for reason in (await self._store.delete(names)).values():
            raise CacheError(reason)

    async def hashes(self) -> frozenset[str] | None:
        """Of the narinfo files' names."""
        names = await self._store.names("")
        if names is None:
            return None
        return frozenset(digits for name in names if (digits := hash_of(name)) is not None)

    async def unneeded(
        self, *, ours: Collection[StorePath], wanted: Collection[StorePath]
    ) -> frozenset[StorePath]:
        """See BinaryCache."""
        return await collection.unneeded(self._store, ours=ours, wanted=wanted)

    async def delete(
        self, paths: Collection[StorePath], *, keep: Collection[StorePath]
    ) -> frozenset[StorePath]:
        """See BinaryCache."""
        return await collection.delete(self._store, paths, keep=keep)

    async def give_up_unfinished(self) -> None:
        """See BinaryCache."""
        await collection.give_up_unfinished(self._store)

    async def close(self) -> None:
        """Close the store of objects."""
        await self._store.close()

    async def push(
        self,
        infos: Sequence[PathInfo],
        nars: Nars,
        *,
        elsewhere: Collection[StorePath] = (),
        replace: Collection[StorePath] = (),
        alone: Collection[StorePath] = (),
        absent: Collection[StorePath] = (),
    ) -> PushReport:
        """Upload what is missing; see BinaryCache."""
        batch = {info.path: info for info in infos}
        outside = {path for info in infos for path in info.references} - batch.keys()
        # What only such refer to that go there alone is not asked for, and passes.
        apart = {*alone}
        needed = {path for each in infos if each.path not in apart for path in each.references}
        asked = batch.keys() | (outside & needed)
        missing = asked & set(absent)
        missing |= await self.missing(asked - missing)
        missing |= batch.keys() & set(replace)
        available = (batch.keys() | outside) - missing | set(elsewhere)
        wanted = reference_levels(info for path, info in batch.items() if path in missing)
        ready, waiting = hold_back(wanted, available)
        upload = _Upload(nars, self._store.staging, frozenset(replace))
        try:
            await self._run(self._upload_group(group, upload) for group in _groups(ready))
        finally:
            upload.stop.set()  # threads outlive a cancelled task
        sent = await self._publish(ready, upload, available, waiting)
        return PushReport(
            sent=dict.fromkeys(batch.keys() - missing, 0) | sent,
            gone=tuple(upload.gone),
            waiting=waiting,
            failed=upload.failed,
        )

    async def _run(self, work: Iterable[Coroutine[None, None, None]]) -> None:
        async def bounded(each: Coroutine[None, None, None]) -> None:
            async with self._slots:
                await each

        async with asyncio.TaskGroup() as tasks:
            for each in work:
                tasks.create_task(bounded(each))

    async def _put(self, objects: Mapping[str, bytes | Path]) -> Mapping[str, str]:
        try:
            return await self._store.put(objects)
        except CacheError as error:
            return dict.fromkeys(objects, str(error))

    # --- NARs ------------------------------------------------------------------------------

    async def _upload_group(self, group: Sequence[PathInfo], upload: _Upload) -> None:
        into, first, encoder = self._store.for_sources, group[0], Encoder(self._compression)
        if into is None or first.nar_size <= GROUP_SIZE or encoder.recipe is None:
            await self._send_packed(group, upload)
            return
        with upload.judging(first.path):  # a large one is alone
            upload.ready[first.path] = await self._send_packing(first, encoder, into, upload)

    async def _send_packing(
        self, info: PathInfo, encoder: Encoder, into: SourceStore, upload: _Upload
    ) -> PackedNar:
        """Send a NAR while it is packed."""
        async with NarSource(info, upload.nars, encoder, upload.stop) as source:
            if await self._there({source.name} if info.path not in upload.replace else ()):
                await source.read_all()
            else:
                await into.put_source(source.name, source, at_most=encoder.at_most(info.nar_size))
            return source.packed()

    async def _send_packed(self, group: Sequence[PathInfo], upload: _Upload) -> None:
        packed: list[StagedNar] = []
        match upload.nars:
            case LocalNars() as local:
                packed = await asyncio.to_thread(self._pack_local, group, local, upload)
            case StreamedNars() as streamed:
                for info in group:
                    with upload.judging(info.path):
                        packed.append(await self._pack_streamed(info, streamed))
            case _:
                assert_never(upload.nars)
        objects: dict[str, bytes | Path] = {}
        for nar in packed:
            if nar.name in objects:  # two paths of the same content
                nar.file.unlink()
            else:
                objects[nar.name] = nar.file
        large = {nar.name for nar in packed if nar.file_size >= WORTH_ASKING}
        large -= {nar.name for nar in packed if nar.info.path in upload.replace}
        for name in await self._there(large):
            packed_file = objects.pop(name)
            assert isinstance(packed_file, Path)
            packed_file.unlink()
        failed = await self._put(objects)
        for nar in packed:
            if nar.name in failed:
                upload.failed[nar.info.path] = failed[nar.name]
            else:
                upload.ready[nar.info.path] = nar

    async def _there(self, names: Collection[str]) -> Collection[str]:
        """Large NARs that are there already: their narinfo failed, or the daemon was killed, before
        it was written. A small one is sent as quickly as it is asked for.
        """
        if not names or not self._store.shows_whole:
            return ()
        try:
            return await self._store.present(names)
        except CacheError:  # then sending will tell
            return ()

    def _pack_local(
        self, group: Sequence[PathInfo], nars: LocalNars, upload: _Upload
    ) -> list[StagedNar]:
        encoder = Encoder(self._compression)
        packed = []
        for info in group:
            with upload.judging(info.path):
                chunks = nars.read(info.path)
                packed.append(pack(chunks, info, self._store.staging, encoder, upload.stop))
        return packed

    async def _pack_streamed(self, info: PathInfo, nars: StreamedNars) -> StagedNar:
        with StagingPacker(info, self._store.staging, Encoder(self._compression)) as packer:
            async with aclosing(nars.hops(info.path)) as hops:
                async for hop in hops:
                    await asyncio.to_thread(packer.feed, hop)
            return await asyncio.to_thread(packer.finish)

    # --- Narinfo files ---------------------------------------------------------------------

    async def _publish(
        self,
        infos: Iterable[PathInfo],
        upload: _Upload,
        available: Collection[StorePath],
        waiting: dict[StorePath, StorePath],
    ) -> dict[StorePath, int]:
        """Make visible what was uploaded, level by level; what lost a reference on the way is
        added to `waiting`.
        """
        there = set(available)
        sent: dict[StorePath, int] = {}
        for level in reference_levels(info for info in infos if info.path in upload.ready):
            complete = []
            for info in level:
                lacks = first_absent(info, there)
                if lacks is None:
                    complete.append(upload.ready[info.path])
                else:
                    waiting[info.path] = lacks
            await self._run(self._publish_some(some, upload) for some in _slices(complete))
            for nar in complete:
                if nar.info.path not in upload.failed:
                    there.add(nar.info.path)
                    sent[nar.info.path] = nar.file_size
        return sent

    async def _publish_some(self, nars: Sequence[PackedNar], upload: _Upload) -> None:
        objects = await asyncio.to_thread(self._narinfos, nars)
        failed = await self._put(objects)
        for nar in nars:
            name = narinfo_name(nar.info.path)
            if name in failed:
                upload.failed[nar.info.path] = failed[name]

    def _narinfos(self, nars: Iterable[PackedNar]) -> dict[str, bytes | Path]:
        return {narinfo_name(nar.info.path): self._narinfo(nar).encode() for nar in nars}

    def _narinfo(self, nar: PackedNar) -> str:
        info = nar.info
        return render(
            NarInfo(
                path=info.path,
                url=nar.name,
                compression=self._compression,
                file_hash=nar.file_hash,
                file_size=nar.file_size,
                nar_hash=info.nar_hash,
                nar_size=info.nar_size,
                references=info.references,
                deriver=info.deriver.rpartition("/")[2] if info.deriver else None,
                signatures=signatures(info, self._keys),
                content_address=info.content_address,
            )
        )


def _groups(infos: Iterable[PathInfo]) -> Iterator[list[PathInfo]]:
    """Paths that are packed in one go."""
    group: list[PathInfo] = []
    size = 0
    for info in infos:
        if group and (len(group) == GROUP_COUNT or size + info.nar_size > GROUP_SIZE):
            yield group
            group, size = [], 0
        group.append(info)
        size += info.nar_size
    if group:
        yield group


def _slices(nars: Iterable[PackedNar]) -> Iterator[list[PackedNar]]:
    rest = iter(nars)
    while some := list(islice(rest, GROUP_COUNT)):
        yield some
