"""Builds from a base that are made again without one, and what follows where that differs.

Everything follows from what the database says, so that audits go on and the farm heals after any
end of the daemon. Builds from what is in quarantine are not pushed, and their jobsets are evaluated
again: there, such jobs start from nothing that is in quarantine.
"""

from __future__ import annotations

from itertools import chain

from msgspec.structs import replace

from reconciler.bases import is_sampled
from reconciler.database import audits, bases, built, incremental, mounts, slots
from reconciler.database.audits import Spoilt, Wrong
from reconciler.database.bases import Audit
from reconciler.database.ingest import known_builds
from reconciler.database.observe import Request
from reconciler.model import BuildState, JobsetName
from reconciler.outcomes import Audited, Discarded, Revisited, Twinned
from reconciler.reconcile.farm import AuditStage, Away, Farm
from reconciler.status import UNSUPPORTED_GRACE
from reconciler.transitions import Cause

WRONG_BUILD = "wrong-build"
NOT_AUDITED = "not-audited"
NOT_DISCARDED = "wrong-outputs-stay"


def look(farm: Farm, *, now: float) -> None:
    """Begin audits, go on with them, and see to what was built wrong."""
    _ask(farm, now=now)
    open_audits = bases.open_audits(farm.database)
    for each in open_audits:
        _go_on(farm, each, now=now)
    _heal(farm, now=now)
    before = farm.spoilt
    hold_back(farm)
    if not before <= farm.spoilt:
        farm.hold_jobs()  # it stays after all
    _tell_failed(farm)


def hold_back(farm: Farm) -> None:
    """Note what no cache is to get, and what of that is to be deleted: nothing is to root it."""
    farm.held = audits.held(farm.database, _strict(farm))
    farm.spoilt = frozenset(audits.spoilt(farm.database) if farm.held else ())


def _strict(farm: Farm) -> list[JobsetName]:
    """The jobsets of which nothing is pushed that was built from a base and not audited."""
    return [
        name for name, each in farm.desired.jobsets.items() if each.incremental.audit_before_release
    ]


def _ask(farm: Farm, *, now: float) -> None:
    for each in audits.unaudited(farm.database):
        jobset = farm.desired.jobsets.get(each.jobset)
        if jobset is None:
            continue
        settings = jobset.incremental
        hidden = each.path == each.canonical  # it is pushed only once it is found right
        strict = settings.audit_before_release or (hidden and bool(jobset.caches))
        if strict or is_sampled(each.path, settings.audit_fraction):
            incremental.ask_audit(
                farm.database, each.derivation, base=each.base, clean=each.canonical, now=now
            )


def ask(farm: Farm, request: Request, *, now: float) -> str:
    """Have the newest build of a job audited; the answer."""
    found = slots.auditable(farm.database, request.subject)
    if isinstance(found, str):
        return f"refused: {found}"
    jobset = farm.desired.jobsets.get(found.slot.jobset)
    if jobset is None or not jobset.incremental.enable:
        return f"refused: jobset {found.slot.jobset} has incremental.enable no longer"
    audits.request(farm.database, [found.derivation], now=now)
    return "its newest build is made again without a base, and compared"


def _go_on(farm: Farm, audit: Audit, *, now: float) -> None:
    """Do the next thing for an audit that has not ended."""
    stage = farm.auditing.get(audit.id)
    if stage is None:
        farm.auditing[audit.id] = AuditStage.FINDING
        if mounts.is_hidden(farm.database, audit.derivation):
            farm.executor.make_twin(audit)
        else:
            _find(farm, audit, now=now)
    elif stage is AuditStage.BUILDING:
        _clean_build(farm, audit, now=now)


def _find(farm: Farm, audit: Audit, *, now: float) -> None:
    _reopen(farm, audit, now=now)
    farm.executor.revisit([audit.clean])


def twinned(farm: Farm, outcome: Twinned, *, now: float) -> None:
    """There is what a build is to be compared with, once that is built."""
    for audit in [each for each in bases.open_audits(farm.database) if each.id == outcome.audit]:
        if outcome.twin is None:
            _fail(farm, audit, outcome.error or "", now=now)
        else:
            audits.set_twin(farm.database, audit.id, outcome.twin)
            _find(farm, replace(audit, clean=outcome.twin), now=now)


def _reopen(farm: Farm, audit: Audit, *, now: float) -> None:
    """What came to nothing before is tried again, and what it needs."""
    ended = audits.ended_below(farm.database, audit.clean)
    changes = [(each, state, BuildState.QUEUED) for each, state in ended.items()]
    with farm.database.transaction():  # what is queued is not found again
        built.set_build_states(farm.database, changes, cause=Cause.RETRY_REQUESTED, now=now)
        built.forgive(farm.database, ended)
    inside = [each for each in ended if each in farm.work.graph]
    farm.work.forgive(inside)
    for each in inside:
        farm.work.graph.reopen(each)


def _clean_build(farm: Farm, audit: Audit, *, now: float) -> None:
    build = known_builds(farm.database, [audit.clean]).get(audit.clean)
    if build is None:
        _fail(farm, audit, "its derivation without a base was forgotten", now=now)
    elif build.id in farm.away:
        return  # it is fetched
    elif build.state.good:
        _compare(farm, audit, now=now)
    elif not build.state.live:
        _fail(farm, audit, f"its build without a base: {build.state}", now=now)
    elif build.state is BuildState.BUILDING and not audit.running:
        incremental.start_audit(farm.database, audit.id)
    elif (why := _hopeless(farm, build.id, waited=now - audit.asked_at, now=now)) is not None:
        _fail(farm, audit, f"its build without a base needs {why}", now=now)


def _compare(farm: Farm, audit: Audit, *, now: float) -> None:
    """Hold the build against its twin, once it is there: it may have been lost since."""
    build = known_builds(farm.database, [audit.path]).get(audit.path)
    if build is None or not (build.state.good or build.state.live):
        state = "forgotten" if build is None else build.state
        _fail(farm, audit, f"it was lost, and building it again: {state}", now=now)
    elif build.state.good and build.id not in farm.away:
        farm.auditing[audit.id] = AuditStage.COMPARING
        farm.executor.audit(audits.twins(farm.database, audit))


def _hopeless(farm: Farm, derivation: int, *, waited: float, now: float) -> str | None:
    """What stands in the way of a queued build for good; None: nothing, or not for sure."""
    work = farm.work
    if derivation not in work.graph or work.scheduler.useful(derivation):
        return None
    cause = work.graph.root_cause(derivation)
    if cause is not None:
        return f"{work.builds[cause].name}: {work.graph[cause].state}"
    lost = work.scheduler.unsupported(farm.slots(now=now)) if waited >= UNSUPPORTED_GRACE else []
    below = work.graph.wanted({derivation: 1}) if lost else {}
    unfit = next((each for each in lost if each in below), None)
    return None if unfit is None else f"{work.builds[unfit].name}: no builder can build it"


def _fail(farm: Farm, audit: Audit, why: str, *, now: float) -> None:
    farm.auditing.pop(audit.id, None)
    if not incremental.drop_void(farm.database, audit.id):
        incremental.fail_audit(farm.database, audit.id, why=why, now=now)
    farm.want()


def revisited(farm: Farm, outcome: Revisited, *, now: float) -> None:
    """Clean derivations are in the graph, if they have to be built, or are nowhere."""
    _retaken(farm, outcome)
    for each in bases.open_audits(farm.database):
        if each.clean in outcome.derivations and each.id in farm.auditing:
            if outcome.batch is None:
                _fail(farm, each, "its derivation without a base is not in the store", now=now)
            elif farm.auditing[each.id] is AuditStage.FINDING:
                farm.auditing[each.id] = AuditStage.BUILDING


def audited(farm: Farm, outcome: Audited, *, now: float) -> None:
    """Record what an audit found."""
    farm.auditing.pop(outcome.audit, None)
    found = [each for each in bases.open_audits(farm.database) if each.id == outcome.audit]
    for audit in found:  # or it was forgotten with its build
        if incremental.drop_void(farm.database, audit.id):
            farm.want()
            continue
        if outcome.error is not None:
            _fail(farm, audit, outcome.error, now=now)
            continue
        incremental.end_audit(farm.database, audit.id, difference=outcome.difference, now=now)
        if outcome.difference is not None:
            reason = f"an audit: {outcome.difference}"
            for base in audits.made_by(farm.database, audit.path):
                incremental.quarantine(farm.database, base, reason=reason, now=now)
            _keep_here(farm)
        farm.want()


def quarantine(farm: Farm, base: int, *, reason: str, now: float) -> list[int]:
    """Have nothing start from a base, nor pushed what did; the bases that are in quarantine now."""
    with farm.database.transaction():
        found = incremental.quarantine(farm.database, base, reason=reason, now=now)
        _keep_here(farm)
    return found


def _keep_here(farm: Farm) -> None:
    """Push nothing more of what turned out wrong, although its closure be read just now."""
    audits.withdraw_pushes(farm.database)
    hold_back(farm)


def not_pushed(farm: Farm) -> None:
    """What was under way to a cache when it turned out wrong, and did not get there, stays here."""
    if farm.incremental_jobsets():
        audits.withdraw_pushes(farm.database)


def _heal(farm: Farm, *, now: float) -> None:
    """Have evaluated again what has jobs from what is in quarantine."""
    found: dict[JobsetName, list[Wrong]] = {}
    for each in audits.wrong(farm.database):
        found.setdefault(each.jobset, []).append(each)
    for name in farm.desired.jobsets:
        wrong = found.get(name, [])
        farm.fault("jobset", name, WRONG_BUILD, _told(wrong) if wrong else None)
        new = [
            each for each in wrong if not each.hidden and (name, each.derivation) not in farm.fallen
        ]
        if new:
            farm.fallen.update((name, each.derivation) for each in new)
            cause = f"{new[0].job}, built from a base, is not to be trusted: {new[0].reason}"
            farm.trigger(name, cause=cause, force=True)
    spoilt = audits.spoilt(farm.database)
    # Whoever it is of: it may be wrong of a job that is gone, and lie where another's belongs.
    if any(farm.work.jobs(each) for each in spoilt):
        _discard(farm, spoilt, now=now)
    elif not farm.discarding:
        farm.undiscarded = Away()
        farm.fault("builder", "local", NOT_DISCARDED, None)


def _discard(farm: Farm, spoilt: Spoilt, *, now: float) -> None:
    """Have deleted what is wrong where clean builds belong, and all that was built with it. Nothing
    of that is built meanwhile: its build would keep what it needs.
    """
    waiting = {key: drv for key, (drv, _) in spoilt.items() if key in farm.work.graph}
    if not (farm.discarding or farm.retaking) and farm.undiscarded.not_before <= now:
        builds = {key: each for key, each in spoilt.items() if each[1] or key in waiting}
        wrong = frozenset(chain.from_iterable(paths for _, paths in builds.values()))
        if wrong and farm.running.keys().isdisjoint(spoilt):
            farm.discarding = {key: drv for key, (drv, _) in builds.items()}
            farm.executor.discard(builds, wrong)
    if farm.discarding:
        farm.discarding |= waiting
        farm.work.withdraw(waiting)


def discarded(farm: Farm, outcome: Discarded, *, now: float) -> None:
    """Have built what was deleted."""
    farm.fault("builder", "local", NOT_DISCARDED, outcome.error)
    farm.retaking, farm.discarding = frozenset(farm.discarding.values()), {}
    farm.executor.revisit(farm.retaking)
    if outcome.error is not None:
        farm.undiscarded.put_off(now=now)
        return
    farm.undiscarded = Away()
    for derivation in outcome.builds:
        reason = "what it started from before is in quarantine"
        mounts.build_in_full(farm.database, derivation, reason=reason, failed=False)
    farm.unqueued.drop(outcome.builds)
    hold_back(farm)


def _retaken(farm: Farm, outcome: Revisited) -> None:
    """What was not built meanwhile is in the graph again."""
    if farm.retaking and farm.retaking <= {*outcome.derivations}:
        farm.retaking = frozenset()
        if outcome.batch is None:
            for name in farm.desired.jobsets:
                farm.trigger(name, cause="its derivations could not be read", force=True)


def _told(wrong: list[Wrong]) -> str:
    first = wrong[0]
    more = "" if len(wrong) == 1 else f", nor are {len(wrong) - 1} more"
    base = "a base" if first.base is None else f"base {first.base}"
    return (
        f"{first.job}, built from {base}, is not to be trusted ({first.reason}){more}: the jobset"
        " is evaluated again, and builds it without"
    )


def _tell_failed(farm: Farm) -> None:
    """What waits for an audit that came to nothing waits for a person."""
    strict = {*_strict(farm)}
    found: dict[JobsetName, list[tuple[str, str]]] = {}
    for name, job, why, hidden in audits.failed(farm.database):
        if hidden or name in strict:
            found.setdefault(name, []).append((job, why))
    for name in farm.desired.jobsets:
        message = _failures(found[name]) if name in found else None
        farm.fault("jobset", name, NOT_AUDITED, message)


def _failures(found: list[tuple[str, str]]) -> str:
    job, why = found[0]
    more = "" if len(found) == 1 else f"; nor are {len(found) - 1} more"
    return (
        f"{job} is not pushed, since its audit came to nothing ({why}){more}: audit it again with"
        " `reconciler incremental audit`"
    )
