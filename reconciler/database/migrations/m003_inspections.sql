-- When caches were looked at, and what has to be sent or built again.

-- When it was last seen to be there, by a push or by looking.
ALTER TABLE push ADD COLUMN checked_at REAL;
-- What the cache has is of no use.
ALTER TABLE push ADD COLUMN resend INTEGER NOT NULL DEFAULT 0;
UPDATE push SET checked_at = finished_at WHERE state = 'pushed';
CREATE INDEX push_checked ON push(cache, checked_at) WHERE state = 'pushed';

CREATE TABLE inspection (
    cache INTEGER NOT NULL REFERENCES cache(id) ON DELETE CASCADE,
    scope TEXT NOT NULL CHECK (scope IN ('sample', 'whole')),
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
