"""The database's schema, as an append-only list of migrations.

A released migration is never edited; a change is a further function at the end. States are text
with a CHECK made from the enum in `model`, so a state unknown to the program cannot be stored.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlite_utils import Database, Migrations

migrations = Migrations("reconciler")


def _one_of(values: Iterable[str]) -> str:
    return "(" + ", ".join(f"'{value}'" for value in values) + ")"


# Each migration spells its states out: the enum may grow later, a released migration may not.
_EVALUATION_1 = _one_of(["pending", "running", "succeeded", "failed", "superseded"])
_BUILD_1 = _one_of(
    [
        "queued",
        "building",
        "succeeded",
        "failed",
        "timed-out",
        "log-limit",
        "output-limit",
        "not-deterministic",
        "cancelled",
        "substituted",
    ]
)
_PUSH_1 = _one_of(["pending", "pushing", "pushed", "failed"])
_OUTCOME_1 = _one_of(
    [
        "succeeded",
        "failed",
        "timed-out",
        "log-limit",
        "output-limit",
        "not-deterministic",
        "cancelled",
        "infrastructure",
        "interrupted",
    ]
)
_VERB_1 = _one_of(["trigger", "retry", "cancel", "bump", "suspend", "resume"])

_SCHEMA_1 = f"""
CREATE TABLE generation (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL,
    document TEXT NOT NULL,
    applied_at REAL NOT NULL
) STRICT;

CREATE TABLE jobset (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    generation INTEGER NOT NULL REFERENCES generation(id),
    removed_at REAL,
    suspended_at REAL,
    suspended_by TEXT,
    suspended_why TEXT
) STRICT;

CREATE TABLE cache (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    uri TEXT NOT NULL,
    generation INTEGER NOT NULL REFERENCES generation(id),
    removed_at REAL
) STRICT;

CREATE TABLE evaluation (
    id INTEGER PRIMARY KEY,
    jobset INTEGER NOT NULL REFERENCES jobset(id),
    state TEXT NOT NULL CHECK (state IN {_EVALUATION_1}),
    fingerprint TEXT NOT NULL,
    locked TEXT NOT NULL,
    cause TEXT NOT NULL,
    started_at REAL NOT NULL,
    finished_at REAL,
    error TEXT
) STRICT;
CREATE UNIQUE INDEX one_live_evaluation ON evaluation(jobset)
    WHERE state IN ('pending', 'running');
CREATE INDEX evaluation_jobset ON evaluation(jobset, id);

CREATE TABLE derivation (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    system TEXT NOT NULL,
    features TEXT NOT NULL,
    prefer_local INTEGER NOT NULL,
    unsupported TEXT
) STRICT;

CREATE TABLE output (
    derivation INTEGER NOT NULL REFERENCES derivation(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    path TEXT,
    size INTEGER,
    PRIMARY KEY (derivation, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE input (
    derivation INTEGER NOT NULL REFERENCES derivation(id) ON DELETE CASCADE,
    input INTEGER NOT NULL REFERENCES derivation(id) ON DELETE CASCADE,
    outputs TEXT NOT NULL,
    PRIMARY KEY (derivation, input)
) STRICT, WITHOUT ROWID;
CREATE INDEX input_reverse ON input(input);

CREATE TABLE job (
    id INTEGER PRIMARY KEY,
    evaluation INTEGER NOT NULL REFERENCES evaluation(id) ON DELETE CASCADE,
    attr TEXT NOT NULL,
    derivation INTEGER REFERENCES derivation(id),
    error TEXT,
    description TEXT,
    timeout REAL,
    max_silent REAL,
    priority INTEGER NOT NULL,
    constituents TEXT NOT NULL,
    UNIQUE (evaluation, attr),
    CHECK ((derivation IS NULL) = (error IS NOT NULL))
) STRICT;
CREATE INDEX job_derivation ON job(derivation);

CREATE TABLE build (
    derivation INTEGER PRIMARY KEY REFERENCES derivation(id) ON DELETE CASCADE,
    state TEXT NOT NULL CHECK (state IN {_BUILD_1}),
    queued_at REAL NOT NULL,
    finished_at REAL,
    not_before REAL NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    bumped_at REAL
) STRICT;
CREATE INDEX build_not_good ON build(state) WHERE state NOT IN ('succeeded', 'substituted');

CREATE TABLE attempt (
    id INTEGER PRIMARY KEY,
    derivation INTEGER NOT NULL REFERENCES build(derivation) ON DELETE CASCADE,
    builder TEXT NOT NULL,
    started_at REAL NOT NULL,
    finished_at REAL,
    outcome TEXT CHECK (outcome IN {_OUTCOME_1}),
    message TEXT,
    log_bytes INTEGER,
    CHECK ((finished_at IS NULL) = (outcome IS NULL))
) STRICT;
CREATE UNIQUE INDEX one_live_attempt ON attempt(derivation) WHERE finished_at IS NULL;
CREATE INDEX attempt_derivation ON attempt(derivation, id);

CREATE TABLE product (
    attempt INTEGER NOT NULL REFERENCES attempt(id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    subtype TEXT NOT NULL,
    path TEXT NOT NULL
) STRICT;
CREATE INDEX product_attempt ON product(attempt);

CREATE TABLE metric (
    attempt INTEGER NOT NULL REFERENCES attempt(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value REAL NOT NULL,
    unit TEXT
) STRICT;
CREATE INDEX metric_attempt ON metric(attempt);

CREATE TABLE duration (
    name TEXT NOT NULL,
    system TEXT NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (name, system)
) STRICT, WITHOUT ROWID;

CREATE TABLE push (
    cache INTEGER NOT NULL REFERENCES cache(id) ON DELETE CASCADE,
    path TEXT NOT NULL,
    position INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN {_PUSH_1}),
    queued_at REAL NOT NULL,
    finished_at REAL,
    failures INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    error TEXT,
    bytes INTEGER,
    PRIMARY KEY (cache, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX push_open ON push(cache, position) WHERE state <> 'pushed';

-- The derivations whose paths have been put on a cache's queue.
CREATE TABLE push_root (
    cache INTEGER NOT NULL REFERENCES cache(id) ON DELETE CASCADE,
    derivation INTEGER NOT NULL REFERENCES derivation(id) ON DELETE CASCADE,
    PRIMARY KEY (cache, derivation)
) STRICT, WITHOUT ROWID;

CREATE TABLE request (
    id INTEGER PRIMARY KEY,
    verb TEXT NOT NULL CHECK (verb IN {_VERB_1}),
    subject TEXT NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    made_at REAL NOT NULL,
    handled_at REAL,
    answer TEXT
) STRICT;
CREATE INDEX request_open ON request(id) WHERE handled_at IS NULL;

CREATE TABLE condition (
    kind TEXT NOT NULL CHECK (kind IN ('document', 'jobset', 'builder', 'cache')),
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    since REAL NOT NULL,
    PRIMARY KEY (kind, name, reason)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    before TEXT,
    after TEXT,
    cause TEXT NOT NULL
) STRICT;
"""


def _run(database: Database, script: str) -> None:
    """Execute statements one by one: `executescript` would commit the migration's transaction."""
    for statement in script.split(";\n"):
        if statement.strip():
            database.execute(statement)


@migrations()
def m001_first(database: Database) -> None:
    """Everything from a declared jobset to a path in a cache."""
    _run(database, _SCHEMA_1)


@migrations()
def m002_charges(database: Database) -> None:
    """Who an attempt was made for: a jobset that goes takes its part with it."""
    _run(
        database,
        """
CREATE TABLE charge (
    attempt INTEGER NOT NULL REFERENCES attempt(id) ON DELETE CASCADE,
    jobset INTEGER NOT NULL REFERENCES jobset(id) ON DELETE CASCADE,
    PRIMARY KEY (attempt, jobset)
) STRICT, WITHOUT ROWID;

CREATE INDEX charge_jobset ON charge(jobset);
""",
    )


_INSPECTION_3 = _one_of(["sample", "whole"])


@migrations()
def m003_inspections(database: Database) -> None:
    """When caches were looked at, and what has to be sent or built again."""
    _run(
        database,
        f"""
-- When it was last seen to be there, by a push or by looking.
ALTER TABLE push ADD COLUMN checked_at REAL;
-- What the cache has is of no use.
ALTER TABLE push ADD COLUMN resend INTEGER NOT NULL DEFAULT 0;
UPDATE push SET checked_at = finished_at WHERE state = 'pushed';
CREATE INDEX push_checked ON push(cache, checked_at) WHERE state = 'pushed';

CREATE TABLE inspection (
    cache INTEGER NOT NULL REFERENCES cache(id) ON DELETE CASCADE,
    scope TEXT NOT NULL CHECK (scope IN {_INSPECTION_3}),
    at REAL NOT NULL,
    paths INTEGER NOT NULL,
    flawed INTEGER NOT NULL,
    PRIMARY KEY (cache, scope)
) STRICT, WITHOUT ROWID;

-- Derivations whose outputs a cache and the store have both lost, and for what evaluation they are
-- built again: wanted as jobs are, until they are pushed.
CREATE TABLE rebuild (
    derivation INTEGER NOT NULL REFERENCES derivation(id) ON DELETE CASCADE,
    evaluation INTEGER NOT NULL REFERENCES evaluation(id) ON DELETE CASCADE,
    PRIMARY KEY (derivation, evaluation)
) STRICT, WITHOUT ROWID;

CREATE INDEX rebuild_evaluation ON rebuild(evaluation);
""",
    )


@migrations()
def m004_retention(database: Database) -> None:
    """Since when nothing needs a path that was pushed, and when that was found out."""
    _run(
        database,
        """
ALTER TABLE push ADD COLUMN unwanted_at REAL;
CREATE INDEX push_unwanted ON push(cache, unwanted_at) WHERE unwanted_at IS NOT NULL;
ALTER TABLE cache ADD COLUMN marked_at REAL;
""",
    )
