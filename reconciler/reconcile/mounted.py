"""What builds are to be shown beside their inputs, and what is done where that came to no good.

Hidden bases and what compilers keep, of jobsets whose `incremental.strategy` says so. Where
something cannot be shown the build is a full one, with the reason, and never a failure. One that
fails from a base is made again without it.
"""

from __future__ import annotations

from reconciler.build.mounts import Kind, Mount, domain_folder, wants_compiler_cache
from reconciler.database import built, mounts
from reconciler.model import Builder, BuildState, Jobset, Strategy
from reconciler.outcomes import Built
from reconciler.reconcile.farm import Farm
from reconciler.transitions import Cause
from reconciler.trust import common_trust, is_untrusted, trust_of

NOT_SHOWN = "not-incremental"


def mount_of(farm: Farm, derivation: int, builder: Builder) -> Mount | None:
    """What the build of a derivation on a builder is to be shown."""
    jobsets = _jobsets(farm, derivation)
    strategies = {_strategy(each) for each in jobsets}
    if strategies <= {Strategy.PURE}:
        return None
    if strategies == {Strategy.COMPILER_CACHE}:
        return _compiler_cache(farm, derivation, builder, jobsets)
    found = mounts.base_of(farm.database, derivation)
    if found is None:
        return None
    reason = found.gone
    if builder.uri is not None:
        reason = f"it is built on {builder.name}, and only builds on this machine are shown a base"
    elif strategies != {Strategy.HIDDEN}:
        reason = "a jobset of another `incremental.strategy` needs it too"
    elif len({common_trust(each) for each in jobsets}) != 1:
        reason = "a jobset of another source needs it too, and each starts from its own bases alone"
    if reason is not None:
        _build_in_full(farm, derivation, reason)
        return None
    mounts.agree(farm.database, derivation, found.base)
    return Mount(kind=Kind.BASE, name=found.path.rpartition("/")[2])


def _compiler_cache(
    farm: Farm, derivation: int, builder: Builder, jobsets: list[Jobset]
) -> Mount | None:
    """What compilers keep, where all who need a build trust each other.

    The output is at the path of everybody's clean build, so that what an untrusted branch keeps
    would in the end be everybody's.
    """
    domains = {trust_of(each) for each in jobsets}
    untrusted = any(is_untrusted(each.incremental, each.branch) for each in jobsets)
    drv = farm.work.builds[derivation].path
    if builder.uri is not None or untrusted or len(domains) != 1 or not wants_compiler_cache(drv):
        return None
    return Mount(kind=Kind.COMPILER_CACHE, name=domain_folder(*domains))


def _strategy(jobset: Jobset) -> Strategy:
    return jobset.incremental.strategy if jobset.incremental.enable else Strategy.PURE


def built_with(farm: Farm, outcome: Built) -> None:
    """Record what an attempt was shown; `outcome` has a mount."""
    assert outcome.mount is not None
    result, refused = outcome.result, outcome.refused
    if result.substituted:
        refused = "it was fetched, and not built"
    elif result.found:
        refused = "it was there already"
    if refused is not None:
        mounts.refuse(farm.database, outcome.attempt, reason=refused)
    if not result.outcome.final:
        return
    if refused is not None and outcome.mount.kind is Kind.BASE:
        _build_in_full(farm, outcome.derivation, refused)
    if not (result.substituted or result.found):
        for jobset in _jobsets(farm, outcome.derivation):
            farm.fault("jobset", jobset.name, NOT_SHOWN, _told(refused))


def _build_in_full(farm: Farm, derivation: int, reason: str) -> None:
    """Record that a build starts from nothing, unless what is there may be of an attempt that
    started from a base: Nix leaves outputs alone that exist when it makes those that were lost.
    """
    if not mounts.was_shown(farm.database, derivation):
        mounts.build_in_full(farm.database, derivation, reason=reason, failed=False)


def look(farm: Farm, *, now: float) -> None:
    """Have what failed from a base it was shown made again without; what is, leaves another."""
    mounts.supersede(farm.database)
    for failed in mounts.failed(farm.database):
        jobsets = [farm.desired.jobsets[each] for each in failed.jobsets & {*farm.desired.jobsets}]
        if not all(each.incremental.retry_clean for each in jobsets):
            continue
        reason = "it failed from a base"
        with farm.database.transaction():  # or it would pass for a full build that failed
            mounts.build_in_full(farm.database, failed.derivation, reason=reason, failed=True)
            built.set_build_states(
                farm.database,
                [(failed.derivation, failed.state, BuildState.QUEUED)],
                cause=Cause.TRIED_WITHOUT,
                now=now,
            )
        if failed.derivation in farm.work.graph:
            farm.work.graph.reopen(failed.derivation)


def _jobsets(farm: Farm, derivation: int) -> list[Jobset]:
    """Those that need a derivation."""
    names = farm.work.wanting(derivation)
    return [farm.desired.jobsets[each] for each in names if each in farm.desired.jobsets]


def _told(refused: str | None) -> str | None:
    return (
        None if refused is None else f"builds are full ones, as they are shown no base: {refused}"
    )
