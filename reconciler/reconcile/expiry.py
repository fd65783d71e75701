"""Failures that are too old to count: an evaluation that still wants such a build has it made anew.

What made it fail may have passed without a change of the derivation: a machine that was mended, a
test that fails now and then. Never by time alone, and never more than once in so long.
"""

from __future__ import annotations

from reconciler.database import built, observe
from reconciler.model import BuildState, JobsetName
from reconciler.reconcile.farm import Farm
from reconciler.transitions import Cause

FAILURE_COUNTS_FOR = 7 * 86_400.0
"""Seconds."""


def expire(farm: Farm, jobset: JobsetName, *, now: float) -> None:
    """Queue again what a jobset wants, as it has just been evaluated, and failed long ago."""
    graph = farm.work.graph
    old = [
        each
        for each in observe.failed_before(farm.database, now - FAILURE_COUNTS_FOR)
        if each in graph and graph[each].state.bad and jobset in farm.work.wanting(each)
    ]
    built.set_build_states(
        farm.database,
        [(each, graph[each].state, BuildState.QUEUED) for each in old],
        cause=Cause.EXPIRED,
        now=now,
    )
    for each in old:
        graph.reopen(each)
