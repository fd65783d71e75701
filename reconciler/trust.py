"""Whose intermediates a branch's builds may start from: those of branches that are trusted alike.

Pure. Whoever may write to a branch decides what its builds leave, be the source mended later: what
an untrusted one left serves that branch alone, though its commits be merged.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from msgspec.structs import replace

from reconciler.bases import Base, Trust
from reconciler.branches import EXCLUDES, REFS, jobset_name
from reconciler.model import Incremental, Jobset, Strategy


def is_untrusted(settings: Incremental, branch: str | None) -> bool:
    """Whether a branch's builds serve no other. Whole refs are of pull requests and the like."""
    if branch is None:  # the source has but one
        return False
    patterns = (f"{REFS}*", *settings.untrusted)
    kept = (each for each in patterns if not each.startswith(EXCLUDES))
    freed = (each[1:] for each in patterns if each.startswith(EXCLUDES))
    return any(fnmatchcase(branch, each) for each in kept) and not any(
        fnmatchcase(branch, each) for each in freed
    )


def trust_of(jobset: Jobset) -> Trust:
    """Whose builds are trusted as much as a jobset's."""
    return _trust(jobset, jobset.branch)


def common_trust(jobset: Jobset) -> Trust:
    """That of all branches of a jobset's source that are trusted."""
    return Trust(jobset.branch_of or jobset.name)


def trusted_by(jobset: Jobset) -> frozenset[Trust]:
    """Whose bases the builds of a jobset may start from.

    Where no derivation names them, the outputs are at the paths of everybody's clean builds: what
    an untrusted branch builds there, too, may start from nothing but what a trusted one could.
    """
    common = common_trust(jobset)
    if jobset.incremental.strategy is not Strategy.PURE:
        return frozenset({common})
    return frozenset({trust_of(jobset), common})


def as_declared(jobset: Jobset, bases: Iterable[Base]) -> list[Base]:
    """The bases of a jobset's source, as they are trusted now: a branch that is untrusted by now
    may have been trusted when it left them. What was not trusted then never is.
    """
    common = common_trust(jobset)
    return [
        replace(base, trust=_trust(jobset, base.branch)) if base.trust == common else base
        for base in bases
    ]


def _trust(jobset: Jobset, branch: str | None) -> Trust:
    """Of any branch of a jobset's source."""
    declared = jobset.branch_of
    if declared is None or branch is None or not is_untrusted(jobset.incremental, branch):
        return Trust(declared or jobset.name)
    return Trust(jobset_name(declared, branch))
