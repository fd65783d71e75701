"""Reads: jobs of an evaluation, and all that is recorded of one derivation. Writes nothing."""

from __future__ import annotations

from msgspec import Struct

from reconciler.database.file import Database
from reconciler.database.lookup import (
    Attempt,
    OutputRow,
    attempts,
    job_names,
    output_rows,
)
from reconciler.model import BuildProduct, BuildState, Metric
from reconciler.status import JobState, counted, job_state


class JobRow(Struct, frozen=True, kw_only=True):
    """A job in a list."""

    attr: str
    derivation: str | None
    """The derivation's name."""
    state: JobState
    message: str | None = None


def jobs(database: Database, evaluation: int) -> list[JobRow]:
    """An evaluation's jobs that evaluate, by their builds' own states."""
    return [
        JobRow(attr=row[0], derivation=row[1], state=job_state(BuildState(row[2])))
        for row in database.query(
            "SELECT j.attr, d.name, b.state FROM job j JOIN derivation d ON d.id = j.derivation"
            " JOIN build b ON b.derivation = d.id WHERE j.evaluation = ? ORDER BY j.attr",
            (evaluation,),
        )
    ]


class PushSummary(Struct, frozen=True, kw_only=True):
    """How far a derivation's outputs are on their way to a cache."""

    cache: str
    pushed: int
    total: int
    error: str | None

    @property
    def summary(self) -> str:
        """In words."""
        if self.pushed == self.total:
            return "pushed"
        failing = f": {self.error}" if self.error else ""
        return f"{self.pushed} of {counted(self.total, 'output')} pushed{failing}"


class JobDetail(Struct, frozen=True, kw_only=True):
    """What is recorded of a derivation."""

    jobs: tuple[str, ...]
    outputs: tuple[OutputRow, ...]
    attempts: tuple[Attempt, ...]
    products: tuple[BuildProduct, ...]
    metrics: tuple[Metric, ...]
    pushes: tuple[PushSummary, ...]


def job(database: Database, derivation: int) -> JobDetail:
    """Everything."""
    made = attempts(database, derivation)
    last = made[-1].id if made else None
    return JobDetail(
        jobs=tuple(job_names(database, derivation)),
        outputs=output_rows(database, derivation),
        attempts=made,
        products=tuple(
            BuildProduct(kind=row["kind"], subtype=row["subtype"], path=row["path"])
            for row in database.query(
                "SELECT kind, subtype, path FROM product WHERE attempt = ?", (last,)
            )
        ),
        metrics=tuple(
            Metric(name=row["name"], value=row["value"], unit=row["unit"])
            for row in database.query(
                "SELECT name, value, unit FROM metric WHERE attempt = ?", (last,)
            )
        ),
        pushes=tuple(
            PushSummary(
                cache=row["name"], pushed=row["pushed"], total=row["total"], error=row["error"]
            )
            for row in database.query(
                "SELECT c.name, sum(p.state = 'pushed') AS pushed, count(*) AS total,"
                " max(p.error) AS error FROM output o JOIN push p ON p.path = o.path"
                " JOIN cache c ON c.id = p.cache WHERE o.derivation = ? GROUP BY c.id"
                " ORDER BY c.name",
                (derivation,),
            )
        ),
    )
