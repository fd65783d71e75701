"""What builds are shown that their derivations do not name: bases, and what compilers keep."""

from __future__ import annotations

import json

from msgspec import Struct

from reconciler.database import due
from reconciler.database.bases import FAILED, IN_FORCE, SUPERSEDED
from reconciler.database.file import Database
from reconciler.database.incremental import UNTRUSTED
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
    """The base that the build of a derivation is to be shown: of those that were chosen for it, one
    that a trusted branch did, if there is such.
    """
    row = database.one(
        "SELECT b.* FROM build_base c JOIN base b ON b.id = c.base"
        f" WHERE c.derivation = ? AND {_HIDDEN} ORDER BY {UNTRUSTED}, c.at DESC, c.slot LIMIT 1",
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


def agree(database: Database, derivation: int, base: int) -> None:
    """Have the build of a derivation start from one base, whichever was chosen for each branch."""
    others = f"derivation = ?1 AND {_HIDDEN} AND base <> ?2"
    if database.one(f"SELECT 1 FROM build_base c WHERE {others} LIMIT 1", (derivation, base)):
        with database.transaction():
            database.execute(
                "UPDATE build_base AS c SET base = ?2, reason = (SELECT o.reason FROM build_base o"
                f" WHERE o.derivation = ?1 AND o.base = ?2 LIMIT 1) WHERE {others}",
                (derivation, base),
            )


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


def supersede(database: Database) -> None:
    """Have what is built in full at the same path, as it was wrong from a base, leave a base of its
    own: that of the wrong build gives up its place.
    """
    found = (
        f"SELECT base.id FROM {due.BUILDS} JOIN build b ON b.derivation = c.derivation"
        " JOIN derivation d ON d.id = c.derivation JOIN base ON base.built = d.path"
        " WHERE c.strategy = 'hidden' AND c.mode = 'full' AND b.state IN ('queued', 'building')"
        " AND base.quarantined_at IS NOT NULL AND base.depth > 0"
    )
    if database.one(found) is not None:
        with database.transaction():
            # (slot, built) names a base.
            database.execute(
                f"UPDATE base SET built = built || '{SUPERSEDED}' || id WHERE id IN ({found})"
            )


def failed(database: Database) -> list[Failed]:
    """Builds that failed from a base which they were shown; of those due."""
    rows = database.query(
        f"SELECT c.derivation, b.state, json_group_array(j.name) AS jobsets FROM {due.BUILDS}"
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


def begin(database: Database, attempt: int, *, kind: str) -> None:
    """Record what an attempt is to be shown: it is taken for shown until it is refused."""
    with database.transaction():
        database.execute("INSERT INTO mount(attempt, kind) VALUES (?, ?)", (attempt, kind))


def refuse(database: Database, attempt: int, *, reason: str) -> None:
    """Record why an attempt was not shown something."""
    with database.transaction():
        database.execute("UPDATE mount SET refused = ? WHERE attempt = ?", (reason, attempt))


def compiling(database: Database) -> bool:
    """Whether a build goes on that is shown what compilers keep."""
    found = database.one(
        "SELECT 1 FROM mount m JOIN attempt a ON a.id = m.attempt"
        " WHERE m.kind = 'compiler-cache' AND a.finished_at IS NULL LIMIT 1"
    )
    return found is not None


def was_shown(database: Database, derivation: int) -> bool:
    """Whether an attempt may have been shown a base, so that what is there may be of it."""
    found = database.one(
        "SELECT 1 FROM mount m JOIN attempt a ON a.id = m.attempt"
        " WHERE a.derivation = ? AND m.kind = 'base' AND m.refused IS NULL LIMIT 1",
        (derivation,),
    )
    return found is not None
