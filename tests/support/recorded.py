"""A database with a long history of incremental builds, made by what records them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from reconciler.bases import INTERMEDIATES, Fingerprint, Trust
from reconciler.database import (
    Database,
    artifacts,
    bases,
    built,
    evaluated,
    incremental,
    ingest,
    kept_bases,
    pushed,
)
from reconciler.database.artifacts import Due
from reconciler.database.incremental import BuildBase, NewBase, Slot
from reconciler.database.pushed import PushChange
from reconciler.model import (
    ArtifactStore,
    AttemptResult,
    BuilderName,
    BuildState,
    CacheName,
    Derivation,
    DrvPath,
    EvaluatedJob,
    Jobset,
    Outcome,
    OutputFact,
    PushState,
    StorePath,
)
from reconciler.transitions import Cause

SYSTEM = "x86_64-linux"
MEANS = Fingerprint(digest="f1", parts={"the input gcc-13": "1"})


@dataclass
class Recorded:
    """What is recorded of a jobset, each of whose evaluations builds all jobs once more."""

    database: Database
    jobset: Jobset
    jobs: int
    hidden: bool = False
    cache: CacheName | None = None
    store: ArtifactStore | None = None
    newest: dict[int, int] = field(default_factory=dict)
    """The base that each job left last."""
    now: float = 1000.0
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def evaluation(self, *, audited: bool = True, failing: int | None = None) -> list[int]:
        """Evaluate, build and keep all jobs, and let go of what is kept no longer; what was built.

        Every job number `failing` fails: its evaluation is not the last.
        """
        self.now += 60
        number = evaluated.begin_evaluation(
            self.database,
            self.jobset.name,
            fingerprint=f"f{self.now}",
            locked="/srv/it",
            cause="its source changed",
            now=self.now,
        )
        with self.database.transaction():
            evaluated.start_evaluation(self.database, number, now=self.now)
            incremental.give(self.database, number, (), self.newest.values(), now=self.now)
            made = [self._queue(number, job) for job in range(self.jobs)]
            evaluated.end_evaluation(self.database, number, error=None, now=self.now)
            for job, derivation in enumerate(made):
                if failing is not None and job % failing == 0:
                    self.end(derivation, Outcome.FAILED)
                else:
                    self.build(job, derivation, audited=audited)
            self.let_go()
            self.push(made)
        return made

    def let_go(self) -> None:
        """As the reconciler does after each."""
        found = kept_bases.superfluous(self.database, self.jobset.name, self.jobset.incremental)
        incremental.release(self.database, found, cause="newer ones are kept", now=self.now)
        if self.store is not None:
            self._share(self.store)

    def _share(self, store: ArtifactStore) -> None:
        """Have there what is to be, and nothing else."""
        keep = {self.jobset.name: self.jobset.incremental.per_slot}
        while (due := artifacts.due(self.database, store.name, store.url, keep)) != Due():
            artifacts.record(
                self.database,
                store.url,
                shared={str(each.base.id): each for each in due.share},
                gone={},
                withdrawn=due.withdraw,
                now=self.now,
            )

    def slot(self, job: int) -> Slot:
        name = self.jobset.name
        return Slot(jobset=name, job=f"app{job}", system=SYSTEM, branch=None, trust=Trust(name))

    def _queue(self, evaluation: int, job: int) -> int:
        """Have a job's next build queued."""
        number = next(self._numbers)
        fact = Derivation(
            path=self._path(number),
            name=f"app{job}-{number}",
            system=SYSTEM,
            outputs={"out": _output(number, "out"), INTERMEDIATES: _output(number, INTERMEDIATES)},
            inputs={},
            required_features=(),
        )
        ingest.add_derivations(self.database, [(number, fact, BuildState.QUEUED)], now=self.now)
        found = EvaluatedJob(
            attr_path=(f"app{job}",),
            name=fact.name,
            system=SYSTEM,
            drv_path=fact.path,
            outputs={},
            description=None,
        )
        evaluated.add_jobs(self.database, evaluation, [(found, number)], [])
        incremental.choose(
            self.database,
            self.slot(job),
            BuildBase(
                derivation=number,
                canonical=self._canonical(number),
                fingerprint=MEANS,
                base=self.newest.get(job),
                reason="it is the newest",
                revision=None,
                hidden=self.hidden,
            ),
            now=self.now,
        )
        return number

    def _path(self, number: int) -> DrvPath:
        return DrvPath(f"/nix/store/{number:032}-app.drv")

    def _canonical(self, number: int) -> DrvPath:
        """A build that is shown its base is at the path of the clean one."""
        return self._path(number) if self.hidden else DrvPath(f"{self._path(number)}-clean.drv")

    def build(self, job: int, derivation: int, *, audited: bool) -> None:
        """Have a build end well, kept and, if asked, audited."""
        self.end(derivation, Outcome.SUCCEEDED)
        self.keep(job, derivation)
        (facts,) = bases.explain(self.database, derivation)
        if audited and facts.incremental:
            incremental.ask_audit(
                self.database, derivation, base=facts.base, clean=facts.canonical, now=self.now
            )
            (audit,) = bases.open_audits(self.database)
            incremental.end_audit(self.database, audit.id, difference=None, now=self.now)

    def end(self, derivation: int, outcome: Outcome) -> None:
        """Have a build end."""
        (attempt,) = built.begin_attempts(
            self.database, [(derivation, BuilderName("local"))], now=self.now
        )
        good = outcome is Outcome.SUCCEEDED
        result = AttemptResult(
            outcome=outcome,
            message="",
            started_at=self.now,
            finished_at=self.now,
            outputs={
                name: OutputFact(path=_output(derivation, name), size=2048)
                for name in ("out", INTERMEDIATES)
            }
            if good
            else {},
            log_bytes=0,
        )
        built.end_attempt(self.database, attempt, derivation, result, not_before=0)

    def push(self, derivations: list[int]) -> None:
        """Have outputs pushed; what builds left for others is put on the queue by a tick."""
        if self.cache is not None:
            paths = [_output(each, "out") for each in derivations]
            pushed.queue_pushes(
                self.database, self.cache, roots=derivations, paths=paths, now=self.now
            )
            self.send_all()

    def send_all(self) -> None:
        """Have pushed what is on the queue."""
        assert self.cache is not None
        waiting = "SELECT path FROM push WHERE state = 'pending'"
        paths = [row[0] for row in self.database.query(waiting)]
        states = (PushState.PENDING, PushState.PUSHING, PushState.PUSHED)
        for before, after, cause in zip(
            states, states[1:], (Cause.STARTED, Cause.SUCCEEDED), strict=False
        ):
            changes = [
                PushChange(path=each, before=before, after=after, cause=cause) for each in paths
            ]
            pushed.set_push_states(self.database, self.cache, changes, now=self.now)

    def keep(self, job: int, derivation: int) -> None:
        """Record what a build left."""
        (facts,) = bases.explain(self.database, derivation)
        new = NewBase(
            name=f"app{job}-intermediates",
            path=StorePath(f"/nix/store/{derivation:032}-kept"),
            nar_hash=f"sha256-{derivation}",
            size=100,
            fingerprint=MEANS,
            canonical=facts.canonical,
            built=facts.path,
            revision=None,
            parent=facts.base,
            bucket=None if self.store is None else self.store.name,
        )
        self.newest[job] = incremental.add_base(self.database, self.slot(job), new, now=self.now)


def _output(number: int, name: str) -> StorePath:
    return StorePath(f"/nix/store/{number:032}-app-{name}")
