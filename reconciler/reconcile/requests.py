"""What people ask of the daemon, carried out and answered in one sentence each.

A request's subject is a jobset, a job (`JOBSET.ATTR`), a derivation path or a base's number. What
cannot be done is answered with the reason; nothing here raises for a subject that is not there.
"""

from __future__ import annotations

from reconciler.database import built, declared, observe
from reconciler.database.observe import Request
from reconciler.model import BuildState, JobsetName
from reconciler.reconcile import audits, incremental
from reconciler.reconcile.farm import Away, Farm
from reconciler.transitions import Cause


def answer(farm: Farm, request: Request, *, now: float) -> None:
    """Carry out one request and record the answer."""
    with farm.database.transaction():
        said = _carry_out(farm, request, now=now)
        declared.answer_request(farm.database, request.id, answer=said, now=now)


def _carry_out(farm: Farm, request: Request, *, now: float) -> str:
    match request.verb:
        case "trigger":
            return _trigger(farm, request)
        case "suspend" | "resume":
            return _suspend(farm, request, now=now)
        case "retry":
            return _retry(farm, request, now=now)
        case "cancel":
            return _cancel(farm, request, now=now)
        case "bump":
            return _bump(farm, request, now=now)
        case "quarantine":
            return incremental.quarantine(farm, request, now=now)
        case "reset":
            return incremental.reset(farm, request, now=now)
        case "audit":
            return audits.ask(farm, request, now=now)
        case other:
            raise AssertionError(f"the database accepts no verb {other}")


def _jobset(farm: Farm, subject: str) -> JobsetName | None:
    name = JobsetName(subject)
    return name if name in farm.desired.jobsets or name in farm.desired.patterns else None


def _no_such(subject: str) -> str:
    return f"refused: there is no jobset, job or derivation {subject}"


def _trigger(farm: Farm, request: Request) -> str:
    jobset = _jobset(farm, request.subject)
    if jobset is None:
        return _no_such(request.subject)
    cause = f"asked for by {request.who}"
    declared = jobset in farm.desired.jobsets and farm.desired.jobsets[jobset].branch_of
    if jobset in farm.desired.patterns:
        farm.trigger(jobset, cause=cause, force=True)
        return "its branches are listed and evaluated" + _when(farm, jobset)
    if declared:
        # One listing tells of all branches: where this one stands is found out by that.
        farm.trigger(declared, cause=cause, force=False)
        farm.progress_of(declared).awaiting[jobset] = cause
        return "where it stands is listed, and it is evaluated" + _when(farm, jobset)
    farm.trigger(jobset, cause=cause, force=True)
    return "its source is looked at and evaluated" + _when(farm, jobset)


def _when(farm: Farm, subject: str) -> str:
    """Until when nothing comes of it, for a jobset or a job of one that is held."""
    known = {**farm.desired.patterns, **farm.desired.jobsets}
    named = [name for name in known if f"{subject}.".startswith(f"{name}.")]
    if not named:
        return ""
    jobset = max(named, key=len)  # names may have dots
    if not known[jobset].enabled:
        return f", once the document enables {jobset}"
    if jobset in observe.suspended_jobsets(farm.database):
        return f", once {jobset} is resumed: it is suspended"
    return ""


def _suspend(farm: Farm, request: Request, *, now: float) -> str:
    jobset = _jobset(farm, request.subject)
    if jobset is None:
        return _no_such(request.subject)
    who = request.who if request.verb == "suspend" else None
    if who is None and jobset not in observe.suspended_jobsets(farm.database):
        return "nothing to resume: it is not suspended"
    declared.suspend(farm.database, jobset, who=who, why=request.why, now=now)
    farm.want()
    if who:
        return "suspended: what runs is finished, nothing is started"
    still = jobset in observe.suspended_jobsets(farm.database)
    return "resumed; yet all branches of its jobset are suspended" if still else "resumed"


def _subjects(farm: Farm, subject: str) -> list[int]:
    """The derivations that a subject names, whatever their state."""
    return observe.derivations_named(farm.database, subject)


def _retry(farm: Farm, request: Request, *, now: float) -> str:
    """Reopen what ended badly below the subject, and with it all that it failed."""
    named = _subjects(farm, request.subject)
    if not named:
        return _no_such(request.subject)
    graph = farm.work.graph
    below = graph.wanted({each: 1 for each in named if each in graph})
    ended = [each for each in below if graph[each].ended]
    delayed = [
        each
        for each in below
        if graph[each].state is BuildState.QUEUED and graph[each].not_before > now
    ]
    built.set_build_states(
        farm.database,
        [(each, graph[each].state, BuildState.QUEUED) for each in ended],
        cause=Cause.RETRY_REQUESTED,
        now=now,
    )
    built.forgive(farm.database, (*ended, *delayed))
    farm.work.forgive((*ended, *delayed))
    for each in (*ended, *delayed):
        graph.reopen(each)
    unfetched = [each for each in named if each in farm.away]
    for each in unfetched:
        farm.away[each] = Away()
    if ended or delayed or unfetched:
        number = len(ended) + len(delayed) + len(unfetched)
        said = f"{number} builds are tried again" if number > 1 else "1 build is tried again"
        return said + _when(farm, request.subject)
    return "nothing to retry: nothing that it needs has failed"


def _cancel(farm: Farm, request: Request, *, now: float) -> str:
    named = _subjects(farm, request.subject)
    live = [each for each in named if each in farm.work.graph and farm.work.graph[each].state.live]
    if not live:
        return (
            "nothing to cancel: it is not queued or building"
            if named
            else _no_such(request.subject)
        )
    queued = [each for each in live if each not in farm.running]
    built.set_build_states(
        farm.database,
        [(each, BuildState.QUEUED, BuildState.CANCELLED) for each in queued],
        cause=Cause.CANCELLED,
        now=now,
    )
    for each in queued:
        farm.settle(each, BuildState.CANCELLED)
    for each in live:
        if each in farm.running:
            farm.cancelled.add(each)
            farm.executor.stop_build(farm.running[each].attempt)
    if len(live) == 1:
        return "1 build cancelled; `reconciler retry` reopens it"
    return f"{len(live)} builds cancelled; `reconciler retry` reopens them"


def _bump(farm: Farm, request: Request, *, now: float) -> str:
    live = [each for each in _subjects(farm, request.subject) if each in farm.work.graph]
    if not live:
        return f"nothing to lift: {request.subject} has nothing to build"
    built.bump(farm.database, live, now=now)
    farm.work.bump(live)
    farm.want()
    if len(live) == 1:
        said = "1 build, and all that it needs, goes first"
    else:
        said = f"{len(live)} builds, and all that they need, go first"
    return said + _when(farm, request.subject)
