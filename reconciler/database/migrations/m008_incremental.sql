-- Incremental builds: what builds left for later ones, what evaluations were given, and why.

-- A job of a jobset that leaves intermediates. `branch` is '' where the source has only one.
CREATE TABLE incremental_slot (
    id INTEGER PRIMARY KEY,
    jobset INTEGER NOT NULL REFERENCES jobset(id) ON DELETE CASCADE,
    job TEXT NOT NULL,
    system TEXT NOT NULL,
    branch TEXT NOT NULL,
    trust TEXT NOT NULL,
    UNIQUE (jobset, job, system, branch, trust)
) STRICT;

-- By what means derivations build: JSON, part to digest.
CREATE TABLE fingerprint (
    digest TEXT PRIMARY KEY,
    parts TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Intermediates in the store, by content. `canonical` is the derivation without any base, `built`
-- the one that made them. They stay here after their path is let go (`released_at`), for as long as
-- anything descends from them: `parent` is what they started from, `origin` the full build.
CREATE TABLE base (
    id INTEGER PRIMARY KEY,
    slot INTEGER NOT NULL REFERENCES incremental_slot(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    path TEXT NOT NULL,
    nar_hash TEXT NOT NULL,
    size INTEGER NOT NULL,
    fingerprint TEXT NOT NULL REFERENCES fingerprint(digest),
    canonical TEXT NOT NULL,
    built TEXT NOT NULL,
    revision TEXT,
    depth INTEGER NOT NULL,
    parent INTEGER REFERENCES base(id) ON DELETE SET NULL,
    origin INTEGER REFERENCES base(id) ON DELETE SET NULL,
    full_at REAL NOT NULL,
    created_at REAL NOT NULL,
    used_at REAL,
    audited_at REAL,
    quarantined_at REAL,
    quarantine TEXT,
    released_at REAL,
    UNIQUE (slot, built),
    CHECK ((quarantined_at IS NULL) = (quarantine IS NULL))
) STRICT;
CREATE INDEX base_slot ON base(slot, created_at);
CREATE INDEX base_parent ON base(parent) WHERE parent IS NOT NULL;
CREATE INDEX base_origin ON base(origin) WHERE origin IS NOT NULL;
CREATE INDEX base_fingerprint ON base(fingerprint);
CREATE INDEX base_held ON base(path) WHERE released_at IS NULL;

-- What an evaluation was given beside its source, whole, so that anyone can repeat it: the flake in
-- place of an input, the commit on top of the source's, or the argument.
CREATE TABLE evaluation_input (
    evaluation INTEGER NOT NULL REFERENCES evaluation(id) ON DELETE CASCADE,
    protocol TEXT NOT NULL CHECK (protocol IN ('garnix', 'cache.nix', 'arg')),
    reference TEXT NOT NULL,
    text TEXT NOT NULL,
    revision TEXT,
    PRIMARY KEY (evaluation, protocol)
) STRICT, WITHOUT ROWID;

-- What else it takes to repeat it, as JSON: the locked source with all that names it, the systems,
-- how bases reach it, and which jobs are as they were evaluated with bases.
CREATE TABLE evaluation_repeat (
    evaluation INTEGER PRIMARY KEY REFERENCES evaluation(id) ON DELETE CASCADE,
    facts TEXT NOT NULL
) STRICT;

-- Which bases those are: they stay while the evaluation's builds may want them.
CREATE TABLE evaluation_base (
    evaluation INTEGER NOT NULL REFERENCES evaluation(id) ON DELETE CASCADE,
    base INTEGER NOT NULL REFERENCES base(id) ON DELETE CASCADE,
    PRIMARY KEY (evaluation, base)
) STRICT, WITHOUT ROWID;
CREATE INDEX evaluation_base_base ON evaluation_base(base);

-- What the build of a job started from, and why. `base` NULL and `mode` incremental: it is forgotten.
-- `refused` tells why what it left can be no base.
CREATE TABLE build_base (
    derivation INTEGER NOT NULL REFERENCES derivation(id) ON DELETE CASCADE,
    slot INTEGER NOT NULL REFERENCES incremental_slot(id) ON DELETE CASCADE,
    canonical TEXT NOT NULL,
    fingerprint TEXT NOT NULL REFERENCES fingerprint(digest),
    mode TEXT NOT NULL CHECK (mode IN ('incremental', 'full')),
    base INTEGER REFERENCES base(id) ON DELETE SET NULL,
    reason TEXT NOT NULL,
    revision TEXT,
    at REAL NOT NULL,
    refused TEXT,
    PRIMARY KEY (derivation, slot),
    CHECK (mode = 'incremental' OR base IS NULL)
) STRICT, WITHOUT ROWID;
CREATE INDEX build_base_slot ON build_base(slot);
CREATE INDEX build_base_base ON build_base(base) WHERE base IS NOT NULL;
CREATE INDEX build_base_fingerprint ON build_base(fingerprint);

-- Incremental builds that are made again without a base, and what came of it.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    derivation INTEGER NOT NULL UNIQUE REFERENCES derivation(id) ON DELETE CASCADE,
    base INTEGER REFERENCES base(id) ON DELETE SET NULL,
    clean TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'running', 'same', 'different', 'failed')),
    detail TEXT,
    asked_at REAL NOT NULL,
    finished_at REAL,
    CHECK ((finished_at IS NULL) = (state IN ('pending', 'running')))
) STRICT;
CREATE INDEX audit_open ON audit(state) WHERE finished_at IS NULL;
CREATE INDEX audit_base ON audit(base) WHERE base IS NOT NULL;

-- People ask for more: to have nothing start from a base, or from any of a job.
ALTER TABLE request RENAME TO request_before;
DROP INDEX request_open;
CREATE TABLE request (
    id INTEGER PRIMARY KEY,
    verb TEXT NOT NULL CHECK (verb IN
        ('trigger', 'retry', 'cancel', 'bump', 'suspend', 'resume', 'quarantine', 'reset')),
    subject TEXT NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    made_at REAL NOT NULL,
    handled_at REAL,
    answer TEXT
) STRICT;
INSERT INTO request SELECT * FROM request_before;
DROP TABLE request_before;
CREATE INDEX request_open ON request(id) WHERE handled_at IS NULL;
