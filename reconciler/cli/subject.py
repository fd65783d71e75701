"""One jobset or one job in detail, for `reconciler status SUBJECT`."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from reconciler.cli import base_told
from reconciler.cli.output import Json, flat, plain, print_json
from reconciler.cli.settings import Settings
from reconciler.cli.state import document_in_force, local_systems
from reconciler.cli.status import read_report
from reconciler.cli.status_text import mark, problem_text, state
from reconciler.cli.text import (
    DIM,
    ago,
    columns,
    harmless,
    lasting,
    one_line,
    table,
    wrapped,
    wrapped_table,
)
from reconciler.database import blocked, details, lookup, slots
from reconciler.database.file import Database
from reconciler.database.lookup import DerivationSubject, JobsetSubject, JobSubject
from reconciler.model import Outcome
from reconciler.quantities import format_size
from reconciler.status import (
    EXIT_STATUS,
    JobsetFacts,
    JobsetStatus,
    JobState,
    Report,
    Verdict,
    count_jobs,
    gist,
    worst,
)
from reconciler.status import job_state as own_state

GOOD_SHOWN = 40
"""Succeeded jobs listed of a jobset; `--json` has all."""


def show_subject(database: Database, where: Settings, text: str, *, as_json: bool) -> int:
    """Print it; the exit status."""
    subject = lookup.resolve(database, text)
    match subject:
        case JobsetSubject():
            return _show_jobset(database, where, subject, as_json=as_json)
        case JobSubject() | DerivationSubject():
            return _show_job(database, subject, as_json=as_json)


# --- A jobset ----------------------------------------------------------------------------------


def _show_jobset(
    database: Database, where: Settings, subject: JobsetSubject, *, as_json: bool
) -> int:
    found = read_report(database, where)
    jobset = next(each for each in found.jobsets if each.facts.name == subject.jobset)
    if jobset.facts.patterns is not None:
        return _show_branches(found, jobset, as_json=as_json)
    problems = [each for each in found.problems if each.jobset == subject.jobset]
    current = jobset.facts.current
    others = [] if current is None else details.jobs(database, current.id)
    bad = {each.attr for each in problems}
    rows = [
        details.JobRow(
            attr=each.attr,
            derivation=each.derivation,
            state=each.state,
            message=problem_text(each),
        )
        for each in problems
    ]
    rows += [each for each in others if each.attr not in bad]
    if as_json:
        print_json({**flat(jobset), "jobList": [plain(row) for row in rows]})
    else:
        click.echo("\n".join(_jobset_lines(jobset, rows, now=time.time())))
    return EXIT_STATUS[jobset.verdict]


def _show_branches(found: Report, jobset: JobsetStatus, *, as_json: bool) -> int:
    """One that is declared for branches, with each of them."""
    branches = [
        each
        for each in found.jobsets
        if each.facts.branch_of == jobset.facts.name and each.facts.removed_at is None
    ]
    if as_json:
        print_json({**flat(jobset), "jobList": []})
    else:
        click.echo("\n".join(_branch_lines(jobset, branches, now=time.time())))
    return EXIT_STATUS[worst(each.verdict for each in (jobset, *branches))]


def _branch_lines(
    jobset: JobsetStatus, branches: list[JobsetStatus], *, now: float
) -> Iterator[str]:
    facts = jobset.facts
    yield f"{mark(jobset.verdict)} {click.style(facts.name, bold=True)}  {jobset.summary}"
    pairs = [["source", facts.source], ["branches", ", ".join(facts.patterns or ())]]
    pairs.append(["caches", ", ".join(facts.caches) or "none"])
    yield from wrapped_table(pairs, indent="  ", width=columns())
    yield from _condition_lines(facts, now=now)
    if branches:
        yield ""
        yield from table(
            [
                [mark(each.verdict), harmless(each.facts.name), each.summary, _revision(each)]
                for each in branches
            ],
            header=["", "JOBSET", "STATE", "NEWEST"],
            width=columns(),
        )


def _revision(jobset: JobsetStatus) -> str:
    newest = jobset.facts.newest
    return "" if newest is None else one_line(newest.locked)


def _condition_lines(facts: JobsetFacts, *, now: float) -> Iterator[str]:
    for each in facts.conditions:
        yield ""
        yield click.style(f"{each.reason.replace('-', ' ')} since {ago(each.since, now)}", fg="red")
        for line in harmless(each.message).splitlines()[:20]:
            code = line.startswith((" ", "\t"))
            yield f"  {line}" if code else wrapped(line, width=columns() or 1000, indent="  ")


def _jobset_lines(jobset: JobsetStatus, rows: list[details.JobRow], *, now: float) -> Iterator[str]:
    facts, width = jobset.facts, columns()
    yield f"{mark(jobset.verdict)} {click.style(facts.name, bold=True)}  {jobset.summary}"
    pairs = [["source", facts.source or "no longer declared"]]
    if facts.suspended is not None:
        why = f": {facts.suspended.why}" if facts.suspended.why else ""
        by = f"by {facts.suspended.by} {ago(facts.suspended.since, now)}{why}"
        pairs.append(["suspended", one_line(by)])
    for name, evaluation in (("newest", facts.newest), ("in force", facts.current)):
        if evaluation is None or (name == "in force" and evaluation == facts.newest):
            continue
        took = "" if evaluation.finished_at is None else (
            f" in {lasting(evaluation.finished_at - evaluation.started_at)}"
        )  # fmt: skip
        text = (
            f"#{evaluation.id} {evaluation.state}, {ago(evaluation.started_at, now)}{took}"
            f" ({one_line(evaluation.cause)})"
        )
        pairs.append([name, text])
        pairs.append(["", one_line(evaluation.locked)])
    pairs.append(["caches", ", ".join(facts.caches) or "none"])
    pairs.append(["jobs", count_jobs(facts.jobs)])
    yield from wrapped_table(pairs, indent="  ", width=columns())
    yield from _condition_lines(facts, now=now)
    if rows:
        yield ""
        good = [each for each in rows if each.state is JobState.SUCCEEDED]
        shown = [each for each in rows if each.state is not JobState.SUCCEEDED] + good[:GOOD_SHOWN]
        yield from table(
            [
                [
                    harmless(each.attr),
                    state(each.state),
                    one_line(
                        each.message
                        or ("" if each.derivation == each.attr else each.derivation or "")
                    ),
                ]
                for each in shown
            ],
            header=["JOB", "STATE", ""],
            width=width,
        )
        if len(good) > GOOD_SHOWN:
            yield f"… and {len(good) - GOOD_SHOWN} more that succeeded: --json lists all"


# --- A job -------------------------------------------------------------------------------------

_JOB_VERDICT = {True: Verdict.IN_PROGRESS, False: Verdict.FAILED}


def _show_job(database: Database, subject: JobSubject | DerivationSubject, *, as_json: bool) -> int:
    if subject.derivation is None:
        assert isinstance(subject, JobSubject)
        return _show_error(subject, as_json=as_json)
    facts = lookup.build_facts(database, subject.derivation)
    in_way = blocked.blocked(
        database, document_in_force(database), local_systems=local_systems, now=time.time()
    )
    job_state = in_way.states.get(facts.id) or own_state(facts.state)
    verdict = Verdict.IN_SYNC if job_state is JobState.SUCCEEDED else _JOB_VERDICT[job_state.live]
    detail = details.job(database, facts.id)
    base = slots.build(database, facts.id, subject.name)
    if as_json:
        found: dict[str, Json] = {
            "name": subject.name,
            "state": job_state.value,
            "verdict": verdict.value,
            "cause": in_way.causes.get(facts.id),
            "evaluationError": None,
            "derivation": plain(facts),
            "incremental": None if base is None else base_told.build_json(base),
            **_object(detail),
        }
        print_json(found)
    else:
        said = in_way.causes.get(facts.id)
        why = f"needs {said}" if said else in_way.messages.get(facts.id, "")
        click.echo("\n".join(_job_lines(subject, facts, detail, job_state, why, now=time.time())))
        if base is not None:
            sentence = one_line(base_told.sentence(database, base))
            click.echo(wrapped(sentence, width=columns(), indent="  "))
    return EXIT_STATUS[verdict]


def _object(value: object) -> dict[str, Json]:
    found = plain(value)
    assert isinstance(found, dict)
    return found


def _show_error(subject: JobSubject, *, as_json: bool) -> int:
    if as_json:
        print_json(
            {
                "name": subject.name,
                "state": JobState.EVALUATION_ERROR.value,
                "verdict": Verdict.FAILED.value,
                "cause": None,
                "evaluationError": subject.error,
                "derivation": None,
                "incremental": None,
                "outputs": [],
                "attempts": [],
                "products": [],
                "metrics": [],
                "pushes": [],
                "jobs": [],
            }
        )
    else:
        click.echo(f"{subject.name}: {state(JobState.EVALUATION_ERROR)}")
        click.echo(
            "".join(f"  {line}\n" for line in harmless(subject.error or "").splitlines()), nl=False
        )
    return EXIT_STATUS[Verdict.FAILED]


def _job_lines(
    subject: JobSubject | DerivationSubject,
    facts: lookup.BuildFacts,
    detail: details.JobDetail,
    job_state: JobState,
    why: str,
    *,
    now: float,
) -> Iterator[str]:
    yield f"{click.style(subject.name, bold=True)}  {state(job_state)}"
    if why:
        yield wrapped(one_line(why), width=columns(), indent="  ")
    if isinstance(subject, JobSubject) and subject.description:
        yield wrapped(one_line(subject.description), width=columns(), indent="  ")
    pairs = [["derivation", facts.path], ["system", " ".join([facts.system, *facts.features])]]
    if isinstance(subject, DerivationSubject) and detail.jobs:
        pairs.append(["job", ", ".join(detail.jobs[:5])])
    if isinstance(subject, JobSubject) and subject.constituents:
        pairs.append(["made of", ", ".join(map(harmless, subject.constituents[:8]))])
    pairs += [
        [
            f"output {each.name}",
            (each.path or "known once it is built")
            + ("" if each.size is None else f"  {format_size(each.size)}"),
        ]
        for each in detail.outputs
    ]
    pairs += [["product", f"{p.kind} {p.path}"] for p in detail.products]
    pairs += [["metric", f"{m.name} = {m.value:g} {m.unit or ''}"] for m in detail.metrics]
    pairs += [["cache", f"{p.cache}: {p.summary}"] for p in detail.pushes]
    yield from wrapped_table([[a, harmless(b)] for a, b in pairs], indent="  ", width=columns())
    if detail.attempts:
        yield ""
        yield from table(
            [_attempt_row(each, now=now) for each in detail.attempts],
            header=["ATTEMPT", "BUILDER", "STARTED", "TOOK", "OUTCOME"],
            indent="  ",
            width=columns(),
        )
        yield click.style(f"  reconciler log {subject.name}", fg=DIM)


def _attempt_row(each: lookup.Attempt, *, now: float) -> list[str]:
    message = one_line(gist(each.message or ""))
    outcome = "building" if each.outcome is None else str(each.outcome)
    return [
        str(each.number),
        each.builder,
        ago(each.started_at, now),
        lasting((each.finished_at or now) - each.started_at),
        f"{outcome}: {message}" if message and each.outcome is not Outcome.SUCCEEDED else outcome,
    ]
