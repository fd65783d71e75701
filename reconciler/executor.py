"""Bounded work in the background; every result comes back through one queue.

The only place that starts effects for the reconciler: polls, evaluations, builds, closures,
pushes. Each is a task; starting one never waits. It decides nothing and writes nothing to the
database, except that `Ingest` stores an evaluation's jobs as they stream in.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from reconciler import fetching, leftovers, listing, polling
from reconciler.branches import Head
from reconciler.build import attempt, mounts
from reconciler.build import log as build_log
from reconciler.build.pool import Pool
from reconciler.caching import Caching
from reconciler.database import Database
from reconciler.database.evaluated import INTERRUPTED
from reconciler.errors import NixError, ReconcilerError, SourceError, UsageError
from reconciler.evaluating import Evaluating
from reconciler.fetching import Wanted
from reconciler.ingest import Ingest
from reconciler.model import (
    ArtifactStore,
    AttemptResult,
    Builder,
    Desired,
    DrvPath,
    Jobset,
    JobsetName,
    StorePath,
    Strategy,
)
from reconciler.model import (
    Outcome as AttemptOutcome,
)
from reconciler.nix.store_path import store_dir_in
from reconciler.outcomes import (
    Built,
    Discarded,
    Evaluated,
    EvaluationStarted,
    Faulted,
    Outcome,
    Revisited,
    Twinned,
)
from reconciler.places import Places
from reconciler.rooting import HOLD_PAUSES, Rooting
from reconciler.source import LockedSource
from reconciler.store import Store
from reconciler.upstreams import Upstreams

if TYPE_CHECKING:
    from reconciler.database.artifacts import Due
    from reconciler.database.audits import Twins
    from reconciler.database.bases import Audit, Left
    from reconciler.incremental.offering import Offering
    from reconciler.incremental.overlay import Overlays
    from reconciler.incremental.sharing import Sharing

MAX_EVALUATIONS = 2
"""Evaluations at once, each with the workers and the memory that its jobset allows."""


class Executor:
    """See the module's text."""

    def __init__(
        self,
        *,
        places: Places,
        store: Store,
        ingest: Ingest,
        upstreams: Upstreams,
        database: Database,
        wake: Callable[[], None],
    ) -> None:
        self._places = places
        self._database = database
        self._overlays: dict[JobsetName, Overlays] = {}
        self.artifact_stores: Mapping[str, ArtifactStore] = {}
        """Those that are declared, by name."""
        self._sharing: Sharing | None = None
        self._store = store
        self.ingest = ingest
        self.caches = Caching(
            store=store,
            upstreams=upstreams,
            logs=places.logs,
            store_dir=store_dir_in(places.environment),
            start=self._start,
            report=self._report,
        )
        """All work on caches."""
        self.roots = Rooting(
            store=store,
            start=self._start,
            report=self._report,
            under_way=lambda: bool(self._tasks),
        )
        """All that is kept from collection."""
        self._wake = wake
        self._outcomes: list[Outcome] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._evaluators = asyncio.Semaphore(MAX_EVALUATIONS)
        self._evaluations: dict[JobsetName, asyncio.Task[None]] = {}
        self._attempts: dict[int, asyncio.Task[None]] = {}
        self._pool = Pool(store.endpoint, places.host_keys, places.environment)
        self._crash: BaseException | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that Nix and git are run with."""
        return self._places.environment

    # --- Results ---------------------------------------------------------------------------

    def drain(self) -> list[Outcome]:
        """Take what has ended since the last call."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    @property
    def busy(self) -> bool:
        """Whether anything is under way or waits to be drained."""
        return bool(self._tasks or self._outcomes or self.roots.waiting)

    def _report(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._wake()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Every expected end is an outcome: what arrives here is a mistake of ours, and must
            # not leave something waiting for ever.
            self._crash = error
        if not self._tasks:
            self.roots.hurry()  # nothing else will end soon
        if self._crash is not None or not self._tasks:
            self._wake()  # what was reported has, and while others go on, nothing else counts

    def raise_crash(self) -> None:
        """Raise what a task died of, if one did."""
        if self._crash is not None:
            raise self._crash

    # --- Sources and evaluations -----------------------------------------------------------

    def poll(self, jobset: Jobset, *, at: str | None) -> None:
        """Resolve a jobset's source."""
        self._start(self._poll(jobset, at))

    async def _poll(self, jobset: Jobset, at: str | None) -> None:
        self._report(await polling.resolve(jobset, self._store, self.environment, at=at))

    def list_branches(self, jobset: Jobset, before: Mapping[str, Head]) -> None:
        """List the branches that a jobset is declared for."""
        self._start(self._list_branches(jobset, before))

    async def _list_branches(self, jobset: Jobset, before: Mapping[str, Head]) -> None:
        mirror = self._places.mirrors / jobset.name
        self._report(
            await listing.list_branches(jobset, before, mirror=mirror, environment=self.environment)
        )

    def evaluate(
        self, jobset: Jobset, locked: LockedSource, number: int, known: Collection[DrvPath]
    ) -> None:
        """Evaluate a jobset; `known` is what the live graph holds, as it changes."""
        task = self._start(self._evaluate(jobset, locked, number, known))
        self._evaluations[jobset.name] = task

    def stop_evaluation(self, jobset: JobsetName) -> None:
        """Stop a jobset's evaluation; it ends as interrupted."""
        task = self._evaluations.get(jobset)
        if task is not None:
            task.cancel()

    async def _evaluate(
        self, jobset: Jobset, locked: LockedSource, number: int, known: Collection[DrvPath]
    ) -> None:
        error: str | None = INTERRUPTED
        fault: str | None = None
        try:
            async with self._evaluators:
                self._report(EvaluationStarted(evaluation=number))
                self._start(self._pool.warm())
                error = await Evaluating(
                    jobset=jobset,
                    locked=locked,
                    number=number,
                    known=known,
                    store=self._store,
                    ingest=self.ingest,
                    environment=self._places.environment,
                    scratch=self._places.scratch,
                    report=self._report,
                    offering=self._offering(jobset, locked, number),
                ).run()
        except (NixError, SourceError, OSError) as problem:
            fault = f"the evaluation was cut off, and is tried again: {problem}"
        except ReconcilerError as problem:
            error = str(problem)
        finally:
            self._evaluations.pop(jobset.name, None)
            self._report(Evaluated(jobset=jobset.name, evaluation=number, error=error, fault=fault))

    def _offering(self, jobset: Jobset, locked: LockedSource, number: int) -> Offering | None:
        settings = jobset.incremental
        if not settings.enable or settings.strategy is Strategy.COMPILER_CACHE:
            return None
        # Only a farm with incremental builds waits for it to be loaded.
        from reconciler.incremental.offering import Offering  # noqa: PLC0415
        from reconciler.incremental.overlay import Overlays  # noqa: PLC0415

        name = jobset.branch_of or jobset.name
        folder = self._places.overlays / name
        return Offering(
            jobset=jobset,
            locked=locked,
            number=number,
            database=self._database,
            store=self._store,
            overlays=self._overlays.setdefault(name, Overlays(folder, self.environment)),
            sharing=self._shared_stores(),
            environment=self.environment,
            scratch=self._places.scratch,
        )

    def _shared_stores(self) -> Sharing:
        from reconciler.incremental.sharing import Sharing  # noqa: PLC0415 - as for offering

        if self._sharing is None:
            self._sharing = Sharing(
                database=self._database,
                store=self._store,
                scratch=self._places.scratch,
                report=self._artifact_store,
            )
        self._sharing.stores = self.artifact_stores
        return self._sharing

    def _artifact_store(self, name: str, message: str | None) -> None:
        self._report(Faulted(kind="artifact-store", name=name, reason="not-read", message=message))

    # --- Builds ----------------------------------------------------------------------------

    def build(self, order: attempt.Order, builder: Builder) -> None:
        """Make an attempt."""
        self._attempts[order.attempt] = self._start(self._build(order, builder))

    def stop_build(self, number: int) -> None:
        """Stop an attempt; it ends as cancelled."""
        task = self._attempts.get(number)
        if task is not None:
            task.cancel()

    async def _build(self, order: attempt.Order, builder: Builder) -> None:
        began = time.time()
        refused: str | None = None
        result: AttemptResult | None = None
        try:
            async with self._pool.place(builder) as place:
                await self._fetch_base(order.mount)
                with mounts.shown(self._places.mounts, order.path, order.mount) as shown:
                    result = await attempt.run(order, place, self._places.logs)
                refused = shown.refused
            self.roots.protect_soon(fact.path for fact in result.outputs.values())
        except (NixError, UsageError) as error:
            result = attempt.unreachable(error, started_at=began)
        finally:
            self._attempts.pop(order.attempt, None)
            self._report(
                Built(
                    attempt=order.attempt,
                    derivation=order.derivation,
                    builder=builder.name,
                    result=_stopped(began) if result is None else result,
                    mount=order.mount,
                    refused=refused,
                )
            )

    async def _fetch_base(self, mount: mounts.Mount | None) -> None:
        """What is not there after this is not shown."""
        if mount is not None and mount.kind is mounts.Kind.BASE:
            path = StorePath(f"{store_dir_in(self.environment)}/{mount.name}")
            with contextlib.suppress(NixError):
                await self._store.protect([path])
                if not await self._store.valid([path]):
                    await self._store.fetch([path])

    # --- Incremental builds -----------------------------------------------------------------

    def keep(self, left: Left, *, max_size: int) -> None:
        """Make a base of what a build left."""
        self._start(self._keep(left, max_size))

    async def _keep(self, left: Left, max_size: int) -> None:
        from reconciler import keeping  # noqa: PLC0415 - as for offering

        self._report(await keeping.keep(left, self._store, max_size=max_size))

    def share(self, store: ArtifactStore, due: Due, *, farm: str) -> None:
        """Put bases into an artifact store, and take others out."""
        self._start(self._share(store, due, farm))

    async def _share(self, store: ArtifactStore, due: Due, farm: str) -> None:
        from reconciler import sharing  # noqa: PLC0415 - as for offering

        self._report(await sharing.share(store, due, self._store, farm=farm))

    def audit(self, twins: Twins) -> None:
        """Compare what a build came to with its clean twin."""
        self._start(self._audit(twins))

    async def _audit(self, twins: Twins) -> None:
        from reconciler import auditing  # noqa: PLC0415 - as for offering

        await self.roots.protect([*twins.built.values(), *twins.clean.values()])
        self._report(await auditing.audit(twins))

    def make_twin(self, audit: Audit) -> None:
        """Make what a build is audited by whose own derivation names no base."""
        self._start(self._make_twin(audit))

    async def _make_twin(self, audit: Audit) -> None:
        from reconciler.incremental import clean  # noqa: PLC0415 - as for offering

        try:
            twin = await clean.add_twin(
                audit.path,
                self._store,
                environment=self.environment,
                scratch=self._places.scratch,
            )
        except (ReconcilerError, OSError) as error:
            self._report(Twinned(audit=audit.id, error=str(error)))
        else:
            self._report(Twinned(audit=audit.id, twin=twin))

    def discard(self, builds: Collection[int], wrong: Collection[StorePath]) -> None:
        """Delete outputs of builds."""
        self._start(self._discard(builds, frozenset(wrong)))

    async def _discard(self, builds: Collection[int], wrong: frozenset[StorePath]) -> None:
        message = None
        for pause in HOLD_PAUSES:
            await asyncio.sleep(pause)
            try:
                await self.roots.give_up(wrong)
                await self._pool.rest()  # what a connection has built, it keeps
                await self._store.discard(wrong)
            except (NixError, OSError) as error:
                message = f"cannot delete outputs that an audit found wrong: {error}"
            else:
                message = None
                break
        self._report(Discarded(builds=frozenset(builds), error=message))

    def tidy(self, desired: Desired) -> None:
        """Remove the folders of jobsets that are declared no longer."""
        found = leftovers.find(self._database, desired, self._places)
        if found:
            self._start(asyncio.to_thread(leftovers.remove_all, found))

    def fetch(self, wanted: Wanted) -> None:
        """Fetch outputs that only substituters have."""
        self._start(self._fetch(wanted))

    async def _fetch(self, wanted: Wanted) -> None:
        self._report(await fetching.fetch(wanted, self._store, self.ingest, now=time.time()))

    def revisit(self, derivations: Collection[DrvPath]) -> None:
        """Look again at derivations whose outputs were lost."""
        self._start(self._revisit(tuple(derivations)))

    async def _revisit(self, derivations: tuple[DrvPath, ...]) -> None:
        try:
            batch = await self.ingest.revisit(derivations, now=time.time())
        except NixError:
            batch = None  # the derivations are gone as well: an evaluation finds them again
        self._report(Revisited(derivations=derivations, batch=batch))

    # --- Logs ----------------------------------------------------------------------------------

    def remove_logs(self, attempts: Collection[int]) -> None:
        """Remove the logs of attempts that are forgotten."""
        self._start(asyncio.to_thread(self._remove_logs, attempts))

    def _remove_logs(self, attempts: Collection[int]) -> None:
        for number in attempts:
            build_log.remove(self._places.logs, number)

    # --- The end ---------------------------------------------------------------------------

    async def rest(self) -> None:
        """Nothing is to be done: end idle connections, and with them their daemons."""
        self.roots.rest()
        await asyncio.gather(self._pool.rest(), self.caches.rest())

    async def stop(self) -> None:
        """Stop everything; what runs ends as interrupted at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self.rest(), self._store.close())


def _stopped(began: float) -> AttemptResult:
    """What came of an attempt that was told to end."""
    return AttemptResult(
        outcome=AttemptOutcome.CANCELLED,
        message="stopped: nothing needs it",
        started_at=began,
        finished_at=time.time(),
    )
