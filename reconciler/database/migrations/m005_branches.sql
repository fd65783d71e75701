-- Branches that are jobsets of their own, and from what commits evaluations come.

-- Of a branch's jobset: the one that is declared for branches, and the branch.
ALTER TABLE jobset ADD COLUMN pattern INTEGER REFERENCES jobset(id) ON DELETE SET NULL;
ALTER TABLE jobset ADD COLUMN branch TEXT;
CREATE INDEX jobset_pattern ON jobset(pattern) WHERE pattern IS NOT NULL;

-- Of a source in git: the commit; of one whose branches are listed also the commits before it along
-- first parents, as a JSON array with the nearest first, and the one at which it left the branch
-- that serves others. NULL and []: not known.
ALTER TABLE evaluation ADD COLUMN revision TEXT;
ALTER TABLE evaluation ADD COLUMN ancestors TEXT NOT NULL DEFAULT '[]';
ALTER TABLE evaluation ADD COLUMN merge_base TEXT;
CREATE INDEX evaluation_revision ON evaluation(revision) WHERE revision IS NOT NULL;
