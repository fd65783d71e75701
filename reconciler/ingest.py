"""From evaluated jobs to builds: reads derivation files, prunes what exists, stores the rest.

The walk goes top-down, level by level, each level's store paths asked about in one question:
what is valid or can be substituted is not looked below. What the live graph holds already is
not looked at again. Decides nothing about order or builders.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Protocol

from msgspec import Struct, field

from reconciler.build import products as build_products
from reconciler.database import Database, built, evaluated
from reconciler.database import ingest as rows
from reconciler.database.ingest import KnownBuild
from reconciler.errors import NixError
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

_LEAST = 16
_MOST = 1024
"""Derivations that the store is asked about at once."""

_FURTHEST = 64
"""Paths that are asked about before the walk comes to them: a narrow graph would cost a question
for each of its levels. It may cost a substituter so many questions that nobody needed."""

_IN_A_ROW = 16
"""Files that are read before others have a turn: half a millisecond at most. What the store has
answered waits for as long."""


class PathSource(Protocol):
    """What the walk asks of a store."""

    async def available(self, paths: Collection[StorePath]) -> frozenset[StorePath]:
        """Those of the paths that are valid here or can be fetched."""
        ...

    async def known_outputs(self, drv: DrvPath) -> Mapping[str, StorePath | None]:
        """Where the outputs of a content-addressed derivation are, if they were ever built."""
        ...


class _Met(Struct, eq=False):
    """A derivation that a walk has come by."""

    path: DrvPath
    wanted: tuple[str, ...] | None = None
    """Outputs; empty: all. None: it has only just been met."""
    fact: Derivation | None = None
    """None until it is read, and of one that is in the live graph, which is not read."""
    available: bool | None = None
    """None until the store has answered."""
    realised: Mapping[str, StorePath] = field(default_factory=dict)
    """Outputs whose paths the store alone knows, since they follow from the contents."""
    inputs: Sequence[_Met] = ()
    """As the file has them; none unless it is to be built."""
    id: int = 0

    def want(self, names: tuple[str, ...]) -> bool:
        """Whether outputs are among these that were not wanted before."""
        if self.wanted is None:
            self.wanted = names
            return True
        if not self.wanted or (names and set(names).issubset(self.wanted)):
            return False
        self.wanted = names and (*self.wanted, *names)
        return True


class _Walk(dict[DrvPath, _Met]):
    """What a walk has met, in the order it was; and what it knows of what it has not."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: dict[DrvPath, Derivation] = {}
        """Files that were read ahead."""
        self.there: dict[StorePath, bool] = {}
        """What the store has answered."""
        self.reach = 0
        """Paths to ask about ahead: more and more of them while nothing is there."""

    def __missing__(self, path: DrvPath) -> _Met:
        met = self[path] = _Met(path)
        return met


class Ingested(Struct, frozen=True, kw_only=True):
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
            walk = await self._walk([job.drv_path for job in jobs], in_graph)
            return self._store_rows(evaluation, jobs, failures, walk, now=now)

    async def revisit(self, paths: Collection[DrvPath], *, now: float) -> Ingested:
        """Look again at derivations that were thought to exist or to have ended."""
        async with self._turn:
            walk = await self._walk(paths, ())
            return self._store_rows(None, (), (), walk, now=now)

    # --- Reading ---------------------------------------------------------------------------

    async def _walk(self, roots: Iterable[DrvPath], in_graph: Collection[DrvPath]) -> _Walk:
        walk = _Walk()
        queue = deque(_enter(((walk[path], ()) for path in roots), in_graph))
        asked: list[_Met] = []
        while queue or asked or (queue := deque(_left(walk, in_graph))):
            # Half of them: the others are read while the store looks for these.
            number = min(_MOST, max(_LEAST, len(queue) // 2))
            following = [queue.popleft() for _ in range(min(number, len(queue)))]
            await asyncio.gather(self._ask(asked, walk, in_graph), _read(following, walk))
            for each in asked:
                if each.available is False:
                    fact = each.fact
                    assert fact is not None
                    each.inputs = list(map(walk.__getitem__, fact.inputs))
                    queue += _enter(zip(each.inputs, fact.inputs.values(), strict=True), in_graph)
            asked = following
        return walk

    async def _ask(self, level: Sequence[_Met], walk: _Walk, in_graph: Collection[DrvPath]) -> None:
        """Find out which of them exist."""
        asked: list[tuple[_Met, list[StorePath | None]]] = []
        for each in level:
            fact = each.fact
            assert fact is not None
            outputs = fact.outputs
            if None in outputs.values() and fact.unsupported is None:
                outputs = await self._store.known_outputs(each.path)
                each.realised = {
                    name: output for name, output in outputs.items() if output is not None
                }
            asked.append((each, [outputs.get(name) for name in each.wanted or fact.outputs]))
        paths = {path for _, wanted in asked for path in wanted if path is not None}
        if new := paths.difference(walk.there):
            new |= await _ahead(level, walk, in_graph, most=walk.reach - len(new))
            there = await self._store.available(new)
            walk.there.update((path, path in there) for path in new)
            walk.reach = 0 if there else min(_FURTHEST, max(_LEAST, 2 * walk.reach))
        for each, wanted in asked:
            # What says itself that it failed is built once more, which costs nothing since Nix has
            # it, and is then judged as every build is.
            each.available = all(
                path is not None and walk.there[path] and not build_products.says_failed(path)
                for path in wanted
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
        known = rows.known_builds(self._database, walk)
        new = []
        # Inputs first, as far as levels go: then ids rise with the order of building.
        for met in reversed(walk.values()):
            before = known.get(met.path)
            if before is not None:
                met.id = before.id
                if before.state is BuildState.OUTPUT_LIMIT and met.available:
                    # Its outputs exist, and are too large all the same. Its inputs were good then.
                    met.available = False
            else:
                assert met.fact is not None, "what is in the graph is in the database"
                met.id = self._next_id
                self._next_id += 1
                state = BuildState.SUBSTITUTED if met.available else BuildState.QUEUED
                new.append((met.id, met.fact, state))
        lost = [
            each
            for path, each in known.items()
            if each.state.good and walk[path].available is False
        ]
        # To look up both ends of each edge takes three tenths of the time of storing it. They were
        # read from the database or are written here, and an evaluation under way is not forgotten.
        with self._database.vouched_transaction():
            rows.add_derivations(self._database, new, now=now)
            # In the order of the table's key, as far as may be: SQLite appends them.
            rows.add_inputs(
                self._database, chain.from_iterable(map(_edges, reversed(walk.values())))
            )
            rows.set_output_paths(
                self._database, ((met.id, met.realised) for met in walk.values() if met.realised)
            )
            self._reopen(known, walk, now=now)
            if evaluation is not None:
                evaluated.add_jobs(
                    self._database,
                    evaluation,
                    [(job, walk[job.drv_path].id) for job in jobs],
                    failures,
                )
        return Ingested(
            jobs={job.drv_path: walk[job.drv_path].id for job in jobs},
            # What was in the graph may have left it since.
            live=tuple(met.id for met in walk.values() if not met.available),
            lost=tuple(each.id for each in lost),
        )

    def _reopen(self, known: Mapping[DrvPath, KnownBuild], walk: _Walk, *, now: float) -> None:
        """Bring known builds up to what the store says now."""
        changes: dict[Cause, list[tuple[int, BuildState, BuildState]]] = {}
        for path, each in known.items():
            match walk[path].available, each.state:
                case True, before if not before.good and before is not BuildState.BUILDING:
                    cause, after = Cause.FOUND_VALID, BuildState.SUBSTITUTED
                case False, before if before.good:
                    cause, after = Cause.OUTPUTS_LOST, BuildState.QUEUED
                case False, BuildState.CANCELLED as before:
                    cause, after = Cause.WANTED_AGAIN, BuildState.QUEUED
                case _:
                    continue
            changes.setdefault(cause, []).append((each.id, before, after))
        for cause, items in changes.items():
            built.set_build_states(self._database, items, cause=cause, now=now)


def _enter(
    wanted: Iterable[tuple[_Met, tuple[str, ...]]], in_graph: Collection[DrvPath]
) -> Iterator[_Met]:
    """Those to be asked about: new ones, and those of which more is wanted than was found."""
    for met, names in wanted:
        if met.wanted is names:
            continue  # as nearly always
        new = met.wanted is None
        if met.want(names):
            if new:
                if met.path not in in_graph:
                    yield met
            elif met.available:
                met.available = None
                yield met


def _left(walk: _Walk, in_graph: Collection[DrvPath]) -> Iterator[_Met]:
    """Those that were in the live graph when they were met, and are no longer."""
    for met in walk.values():
        if met.fact is None and met.path not in in_graph:
            yield met


async def _read(level: Iterable[_Met], walk: _Walk) -> None:
    """Read their files, and let others go on in between."""
    for number, met in enumerate(level):
        if not number % _IN_A_ROW:
            await asyncio.sleep(0)
        if met.fact is None:
            met.fact = walk.facts.pop(met.path, None) or derivation.read(met.path)


async def _ahead(
    level: Iterable[_Met], walk: _Walk, in_graph: Collection[DrvPath], *, most: int
) -> set[StorePath]:
    """Outputs of what lies below a level, nearest first, that nobody has asked about."""
    paths: set[StorePath] = set()
    queue = deque(path for each in level if each.fact is not None for path in each.fact.inputs)
    while queue and len(paths) < most:
        path = queue.popleft()
        if path in walk or path in walk.facts or path in in_graph:
            continue
        try:
            fact = walk.facts[path] = derivation.read(path)
        except NixError:
            continue  # it may turn out that nobody needs it
        paths.update(output for output in fact.outputs.values() if output is not None)
        queue += fact.inputs
        if not len(walk.facts) % _IN_A_ROW:
            await asyncio.sleep(0)
    return paths.difference(walk.there)


def _edges(met: _Met) -> Iterable[tuple[int, int, str]]:
    if not met.inputs or met.fact is None:
        return ()
    needed = [each.id for each in met.inputs]
    return zip(repeat(met.id), needed, map(_spaced, met.fact.inputs.values()), strict=False)


@lru_cache(maxsize=1024)
def _spaced(names: tuple[str, ...]) -> str:
    """One object for all that want the same outputs."""
    return " ".join(names)
