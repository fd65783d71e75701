"""Reads: what builds take of their builders' resources. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from reconciler.database.file import Database
from reconciler.resources import Needs, most, needs
from reconciler.states import BuilderName, JobsetName

if TYPE_CHECKING:
    from reconciler.model import ResourceRule

Rules = Mapping[JobsetName, Collection["ResourceRule"]]


def by_rule(database: Database, rules: Rules) -> dict[int, Needs]:
    """What the jobs in force take that rules of their jobsets match, by derivation.

    A rule's pattern is a glob (`*`, `?`, `[…]`), in which `*` stands for dots too.
    """
    found: dict[int, list[Needs]] = {}
    for jobset, rules_of_one in rules.items():
        for rule in rules_of_one:
            for row in database.query(
                "SELECT DISTINCT j.derivation FROM jobset s JOIN evaluation e ON e.jobset = s.id"
                " AND e.state IN ('running', 'succeeded') JOIN job j ON j.evaluation = e.id"
                " WHERE s.name = ? AND s.removed_at IS NULL AND j.derivation IS NOT NULL"
                " AND j.attr GLOB ?",
                (jobset, rule.match),
            ):
                found.setdefault(row[0], []).append(rule.needs)
    return {derivation: most(asked) for derivation, asked in found.items()}


def taken(
    database: Database, builders: Iterable[BuilderName], asked: Mapping[int, Needs]
) -> dict[BuilderName, dict[str, int]]:
    """How much of each resource is taken on these builders; `asked` is what rules say."""
    found: dict[BuilderName, dict[str, int]] = {}
    for builder, derivation, features in database.query(
        "SELECT a.builder, d.id, d.features FROM attempt a JOIN derivation d ON d.id = a.derivation"
        " WHERE a.finished_at IS NULL AND a.builder IN (SELECT value FROM json_each(?))",
        (json.dumps([*builders]),),
    ):
        of_builder = found.setdefault(builder, {})
        for name, wanted in most((needs(features.split()), asked.get(derivation, frozenset()))):
            of_builder[name] = of_builder.get(name, 0) + wanted.count
    return found
