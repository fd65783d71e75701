"""What incremental builds leave, and what is to be done where one came to no good.

What a good build left becomes a base, and older ones are let go. A job whose build from a base
failed is evaluated again, in which it starts from none: it is not the job's fault until that fails.
"""

from __future__ import annotations

from reconciler import leftovers
from reconciler.database import bases, due, incremental, kept_bases, mounts, pushed, slots
from reconciler.database.bases import Fallen
from reconciler.database.observe import Request
from reconciler.model import CacheName, JobsetName
from reconciler.outcomes import Kept
from reconciler.reconcile import audits, mounted, sharing
from reconciler.reconcile.farm import Farm

NOT_KEPT = "base-not-kept"


def look(farm: Farm, *, now: float) -> None:
    """See to what builds left, and to those that came to no good, as far as that is new."""
    newest = due.newest(farm.database)
    _tidy(farm, now=now)
    if _concerned(farm):
        _see_to(farm, now=now)
    else:
        farm.held = farm.spoilt = frozenset()
    if newest is not None:
        due.settle(farm.database, newest)


def _see_to(farm: Farm, *, now: float) -> None:
    mounted.look(farm, now=now)
    for each in bases.left(farm.database):
        jobset = farm.desired.jobsets.get(each.slot.jobset)
        if jobset is not None and jobset.incremental.enable and each.derivation not in farm.keeping:
            farm.keeping.add(each.derivation)
            farm.executor.keep(each, max_size=jobset.incremental.max_size)
    for fallen in bases.fallen(farm.database):
        if (fallen.jobset, fallen.derivation) not in farm.fallen:
            farm.fallen.add((fallen.jobset, fallen.derivation))
            _evaluate_again(farm, fallen, now=now)
    for suspect, job in bases.suspects(farm.database).items():
        reason = f"{job} failed from it, and was built without"
        audits.quarantine(farm, suspect, reason=reason, now=now)
    audits.look(farm, now=now)
    _queue(farm, now=now)
    sharing.look(farm, now=now)


def take_up(farm: Farm) -> None:
    """Do once more what a process that was killed may not have come to: note what no cache is to
    get, take it off their queues, where it may be again, and root bases and no others.
    """
    if _concerned(farm):
        audits.hold_back(farm)
        audits.not_pushed(farm)
        farm.executor.roots.hold_bases(kept_bases.held_paths(farm.database))


def _concerned(farm: Farm) -> bool:
    """Whether there are incremental builds, or some that lie where clean ones belong."""
    return bool(farm.incremental_jobsets()) or mounts.any_hidden(farm.database)


def _queue(farm: Farm, *, now: float) -> None:
    """Put on the caches' queues what others may start from, too: where builds are for release only
    once they are audited, not before.
    """
    names: dict[CacheName, list[JobsetName]] = {}
    audited = []
    for jobset in farm.incremental_jobsets():
        if jobset.incremental.audit_before_release:
            audited.append(jobset.name)
        for cache in jobset.caches:
            names.setdefault(cache, []).append(jobset.name)
    for cache, jobsets in names.items():
        found = kept_bases.unqueued(farm.database, cache, jobsets, audited=audited)
        if found:
            rules = [farm.desired.jobsets[name].caches[cache] for name in jobsets]
            rule = min(rules, key=lambda each: each.alone)
            pushed.queue_pushes(
                farm.database, cache, roots=(), paths=found, now=now, sizes=found, rule=rule
            )


def _evaluate_again(farm: Farm, fallen: Fallen, *, now: float) -> None:
    jobset = farm.desired.jobsets.get(fallen.jobset)
    if jobset is None:
        return
    if fallen.lost:
        cause = f"the base of {fallen.job} could not be had"
        if fallen.base is not None:
            incremental.release(farm.database, [fallen.base], cause=cause, now=now)
    elif jobset.incremental.retry_clean:
        cause = f"{fallen.job} failed from a base: it is tried without"
    else:
        return
    farm.trigger(fallen.jobset, cause=cause, force=True)


def kept(farm: Farm, outcome: Kept, *, now: float) -> None:
    """Record what became of intermediates."""
    left = outcome.left
    jobset = left.slot.jobset
    farm.fault("jobset", jobset, NOT_KEPT, outcome.error)
    if outcome.error is not None:
        return  # it is tried again after the next evaluation
    farm.keeping.discard(left.derivation)
    due.again(farm.database, [left.derivation])  # it may be of another job, too
    if outcome.refused is not None:
        incremental.refuse(farm.database, left.slot, left.derivation, reason=outcome.refused)
    if outcome.base is None:
        return
    incremental.add_base(farm.database, left.slot, outcome.base, now=now)
    retain(farm, now=now)


def _tidy(farm: Farm, *, now: float) -> None:
    """Let go of what is of no jobset any more, and of what another document has no use for."""
    database, desired = farm.database, farm.desired
    new = farm.tidied != desired.digest
    if kept_bases.ownerless(database, desired) or (new and kept_bases.unneeded(database, desired)):
        retain(farm, now=now)
    if new and not leftovers.in_use(database, desired):
        farm.tidied = desired.digest
        farm.executor.tidy(desired)


def retain(farm: Farm, *, now: float) -> None:
    """Let go of what is not to be kept, and root the rest."""
    for base, cause in kept_bases.unneeded(farm.database, farm.desired).items():
        incremental.release(farm.database, [base], cause=cause, now=now)
    farm.executor.roots.hold_bases(kept_bases.held_paths(farm.database))


def evaluated(farm: Farm, jobset: JobsetName, *, now: float) -> None:
    """What could not be kept is tried again once its jobset is evaluated."""
    declared = farm.desired.jobsets.get(jobset)
    if declared is not None and declared.incremental.enable:
        due.again(farm.database, farm.keeping)
        left = bases.left(farm.database)
        again = {each.derivation for each in left if each.slot.jobset == jobset}
        farm.keeping &= {each.derivation for each in left} - again
        retain(farm, now=now)


# --- What people ask for -----------------------------------------------------------------------


def quarantine(farm: Farm, request: Request, *, now: float) -> str:
    """Have nothing start from a base; the answer. What was built from it is seen to by audits."""
    number = int(request.subject)
    if not bases.stored(farm.database, [number]):
        return f"refused: there is no base {number}"
    reason = f"{request.who}: {request.why}"
    found = audits.quarantine(farm, number, reason=reason, now=now)
    farm.want()
    if not found:
        return f"base {number} is in quarantine already"
    below = len({*found} & {*bases.descendants(farm.database, number)}) - 1
    alike = len(found) - 1 - below
    return (
        f"base {number} is in quarantine"
        + (f", and {below} from it" if below else "")
        + (f", and {alike} of the same content, or from that" if alike else "")
    )


def reset(farm: Farm, request: Request, *, now: float) -> str:
    """Let go of all bases of a job, so that its next build is a full one; the answer."""
    found = slots.kept_of(farm.database, request.subject)
    cause = f"reset by {request.who}" + (f": {request.why}" if request.why else "")
    incremental.release(farm.database, found, cause=cause, now=now)
    incremental.refuse_from(
        farm.database, found, reason=f"what it started from was let go: {cause}"
    )
    farm.executor.roots.hold_bases(kept_bases.held_paths(farm.database))
    if not found:
        return "no bases are kept of it: its next build is a full one"
    noun = "base is" if len(found) == 1 else "bases are"
    return f"{len(found)} {noun} let go: its next build is a full one"
