-- Where a job is built in two stages: the first one, whose intermediates count although the second
-- fails.
ALTER TABLE build_base ADD COLUMN leaves INTEGER REFERENCES derivation(id) ON DELETE SET NULL;
CREATE INDEX build_base_leaves ON build_base(leaves) WHERE leaves IS NOT NULL;

-- People ask for more: to have the newest build of a job audited.
ALTER TABLE request RENAME TO request_before;
DROP INDEX request_open;
CREATE TABLE request (
    id INTEGER PRIMARY KEY,
    verb TEXT NOT NULL CHECK (verb IN
        ('trigger', 'retry', 'cancel', 'bump', 'suspend', 'resume', 'quarantine', 'reset', 'audit')),
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
