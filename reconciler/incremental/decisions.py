"""What the jobs of an evaluation start from: their fingerprints against the bases that there are.

Between the two evaluations. The first, without any base, says what is to be built; this says with
what bases to evaluate once more, and afterwards which of the derivations that come of it are worth
it. Reads derivation files; the database and the store are asked by the caller.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from reconciler import trust
from reconciler.bases import (
    INTERMEDIATES,
    Base,
    Choice,
    Fingerprint,
    History,
    Wanted,
    choose,
)
from reconciler.incremental.fingerprint import BASE, fingerprint, variables
from reconciler.incremental.inputs import JobBase, expression, reaches
from reconciler.incremental.policy import Policy, policy_of
from reconciler.model import Derivation, DrvPath, EvaluatedJob, Jobset, StorePath, Strategy
from reconciler.nix import basic_derivation
from reconciler.nix import derivation as derivation_file

_OUT_OF_REACH = (
    "built in full: garnix's protocol reaches packages, checks and devShells of a system alone;"
    " `incremental.protocols` has others"
)


class Decision(Struct, frozen=True, kw_only=True):
    """What a job starts from."""

    job: EvaluatedJob
    fingerprint: Fingerprint
    choice: Choice
    policy: Policy = Policy()


def takes_part(job: EvaluatedJob) -> bool:
    """Whether a job leaves intermediates."""
    return INTERMEDIATES in job.outputs


def decide(
    jobset: Jobset,
    jobs: Iterable[EvaluatedJob],
    bases: Collection[Base],
    history: History,
    *,
    now: float,
) -> list[Decision]:
    """Decide for those of the jobs, all of which are to be built, that take part.

    `bases` are those that can be had. NixError for a derivation that cannot be read.
    """
    settings = jobset.incremental
    by_name: dict[str | None, list[Base]] = {}
    for base in trust.as_declared(jobset, bases):
        by_name.setdefault(base.kept_as, []).append(base)
    decided = []
    for job in filter(takes_part, jobs):
        derivation = basic_derivation.read(job.drv_path)
        found, policy = fingerprint(derivation), policy_of(derivation)
        hidden = settings.strategy is Strategy.HIDDEN
        if hidden or reaches(settings.protocols, job.attr_path):
            wanted = Wanted(
                job=job.attr,
                system=job.system,
                fingerprint=found,
                branch=jobset.branch,
                trusts=trust.trusted_by(jobset),
                slot=policy.slot,
                fallback=policy.fallback,
            )
            names = {policy.slot or job.attr, policy.fallback}
            near = [base for name in names for base in by_name.get(name, ())]
            choice = choose(wanted, near, history, settings, now=now)
        else:
            choice = Choice(base=None, reason=_OUT_OF_REACH, due=True)
        decided.append(Decision(job=job, fingerprint=found, choice=choice, policy=policy))
    return decided


def first_stage(job: EvaluatedJob) -> DrvPath | None:
    """Of a job that is built in two stages, the first: the second one starts from what it leaves.
    NixError for a derivation that cannot be read.
    """
    derivation = basic_derivation.read(job.drv_path)
    base = variables(derivation).get(BASE)
    return next(
        (
            drv
            for drv, wanted in derivation.input_derivations.items()
            if INTERMEDIATES in wanted
            and derivation_file.read(drv).outputs.get(INTERMEDIATES) == base
        ),
        None,
    )


def text(decisions: Iterable[Decision], known: Mapping[int, JobBase]) -> str | None:
    """What the second evaluation is given; None: nothing, so that there is none.

    `known` tells, by number, what the bases are as a derivation takes them; the job is put in here.
    """
    given = [
        JobBase(job=each.job.attr, name=base.name, nar_hash=base.nar_hash)
        for each in decisions
        if each.choice.base is not None and (base := known.get(each.choice.base.id)) is not None
    ]
    return expression(given) if given else None


def took(
    jobs: Collection[DrvPath], bases: Collection[StorePath]
) -> dict[DrvPath, frozenset[StorePath]]:
    """By derivation of the second evaluation: which bases it or anything below it starts from.

    One that starts from none is no better than the job's canonical derivation, which may be had
    already. NixError for a derivation that cannot be read.
    """
    wanted = frozenset(bases)
    below: dict[DrvPath, frozenset[StorePath]] = {}
    for job in jobs:
        _walk(job, wanted, below)
    return {job: below[job] for job in jobs}


def _walk(
    top: DrvPath, wanted: frozenset[StorePath], below: dict[DrvPath, frozenset[StorePath]]
) -> None:
    """Inputs first, without recursion: graphs are deeper than Python's stack."""
    facts: dict[DrvPath, Derivation] = {}
    todo = [top]
    while todo:
        drv = todo[-1]
        if drv in below:
            todo.pop()
            continue
        if drv not in facts:
            facts[drv] = derivation_file.read(drv)
        fact = facts[drv]
        missing = [each for each in fact.inputs if each not in below]
        if missing:
            todo += missing
            continue
        own = wanted.intersection(path for path in fact.outputs.values() if path is not None)
        below[drv] = own.union(*(below[each] for each in fact.inputs))
        todo.pop()
