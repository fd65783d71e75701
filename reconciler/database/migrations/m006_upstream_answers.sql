-- What upstreams have, what goes into caches beside paths, and how far pushing is.

CREATE TABLE upstream_answer (
    url TEXT NOT NULL,
    path TEXT NOT NULL,
    there INTEGER NOT NULL,
    asked_at REAL NOT NULL,
    PRIMARY KEY (url, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX upstream_answer_age ON upstream_answer(asked_at);

-- Bytes of the path's archive, before compression.
ALTER TABLE push ADD COLUMN size INTEGER;
UPDATE push SET size = o.size FROM output o WHERE o.path = push.path;

-- Of each cache: what was sent since its queue was empty last, and of the batch under way.
CREATE TABLE push_progress (
    cache INTEGER PRIMARY KEY REFERENCES cache(id) ON DELETE CASCADE,
    began_at REAL NOT NULL,
    ended_at REAL,
    paths INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    batch_began_at REAL NOT NULL,
    batch_sent INTEGER NOT NULL DEFAULT 0,
    told_at REAL NOT NULL,
    speed REAL,
    rate REAL
) STRICT;

-- Build logs and realisations: each belongs to paths, and goes after they are there. No path: the
-- log of a build that failed.
CREATE TABLE companion (
    cache INTEGER NOT NULL REFERENCES cache(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    path TEXT NOT NULL,
    attempt INTEGER,
    content TEXT,
    state TEXT NOT NULL CHECK (state IN ('pending', 'pushed')),
    failures INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    error TEXT,
    bytes INTEGER,
    PRIMARY KEY (cache, name, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX companion_open ON companion(cache, not_before) WHERE state = 'pending';

-- Where an output of a content-addressed derivation was found to be, as Nix words it.
CREATE TABLE realisation (
    derivation INTEGER NOT NULL REFERENCES derivation(id) ON DELETE CASCADE,
    output TEXT NOT NULL,
    path TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (derivation, output)
) STRICT, WITHOUT ROWID;
CREATE INDEX realisation_path ON realisation(path);
