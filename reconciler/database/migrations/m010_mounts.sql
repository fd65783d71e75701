-- Bases that builds are shown and their derivations do not name, and what compilers keep.

-- How the base reaches the build; `failed_from`: from which it failed before.
ALTER TABLE build_base ADD COLUMN strategy TEXT NOT NULL DEFAULT 'pure'
    CHECK (strategy IN ('pure', 'hidden'));
ALTER TABLE build_base ADD COLUMN failed_from INTEGER REFERENCES base(id) ON DELETE SET NULL;
CREATE INDEX build_base_failed_from ON build_base(failed_from) WHERE failed_from IS NOT NULL;

-- What an attempt was to be shown; `refused` tells why it was not.
CREATE TABLE mount (
    attempt INTEGER PRIMARY KEY REFERENCES attempt(id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('base', 'compiler-cache')),
    refused TEXT
) STRICT;
