"""`reconciler plan`: what the daemon would do, without doing it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

import click
from msgspec import Struct

from reconciler import plan as planning
from reconciler import upkeep
from reconciler.cli.output import Json, plain, print_json, warn
from reconciler.cli.settings import settings, verb
from reconciler.cli.text import BAD, BUSY, GOOD, columns, cut, one_line, wrapped
from reconciler.preview import Declared, Preview, preview
from reconciler.problems import told
from reconciler.states import InspectionScope
from reconciler.status import counted, gist

NAMES_SHOWN = 20
"""Builds named one by one; `--json` has all."""


class Line(Struct, frozen=True, kw_only=True):
    """One thing that would be done."""

    sign: str
    """`+` something is made, `~` something changes, `-` something goes."""
    kind: str
    subject: str
    note: str = ""


@verb(
    "plan",
    examples="""
    reconciler plan
    reconciler --config new.yaml plan        what this document would change
    reconciler plan --json | jq '.actions[] | select(.sign == "-")'
    """,
    notes="""
    + something is made   ~ something changes   - something goes
    ! what is wrong now, of a jobset or a cache

    Exit status: 0 it is shown, 2 usage, or a document that is not valid,
    4 the state directory, or the machine's Nix, cannot be used.
    """,
)
def plan(*, as_json: bool) -> None:
    """Show what would be done next, and change nothing.

    What an evaluation will find is not known before it ran: its builds are not shown yet.
    """
    where = settings()
    found = asyncio.run(
        preview(config_path=where.config, state_dir=where.state_dir, environment=dict(os.environ))
    )
    lines = list(describe(found))
    if as_json:
        print_json(_json(found, lines))
        return
    warn(told(found.warnings, name=str(where.config)))
    for text in _text(lines, found.plan.conditions, columns()):
        click.echo(text)


_PRUNED = "what is queued for it alone is withdrawn, its history is kept"


def _changes(
    kind: str, changes: Declared, *, going: str, also: Sequence[str] = ()
) -> Iterator[Line]:
    """Objects that putting the document in force adds, changes and removes."""
    yield from (Line(sign="+", kind=kind, subject=name) for name in changes.added)
    yield from (
        Line(sign="~", kind=kind, subject=name, note="its settings change")
        for name in changes.changed
    )
    removed = dict.fromkeys([*changes.removed, *also])
    yield from (Line(sign="-", kind=kind, subject=name, note=going) for name in removed)


def describe(found: Preview) -> Iterator[Line]:
    """Everything that would be done, what is declared first."""
    pruned = [each.jobset for each in found.plan.actions if isinstance(each, planning.Prune)]
    yield from _changes("jobset", found.jobsets, going=_PRUNED, also=pruned)
    yield from _changes("builder", found.builders, going="takes nothing new")
    yield from _changes("cache", found.caches, going="its queue is dropped, what it holds stays")
    for action in found.plan.actions:
        yield from _action(action, found)
    for jobset, number in found.queued.items():
        if number:
            note = "in all, each as soon as what it needs is there"
            yield Line(sign="+", kind="builds", subject=f"{number} of {jobset}", note=note)
    for cache, number in found.open_pushes.items():
        if number:
            yield Line(sign="+", kind="push", subject=f"{counted(number, 'path')} to {cache}")


def _action(action: planning.Action, found: Preview) -> Iterator[Line]:
    """One action; what is told as a whole elsewhere gives nothing."""
    match action:
        case planning.Poll() | planning.ListBranches():
            # Looking at a source changes nothing: what it leads to is an evaluation.
            return
        case planning.Evaluate():
            yield Line(sign="+", kind="evaluate", subject=action.jobset, note=action.cause)
        case planning.Build():
            name = found.names.get(action.derivation, f"derivation {action.derivation}")
            yield Line(sign="+", kind="build", subject=name, note=f"on {action.builder}")
        case planning.Fetch():
            made = f"what {counted(len(action.derivations), 'job')} made"
            yield Line(sign="+", kind="fetch", subject=made, note="a substituter has it")
        case planning.StopBuild():
            name = found.names.get(action.derivation, f"derivation {action.derivation}")
            yield Line(sign="-", kind="stop", subject=name, note="nothing needs it any more")
        case planning.Withdraw():
            number = len(action.derivations)
            yield Line(
                sign="-", kind="withdraw", subject=counted(number, "queued build"),
                note="nothing needs them any more",
            )  # fmt: skip
        case planning.QueuePushes() | upkeep.Inspect() | upkeep.Collect():
            yield _of_cache(action)
        case planning.Release():
            yield Line(
                sign="-", kind="release", subject=f"GC roots of evaluation {action.evaluation}"
            )
        case planning.Forget():
            yield Line(
                sign="-",
                kind="forget",
                subject=f"evaluation {action.evaluation} of {action.jobset}",
                note="more than its jobset keeps",
            )
        case planning.Sweep():
            yield Line(sign="-", kind="sweep", subject="builds and logs that nothing kept needs")
        case planning.Push() | planning.Accompany() | planning.Prune() | upkeep.Mark():
            return
        case _:
            assert_never(action)


def _of_cache(action: planning.QueuePushes | upkeep.Inspect | upkeep.Collect) -> Line:
    match action:
        case planning.QueuePushes():
            subject = f"what {counted(len(action.derivations), 'job')} made, to {action.cache}"
            return Line(sign="+", kind="push", subject=subject, note=str(action.rule))
        case upkeep.Inspect():
            some = "all" if action.scope is InspectionScope.WHOLE else "some"
            note = f"whether it has {some} of what was pushed to it"
            return Line(sign="~", kind="inspect", subject=f"cache {action.cache}", note=note)
        case upkeep.Collect():
            subject = f"paths from cache {action.cache}"
            return Line(sign="-", kind="delete", subject=subject, note="nothing needs them")
        case _:
            assert_never(action)


def _text(
    lines: Sequence[Line], wrong: Mapping[tuple[str, str, str], str], width: int | None
) -> Iterator[str]:
    colors = {"+": GOOD, "~": BUSY, "-": BAD}
    builds = 0
    for line in lines:
        if line.kind == "build":
            builds += 1
            if builds > NAMES_SHOWN:
                continue
        note = f"  ({one_line(line.note)})" if line.note else ""
        text = cut(f"{line.kind} {one_line(line.subject)}{note}", width and width - 2)
        yield f"{click.style(line.sign, fg=colors[line.sign])} {text}"
    if builds > NAMES_SHOWN:
        yield f"  … and {builds - NAMES_SHOWN} more builds now: --json names them"
    for (kind, name, reason), message in wrong.items():
        said = f"! {kind} {name}: {reason.replace('-', ' ')}: {one_line(gist(message))}"
        yield wrapped(said, width=width or 1000, indent="  ", first="")
    if not lines:
        yield "Nothing to do" + (" now." if wrong else ": everything is as declared.")
        return
    counts = [f"{sum(line.sign == sign for line in lines)} {sign}" for sign in colors]
    yield f"Plan: {', '.join(counts)}. `reconciler run --once` carries it out."


def _json(found: Preview, lines: Sequence[Line]) -> Json:
    return {
        "digest": found.desired.digest,
        "nothingToDo": not lines,
        "actions": [
            {
                "sign": line.sign,
                "kind": line.kind,
                "subject": line.subject,
                "note": line.note or None,
            }
            for line in lines
        ],
        "jobsets": plain(found.jobsets),
        "builders": plain(found.builders),
        "caches": plain(found.caches),
        "queuedBuilds": {str(key): number for key, number in found.queued.items()},
        "openPushes": {str(key): number for key, number in found.open_pushes.items()},
        "conditions": [
            {"kind": kind, "name": name, "reason": reason, "message": message}
            for (kind, name, reason), message in found.plan.conditions.items()
        ],
        "warnings": plain(found.warnings),
        "wakeAt": found.plan.wake_at,
    }
