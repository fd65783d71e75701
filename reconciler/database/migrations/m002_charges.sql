-- Who an attempt was made for: a jobset that goes takes its part with it.

CREATE TABLE charge (
    attempt INTEGER NOT NULL REFERENCES attempt(id) ON DELETE CASCADE,
    jobset INTEGER NOT NULL REFERENCES jobset(id) ON DELETE CASCADE,
    PRIMARY KEY (attempt, jobset)
) STRICT, WITHOUT ROWID;

CREATE INDEX charge_jobset ON charge(jobset);
