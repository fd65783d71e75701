"""Reads: what a person means by a name, and what is known of one job or derivation.

A subject is a jobset, a job (`JOBSET.ATTR`), a derivation's path or file name, or a derivation's
name where only one has it. Writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from msgspec import Struct

from reconciler.database.file import Database
from reconciler.database.observe import live_builds
from reconciler.errors import UsageError
from reconciler.model import BuildState, DrvPath, JobsetName, Outcome
from reconciler.problems import nearest
from reconciler.work import LiveBuild

_SHOWN = 8
_RANK = (
    "CASE e.state WHEN 'succeeded' THEN 0 WHEN 'running' THEN 1 WHEN 'superseded' THEN 2 ELSE 3 END"
)
"""Of a jobset's evaluations the one in force counts first, then the one that runs."""


class JobSubject(Struct, frozen=True, kw_only=True):
    """A job of an evaluation: the one in force, else the newest that has it."""

    jobset: JobsetName
    attr: str
    evaluation: int
    derivation: int | None
    error: str | None
    description: str | None
    constituents: tuple[str, ...]

    @property
    def name(self) -> str:
        """As people write it."""
        return f"{self.jobset}.{self.attr}"


class DerivationSubject(Struct, frozen=True, kw_only=True):
    """A derivation that need not be a job."""

    derivation: int
    path: DrvPath

    @property
    def name(self) -> str:
        """As people write it."""
        return self.path


class JobsetSubject(Struct, frozen=True, kw_only=True):
    """A whole jobset."""

    jobset: JobsetName
    removed: bool

    @property
    def name(self) -> str:
        """As people write it."""
        return self.jobset


Subject = JobsetSubject | JobSubject | DerivationSubject


def resolve(database: Database, text: str) -> Subject:
    """Find what is meant; UsageError with the nearest names."""
    jobsets = {
        JobsetName(row["name"]): row["removed_at"] is not None
        for row in database.query("SELECT name, removed_at FROM jobset")
    }
    if text in jobsets:
        name = JobsetName(text)
        return JobsetSubject(jobset=name, removed=jobsets[name])
    by_path = _by_path(database, text)
    if by_path is not None:
        return by_path
    # A jobset's name may contain dots: the longest that fits is meant.
    fitting = sorted((name for name in jobsets if text.startswith(f"{name}.")), key=len)
    for jobset in reversed(fitting):
        job = _job(database, jobset, text.removeprefix(f"{jobset}."))
        if job is not None:
            return job
    found = _by_name(database, text)
    if found is not None:
        return found
    raise _unknown(database, text, list(jobsets), fitting[-1] if fitting else None)


def _by_path(database: Database, text: str) -> DerivationSubject | None:
    if not text.endswith(".drv"):
        return None
    where = "path = ?" if text.startswith("/") else "path LIKE '%/' || ? ESCAPE '\\'"
    escaped = text.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")
    row = database.one(
        f"SELECT id, path FROM derivation WHERE {where}",
        (text if text.startswith("/") else escaped,),
    )
    if row is None:
        raise UsageError(f"no derivation {text} is known: it was in no evaluation that is kept")
    return DerivationSubject(derivation=row[0], path=DrvPath(row[1]))


def _job(database: Database, jobset: JobsetName, attr: str) -> JobSubject | None:
    row = database.one(
        "SELECT j.evaluation, j.derivation, j.error, j.description, j.constituents"
        " FROM jobset s JOIN evaluation e ON e.jobset = s.id"
        " JOIN job j ON j.evaluation = e.id AND j.attr = ?"
        f" WHERE s.name = ? ORDER BY {_RANK}, e.id DESC LIMIT 1",
        (attr, jobset),
    )
    if row is None:
        return None
    return JobSubject(
        jobset=jobset,
        attr=attr,
        evaluation=row["evaluation"],
        derivation=row["derivation"],
        error=row["error"],
        description=row["description"],
        constituents=tuple(json.loads(row["constituents"])),
    )


def _by_name(database: Database, name: str) -> DerivationSubject | None:
    rows = database.query(
        "SELECT d.id, d.path, b.state FROM derivation d JOIN build b ON b.derivation = d.id"
        " WHERE d.name = ? ORDER BY d.id DESC",
        (name,),
    )
    if not rows:
        return None
    if len(rows) > 1:
        lines = [f"  {row['path']}  ({row['state']})" for row in rows[:_SHOWN]]
        raise UsageError(
            f"{len(rows)} derivations are called {name}; name one by its path:\n" + "\n".join(lines)
        )
    return DerivationSubject(derivation=rows[0]["id"], path=DrvPath(rows[0]["path"]))


def _unknown(
    database: Database, text: str, jobsets: Sequence[JobsetName], near: JobsetName | None
) -> UsageError:
    branches = [] if near is None else branches_of(database, near)
    if near is not None and branches:
        attr = text.removeprefix(f"{near}.")
        some = ", ".join(branches[:_SHOWN]) + (", …" if len(branches) > _SHOWN else "")
        raise UsageError(
            f"jobset {near} is built as its branches; name one, such as {branches[0]}.{attr}:"
            f" there are {some}"
        )
    if near is not None:
        attr = text.removeprefix(f"{near}.")
        # Of the attribute alone: all begin with the name of the jobset.
        jobs = job_attrs(database, near)
        said = _suggest(
            attr, jobs, prefix=f"{near}.", listed="its jobs are", none="it has no jobs yet"
        )
        return UsageError(f"jobset {near} has no job {attr}; {said}")
    said = _suggest(text, jobsets, listed="the jobsets are", none="no jobset was declared yet")
    return UsageError(f"there is no jobset, job or derivation {text}; {said}")


def _suggest(text: str, names: Sequence[str], *, listed: str, none: str, prefix: str = "") -> str:
    if not names:
        return none
    # difflib compares with each of them: of very many names the first ones must do.
    near = nearest(text[:200], names[:2000])
    near = near and prefix + near
    few = ", ".join(prefix + name for name in names[:_SHOWN])
    few += ", …" if len(names) > _SHOWN else ""
    return (f"did you mean {near}? " if near else "") + f"{listed} {few}"


def branches_of(database: Database, jobset: JobsetName) -> list[JobsetName]:
    """The jobsets of the branches that a jobset is declared for; none, if it is for no branches."""
    return [
        row[0]
        for row in database.query(
            "SELECT name FROM jobset WHERE removed_at IS NULL"
            " AND pattern = (SELECT id FROM jobset WHERE name = ?) ORDER BY name",
            (jobset,),
        )
    ]


def job_attrs(database: Database, jobset: JobsetName) -> list[str]:
    """The names of a jobset's jobs, in force or last known."""
    row = database.one(
        "SELECT e.id FROM jobset s JOIN evaluation e ON e.jobset = s.id WHERE s.name = ?"
        f" ORDER BY {_RANK}, e.id DESC LIMIT 1",
        (jobset,),
    )
    if row is None:
        return []
    return [
        each[0]
        for each in database.query(
            "SELECT attr FROM job WHERE evaluation = ? ORDER BY attr", (row[0],)
        )
    ]


# --- A derivation ------------------------------------------------------------------------------


class BuildFacts(Struct, frozen=True, kw_only=True):
    """A derivation and its build."""

    id: int
    path: DrvPath
    name: str
    system: str
    features: tuple[str, ...]
    state: BuildState
    queued_at: float
    finished_at: float | None
    not_before: float
    failures: int
    bumped: bool


class Attempt(Struct, frozen=True, kw_only=True):
    """One attempt; `number` counts the derivation's attempts from 1, `id` all."""

    id: int
    number: int
    builder: str
    started_at: float
    finished_at: float | None
    outcome: Outcome | None
    message: str | None
    log_bytes: int | None


class OutputRow(Struct, frozen=True, kw_only=True):
    """An output; the path is None where it is known only after the build."""

    name: str
    path: str | None
    size: int | None


def build_facts(database: Database, derivation: int) -> BuildFacts:
    """What is known of a derivation."""
    row = database.one(
        "SELECT d.id, d.path, d.name, d.system, d.features, b.state, b.queued_at, b.finished_at,"
        " b.not_before, b.failures, b.bumped_at FROM derivation d"
        " JOIN build b ON b.derivation = d.id WHERE d.id = ?",
        (derivation,),
    )
    assert row is not None, f"derivation {derivation} has no build"
    return BuildFacts(
        id=row["id"],
        path=DrvPath(row["path"]),
        name=row["name"],
        system=row["system"],
        features=tuple(row["features"].split()),
        state=BuildState(row["state"]),
        queued_at=row["queued_at"],
        finished_at=row["finished_at"],
        not_before=row["not_before"],
        failures=row["failures"],
        bumped=row["bumped_at"] is not None,
    )


def attempts(database: Database, derivation: int) -> tuple[Attempt, ...]:
    """A derivation's attempts, oldest first."""
    return tuple(
        Attempt(
            id=row["id"],
            number=number,
            builder=row["builder"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
            message=row["message"],
            log_bytes=row["log_bytes"],
        )
        for number, row in enumerate(
            database.query("SELECT * FROM attempt WHERE derivation = ? ORDER BY id", (derivation,)),
            start=1,
        )
    )


def output_rows(database: Database, derivation: int) -> tuple[OutputRow, ...]:
    """A derivation's outputs."""
    return tuple(
        OutputRow(name=row["name"], path=row["path"], size=row["size"])
        for row in database.query(
            "SELECT name, path, size FROM output WHERE derivation = ? ORDER BY name <> 'out', name",
            (derivation,),
        )
    )


def job_names(database: Database, derivation: int) -> list[str]:
    """The jobs in force that a derivation is."""
    return [
        f"{row[0]}.{row[1]}"
        for row in database.query(
            "SELECT s.name, j.attr FROM job j JOIN evaluation e ON e.id = j.evaluation"
            " JOIN jobset s ON s.id = e.jobset WHERE j.derivation = ?"
            " AND e.state IN ('running', 'succeeded') ORDER BY 1, 2",
            (derivation,),
        )
    ]


def log_name(database: Database, derivation: int) -> str:
    """The shortest name under which the command line finds a derivation."""
    jobs = job_names(database, derivation)
    if jobs:
        return min(jobs, key=len)
    row = database.one(
        "SELECT name, path, (SELECT count(*) FROM derivation o WHERE o.name = d.name) AS same"
        " FROM derivation d WHERE id = ?",
        (derivation,),
    )
    assert row is not None
    return str(row["name"] if row["same"] == 1 else row["path"])


def missing_below(database: Database, derivation: int) -> list[LiveBuild]:
    """A derivation and all below it that does not exist, with the edges between them."""
    found = [
        row[0]
        for row in database.query(
            "WITH RECURSIVE below(id) AS (SELECT ? UNION"
            " SELECT i.input FROM below a CROSS JOIN input i ON i.derivation = a.id"
            " JOIN build b ON b.derivation = i.input"
            " WHERE b.state NOT IN ('succeeded', 'substituted')) SELECT id FROM below",
            (derivation,),
        )
    ]
    return live_builds(database, found)
