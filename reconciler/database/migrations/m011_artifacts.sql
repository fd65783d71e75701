-- Bases that farms share in artifact stores.

-- The name under which bases are kept where a policy has another than the job's own, the artifact
-- store that it names for them, and the one that a base was fetched from.
ALTER TABLE base ADD COLUMN shared_slot TEXT;
ALTER TABLE base ADD COLUMN bucket TEXT;
ALTER TABLE base ADD COLUMN fetched_from TEXT;
CREATE INDEX base_bucket ON base(bucket) WHERE bucket IS NOT NULL;

-- Who wrote what there: a farm deletes only what it put there itself.
CREATE TABLE artifact_farm (
    id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
INSERT INTO artifact_farm(id) VALUES (lower(hex(randomblob(8))));

-- What this farm put into artifact stores, or took out again. `gone`: there was nothing to put there.
CREATE TABLE artifact (
    url TEXT NOT NULL,
    name TEXT NOT NULL,
    base INTEGER REFERENCES base(id) ON DELETE SET NULL,
    jobset TEXT NOT NULL,
    system TEXT NOT NULL,
    slot TEXT NOT NULL,
    created_at REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('shared', 'withdrawn', 'gone')),
    at REAL NOT NULL,
    PRIMARY KEY (url, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX artifact_base ON artifact(base) WHERE base IS NOT NULL;

-- A further kind of object has conditions.
ALTER TABLE condition RENAME TO condition_before;
CREATE TABLE condition (
    kind TEXT NOT NULL CHECK (kind IN
        ('document', 'jobset', 'builder', 'cache', 'artifact-store')),
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    since REAL NOT NULL,
    PRIMARY KEY (kind, name, reason)
) STRICT, WITHOUT ROWID;
INSERT INTO condition SELECT * FROM condition_before;
DROP TABLE condition_before;
