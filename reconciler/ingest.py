"""From evaluated jobs to builds: reads derivation files, prunes what exists, stores the rest.

The walk goes top-down, level by level, each level's store paths asked about in one question:
what is valid or can be substituted is not looked below. What the live graph holds already is
not looked at again. Decides nothing about order or builders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from reconciler.build import products as build_products
from reconciler.database import Database, built, evaluated
from reconciler.database import ingest as rows
from reconciler.database.ingest import KnownBuild
from reconciler.model import (
    BuildState,
    Derivation,
    DrvPath,
    EvaluatedJob,
    EvaluationFailure,
    StorePath,
)
from reconciler.nix import derivation
from reconciler.transitions import Cause


class PathSource(Protocol):
    """What the walk asks of a store."""

    async def available(self, paths: Collection[StorePath]) -> frozenset[StorePath]:
        """Those of the paths that are valid here or can be fetched."""
        ...

    async def known_outputs(self, drv: DrvPath) -> Mapping[str, StorePath | None]:
        """Where the outputs of a content-addressed derivation are, if they were ever built."""
        ...


@dataclass(slots=True)
class _Walk:
    """What one walk has found."""

    facts: dict[DrvPath, Derivation] = field(default_factory=dict)
    wanted: dict[DrvPath, set[str]] = field(default_factory=dict)
    available: dict[DrvPath, bool] = field(default_factory=dict)
    realised: dict[DrvPath, Mapping[str, StorePath]] = field(default_factory=dict)
    """Outputs whose paths the store alone knows, since they follow from the contents."""
    present: set[DrvPath] = field(default_factory=set)
    """Met, but in the live graph already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What a batch came to."""

    jobs: Mapping[DrvPath, int]
    """The ids of the jobs' derivations."""
    live: tuple[int, ...]
    """Derivations that are to join the live graph."""
    lost: tuple[int, ...]
    """Those of them that existed once: others may depend on them already."""


class Ingest:
    """Feeds batches of jobs into the database, one at a time."""

    def __init__(self, database: Database, store: PathSource) -> None:
        self._database = database
        self._store = store
        self._turn = asyncio.Lock()
        self._next_id = rows.next_derivation_id(database)

    async def add(
        self,
        evaluation: int,
        jobs: Sequence[EvaluatedJob],
        failures: Sequence[EvaluationFailure],
        *,
        in_graph: Collection[DrvPath],
        now: float,
    ) -> Ingested:
        """Store a batch of an evaluation's rows with all derivations below that are to be built.

        `in_graph` tells which derivations the live graph holds. NixError for a derivation file
        that cannot be read.
        """
        async with self._turn:
            walk = await self._walk({job.drv_path for job in jobs}, in_graph)
            return self._store_rows(evaluation, jobs, failures, walk, now=now)

    async def revisit(self, paths: Collection[DrvPath], *, now: float) -> Ingested:
        """Look again at derivations that were thought to exist or to have ended."""
        async with self._turn:
            walk = await self._walk(paths, ())
            return self._store_rows(None, (), (), walk, now=now)

    # --- Reading ---------------------------------------------------------------------------

    async def _walk(self, roots: Collection[DrvPath], in_graph: Collection[DrvPath]) -> _Walk:
        walk = _Walk()
        frontier: dict[DrvPath, Iterable[str]] = dict.fromkeys(roots, ())
        while frontier:
            level = self._enter(walk, frontier, in_graph)
            await self._ask(walk, level)
            frontier = {}
            for path in level:
                if not walk.available[path]:
                    for needed, names in walk.facts[path].inputs.items():
                        before = frontier.get(needed)
                        if before is None:
                            frontier[needed] = names
                        elif before != names:
                            frontier[needed] = {*before, *names}
        return walk

    def _enter(
        self,
        walk: _Walk,
        frontier: Mapping[DrvPath, Iterable[str]],
        in_graph: Collection[DrvPath],
    ) -> list[DrvPath]:
        """The derivations of a level that are to be asked about.

        New ones, and those of which more outputs are wanted than were found to exist.
        """
        level = []
        for path, names in frontier.items():
            if path in in_graph:
                walk.present.add(path)
                continue
            fact = walk.facts.get(path)
            if fact is None:
                fact = walk.facts[path] = derivation.read(path)
                walk.wanted[path] = set(names or fact.outputs)
                level.append(path)
                continue
            more = set(names or fact.outputs) - walk.wanted[path]
            if more and walk.available[path]:
                walk.wanted[path] |= more
                level.append(path)
        return level

    async def _ask(self, walk: _Walk, level: Sequence[DrvPath]) -> None:
        asked: dict[DrvPath, list[StorePath | None]] = {}
        for path in level:
            outputs = walk.facts[path].outputs
            if None in outputs.values() and walk.facts[path].unsupported is None:
                outputs = await self._store.known_outputs(path)
                walk.realised[path] = {
                    name: output for name, output in outputs.items() if output is not None
                }
            asked[path] = [outputs.get(name) for name in walk.wanted[path]]
        paths = {path for each in asked.values() for path in each if path is not None}
        there = await self._store.available(paths) if paths else frozenset[StorePath]()
        for drv, each in asked.items():
            # What says itself that it failed is built once more, which costs nothing since Nix has
            # it, and is then judged as every build is.
            walk.available[drv] = there.issuperset(each) and not any(
                path is not None and build_products.says_failed(path) for path in each
            )

    # --- Writing ---------------------------------------------------------------------------

    def _store_rows(
        self,
        evaluation: int | None,
        jobs: Sequence[EvaluatedJob],
        failures: Sequence[EvaluationFailure],
        walk: _Walk,
        *,
        now: float,
    ) -> Ingested:
        known = rows.known_builds(self._database, [*walk.facts, *walk.present])
        ids = {path: each.id for path, each in known.items()}
        new = []
        # Inputs first, as far as levels go: then ids rise with the order of building.
        for path in reversed(walk.facts):
            if path not in ids:
                ids[path] = self._next_id
                self._next_id += 1
                state = BuildState.SUBSTITUTED if walk.available[path] else BuildState.QUEUED
                new.append((ids[path], walk.facts[path], state))
        for path, each in known.items():
            if each.state is BuildState.OUTPUT_LIMIT and walk.available.get(path, False):
                # Its outputs exist, and are too large all the same. Its inputs were good then.
                walk.available[path] = False
                walk.facts[path] = replace(walk.facts[path], inputs={})
        lost = [
            path
            for path, each in known.items()
            if each.state.good and not walk.available.get(path, True)
        ]
        with self._database.transaction():
            rows.add_derivations(self._database, new, now=now)
            rows.add_inputs(
                self._database,
                # In the order of the table's key, as far as may be: SQLite appends them.
                (
                    (ids[path], ids[needed], " ".join(names))
                    for path, fact in reversed(walk.facts.items())
                    if not walk.available[path]
                    for needed, names in fact.inputs.items()
                ),
            )
            rows.set_output_paths(
                self._database, ((ids[path], each) for path, each in walk.realised.items())
            )
            self._reopen(known, walk, lost, now=now)
            if evaluation is not None:
                evaluated.add_jobs(
                    self._database,
                    evaluation,
                    [(job, ids[job.drv_path]) for job in jobs],
                    failures,
                )
        return Ingested(
            jobs={job.drv_path: ids[job.drv_path] for job in jobs},
            live=(
                *(ids[path] for path in walk.facts if not walk.available[path]),
                # What was in the graph may have left it since.
                *(ids[path] for path in walk.present),
            ),
            lost=tuple(ids[path] for path in lost),
        )

    def _reopen(
        self,
        known: Mapping[DrvPath, KnownBuild],
        walk: _Walk,
        lost: Collection[DrvPath],
        *,
        now: float,
    ) -> None:
        """Bring known builds up to what the store says now."""
        changes: dict[Cause, list[tuple[int, BuildState, BuildState]]] = {
            Cause.OUTPUTS_LOST: [
                (known[path].id, known[path].state, BuildState.QUEUED) for path in lost
            ],
            Cause.WANTED_AGAIN: [],
            Cause.FOUND_VALID: [],
        }
        for path, each in known.items():
            if path not in walk.facts:
                continue
            if walk.available[path] and not each.state.good and not each.state.live:
                change = (each.id, each.state, BuildState.SUBSTITUTED)
                changes[Cause.FOUND_VALID].append(change)
            elif walk.available[path] and each.state is BuildState.QUEUED:
                changes[Cause.FOUND_VALID].append((each.id, each.state, BuildState.SUBSTITUTED))
            elif not walk.available[path] and each.state is BuildState.CANCELLED:
                changes[Cause.WANTED_AGAIN].append((each.id, each.state, BuildState.QUEUED))
        for cause, items in changes.items():
            built.set_build_states(self._database, items, cause=cause, now=now)
