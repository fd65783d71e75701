"""A listing of branches becomes jobsets: those that came, those that went, those that moved.

One that failed says nothing of what there is: all stays as it was listed last.
"""

from __future__ import annotations

from reconciler import branches
from reconciler.branches import Head
from reconciler.database import branches as stored
from reconciler.model import Branches, Jobset, JobsetName
from reconciler.outcomes import Listed
from reconciler.reconcile.farm import Farm

NONE = "no-branch-matches"
TOO_MANY = "too-many-branches"


def listed(farm: Farm, outcome: Listed, *, now: float) -> None:
    """Record a listing and apply it."""
    name = outcome.asked.name
    progress = farm.progress_of(name)
    progress.busy = False
    declared = farm.desired.patterns.get(name)
    if declared is None or (declared.source, declared.branches) != (
        outcome.asked.source,
        outcome.asked.branches,
    ):
        return  # declared otherwise meanwhile: it is listed anew
    progress.polled_at, progress.listed = now, outcome.error is None
    farm.fault("jobset", name, "source-unavailable", outcome.error)
    if outcome.error is not None:
        return
    for reason, note in outcome.notes.items():
        farm.fault("jobset", name, reason, note)
    progress.heads = {head.branch: head for head in outcome.heads}
    _take(farm, declared, now=now)


def _take(farm: Farm, declared: Jobset, *, now: float) -> None:
    """Make jobsets of the branches, and see to those that moved."""
    assert declared.branches is not None
    before = {
        each.branch
        for each in farm.desired.jobsets.values()
        if each.branch_of == declared.name and each.branch is not None
    }
    heads = farm.progress_of(declared.name).heads
    chosen = branches.chosen(heads.values(), declared.branches, before=before)
    _complain(farm, declared, declared.branches, found=len(heads), taken=len(chosen))
    names = {branches.jobset_name(declared.name, head.branch): head for head in chosen}
    if {head.branch for head in chosen} != before:
        stored.set_branches(
            farm.database,
            declared.name,
            {name: head.branch for name, head in names.items()},
            now=now,
        )
        farm.desired = branches.expanded(farm.desired, stored.known(farm.database))
        farm.want()
        farm.look_for_pushes()
        farm.share_due = True
    for name, head in names.items():
        _moved(farm, name, head)
    _ask(farm, declared.name, names)


def _complain(farm: Farm, declared: Jobset, wanted: Branches, *, found: int, taken: int) -> None:
    patterns = ", ".join(wanted.patterns)
    farm.fault(
        "jobset",
        declared.name,
        NONE,
        None if found else f"the repository has no branch that {patterns} asks for",
    )
    farm.fault(
        "jobset",
        declared.name,
        TOO_MANY,
        None
        if found == taken
        else f"{found} branches are asked for, of which {taken} are built: those named without"
        " a pattern, then the newest; raise maxBranches, or leave some out with !PATTERN",
    )


def _moved(farm: Farm, name: JobsetName, head: Head) -> None:
    progress = farm.progress_of(name)
    first = progress.head is None and progress.polled_at is None
    if not first and (progress.head is None or progress.head.revision != head.revision):
        farm.trigger(name, cause="its branch moved", force=False)
    progress.head = head


def _ask(farm: Farm, declared: JobsetName, names: dict[JobsetName, Head]) -> None:
    """Have evaluated what people asked for while it was not known where the branches stand."""
    progress = farm.progress_of(declared)
    for name in names:
        cause = progress.awaiting.get(name) or progress.forced
        if cause is not None:
            farm.trigger(name, cause=cause, force=True)
    progress.forced, progress.awaiting = None, {}
