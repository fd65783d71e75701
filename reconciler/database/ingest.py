"""The bulk path into the database: derivations, their inputs and their builds.

Few statements, each with many rows: stepping through a statement row by row, and Python's part in
it, takes longer than what SQLite then does. Ids are given out here, so that they are known before
the rows are written.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, islice

from msgspec import Struct

from reconciler.database.file import Database, Value
from reconciler.model import BuildState, Derivation, DrvPath, StorePath

_BLOCK = 500
"""Rows of a statement: more is not faster."""


class KnownBuild(Struct, frozen=True):
    """What the database has of a derivation already."""

    id: int
    state: BuildState


def known_builds(database: Database, paths: Collection[DrvPath]) -> dict[DrvPath, KnownBuild]:
    """Those of the derivations that the database has."""
    rows = database.query(
        "SELECT d.path, d.id, b.state FROM json_each(?) p"
        " JOIN derivation d ON d.path = p.value JOIN build b ON b.derivation = d.id",
        (json.dumps(list(paths)),),
    )
    return {DrvPath(row[0]): KnownBuild(row[1], BuildState(row[2])) for row in rows}


def next_derivation_id(database: Database) -> int:
    """The id after the greatest given out."""
    row = database.one("SELECT coalesce(max(id), 0) + 1 FROM derivation")
    assert row is not None
    return int(row[0])


def add_derivations(
    database: Database, rows: Sequence[tuple[int, Derivation, BuildState]], *, now: float
) -> None:
    """Insert new derivations with their outputs and builds.

    Enumerations and booleans are made plain: for a subclass of `str` or `int`, sqlite3 looks for
    an adapter at each value, which takes longer than the insertion.
    """
    database.execute_many(
        "INSERT INTO derivation(id, path, name, system, features, prefer_local, unsupported)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (
                identity,
                drv.path,
                drv.name,
                drv.system,
                " ".join(drv.required_features),
                int(drv.prefer_local),
                drv.unsupported,
            )
            for identity, drv, _ in rows
        ),
    )
    _insert_threes(
        database,
        "INSERT INTO output(derivation, name, path)",
        ((identity, name, path) for identity, drv, _ in rows for name, path in drv.outputs.items()),
    )
    by_state: dict[BuildState, list[int]] = {}
    for identity, _, state in rows:
        by_state.setdefault(state, []).append(identity)
    for state, identities in by_state.items():
        database.execute(
            "INSERT INTO build(derivation, state, queued_at, finished_at)"
            " SELECT value, ?, ?, ? FROM json_each(?)",
            (state.value, now, now if not state.live else None, json.dumps(identities)),
        )


def set_output_paths(
    database: Database, outputs: Iterable[tuple[int, Mapping[str, StorePath]]]
) -> None:
    """Note where outputs are whose paths their derivations do not tell."""
    database.execute_many(
        "UPDATE output SET path = ?3 WHERE derivation = ?1 AND name = ?2 AND path IS NOT ?3",
        ((identity, name, path) for identity, each in outputs for name, path in each.items()),
    )


def add_inputs(database: Database, edges: Iterable[tuple[int, int, str]]) -> None:
    """Insert (derivation, input, outputs wanted of it); those already there are left alone."""
    _insert_threes(
        database, "INSERT INTO input(derivation, input, outputs)", edges, "ON CONFLICT DO NOTHING"
    )


def _insert_threes(
    database: Database, insert: str, rows: Iterable[tuple[Value, Value, Value]], clause: str = ""
) -> None:
    """Insert rows of three values."""
    values = chain.from_iterable(rows)
    while block := tuple(islice(values, 3 * _BLOCK)):
        database.execute(f"{insert} VALUES {_places(len(block) // 3)} {clause}", block)


@lru_cache(maxsize=16)
def _places(rows: int) -> str:
    return ", ".join(["(?, ?, ?)"] * rows)
