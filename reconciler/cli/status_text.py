"""The report of `status` as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from reconciler.cli.text import (
    BAD,
    BUSY,
    DIM,
    GOOD,
    ago,
    columns,
    cut,
    harmless,
    lasting,
    one_line,
    table,
    wrapped,
)
from reconciler.states import BuildState, JobsetName
from reconciler.status import (
    Condition,
    DocumentDrift,
    JobsetStatus,
    JobState,
    Problem,
    Report,
    Stuck,
    Verdict,
    branch_count,
    count_jobs,
    counted,
    gist,
    held,
)

PROBLEMS_SHOWN = 10
"""Of each jobset; `status JOBSET` has all."""

_MARKS = {
    Verdict.IN_SYNC: ("✓", GOOD),
    Verdict.FAILED: ("✗", BAD),
    Verdict.IN_PROGRESS: ("…", BUSY),
    Verdict.UNKNOWN: ("?", BUSY),
}
STATE_COLORS = {
    JobState.SUCCEEDED: GOOD,
    JobState.FAILED: BAD,
    JobState.DEPENDENCY_FAILED: BAD,
    JobState.EVALUATION_ERROR: BAD,
    JobState.UNSUPPORTED: BAD,
    JobState.WAITING: BUSY,
    JobState.CANCELLED: BUSY,
    JobState.BUILDING: BUSY,
    JobState.QUEUED: DIM,
}


def mark(verdict: Verdict) -> str:
    """A verdict as one sign."""
    sign, color = _MARKS[verdict]
    return click.style(sign, fg=color)


def state(value: JobState) -> str:
    """A job's state in its colour."""
    return click.style(value, fg=STATE_COLORS[value])


def overview(found: Report, *, now: float) -> list[str]:
    """Everything, for an eye that looks for what is wrong."""
    width = columns()
    blocks = [
        _jobsets(found, now=now, width=width),
        _others(found, now=now, width=width),
        _problems(found, now=now, width=width),
        _notes(found, now=now, width=width),
    ]
    lines: list[str] = []
    for block in blocks:
        if block:
            lines += ([""] if lines else []) + block
    return lines


def _jobsets(found: Report, *, now: float, width: int | None) -> list[str]:
    if not found.jobsets:
        return ["No jobset is declared."]
    rows = []
    gone: dict[JobsetName, list[float]] = {}
    for each in found.jobsets:
        facts = each.facts
        if facts.removed_at is None:
            rows.append(_jobset(each, now=now))
        elif facts.branch_of is not None:
            gone.setdefault(facts.branch_of, []).append(facts.removed_at)
        else:
            text = click.style(f"pruned {ago(facts.removed_at, now)}", fg=DIM)
            rows.append(["-", str(facts.name), "", text])
    for name, ends in gone.items():
        text = f"{branch_count(len(ends))} pruned, the last {ago(max(ends), now)}"
        rows.append(["-", f"{name}@…", "", click.style(text, fg=DIM)])
    return table(rows, header=["", "JOBSET", "STATE", "JOBS"], width=width)


def _jobset(each: JobsetStatus, *, now: float) -> list[str]:
    """Its row; those of its branches follow it."""
    indent = "" if each.facts.branch_of is None else "  "
    sign = click.style("‖", fg=DIM) if held(each.facts) else mark(each.verdict)
    return [sign, indent + harmless(each.facts.name), each.summary, _jobs(each, now=now)]


def _jobs(each: JobsetStatus, *, now: float) -> str:
    if each.facts.patterns is not None:
        return f"branches {', '.join(each.facts.patterns)}"
    evaluation = each.facts.newest
    if evaluation is None:
        return ""
    at = evaluation.finished_at or evaluation.started_at
    if each.facts.current is None:
        return f"evaluated {ago(at, now)}"
    return count_jobs(each.facts.jobs)


def _others(found: Report, *, now: float, width: int | None) -> list[str]:
    rows = []
    for cache in found.caches:
        if cache.facts.removed_at is not None:
            rows.append(
                ["-", f"cache {cache.facts.name}", f"pruned {ago(cache.facts.removed_at, now)}"]
            )
        else:
            text = cache.summary
            if cache.facts.error and cache.facts.failing:
                text += f": {one_line(cache.facts.error)}"
            rows.append([mark(cache.verdict), f"cache {cache.facts.name}", text])
    rows += [
        [mark(each.verdict), f"builder {each.facts.name}", each.summary]
        for each in found.builders
        if each.verdict is not Verdict.IN_SYNC or each.facts.drain
    ]
    return table(rows, width=width)


def _problems(found: Report, *, now: float, width: int | None) -> list[str]:
    lines: list[str] = []
    by_jobset: dict[str, list[Problem]] = {}
    for problem in found.problems:
        by_jobset.setdefault(problem.jobset, []).append(problem)
    for jobset, problems in by_jobset.items():
        rows = [
            [f"{jobset}.{harmless(each.attr)}", state(each.state), problem_text(each)]
            for each in problems[:PROBLEMS_SHOWN]
        ]
        lines += table(rows, width=width)
        if len(problems) > PROBLEMS_SHOWN:
            more = len(problems) - PROBLEMS_SHOWN
            lines.append(f"… and {more} more: reconciler status {jobset}")
    for stuck in _not_of_jobs(found):
        text = f"{stuck.derivation}: {one_line(gist(stuck.message))}"
        lines.append(cut(text, width))
    if waiting := [each.fails_at for each in found.stuck if each.fails_at is not None]:
        wait = lasting(min(waiting) - now)
        lines.append(cut(f"What waits for a builder counts as failed in {wait}.", width))
    for each in _all_conditions(found):
        name = "" if each.kind == "document" else f" {each.name}"
        head = f"{each.kind.replace('-', ' ')}{name}: {each.reason.replace('-', ' ')}: "
        lines += _clipped(head, each.message, width)
    return lines


def _not_of_jobs(found: Report) -> Sequence[Stuck]:
    named = {each.derivation for each in found.problems}
    return [each for each in found.stuck if each.derivation not in named]


def problem_text(problem: Problem) -> str:
    """What is wrong with a job, on one line."""
    if problem.cause is not None:
        return f"needs {problem.cause}"
    if problem.state is JobState.EVALUATION_ERROR:
        return one_line(problem.message or "")
    return one_line(gist(problem.message or ""))


def _all_conditions(found: Report) -> Iterable[Condition]:
    yield from found.conditions
    for jobset in found.jobsets:
        yield from jobset.facts.conditions
    for cache in found.caches:
        yield from cache.facts.conditions
    for builder in found.builders:
        yield from builder.facts.conditions


def _clipped(head: str, message: str, width: int | None) -> list[str]:
    """A message's first lines."""
    lines = [line for line in harmless(message).splitlines() if line.strip()]
    first = head + (lines[0].strip() if lines else "")
    shown = [f"    {line.rstrip()}" for line in lines[1:4]]
    if len(lines) > 4:
        shown.append(f"    … {counted(len(lines) - 4, 'more line')}: --json has all")
    if width is None:
        return [first, *shown]
    # The mend is at the end of a sentence; what is long below it is of others' making.
    whole = wrapped(cut(first, width * 8), width=width, indent="  ", first="")
    return [whole, *(cut(line, width * 2) for line in shown)]


def _notes(found: Report, *, now: float, width: int | None) -> list[str]:
    """The farm as a whole."""
    document, lines = found.document, []
    applied = f"in force for {lasting(float(round(now - document.applied_at)))}"
    match document.drift:
        case DocumentDrift.SAME:
            text = applied
        case DocumentDrift.CHANGED:
            text = f"{applied}; {document.file} differs and is not in force yet"
        case DocumentDrift.INVALID:
            text = f"{applied}; {document.file} is not valid now: see `reconciler check`"
        case DocumentDrift.UNREADABLE:
            text = f"{applied}; not compared with its file ({document.message})"
    lines.append(wrapped(f"document  {text}", width=width or 1000, indent=" " * 10, first=""))
    running, queued = (found.builds.get(key, 0) for key in (BuildState.BUILDING, BuildState.QUEUED))
    if found.daemon is None:
        doing = "not running" + (": nothing goes on until it is" if running + queued else "")
        lines.append("daemon    " + click.style(doing, fg=BUSY))
    else:
        lines.append(f"daemon    running, process {found.daemon}")
    if running or queued:
        lines.append(f"builds    {running} building, {queued} to go")
    lines.append("")
    said = found.summary if width is None else wrapped(found.summary, width=width - 2, indent="  ")
    lines.append(f"{mark(found.verdict)} {said.lstrip()}")
    return lines
