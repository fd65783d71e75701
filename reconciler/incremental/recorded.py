"""Evaluations as they are recorded: what it takes to repeat one, from the database alone.

Also after its jobset is declared otherwise. Nothing is evaluated or fetched here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reconciler.database import Database, bases, incremental, slots
from reconciler.database.lookup import JobSubject
from reconciler.errors import UsageError
from reconciler.incremental.replay import Evaluated
from reconciler.model import Jobset, Protocol
from reconciler.nix.expression import native_system
from reconciler.source import LockedFlake, LockedGit, LockedSource, LockedTree

_NO_BASES = "{ }"


def record(
    database: Database,
    evaluation: int,
    *,
    locked: LockedSource,
    jobset: Jobset,
    jobs: Iterable[tuple[str, ...]],
    others: Iterable[tuple[str, ...]],
) -> None:
    """Write down how to repeat an evaluation; `jobs` are those that were evaluated with bases."""
    facts = {
        "source": _source_facts(locked),
        "system": native_system(),
        "systems": None if jobset.systems is None else list(jobset.systems),
        "pure": jobset.evaluation.pure,
        "protocols": [each.value for each in jobset.incremental.protocols],
        "jobs": [list(each) for each in jobs],
        # Of all others the name tells the path.
        "dotted": [list(each) for each in others if any("." in name for name in each)],
    }
    incremental.record_repeat(database, evaluation, facts)


def of_evaluation(database: Database, evaluation: int) -> Evaluated:
    """The jobs of an evaluation that were given bases; all of them where none was. UsageError."""
    facts = slots.repeatable(database, evaluation)
    if facts is None:
        raise UsageError(
            f"no evaluation {evaluation} is recorded of a jobset with `incremental.enable`: name"
            " one of its jobs, or see `reconciler events`"
        )
    jobs = [tuple(each) for each in facts["jobs"]]
    if jobs:
        return _with_bases(database, evaluation, facts, jobs)
    return _without(facts, slots.canonical_jobs(database, evaluation))


def of_job(database: Database, job: JobSubject) -> tuple[int, Evaluated]:
    """The evaluation in which a job came to be what it is. UsageError."""
    if job.derivation is None:
        raise UsageError(f"{job.name} does not evaluate: there is nothing to repeat")
    known = {
        each: facts
        for each in slots.evaluations_with(database, job.derivation, job.attr)
        if (facts := slots.repeatable(database, each)) is not None
    }
    for evaluation, facts in known.items():
        for path in map(tuple, facts["jobs"]):
            if ".".join(path) == job.attr:
                return evaluation, _with_bases(database, evaluation, facts, [path])
    built = slots.build(database, job.derivation, job.name)
    if not known or (built is not None and built.incremental):
        raise UsageError(
            f"the evaluation that made {job.name} what it is is recorded no longer, or was one of a"
            " jobset without `incremental.enable`"
        )
    newest = max(known)
    return newest, _without(known[newest], [job.attr])


def _with_bases(
    database: Database,
    evaluation: int,
    facts: Mapping[str, Any],
    jobs: Iterable[tuple[str, ...]],
) -> Evaluated:
    given = {each.protocol: each for each in bases.inputs(database, evaluation)}
    overlay = given.get(Protocol.CACHE_NIX)
    texts = {protocol: each.text for protocol, each in given.items()}
    return _evaluated(facts, jobs, texts, None if overlay is None else overlay.reference)


def _without(facts: Mapping[str, Any], attrs: Iterable[str]) -> Evaluated:
    """What was evaluated without any base."""
    takes = Protocol.ARG.value in facts["protocols"]
    texts = {Protocol.ARG: _NO_BASES} if takes else {}
    dotted = {".".join(path): tuple(path) for path in facts["dotted"]}
    paths = [dotted.get(each) or tuple(each.split(".")) for each in attrs]
    return _evaluated(facts, paths, texts, None)


def _evaluated(
    facts: Mapping[str, Any],
    jobs: Iterable[tuple[str, ...]],
    texts: Mapping[Protocol, str],
    overlay: str | None,
) -> Evaluated:
    systems = facts["systems"]
    return Evaluated(
        source=_source(facts["source"]),
        jobs=tuple(jobs),
        system=facts["system"],
        systems=None if systems is None else tuple(systems),
        texts=texts,
        overlay=overlay,
        pure=facts["pure"],
    )


# --- Sources -----------------------------------------------------------------------------------


def _source_facts(locked: LockedSource) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "locked": locked.locked,
        "file": locked.file,
        "args": dict(locked.args),
        "revision": locked.revision,
    }
    match locked.origin:
        case LockedFlake(url=url):
            return {**facts, "flake": url}
        case LockedGit(fetch=fetch):
            return {**facts, "git": dict(fetch)}
        case LockedTree(store_path=path, nar_hash=nar_hash):
            return {**facts, "tree": [path, nar_hash]}


def _source(facts: Mapping[str, Any]) -> LockedSource:
    origin: LockedFlake | LockedGit | LockedTree
    if "flake" in facts:
        origin = LockedFlake(facts["flake"])
    elif "git" in facts:
        origin = LockedGit(facts["git"])
    else:
        origin = LockedTree(*facts["tree"])
    return LockedSource(
        locked=facts["locked"],
        origin=origin,
        file=facts["file"],
        args=facts["args"],
        revision=facts["revision"],
    )
