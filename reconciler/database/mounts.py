"""What builds are shown that their derivations do not name: bases, and what compilers keep."""

from __future__ import annotations

import json
from collections.abc import Collection

from msgspec import Struct

from reconciler.database.bases import FAILED, IN_FORCE
from reconciler.database.file import Database
from reconciler.model import BuildState, JobsetName, StorePath

_HIDDEN = "c.strategy = 'hidden' AND c.mode = 'incremental'"
"""Of a row `c` of build_base: its derivation is the canonical one, and is to be shown the base."""


class HiddenBase(Struct, frozen=True, kw_only=True):
    """What a build is to start from without knowing."""

    base: int
    path: StorePath
    name: str
    gone: str | None
    """Why nothing may start from it any more."""


class Failed(Struct, frozen=True, kw_only=True):
    """A build that was shown a base and failed, of jobs in force."""

    derivation: int
    state: BuildState
    jobsets: frozenset[JobsetName]


def base_of(database: Database, derivation: int) -> HiddenBase | None:
    """The base that the build of a derivation is to be shown."""
    row = database.one(
        "SELECT b.* FROM build_base c JOIN base b ON b.id = c.base"
        f" WHERE c.derivation = ? AND {_HIDDEN} ORDER BY c.at DESC LIMIT 1",
        (derivation,),
    )
    if row is None:
        return None
    gone = None
    if row["quarantined_at"] is not None:
        gone = f"base {row['id']} is in quarantine: {row['quarantine']}"
    elif row["released_at"] is not None:
        gone = f"base {row['id']} was let go"
    return HiddenBase(base=row["id"], path=StorePath(row["path"]), name=row["name"], gone=gone)


def is_hidden(database: Database, derivation: int) -> bool:
    """Whether a build was shown what it started from."""
    found = f"SELECT 1 FROM build_base c WHERE c.derivation = ? AND {_HIDDEN} LIMIT 1"
    return database.one(found, (derivation,)) is not None


def any_hidden(database: Database) -> bool:
    """Whether any build that is remembered was."""
    return database.one(f"SELECT 1 FROM build_base c WHERE {_HIDDEN} LIMIT 1") is not None


def build_in_full(database: Database, derivation: int, *, reason: str, failed: bool) -> None:
    """Record that a build is made without the base it was to be shown; `failed`: from which it
    failed.
    """
    with database.transaction():
        database.execute(
            "UPDATE build_base AS c SET mode = 'full', base = NULL, reason = ?,"
            " failed_from = CASE WHEN ? THEN base ELSE failed_from END"
            f" WHERE derivation = ? AND {_HIDDEN}",
            (f"built in full: {reason}", int(failed), derivation),
        )


def failed(database: Database) -> list[Failed]:
    """Builds that failed from a base which they were shown."""
    rows = database.query(
        "SELECT c.derivation, b.state, json_group_array(j.name) AS jobsets FROM build_base c"
        " JOIN incremental_slot s ON s.id = c.slot JOIN jobset j ON j.id = s.jobset"
        " JOIN build b ON b.derivation = c.derivation"
        f" WHERE {_HIDDEN} AND b.state IN {FAILED} AND j.removed_at IS NULL AND {IN_FORCE}"
        " GROUP BY c.derivation"
    )
    return [
        Failed(
            derivation=row["derivation"],
            state=BuildState(row["state"]),
            jobsets=frozenset(json.loads(row["jobsets"])),
        )
        for row in rows
    ]


def record(database: Database, attempt: int, *, kind: str, refused: str | None) -> None:
    """Record what an attempt was to be shown, and why it was not."""
    with database.transaction():
        database.execute(
            "INSERT OR REPLACE INTO mount(attempt, kind, refused) VALUES (?, ?, ?)",
            (attempt, kind, refused),
        )


def of_attempts(database: Database, attempts: Collection[int]) -> dict[int, tuple[str, str | None]]:
    """What those of the attempts were to be shown that were to be shown anything, by number: kind,
    and why it was not.
    """
    rows = database.query(
        "SELECT * FROM mount WHERE attempt IN (SELECT value FROM json_each(?))",
        (json.dumps(list(attempts)),),
    )
    return {row["attempt"]: (row["kind"], row["refused"]) for row in rows}
