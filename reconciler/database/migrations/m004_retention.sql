-- Since when nothing needs a path that was pushed, and when that was found out.

ALTER TABLE push ADD COLUMN unwanted_at REAL;
CREATE INDEX push_unwanted ON push(cache, unwanted_at) WHERE unwanted_at IS NOT NULL;
ALTER TABLE cache ADD COLUMN marked_at REAL;
