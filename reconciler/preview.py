"""What a tick would do, found out without doing it.

The daemon's own code runs on a copy of the database in memory. Sources are resolved, as a tick
would have them resolved, since only that tells whether there is something to evaluate; nothing
is written and nothing is built.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from reconciler import branches, config, reconcile
from reconciler.database import Database, observe, open_memory, open_reader
from reconciler.database import branches as stored
from reconciler.listing import list_branches
from reconciler.model import CacheName, Desired, Jobset, JobsetName
from reconciler.nix import settings as nix_settings
from reconciler.places import Places
from reconciler.plan import ListBranches, Plan, Poll, plan
from reconciler.polling import resolve
from reconciler.problems import Problem
from reconciler.reconcile import collect
from reconciler.reconcile.farm import Farm
from reconciler.reconcile.opening import open_farm, open_store


class Declared(Struct, frozen=True, kw_only=True):
    """How the document's objects of one kind differ from those in force, by name."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


class Preview(Struct, frozen=True, kw_only=True):
    """What a tick would do."""

    desired: Desired
    plan: Plan
    """Without polls: they were made."""
    names: Mapping[int, str]
    """Derivation to name, of all that is to be built."""
    queued: Mapping[JobsetName, int]
    """Builds still to be done for each jobset; one that several want counts for each."""
    open_pushes: Mapping[CacheName, int]
    jobsets: Declared
    builders: Declared
    caches: Declared
    warnings: tuple[Problem, ...] = ()
    """What the document declares in vain."""


async def preview(*, config_path: Path, state_dir: Path, environment: Mapping[str, str]) -> Preview:
    """Look; ReconcilerError for a bad document or a state that cannot be read."""
    checked = config.check(config_path)
    nix = await nix_settings.read(environment)
    now = time.time()
    database = _copy(state_dir, now=now)
    places = Places(state_dir=state_dir, environment=environment)
    store = open_store(places)
    farm = open_farm(database, checked.desired, nix.systems, places, store, wake=lambda: None)
    try:
        before = observe.document_in_force(database)
        await reconcile.start(farm, now=now)
        was = stored.known(database)
        await _look(farm, environment, now=now)
        decided = plan(farm.desired, reconcile.look(farm, now=now), now=now)
        found = _preview(farm, decided, None if before is None else before[1], was)
        return replace(found, warnings=checked.warnings)
    finally:
        await farm.store.close()
        database.close()


async def _look(farm: Farm, environment: Mapping[str, str], *, now: float) -> None:
    """Make the polls of a tick: of branches first which there are."""
    suspended = observe.suspended_jobsets(farm.database)
    listings = [
        # The mirror is the daemon's: nothing is written.
        list_branches(each, {}, mirror=None, environment=environment)
        for each in farm.desired.patterns.values()
        if each.enabled and each.name not in suspended
    ]
    for listed in await asyncio.gather(*listings):
        farm.progress_of(listed.asked.name).triggered = None
        collect.collect(farm, listed, now=now)
    heads = {each.name: farm.progress_of(each.name).head for each in farm.active_jobsets()}
    polls = [
        resolve(each, farm.store, environment, at=head.revision if head is not None else None)
        for each in farm.active_jobsets()
        if (head := heads[each.name]) is not None or each.branch_of is None
    ]
    for polled in await asyncio.gather(*polls):
        farm.progress_of(polled.jobset).triggered = None
        collect.collect(farm, polled, now=now)
    for outcome in farm.executor.drain():  # of folders that were looked for, as far as they answer
        collect.collect(farm, outcome, now=now)


def _copy(state_dir: Path, *, now: float) -> Database:
    copy = open_memory(now=now)
    original = open_reader(state_dir)
    if original is not None:
        original.connection.backup(copy.connection)
        original.close()
    return copy


def _preview(
    farm: Farm,
    decided: Plan,
    before: str | None,
    known: Mapping[JobsetName, Mapping[JobsetName, str]],
) -> Preview:
    work = farm.work
    live = [node.id for node in work.graph.nodes if node.state.live]
    queued: dict[JobsetName, int] = {}
    for derivation in live:
        if work.scheduler.useful(derivation):
            for jobset in work.wanting(derivation):
                queued[jobset] = queued.get(jobset, 0) + 1
    old = None
    if before:
        old = branches.expanded(config.parse(before.encode(), name="the document in force"), known)
    return Preview(
        desired=farm.desired,
        plan=Plan(
            actions=tuple(
                each for each in decided.actions if not isinstance(each, Poll | ListBranches)
            ),
            conditions=decided.conditions,
            wake_at=decided.wake_at,
        ),
        names={each: work.builds[each].name for each in live},
        queued=queued,
        open_pushes=observe.open_pushes(farm.database),
        jobsets=_declared(_jobsets(old) if old else {}, _jobsets(farm.desired)),
        builders=_declared(old.builders if old else {}, farm.desired.builders),
        caches=_declared(old.caches if old else {}, farm.desired.caches),
    )


def _jobsets(desired: Desired) -> Mapping[JobsetName, Jobset]:
    return {**desired.patterns, **desired.jobsets}


def _declared(before: Mapping[Any, object], after: Mapping[Any, object]) -> Declared:
    return Declared(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(name for name in after if name in before and before[name] != after[name]),
    )
