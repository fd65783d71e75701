"""What a valid document declares in vain: it is put in force, and whoever wrote it is told.

Pure. What nothing uses is told as the NixOS module tells it.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.config.tree import Json, Node, mark_of_key, problem_at
from reconciler.model import Desired
from reconciler.problems import Problem

Warned = tuple[list[str | int], str, str]
"""Document path, message and mend."""


def warnings(root: Node, document: Json, desired: Desired) -> list[Problem]:
    """Find it, in the order of the document, of which `desired` is what it became."""
    assert isinstance(document, dict)  # it is valid
    found = [*_without_enable(document), *_unused(desired)]
    placed = [
        problem_at(mark_of_key(root, path), path, message, mend) for path, message, mend in found
    ]
    return sorted(placed, key=lambda each: (each.line or 0, each.column or 0))


def _without_enable(document: dict[str, Json]) -> Iterator[Warned]:
    """Settings of incremental builds where nothing says whether there are to be any."""
    jobsets = document.get("jobsets")
    for name, jobset in jobsets.items() if isinstance(jobsets, dict) else ():
        incremental = jobset.get("incremental") if isinstance(jobset, dict) else None
        if isinstance(incremental, dict) and incremental and "enable" not in incremental:
            given = ", ".join(incremental)
            verb = "has" if len(incremental) == 1 else "have"
            yield (
                ["jobsets", name, "incremental"],
                f"{given} {verb} no effect without enable",
                "add enable: true, or remove it",
            )


def _unused(desired: Desired) -> Iterator[Warned]:
    jobsets = [*desired.jobsets.values(), *desired.patterns.values()]
    pushed_to = {cache for jobset in jobsets for cache in jobset.caches}
    for cache in desired.caches:
        if cache not in pushed_to:
            mend = "name it in a jobset's caches"
            yield _in_vain("caches", cache, "no jobset pushes to it", mend)
    if not any(jobset.incremental.enable for jobset in jobsets):
        for store in desired.artifact_stores:
            mend = "set incremental.enable of one"
            yield _in_vain("artifactStores", store, "no jobset builds incrementally", mend)
    for builder in desired.builders.values():
        mine = builder.systems
        if mine is not None and not any(
            jobset.systems is None or not {*mine}.isdisjoint(jobset.systems) for jobset in jobsets
        ):
            why, mend = "no jobset wants any of its systems", "add one to a jobset's systems"
            yield _in_vain("builders", builder.name, why, mend)


def _in_vain(kind: str, name: str, why: str, mend: str) -> Warned:
    return [kind, name], f"it is declared, but {why}", f"{mend}, or remove it"
