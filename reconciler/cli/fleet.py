"""`reconciler builders`: health, slots and present builds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import click

from reconciler.cli.output import Json, flat, plain, print_json
from reconciler.cli.settings import settings, verb
from reconciler.cli.state import document_in_force, reading
from reconciler.cli.status_text import mark
from reconciler.cli.text import ago, columns, lasting, one_line, table, wrapped, wrapped_table
from reconciler.database import needs, report, running
from reconciler.database.running import BuilderError, LiveAttempt
from reconciler.model import BuilderName
from reconciler.quantities import format_size
from reconciler.status import BuilderStatus, judge_builder


@verb(
    "builders",
    examples="""
    reconciler builders
    reconciler builders --json
    """,
)
def builders(*, as_json: bool) -> None:
    """Show each builder's health, slots and present builds."""
    with reading(settings()) as database:
        current = document_in_force(database)
        found = [
            judge_builder(each)
            for each in report.builders(database, current, report.all_conditions(database))
        ]
        builds = running.live_attempts(database)
        errors = running.builder_errors(database)
        taken = needs.taken(
            database,
            [each.facts.name for each in found if each.facts.resources],
            needs.by_rule(database, current.rules),
        )
    if as_json:
        print_json({"builders": [_builder_json(each, builds, errors, taken) for each in found]})
    elif not found:
        click.echo("No builder is declared: nothing can be built.")
    else:
        for line in _builder_lines(found, builds, errors, taken, now=time.time()):
            click.echo(line)


_Errors = Mapping[BuilderName, BuilderError]
_Taken = Mapping[BuilderName, Mapping[str, int]]


def _builder_json(
    each: BuilderStatus, builds: list[LiveAttempt], errors: _Errors, taken: _Taken
) -> Json:
    last = errors.get(each.facts.name)
    return {
        **flat(each),
        "resourcesTaken": _taken(each, taken),
        "lastError": None if last is None else plain(last),
        "builds": [plain(build) for build in builds if build.builder == each.facts.name],
    }


def _taken(each: BuilderStatus, taken: _Taken) -> dict[str, Json]:
    """How much of each of its resources is taken, as a document would write it."""
    amounts = taken.get(each.facts.name, {})
    return {
        name: format_size(amounts.get(name, 0)) if isinstance(whole, str) else amounts.get(name, 0)
        for name, whole in each.facts.resources.items()
    }


def _builder_lines(
    found: list[BuilderStatus],
    builds: list[LiveAttempt],
    errors: _Errors,
    taken: _Taken,
    *,
    now: float,
) -> Iterator[str]:
    width = columns()
    rows = [
        [
            mark(each.verdict),
            str(each.facts.name),
            each.summary,
            f"{each.facts.running}/{each.facts.max_jobs}",
            f"{each.facts.speed_factor:g}",
            ", ".join(each.facts.systems)
            if each.facts.systems is not None
            else "what its Nix says",
            ", ".join([*each.facts.features, *(f"{f}!" for f in each.facts.mandatory_features)]),
        ]
        for each in found
    ]
    header = ["", "BUILDER", "STATE", "SLOTS", "SPEED", "SYSTEMS", "FEATURES"]
    yield from wrapped_table(rows, header=header, width=width)
    for each in found:
        if each.facts.resources:
            amounts = _taken(each, taken)
            said = [f"{amounts[n]} of {whole} of {n}" for n, whole in each.facts.resources.items()]
            yield f"  {each.facts.name}: takes {', '.join(said)}"
        for condition in each.facts.conditions:
            yield wrapped(
                f"{each.facts.name}: {condition.reason.replace('-', ' ')} since "
                f"{ago(condition.since, now)}: {one_line(condition.message)}",
                width=width,
                indent="  ",
                first="",
            )
        error = errors.get(each.facts.name)
        if error is not None and not each.facts.conditions:
            yield wrapped(
                f"{each.facts.name}: last error {ago(error.at, now)}: {one_line(error.message)}",
                width=width,
                indent="  ",
                first="",
            )
    if builds:
        yield ""
        yield from table(
            [[b.name, b.builder, lasting(now - b.started_at)] for b in builds],
            header=["BUILDING", "ON", "FOR"],
            width=width,
        )
