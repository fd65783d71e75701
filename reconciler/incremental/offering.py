"""The second evaluation: what is to be built starts from what earlier builds left.

Takes the jobs of an evaluation that was done without any base, and gives those that are to be built
in their place. A job never fails because of its base: what cannot be had, or does not evaluate, is
built in full, with the reason. Decides nothing about when to evaluate or to build.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from reconciler.bases import INTERMEDIATES, Choice, Fingerprint
from reconciler.checkout import checked_out
from reconciler.database import Database, audits, bases, incremental, observe, slots
from reconciler.database.bases import StoredBase
from reconciler.database.incremental import BuildBase, EvaluationInput, Slot
from reconciler.database.ingest import known_builds
from reconciler.errors import NixError, SourceError
from reconciler.incremental import decisions, recorded
from reconciler.incremental.decisions import Decision
from reconciler.incremental.fingerprint import fingerprint
from reconciler.incremental.inputs import JobBase, publish
from reconciler.incremental.overlay import Overlays, origin
from reconciler.incremental.sharing import Need, Sharing
from reconciler.model import (
    DrvPath,
    EvaluatedJob,
    EvaluationFailure,
    Jobset,
    Protocol,
    StorePath,
    Strategy,
)
from reconciler.nix import basic_derivation, evaluation
from reconciler.nix import derivation as derivation_file
from reconciler.nix.expression import Given
from reconciler.process import ProcessTimeoutError
from reconciler.source import LockedSource, LockedTree
from reconciler.store import Store
from reconciler.trust import trust_of, trusted_by


class Offered(Struct, frozen=True, kw_only=True):
    """A job as it is to be built."""

    job: EvaluatedJob
    canonical: DrvPath
    """Its derivation without any base."""
    fingerprint: Fingerprint | None = None
    """None: there is nothing to be recorded of it."""
    base: int | None = None
    """What it, or what it needs, starts from."""
    reason: str = ""
    hidden: bool = False
    """It is the canonical one, and its build is shown the base."""
    found: bool = False
    """It was built before, and nothing was recorded of it then."""

    @property
    def given(self) -> bool:
        """Whether its expression was given the base."""
        return self.base is not None and not self.hidden


class Offering(Struct, frozen=True, kw_only=True):
    """An evaluation of a jobset with incremental builds, and what is worked with."""

    jobset: Jobset
    locked: LockedSource
    number: int
    database: Database
    store: Store
    overlays: Overlays
    sharing: Sharing
    environment: Mapping[str, str]
    scratch: Path
    read: LockedSource | None = None
    """The source as the first evaluation read it, from the store."""

    @property
    def nothing(self) -> Given:
        """What the first evaluation is given: that there are no bases."""
        return Given(protocols=self.jobset.incremental.protocols, bases=None)

    async def offer(self, jobs: Sequence[EvaluatedJob]) -> list[Offered]:
        """What is to be built in place of the jobs of the canonical evaluation. NixError."""
        settled = await self._settled(jobs)
        new = [job for job in jobs if job.drv_path not in settled]
        part = [job for job in new if decisions.takes_part(job)]
        others = [job for job in new if not decisions.takes_part(job)]
        kept: Mapping[int, StoredBase] = await self._kept() if part else {}
        decided = self._decide(part, kept)
        decided, kept = await self._shared(part, decided, kept)
        if self.jobset.incremental.strategy is Strategy.HIDDEN:
            return [*settled.values(), *self._hidden(decided, others)]
        return [*settled.values(), *await self._once_more(decided, others, kept)]

    def record(self, offered: Sequence[Offered], ids: Mapping[DrvPath, int]) -> None:
        """Write down what builds start from, when their derivations are in the database."""
        now = time.time()
        recorded.record(
            self.database,
            self.number,
            locked=self.locked,
            jobset=self.jobset,
            jobs=[each.job.attr_path for each in offered if each.given],
            others=[each.job.attr_path for each in offered if not each.given],
        )
        for each in offered:
            if each.fingerprint is not None:
                choice = BuildBase(
                    derivation=ids[each.job.drv_path],
                    canonical=each.canonical,
                    fingerprint=each.fingerprint,
                    base=each.base,
                    reason=each.reason,
                    revision=self.locked.revision,
                    hidden=each.hidden,
                    leaves=self._stage(each),
                )
                incremental.choose(self.database, self._slot(each.job), choice, now=now)

    def _stage(self, offered: Offered) -> int | None:
        """The first of two stages. What is there already was left by the second, too."""
        if offered.hidden or offered.found or not decisions.takes_part(offered.job):
            return None
        first = decisions.first_stage(offered.job)
        found = observe.derivation_ids(self.database, [] if first is None else [first])
        return next(iter(found), None)

    def _slot(self, job: EvaluatedJob) -> Slot:
        return slot_of(self.jobset, job)

    # --- What needs no base --------------------------------------------------------------------

    async def _settled(self, jobs: Sequence[EvaluatedJob]) -> dict[DrvPath, Offered]:
        """Those that exist, that somebody builds or built, or whose twin with a base was built."""
        outputs = {job.drv_path: _paths(job) for job in jobs}
        asked = {path for each in outputs.values() for path in each}
        there = await self.store.available(asked) if asked else frozenset[StorePath]()
        known = known_builds(self.database, outputs)
        audited = audits.known_by_audit(self.database, outputs)
        found = {}
        for job in jobs:
            paths = outputs[job.drv_path]
            exists = job.drv_path in known or bool(paths and there.issuperset(paths))
            twin = await self._twin(job) if job.drv_path in audited or not exists else None
            if twin is not None:
                found[job.drv_path] = Offered(job=twin, canonical=job.drv_path)
            elif exists:
                found[job.drv_path] = _as_is(job)
        return found | await self._left_already([each.job for each in found.values()])

    async def _left_already(self, jobs: Sequence[EvaluatedJob]) -> dict[DrvPath, Offered]:
        """Of jobs that exist, those whose intermediates do too, and are none of this jobset's yet:
        another built them, or an audit did. Later builds may start from them.
        """
        left = {
            job.drv_path: path
            for job in jobs
            if (path := job.outputs.get(INTERMEDIATES)) is not None
            and bases.is_unclaimed(self.database, self._slot(job), job.drv_path)
        }
        there = await self.store.valid({*left.values()}) if left else frozenset[StorePath]()
        return {
            job.drv_path: Offered(
                job=job,
                canonical=job.drv_path,
                fingerprint=fingerprint(basic_derivation.read(job.drv_path)),
                reason="not built for this jobset: all it makes was in the store already",
                found=True,
            )
            for job in jobs
            if left.get(job.drv_path) in there
        }

    async def _twin(self, job: EvaluatedJob) -> EvaluatedJob | None:
        """The same job as it was built from a base before, where that still exists."""
        drv = bases.built_instead(self.database, self._slot(job), job.drv_path)
        if drv is None:
            return None
        with contextlib.suppress(NixError):  # its file was collected
            made = _in_place(job, drv)
            if (await self.store.available(_paths(made))).issuperset(_paths(made)):
                return made
        return None

    def _hidden(self, decided: Sequence[Decision], others: Sequence[EvaluatedJob]) -> list[Offered]:
        """The canonical jobs; builds are shown their bases."""
        chosen = {each.choice.base.id for each in decided if each.choice.base is not None}
        incremental.give(self.database, self.number, (), chosen, now=time.time())
        shown = [
            replace(_full(each), base=None if each.choice.base is None else each.choice.base.id)
            for each in decided
        ]
        return [*map(_as_is, others), *(replace(each, hidden=True) for each in shown)]

    # --- What starts from what -----------------------------------------------------------------

    async def _kept(self) -> dict[int, StoredBase]:
        """The bases that can be had, by number."""
        candidates = bases.candidates(self.database, self.jobset.name)
        stored = bases.stored(self.database, [each.id for each in candidates])
        there = await self.store.available({each.path for each in stored})
        return {each.base.id: each for each in stored if each.path in there}

    def _decide(
        self, jobs: Sequence[EvaluatedJob], kept: Mapping[int, StoredBase]
    ) -> list[Decision]:
        decided = decisions.decide(
            self.jobset,
            jobs,
            [each.base for each in kept.values()],
            bases.history(self.database, self.number),
            now=time.time(),
        )
        return [self._why_none(self._without_failed(each)) for each in decided]

    def _without_failed(self, decision: Decision) -> Decision:
        """A job that failed from a base starts from none."""
        slot = self._slot(decision.job)
        if bases.failed_instead(self.database, slot, decision.job.drv_path):
            reason = "built in full: its build from a base failed"
            return replace(decision, choice=Choice(base=None, reason=reason, due=True))
        return decision

    def _why_none(self, decision: Decision) -> Decision:
        """With why the build before left nothing to start from."""
        why = None
        if decision.choice.base is None and not decision.choice.due:
            why = slots.refused_last(self.database, self._slot(decision.job))
        return _noted(decision, None if why is None else f"its newest build left no base: {why}")

    async def _shared(
        self,
        jobs: Sequence[EvaluatedJob],
        decided: list[Decision],
        kept: Mapping[int, StoredBase],
    ) -> tuple[list[Decision], Mapping[int, StoredBase]]:
        """The same, once artifact stores were asked for what no build here has left."""
        needs = [
            Need(
                slot=self._slot(each.job),
                canonical=each.job.drv_path,
                fingerprint=each.fingerprint,
                policy=each.policy,
                bucket=each.policy.bucket,
            )
            for each in decided
            if each.choice.base is None and not each.choice.due and each.policy.bucket is not None
        ]
        # What an untrusted branch asks for serves it alone: it says from which store. Where its
        # builds may not start from what is its own, there is nothing to ask for.
        serves = trust_of(self.jobset) in trusted_by(self.jobset)
        if not (needs and serves and self.jobset.incremental.share_read):
            await self.sharing.look_again()
            return decided, kept
        brought, reasons = await self.sharing.bring(needs, self.jobset.incremental)
        if brought:
            kept = await self._kept()
            decided = self._decide(jobs, kept)
        return [_noted(each, reasons.get(each.job.attr)) for each in decided], kept

    async def _once_more(
        self,
        decided: Sequence[Decision],
        others: Sequence[EvaluatedJob],
        kept: Mapping[int, StoredBase],
    ) -> list[Offered]:
        """Evaluate with bases; each job as it came of that, or in full."""
        chosen = {each.choice.base.id for each in decided if each.choice.base is not None}
        stored = {number: kept[number] for number in sorted(chosen)}
        given = {
            number: JobBase(job="", name=each.name, nar_hash=each.nar_hash)
            for number, each in stored.items()
        }
        full = [_as_is(job) for job in others]
        text = decisions.text(decided, given)
        if text is None:
            return [*full, *map(_full, decided)]
        try:
            source, inputs, tree = await self._locked(text)
        except SourceError as error:
            return [*full, *(_full(each, str(error)) for each in decided)]
        incremental.give(self.database, self.number, inputs, stored.keys(), now=time.time())
        await self.overlays.keep_only(partial(incremental.overlay_commits, self.database))
        jobs, failed = await self._evaluate(source, tree)
        took = decisions.took(
            [job.drv_path for job in jobs.values()], [each.path for each in stored.values()]
        )
        numbers = {each.path: number for number, each in stored.items()}
        result = []
        for job in others:
            made = jobs.get(job.attr)
            uses = [numbers[path] for path in took[made.drv_path]] if made is not None else []
            result.append(_needing(job, made, uses) if made is not None and uses else _as_is(job))
        for each in decided:
            made = jobs.get(each.job.attr)
            if each.choice.base is None:
                result.append(_full(each))
            elif made is None:
                why = failed.get(each.job.attr, failed.get("", "it is no job then"))
                result.append(_full(each, f"with a base it does not evaluate: {why}"))
            elif not took[made.drv_path]:
                result.append(_full(each, "its expression does not use the base it is given"))
            else:
                result.append(_from_base(each, made))
        return result

    async def _locked(self, text: str) -> tuple[LockedSource, list[EvaluationInput], LockedTree]:
        """What is evaluated with bases, and what is given to that. SourceError, NixError."""
        protocols = self.jobset.incremental.protocols
        tree = await publish(self.store, text, scratch=self.scratch)
        await self.store.hold(self.number, [StorePath(tree.store_path)])
        source, references = self.locked, dict[Protocol, str]()
        if Protocol.CACHE_NIX in protocols:
            # Last: what is recorded at once is not taken for what nobody needs any more.
            commit = await self.overlays.add(origin(self.locked), text)
            source = self.overlays.locked(self.locked, commit)
            references[Protocol.CACHE_NIX] = commit
        inputs = [
            EvaluationInput(
                protocol=each,
                reference=references.get(each, f"path:{tree.store_path}?narHash={tree.nar_hash}"),
                text=text,
                revision=self.locked.revision,
            )
            for each in protocols
        ]
        return source, inputs, tree

    async def _evaluate(
        self, source: LockedSource, tree: LockedTree
    ) -> tuple[dict[str, EvaluatedJob], dict[str, str]]:
        """Jobs, and why there are none, by attribute path."""
        jobs: dict[str, EvaluatedJob] = {}
        failed: dict[str, str] = {}
        try:
            read = self.read if source is self.locked else None
            read = read or await checked_out(
                source,
                store=self.store,
                environment=self.environment,
                timeout=self.jobset.evaluation.timeout,
            )
        except (SourceError, ProcessTimeoutError) as error:
            return {}, {"": str(error)}
        rows = evaluation.evaluate(
            read,
            self.jobset,
            environment=self.environment,
            work_dir=self.scratch,
            given=Given(protocols=self.jobset.incremental.protocols, bases=tree),
        )
        async with contextlib.aclosing(rows):
            async for some in rows:
                made = [row for row in some if isinstance(row, EvaluatedJob)]
                await self.store.protect([StorePath(row.drv_path) for row in made])
                jobs |= {row.attr: row for row in made}
                failed |= {
                    row.attr: row.message for row in some if isinstance(row, EvaluationFailure)
                }
        return jobs, failed


def slot_of(jobset: Jobset, job: EvaluatedJob) -> Slot:
    """Where a job's bases belong."""
    return Slot(
        jobset=jobset.name,
        job=job.attr,
        system=job.system,
        branch=jobset.branch,
        trust=trust_of(jobset),
    )


def _noted(decision: Decision, note: str | None) -> Decision:
    """With why there was nothing elsewhere, of one that is built in full."""
    if note is None or decision.choice.base is not None:
        return decision
    choice = replace(decision.choice, reason=f"{decision.choice.reason}; {note}")
    return replace(decision, choice=choice)


def _as_is(job: EvaluatedJob) -> Offered:
    return Offered(job=job, canonical=job.drv_path)


def _full(decision: Decision, problem: str | None = None) -> Offered:
    """Without a base: as was decided, or because of a problem with the one that was chosen."""
    return Offered(
        job=decision.job,
        canonical=decision.job.drv_path,
        fingerprint=decision.fingerprint,
        reason=decision.choice.reason if problem is None else f"built in full: {problem}",
    )


def _from_base(decision: Decision, made: EvaluatedJob) -> Offered:
    assert decision.choice.base is not None
    return Offered(
        job=replace(decision.job, drv_path=made.drv_path, outputs=made.outputs),
        canonical=decision.job.drv_path,
        fingerprint=decision.fingerprint,
        base=decision.choice.base.id,
        reason=decision.choice.reason,
    )


def _needing(job: EvaluatedJob, made: EvaluatedJob, uses: Sequence[int]) -> Offered:
    """One that takes no part, but needs what does. It is found again where that is one job."""
    return Offered(
        job=replace(job, drv_path=made.drv_path, outputs=made.outputs),
        canonical=job.drv_path,
        fingerprint=fingerprint(basic_derivation.read(job.drv_path)) if len(uses) == 1 else None,
        base=uses[0],
        reason="needs what starts from a base",
    )


def _paths(job: EvaluatedJob) -> frozenset[StorePath]:
    return frozenset(path for path in job.outputs.values() if path is not None)


def _in_place(job: EvaluatedJob, drv: DrvPath) -> EvaluatedJob:
    """The same job with another derivation. NixError where that cannot be read."""
    return replace(job, drv_path=drv, outputs=derivation_file.read(drv).outputs)
