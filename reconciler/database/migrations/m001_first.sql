-- Everything from a declared jobset to a path in a cache.

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
    state TEXT NOT NULL CHECK (state IN ('pending', 'running', 'succeeded', 'failed', 'superseded')),
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
    state TEXT NOT NULL CHECK (state IN ('queued', 'building', 'succeeded', 'failed', 'timed-out', 'log-limit', 'output-limit', 'not-deterministic', 'cancelled', 'substituted')),
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
    outcome TEXT CHECK (outcome IN ('succeeded', 'failed', 'timed-out', 'log-limit', 'output-limit', 'not-deterministic', 'cancelled', 'infrastructure', 'interrupted')),
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
    state TEXT NOT NULL CHECK (state IN ('pending', 'pushing', 'pushed', 'failed')),
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
    verb TEXT NOT NULL CHECK (verb IN ('trigger', 'retry', 'cancel', 'bump', 'suspend', 'resume')),
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
