"""In which order paths may appear in a cache: references before what refers to them.

Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from graphlib import CycleError, TopologicalSorter

from reconciler.errors import CacheError
from reconciler.model import PathInfo, StorePath


def reference_levels(infos: Iterable[PathInfo]) -> list[list[PathInfo]]:
    """The paths in levels: those of one refer only to earlier ones, to themselves, or outside.

    Within a level they are in the order of their names.
    """
    by_path = {info.path: info for info in infos}
    sorter: TopologicalSorter[StorePath] = TopologicalSorter(
        {
            path: [each for each in info.references if each != path and each in by_path]
            for path, info in by_path.items()
        }
    )
    try:
        sorter.prepare()
    except CycleError as error:
        raise CacheError(f"store paths that refer to each other: {error.args[1]}") from error
    levels = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        levels.append([by_path[path] for path in ready])
        sorter.done(*ready)
    return levels


def hold_back(
    levels: Iterable[Iterable[PathInfo]], available: Collection[StorePath]
) -> tuple[list[PathInfo], dict[StorePath, StorePath]]:
    """Those whose references are all available or among themselves; the others, each with the
    first reference it lacks.
    """
    ready: list[PathInfo] = []
    there = set(available)
    waiting: dict[StorePath, StorePath] = {}
    for level in levels:
        for info in level:
            lacks = first_absent(info, there)
            if lacks is None:
                ready.append(info)
                there.add(info.path)
            else:
                waiting[info.path] = lacks
    return ready, waiting


def first_absent(info: PathInfo, there: Collection[StorePath]) -> StorePath | None:
    """The first of its references, itself apart, that is not `there`."""
    for reference in info.references:
        if reference != info.path and reference not in there:
            return reference
    return None
