"""One evaluation at work: its jobs are rooted and ingested as they come.

It yields outcomes and the error of the whole; when to evaluate, and what its end means, is decided
elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from reconciler.checkout import checked_out
from reconciler.errors import NixError, ReconcilerError
from reconciler.ingest import Ingest, Ingested
from reconciler.model import (
    DrvPath,
    EvaluatedJob,
    EvaluationFailure,
    FlakeSource,
    Jobset,
    StorePath,
)
from reconciler.nix import derivation, evaluation
from reconciler.outcomes import Discovered
from reconciler.source import LockedSource
from reconciler.store import Store

if TYPE_CHECKING:
    from reconciler.incremental.offering import Offering

MAX_BATCH = 10_000
"""Jobs that are ingested in one go."""

MIN_PAUSE, MAX_PAUSE = 0.05, 0.25
"""Seconds for which jobs wait for others to be ingested with: the first slots would go to those
that come first, which may be what matters least.
"""

Row = EvaluatedJob | EvaluationFailure


class Evaluating(Struct, frozen=True, kw_only=True):
    """An evaluation and what it works with."""

    jobset: Jobset
    locked: LockedSource
    number: int
    known: Collection[DrvPath]
    """What the live graph holds, as it changes."""
    store: Store
    ingest: Ingest
    environment: Mapping[str, str]
    scratch: Path
    report: Callable[[Discovered], None]
    offering: Offering | None = None
    """What gives jobs a base, for a jobset with incremental builds."""

    async def run(self) -> str | None:
        """Evaluate; what came while a batch was stored is the next batch. Gives the error.

        With incremental builds all jobs wait for the second evaluation: what one that takes part
        is built from may be what another one needs.
        """
        arrived: asyncio.Queue[Row | None] = asyncio.Queue(MAX_BATCH)
        source = await checked_out(
            self.locked,
            store=self.store,
            environment=self.environment,
            timeout=self.jobset.evaluation.timeout,
        )
        reader = asyncio.ensure_future(self._read(source, arrived))
        jobs_seen, whole_failures = 0, []
        broken: list[str] = []
        waiting: list[EvaluatedJob] = []
        pause = MIN_PAUSE
        try:
            while batch := await _batch(arrived, reader, pause=pause):
                began = time.monotonic()
                jobs = [row for row in batch if isinstance(row, EvaluatedJob)]
                failures = [row for row in batch if isinstance(row, EvaluationFailure)]
                whole_failures += [row.message for row in failures if not row.attr_path]
                jobs_seen += len(jobs)
                broken += [row.attr for row in failures if row.attr_path]
                if self.offering is not None:
                    readable, wrong = _readable(jobs)
                    waiting += readable
                    failures += wrong
                    jobs = []
                await self._take(jobs, [each for each in failures if each.attr_path])
                # Others have three times as long as a batch takes, and the next one grows.
                pause = min(max(3 * (time.monotonic() - began), MIN_PAUSE), MAX_PAUSE)
            await reader
            if waiting:
                await self._offer(waiting, source)
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, ReconcilerError):
                await reader
        if whole_failures:
            return whole_failures[0]
        return None if jobs_seen else no_jobs(self.jobset, broken=broken)

    async def _read(self, source: LockedSource, arrived: asyncio.Queue[Row | None]) -> None:
        """Pass rows on; None at the end."""
        try:
            rows = evaluation.evaluate(
                source,
                self.jobset,
                environment=self.environment,
                work_dir=self.scratch,
                given=None if self.offering is None else self.offering.nothing,
            )
            async with contextlib.aclosing(rows):
                async for some in rows:
                    # The evaluator protects them only until the next rows are asked for.
                    await self.store.protect(
                        [StorePath(row.drv_path) for row in some if isinstance(row, EvaluatedJob)]
                    )
                    for row in some:
                        await arrived.put(row)
        except asyncio.CancelledError:
            raise  # nobody takes rows any more
        except BaseException:
            await arrived.put(None)
            raise
        await arrived.put(None)

    async def _offer(self, jobs: Sequence[EvaluatedJob], source: LockedSource) -> None:
        """Take jobs as they are with a base, where one is found."""
        assert self.offering is not None
        # What they are without one is built where that fails, and to audit it.
        await self.store.hold(self.number, {job.drv_path for job in jobs})
        offered = await replace(self.offering, read=source).offer(jobs)
        batch = await self._take([each.job for each in offered], [])
        self.offering.record(offered, batch.jobs)

    async def _take(self, jobs: list[EvaluatedJob], failures: list[EvaluationFailure]) -> Ingested:
        """Root and ingest a batch, and tell of it; what is no derivation costs only itself."""
        try:
            return await self._root_and_ingest(jobs, failures)
        except NixError:
            readable, wrong = _readable(jobs)
            if not wrong:
                raise
            return await self._root_and_ingest(readable, [*failures, *wrong])

    async def _root_and_ingest(
        self, jobs: Sequence[EvaluatedJob], failures: Sequence[EvaluationFailure]
    ) -> Ingested:
        await self.store.hold(self.number, {job.drv_path for job in jobs})
        batch = await self.ingest.add(
            self.number, jobs, failures, in_graph=self.known, now=time.time()
        )
        away = await self._away(jobs, batch)
        self.report(
            Discovered(jobset=self.jobset.name, evaluation=self.number, batch=batch, away=away)
        )
        return batch

    async def _away(self, jobs: Collection[EvaluatedJob], batch: Ingested) -> tuple[int, ...]:
        """The jobs that exist, but not here."""
        live = {*batch.live}
        outputs = {
            key: {path for path in job.outputs.values() if path is not None}
            for job in jobs
            if (key := batch.jobs[job.drv_path]) not in live
        }
        asked = {path for each in outputs.values() for path in each}
        here = await self.store.valid(asked) if asked else frozenset[StorePath]()
        return tuple(key for key, paths in outputs.items() if not here.issuperset(paths))


def no_jobs(jobset: Jobset, *, broken: Sequence[str]) -> str:
    """Where there was no job, and what to write; `broken` are attributes that do not evaluate."""
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        which = f"{', '.join(broken[:3])}{more}"
        return f"no jobs: {which} cannot be evaluated: `reconciler why {jobset.name}.{broken[0]}`"
    for key, names in (("attributes", jobset.attributes), ("systems", jobset.systems)):
        if names == ():
            return f"no jobs: the jobset's {key} are an empty list; name some, or remove the key"
    source = jobset.source
    if jobset.attributes is not None:
        looked = f"in the attributes {', '.join(jobset.attributes)}"
        mend = "name others there"
    elif isinstance(source, FlakeSource):
        looked = "in the flake's hydraJobs, or without these in its checks and packages"
        mend = "put some there, or name where they are in the jobset's attributes"
    else:
        looked = f"in what {source.file} evaluates to"
        mend = "have it give a set of them, such as { app = …; }"
    if jobset.systems is not None:
        looked = f"for {' or '.join(jobset.systems)} {looked}"
        mend += ", or add their systems to the jobset's systems"
    return f"no jobs: there is no derivation {looked}; {mend}"


def _readable(
    jobs: Sequence[EvaluatedJob],
) -> tuple[list[EvaluatedJob], list[EvaluationFailure]]:
    """Those whose derivation is one, and what is wrong with the others: an expression can give for
    a derivation whatever it likes.
    """
    readable, wrong = [], []
    for job in jobs:
        try:
            derivation.read(job.drv_path)
        except NixError as error:
            wrong.append(EvaluationFailure(attr_path=job.attr_path, message=str(error)))
        else:
            readable.append(job)
    return readable, wrong


async def _batch(
    arrived: asyncio.Queue[Row | None], reader: asyncio.Future[None], *, pause: float
) -> list[Row]:
    """All that has arrived after a pause (seconds) from the first row, or by the end of reading;
    empty when nothing comes any more.
    """
    rows: list[Row] = []
    row = await arrived.get()
    if row is not None:
        await asyncio.wait((reader,), timeout=pause)
    while row is not None:
        rows.append(row)
        if arrived.empty():
            break
        row = arrived.get_nowait()
    if row is None and rows:
        arrived.put_nowait(None)
    return rows
