-- What builders went through since they last built something: a restart forgives nothing.

CREATE TABLE quarantine (
    builder TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,
    failed_at REAL NOT NULL,
    until REAL NOT NULL,
    error TEXT NOT NULL,
    unfit INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
