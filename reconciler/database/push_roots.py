"""The derivations whose paths have been put on a cache's queue, by which rule, and those of which
that is still to be done.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from reconciler.database.file import Database
from reconciler.model import CacheName, JobsetName, PushRule
from reconciler.push_rules import from_text

_LACKING = (
    " JOIN cache c ON c.name = ? WHERE NOT EXISTS (SELECT 1 FROM push_root p WHERE p.cache = c.id"
    " AND p.derivation = b.derivation AND p.rule IN (SELECT value FROM json_each(?)))"
)
"""Of a build `b`: a cache, and the rules that cover the one that is asked for."""


def note(database: Database, cache: int, rule: PushRule, derivations: Iterable[int]) -> None:
    """Note that what belongs to derivations by a rule is on the queue of a cache, by its id."""
    database.execute("INSERT OR IGNORE INTO push_rule(rule) VALUES (?)", (rule.text(),))
    database.execute_many(
        # Some may have been forgotten while their closure was being found.
        "INSERT INTO push_root(cache, derivation, rule) SELECT ?, d.id, r.id FROM derivation d"
        " JOIN push_rule r ON r.rule = ? WHERE d.id = ? ON CONFLICT DO NOTHING",
        ((cache, rule.text(), derivation) for derivation in derivations),
    )


def lacking_jobs(
    database: Database, jobset: JobsetName, cache: CacheName, rule: PushRule
) -> list[int]:
    """Derivations of a jobset's jobs that have outputs, of which not all that a rule sends was put
    on a cache's queue.
    """
    return [
        row[0]
        for row in database.query(
            "SELECT DISTINCT b.derivation FROM jobset s"
            " JOIN evaluation e ON e.jobset = s.id AND e.state IN ('running', 'succeeded')"
            " JOIN job j ON j.evaluation = e.id"
            " JOIN build b ON b.derivation = j.derivation"
            f" AND b.state IN ('succeeded', 'substituted'){_LACKING} AND s.name = ?",
            (cache, _covering(database, rule), jobset),
        )
    ]


def lacking_requisites(
    database: Database, jobset: JobsetName, cache: CacheName, rule: PushRule
) -> list[int]:
    """The same for all that was built for a jobset's jobs, jobs that failed included."""
    return [
        row[0]
        for row in database.query(
            "WITH RECURSIVE needed(id) AS ("
            " SELECT j.derivation FROM jobset s"
            " JOIN evaluation e ON e.jobset = s.id AND e.state IN ('running', 'succeeded')"
            " JOIN job j ON j.evaluation = e.id WHERE s.name = ? AND j.derivation IS NOT NULL"
            " UNION SELECT i.input FROM needed n JOIN input i ON i.derivation = n.id)"
            " SELECT b.derivation FROM needed n JOIN build b ON b.derivation = n.id"
            f" AND b.state IN ('succeeded', 'substituted'){_LACKING}",
            (jobset, cache, _covering(database, rule)),
        )
    ]


def _covering(database: Database, rule: PushRule) -> str:
    """The ids of the known rules that send all that one does."""
    return json.dumps(
        [
            row["id"]
            for row in database.query("SELECT id, rule FROM push_rule")
            if from_text(row["rule"]).covers(rule)
        ]
    )
