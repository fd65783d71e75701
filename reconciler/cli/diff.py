"""`reconciler diff`: one evaluation of a jobset against another."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from reconciler.cli.output import plain, print_json
from reconciler.cli.settings import settings, verb
from reconciler.cli.state import document_in_force, local_systems, reading
from reconciler.cli.status import complete_subject
from reconciler.cli.text import BAD, BUSY, DIM, GOOD, columns, harmless, one_line, table
from reconciler.database import lookup, revisions
from reconciler.database.blocked import blocked
from reconciler.database.lookup import JobsetSubject
from reconciler.errors import UsageError
from reconciler.explain import Change, ComparedJob, Health, JobDifference, compare
from reconciler.status import EvaluationFacts

_SIGNS = {
    Change.ADDED: click.style("+", fg=GOOD),
    Change.REMOVED: click.style("-", fg=BAD),
    Change.CHANGED: click.style("~", fg=BUSY),
    Change.UNCHANGED: " ",
}
_HEALTH_COLORS = {
    Health.NEWLY_FAILING: BAD,
    Health.STILL_FAILING: BAD,
    Health.NEWLY_FIXED: GOOD,
}


@verb(
    "diff",
    examples="""
    reconciler diff website             what the newest evaluation changed
    reconciler diff website --from 12   against evaluation 12
    reconciler diff website --from 12 --to 15
    """,
)
@click.argument("jobset", shell_complete=complete_subject)
@click.option("--from", "before", type=int, metavar="N", help="The older evaluation's number.")
@click.option("--to", "after", type=int, metavar="N", help="The newer evaluation's number.")
def diff(jobset: str, *, before: int | None, after: int | None, as_json: bool) -> None:
    """Compare JOBSET's evaluation with the one before it.

    Says of each job that differs or fails whether it was added, removed or changed, and whether
    it fails newly, still fails or was fixed. Builds are judged as they are now.
    """
    with reading(settings()) as database:
        subject = lookup.resolve(database, jobset)
        if not isinstance(subject, JobsetSubject):
            raise UsageError(f"{jobset} is no jobset: evaluations are compared as a whole")
        if branches := lookup.branches_of(database, subject.jobset):
            raise UsageError(
                f"jobset {jobset} is built as its branches: name one, such as {branches[0]}"
            )
        kept = revisions.evaluations(database, subject.jobset)
        newer, older = _choose(kept, jobset, before=before, after=after)
        in_way = blocked(
            database, document_in_force(database), local_systems=local_systems, now=time.time()
        )
        new = revisions.compared_jobs(database, newer.id, in_way)
        old: dict[str, ComparedJob] = (
            {} if older is None else revisions.compared_jobs(database, older.id, in_way)
        )
        found = compare(old, new)
    if as_json:
        print_json(
            {
                "jobset": subject.jobset,
                "from": None if older is None else plain(older),
                "to": plain(newer),
                "jobs": plain(found),
            }
        )
    else:
        for line in _lines(subject.jobset, newer, older, found):
            click.echo(line)


def _choose(
    kept: list[EvaluationFacts], jobset: str, *, before: int | None, after: int | None
) -> tuple[EvaluationFacts, EvaluationFacts | None]:
    """The evaluations meant: newer and older. `kept` is newest first."""
    if not kept:
        raise UsageError(f"jobset {jobset} has no evaluation that yielded jobs yet")
    by_id = {each.id: each for each in kept}
    for asked in (before, after):
        if asked is not None and asked not in by_id:
            numbers = ", ".join(str(each.id) for each in kept[:20])
            raise UsageError(f"evaluation {asked} of {jobset} is not kept; kept are {numbers}")
    newer = kept[0] if after is None else by_id[after]
    if before is not None:
        return newer, by_id[before]
    older = [each for each in kept if each.id < newer.id]
    return newer, older[0] if older else None


def _lines(
    jobset: str,
    newer: EvaluationFacts,
    older: EvaluationFacts | None,
    found: tuple[JobDifference, ...],
) -> Iterator[str]:
    width = columns()
    if older is None:
        yield f"{jobset} #{newer.id} is the first evaluation that is kept: every job is new."
    else:
        yield f"{jobset} #{older.id} → #{newer.id}"
        if older.locked != newer.locked:
            yield click.style(f"  from {one_line(older.locked)}", fg=DIM)
            yield click.style(f"  to   {one_line(newer.locked)}", fg=DIM)
    if not found:
        yield "No job differs, and none fails."
        return
    rows = [
        [_SIGNS[each.change], harmless(each.attr), str(each.change), _health(each)]
        for each in found
        if older is not None or each.health is not None
    ]
    yield from table(rows, width=width)
    changes = [
        f"{sum(e.change is c for e in found)} {c}" for c in Change if c is not Change.UNCHANGED
    ]
    health = [f"{sum(e.health is h for e in found)} {h}" for h in Health]
    yield ", ".join(changes) + "; " + ", ".join(health)


def _health(each: JobDifference) -> str:
    if each.health is not None:
        state = "" if each.after is None or not each.after.state.bad else f" ({each.after.state})"
        return click.style(each.health, fg=_HEALTH_COLORS[each.health]) + state
    return "" if each.after is None else str(each.after.state)
