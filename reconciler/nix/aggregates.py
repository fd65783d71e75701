"""Which jobs an aggregate is made of, once all jobs of an evaluation are known. Pure.

The derivation of an aggregate stays as it was evaluated: constituents are recorded by name, so
both evaluators give the same derivation. (nix-eval-jobs would rewrite it.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter

from msgspec.structs import replace

from reconciler.model import DrvPath, EvaluatedJob, EvaluationFailure
from reconciler.nix.rows import Aggregate


def resolve_aggregates(
    aggregates: Sequence[Aggregate],
    *,
    jobs: Mapping[str, DrvPath],
    failed: frozenset[str],
) -> list[EvaluatedJob | EvaluationFailure]:
    """Name each aggregate's constituents; one that cannot be resolved costs only itself.

    `jobs` are all other jobs by name, `failed` the names of attributes that did not evaluate.
    """
    known = {**jobs, **{aggregate.job.attr: aggregate.job.drv_path for aggregate in aggregates}}
    by_drv: dict[DrvPath, str] = {}
    for name in sorted(known):
        by_drv.setdefault(known[name], name)
    resolved = [_resolve(each, known=known, by_drv=by_drv, failed=failed) for each in aggregates]
    return _refuse_cycles(resolved)


class _UnresolvedError(Exception):
    """A constituent that is not there; the message says which."""


def _resolve(
    aggregate: Aggregate,
    *,
    known: Mapping[str, DrvPath],
    by_drv: Mapping[DrvPath, str],
    failed: frozenset[str],
) -> EvaluatedJob | EvaluationFailure:
    own = aggregate.job.attr
    # A derivation that is no job of its own is built all the same, as an input of the aggregate.
    names = {by_drv[drv] for drv in aggregate.by_derivation if drv in by_drv}
    try:
        for wanted in aggregate.by_name:
            names |= _named(wanted, aggregate, known=known, failed=failed)
    except _UnresolvedError as error:
        return EvaluationFailure(attr_path=aggregate.job.attr_path, message=str(error))
    return replace(aggregate.job, constituents=tuple(sorted(names - {own})))


def _named(
    wanted: str, aggregate: Aggregate, *, known: Mapping[str, DrvPath], failed: frozenset[str]
) -> set[str]:
    """The jobs of a name: below the aggregate's own top attribute (as in a flake's `hydraJobs`,
    whose names Hydra counts from there), else from the root.
    """
    for name in (f"{aggregate.job.attr_path[0]}.{wanted}", wanted):
        if aggregate.globs:
            found = {job for job in known if fnmatchcase(job, name)} - {aggregate.job.attr}
        else:
            found = {name} & known.keys()
        if found:
            return found
        if name in failed:
            raise _UnresolvedError(f"its constituent '{wanted}' does not evaluate")
    if aggregate.globs:
        raise _UnresolvedError(f"no job matches its constituent pattern '{wanted}'")
    raise _UnresolvedError(f"its constituent '{wanted}' is not a job of this evaluation")


def _refuse_cycles(
    resolved: Sequence[EvaluatedJob | EvaluationFailure],
) -> list[EvaluatedJob | EvaluationFailure]:
    good = {job.attr: job for job in resolved if isinstance(job, EvaluatedJob)}
    result: list[EvaluatedJob | EvaluationFailure] = [
        failure for failure in resolved if isinstance(failure, EvaluationFailure)
    ]
    while cycle := _cycle(good):
        message = f"aggregates are constituents of each other: {', '.join(cycle)}"
        for name in cycle:
            job = good.pop(name)
            result.append(EvaluationFailure(attr_path=job.attr_path, message=message))
    return result + list(good.values())


def _cycle(jobs: Mapping[str, EvaluatedJob]) -> list[str]:
    graph = {
        name: [other for other in job.constituents if other in jobs] for name, job in jobs.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        members: list[str] = error.args[1]
        return sorted(set(members))
    return []
