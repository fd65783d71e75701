
-- What goes to a cache may be said for each jobset. A derivation's paths are put on a cache's queue
-- by a rule, and once more by another that sends more of them.
CREATE TABLE push_rule (
    id INTEGER PRIMARY KEY,
    rule TEXT NOT NULL UNIQUE
) STRICT;

-- So far each cache had one rule, as the document in force has it.
INSERT INTO push_rule(rule)
SELECT DISTINCT (SELECT json_group_array(value) FROM (
    SELECT json_extract(c.value, '$.push') AS value
    UNION ALL SELECT e.value FROM json_each(c.value, '$.exclude') e))
FROM (SELECT document FROM generation ORDER BY id DESC LIMIT 1) g, json_each(g.document, '$.caches') c;

CREATE TABLE push_root_by_rule (
    cache INTEGER NOT NULL REFERENCES cache(id) ON DELETE CASCADE,
    derivation INTEGER NOT NULL REFERENCES derivation(id) ON DELETE CASCADE,
    rule INTEGER NOT NULL REFERENCES push_rule(id),
    PRIMARY KEY (cache, derivation, rule)
) STRICT, WITHOUT ROWID;

INSERT INTO push_root_by_rule(cache, derivation, rule)
SELECT p.cache, p.derivation, r.id
FROM (SELECT document FROM generation ORDER BY id DESC LIMIT 1) g, json_each(g.document, '$.caches') c
JOIN cache n ON n.name = c.key
JOIN push_rule r ON r.rule = (SELECT json_group_array(value) FROM (
    SELECT json_extract(c.value, '$.push') AS value
    UNION ALL SELECT e.value FROM json_each(c.value, '$.exclude') e))
JOIN push_root p ON p.cache = n.id;

DROP TABLE push_root;
ALTER TABLE push_root_by_rule RENAME TO push_root;
-- Each derivation that is forgotten is looked for here.
CREATE INDEX push_root_derivation ON push_root(derivation);

-- What goes there without what it refers to: nobody asked for more.
ALTER TABLE push ADD COLUMN alone INTEGER NOT NULL DEFAULT 0;
UPDATE push SET alone = 1 WHERE cache IN (
    SELECT n.id FROM (SELECT document FROM generation ORDER BY id DESC LIMIT 1) g,
    json_each(g.document, '$.caches') c JOIN cache n ON n.name = c.key
    WHERE json_extract(c.value, '$.push') = 'jobs');
