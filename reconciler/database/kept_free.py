"""Reads: which resources of builders are kept free, and for what. Writes nothing.

What goes first and finds too little of a resource has it set aside, so that others, which take
less, do not take it again and again. The daemon decides so in each round and writes it nowhere: its
own scheduler is asked here. That takes the whole graph, and is done only where it matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler import branches, config
from reconciler.database import branches as stored
from reconciler.database import observe, running, usage
from reconciler.database.file import Database
from reconciler.model import BuilderName, DrvPath
from reconciler.resources import Needs
from reconciler.scheduler import Slots
from reconciler.work import Work


def kept_free(
    database: Database,
    slots: Sequence[Slots],
    asked: Mapping[int, Needs],
    derivation: int,
    *,
    now: float,
) -> dict[BuilderName, str]:
    """What builders keep free for others than a derivation, in words; of one that would be started
    now nothing.
    """
    in_force = observe.document_in_force(database)
    if in_force is None:
        return {}
    desired = config.parse(in_force[1].encode(), name="the document in force")
    desired = branches.expanded(desired, stored.known(database))
    suspended = observe.suspended_jobsets(database)
    work = Work(observe.durations(database))
    work.scheduler.recall(usage.recent_usage(database, now=now))
    work.need(asked)
    work.join(observe.live_builds(database))
    work.want(
        observe.wanted_jobs(database),
        [j for j in desired.jobsets.values() if j.enabled and j.name not in suspended],
    )
    for each in running.live_attempts(database):
        if each.path in work.ids:
            work.scheduler.started(
                work.ids[DrvPath(each.path)], BuilderName(each.builder), now=each.started_at
            )
    assigned = work.scheduler.assignments(slots, now=now)
    if any(each.derivation == derivation for each in assigned):
        return {}
    said = {}
    for builder, kept in work.scheduler.reserved.items():
        before = kept[: kept.index(derivation)] if derivation in kept else kept
        if not before:  # it goes first itself
            continue
        first, *more = before
        needs = sorted(work.graph[first].platform.needs, key=lambda need: need[0])
        amounts = " and ".join(f"{amount} of {name}" for name, amount in needs)
        rest = f", and some for {len(more)} more" if more else ""
        goes = f"for {work.builds[first].name}, which goes before it"
        said[builder] = f"keeps {amounts} free {goes}{rest}"
    return said
