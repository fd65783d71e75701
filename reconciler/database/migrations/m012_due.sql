-- What a tick sees to of incremental builds is what changed, and not all that is remembered.

-- Builds and bases of which something changed since a tick saw to what follows. Written by the
-- triggers below, so that no writer can forget it, and for all in force when the reconciler starts
-- or another document is adopted. A row too many costs a look; the reads check every condition.
CREATE TABLE incremental_due (
    id INTEGER PRIMARY KEY,
    derivation INTEGER,
    base INTEGER,
    CHECK ((derivation IS NULL) <> (base IS NULL))
) STRICT;

CREATE TRIGGER due_chosen AFTER INSERT ON build_base BEGIN
    INSERT INTO incremental_due(derivation) VALUES (NEW.derivation); END;

CREATE TRIGGER due_chosen_anew AFTER UPDATE OF mode, base, strategy, leaves ON build_base BEGIN
    INSERT INTO incremental_due(derivation) VALUES (NEW.derivation); END;

-- A build, the first of its two stages, its twin without a base, and what fetches its base.
CREATE TRIGGER due_build AFTER UPDATE OF state, failures ON build
WHEN (NEW.state <> OLD.state OR NEW.failures > OLD.failures)
    AND EXISTS (SELECT 1 FROM build_base)
BEGIN
    INSERT INTO incremental_due(derivation)
    SELECT derivation FROM build_base WHERE derivation = NEW.derivation
    UNION SELECT derivation FROM build_base WHERE leaves = NEW.derivation
    UNION SELECT c.derivation FROM derivation d CROSS JOIN build_base c ON c.canonical = d.path
        WHERE d.id = NEW.derivation
    UNION SELECT c.derivation FROM output o CROSS JOIN base b ON b.path = o.path
        CROSS JOIN build_base c ON c.base = b.id WHERE o.derivation = NEW.derivation; END;

CREATE TRIGGER due_evaluation AFTER UPDATE OF state ON evaluation
WHEN NEW.state IN ('running', 'succeeded') AND EXISTS (SELECT 1 FROM build_base)
BEGIN
    INSERT INTO incremental_due(derivation) SELECT derivation FROM job
    WHERE evaluation = NEW.id AND derivation IN (SELECT derivation FROM build_base); END;

-- A branch is there again.
CREATE TRIGGER due_jobset AFTER UPDATE OF removed_at ON jobset
WHEN NEW.removed_at IS NULL AND OLD.removed_at IS NOT NULL
BEGIN
    INSERT INTO incremental_due(derivation) SELECT c.derivation FROM incremental_slot s
    CROSS JOIN build_base c ON c.slot = s.id WHERE s.jobset = NEW.id; END;

CREATE TRIGGER due_base AFTER INSERT ON base BEGIN
    INSERT INTO incremental_due(base) VALUES (NEW.id); END;

CREATE TRIGGER due_base_changed
AFTER UPDATE OF path, size, bucket, shared_slot, fetched_from, audited_at, released_at ON base BEGIN
    INSERT INTO incremental_due(base) VALUES (NEW.id); END;

-- What is built in full since at the path of its build is to leave another.
CREATE TRIGGER due_base_wrong AFTER UPDATE OF quarantined_at ON base BEGIN
    INSERT INTO incremental_due(derivation, base) SELECT id, NULL FROM derivation
    WHERE path = NEW.built UNION ALL SELECT NULL, NEW.id; END;

CREATE TRIGGER due_push_gone AFTER DELETE ON push WHEN EXISTS (SELECT 1 FROM base) BEGIN
    INSERT INTO incremental_due(base) SELECT id FROM base
    WHERE path = OLD.path AND released_at IS NULL; END;

CREATE INDEX build_base_canonical ON build_base(canonical);
CREATE INDEX base_path ON base(path);
CREATE INDEX base_built ON base(built);

-- An audit found it right: kept by the triggers below.
ALTER TABLE build_base ADD COLUMN vouched INTEGER NOT NULL DEFAULT 0;
UPDATE build_base SET vouched = 1
    WHERE derivation IN (SELECT derivation FROM audit WHERE state = 'same');

CREATE TRIGGER vouched_audit AFTER UPDATE OF state ON audit BEGIN
    UPDATE build_base SET vouched = (NEW.state = 'same') WHERE derivation = NEW.derivation; END;

-- It was held against what concerns nobody, and may be due once more.
CREATE TRIGGER vouched_no_longer AFTER DELETE ON audit BEGIN
    UPDATE build_base SET vouched = 0 WHERE derivation = OLD.derivation; INSERT INTO
    incremental_due(derivation) VALUES (OLD.derivation); END;

-- Another job may be a build that was audited.
CREATE TRIGGER vouched_before AFTER INSERT ON build_base BEGIN
    UPDATE build_base SET vouched = 1 WHERE derivation = NEW.derivation AND EXISTS
    (SELECT 1 FROM audit a WHERE a.derivation = NEW.derivation AND a.state = 'same'); END;

CREATE INDEX build_base_unvouched ON build_base(slot) WHERE mode = 'incremental' AND vouched = 0;
CREATE INDEX build_base_hidden ON build_base(vouched)
    WHERE strategy = 'hidden' AND mode = 'incremental';

-- What is wrong, and what is kept.
CREATE INDEX base_wrong ON base(quarantined_at) WHERE quarantined_at IS NOT NULL;
CREATE INDEX base_kept ON base(slot) WHERE released_at IS NULL;
CREATE INDEX base_shared ON base(bucket) WHERE bucket IS NOT NULL AND released_at IS NULL;
CREATE INDEX artifact_shared ON artifact(url, created_at) WHERE state = 'shared';
CREATE INDEX audit_different ON audit(derivation) WHERE state = 'different';
CREATE INDEX audit_failed ON audit(derivation) WHERE state = 'failed';
CREATE INDEX evaluation_in_force ON evaluation(state) WHERE state IN ('running', 'succeeded');
