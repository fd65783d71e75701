"""What artifact stores are to get of what builds left, and to lose; and what came of it.

A store that fails is tried again after growing pauses; nothing else waits for it.
"""

from __future__ import annotations

from reconciler.database import artifacts, due
from reconciler.database.artifacts import Due
from reconciler.model import JobsetName
from reconciler.outcomes import Shared
from reconciler.reconcile.farm import KEYLESS, Away, Farm
from reconciler.trust import is_untrusted

KIND = "artifact-store"
NOT_READ = "not-read"
NOT_WRITTEN = "not-written"
UNDECLARED = "artifact-store-undeclared"
BATCH = 8
"""Bases that are sent in one go: what was sent is recorded at its end."""


def look(farm: Farm, *, now: float) -> None:
    """See to what is to be shared, where bases changed, until there is nothing more to do."""
    if not (farm.share_due or due.any_base(farm.database)):
        return
    declared = farm.desired.artifact_stores
    named = artifacts.undeclared(farm.database, declared)
    for jobset in farm.incremental_jobsets():
        lacking = named.get(jobset.name) if jobset.incremental.share_write else None
        farm.fault("jobset", jobset.name, UNDECLARED, _undeclared(lacking))
    farm.share_due = False
    keep = writers(farm)
    audited = [e.name for e in farm.incremental_jobsets() if e.incremental.audit_before_release]
    for store in declared.values():
        if store.name in farm.sharing or (KIND, store.name, KEYLESS) in farm.faults:
            farm.share_due = True
            continue
        found = artifacts.due(farm.database, store.name, store.url, keep, audited=audited)
        if not (found.share or found.withdraw):
            farm.unshared.pop(store.name, None)
            farm.fault(KIND, store.name, NOT_WRITTEN, None)
            continue
        farm.share_due = True
        if farm.unshared.get(store.name, Away()).not_before <= now:
            farm.sharing.add(store.name)
            found = Due(share=found.share[:BATCH], withdraw=found.withdraw)
            farm.executor.share(store, found, farm=artifacts.farm_id(farm.database))


def writers(farm: Farm) -> dict[JobsetName, int]:
    """How many bases of each slot are to be shared, of the jobsets that may write.

    What is there serves everybody: of an untrusted branch, whose expressions say under which name,
    nothing is there, nor stays that it put there while it was trusted.
    """
    return {
        jobset.name: 0
        if is_untrusted(jobset.incremental, jobset.branch)
        else jobset.incremental.per_slot
        for jobset in farm.incremental_jobsets()
        if jobset.incremental.share_write
    }


def _undeclared(lacking: dict[str, str] | None) -> str | None:
    if not lacking:
        return None
    name, job = min(lacking.items())
    more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
    return (
        f"{job} names the artifact store {name}, which is not declared{more}: write"
        f" artifactStores: {{{name}: {{url: …}}}}, or share: {{read: false, write: false}}"
    )


def shared(farm: Farm, outcome: Shared, *, now: float) -> None:
    """Record what an artifact store got and lost."""
    artifacts.record(
        farm.database,
        outcome.store.url,
        shared=outcome.shared,
        gone=outcome.gone,
        withdrawn=outcome.withdrawn,
        now=now,
    )
    name = outcome.store.name
    farm.sharing.discard(name)
    if farm.desired.artifact_stores.get(name) != outcome.store:
        return  # of what is declared now, that says nothing
    farm.fault(KIND, name, NOT_WRITTEN, outcome.unusable)
    if outcome.unusable is None:
        farm.fault(KIND, name, NOT_READ, None)  # perhaps: the next to ask finds out
        farm.unshared.pop(name, None)
    else:
        farm.unshared.setdefault(name, Away()).put_off(now=now)
