"""Writes: what is declared, what is wrong with it, and what people ask for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from reconciler import push_rules
from reconciler.database.branches import disown
from reconciler.database.events import event
from reconciler.database.file import Database
from reconciler.model import CacheName, Desired, JobsetName, PushRule


def adopt(database: Database, desired: Desired, *, now: float) -> int:
    """Make a document the one in force; the generation it opened. Undeclared objects are marked.

    A cache that moved to another address forgets what was pushed to the old one. For one that is to
    have other paths, all that exists is looked through again.
    """
    with database.transaction():
        before = _rules_in_force(database)
        jobsets = {**desired.jobsets, **desired.patterns}
        after = {name: each.caches for name, each in jobsets.items()}
        generation = database.execute(
            "INSERT INTO generation(digest, document, applied_at) VALUES (?, ?, ?)",
            (desired.digest, desired.document, now),
        )
        event(
            database,
            at=now,
            kind="document",
            subject=desired.digest[:12],
            before=None,
            after="in force",
            cause="document changed",
        )
        _declare(database, "jobset", jobsets, generation=generation, now=now)
        disown(
            database,
            [*desired.patterns, *(n for n, each in desired.jobsets.items() if not each.branch)],
        )
        _declare(database, "cache", desired.caches, generation=generation, now=now)
        for cache in desired.caches.values():
            row = database.one("SELECT id, uri FROM cache WHERE name = ?", (cache.name,))
            assert row is not None
            if _chosen_otherwise(cache.name, before, after):
                database.execute(
                    "DELETE FROM push WHERE cache = ? AND state = 'pending'", (row["id"],)
                )
                database.execute("DELETE FROM push_root WHERE cache = ?", (row["id"],))
                if any(rule.alone for rule in desired.rules_of(cache.name)):
                    # Perhaps a jobset no longer sends what they refer to; those with which that
                    # goes there are found anew.
                    database.execute("UPDATE push SET alone = 1 WHERE cache = ?", (row["id"],))
            if row["uri"] != cache.uri:
                database.execute("DELETE FROM push WHERE cache = ?", (row["id"],))
                database.execute("DELETE FROM push_root WHERE cache = ?", (row["id"],))
                database.execute("DELETE FROM inspection WHERE cache = ?", (row["id"],))
                database.execute("UPDATE cache SET uri = ? WHERE id = ?", (cache.uri, row["id"]))
    return generation


Rules = Mapping[JobsetName, Mapping[CacheName, PushRule]]
"""What of each jobset goes to its caches."""


def _rules_in_force(database: Database) -> Rules:
    """As the document in force has them."""
    row = database.one("SELECT document FROM generation ORDER BY id DESC LIMIT 1")
    if row is None:
        return {}
    document = json.loads(row[0])
    return {
        JobsetName(name): push_rules.declared(jobset["caches"], document["caches"])
        for name, jobset in document.get("jobsets", {}).items()
    }


def _chosen_otherwise(cache: CacheName, before: Rules, after: Rules) -> bool:
    """Whether a jobset that goes on pushing to a cache pushes something else there."""
    both = before.keys() & after.keys()
    pairs = ((before[name].get(cache), after[name].get(cache)) for name in both)
    return any(old is not None and new is not None and old != new for old, new in pairs)


def _declare(
    database: Database, table: str, names: Collection[str], *, generation: int, now: float
) -> None:
    rows = {
        row["name"]: row["removed_at"]
        for row in database.query(f"SELECT name, removed_at FROM {table}")
    }
    extra = ", uri" if table == "cache" else ""
    for name in names:
        database.execute(
            f"INSERT INTO {table}(name, generation{extra})"
            f" VALUES (?, ?{', ' + repr('') if extra else ''})"
            " ON CONFLICT(name) DO UPDATE SET generation = excluded.generation, removed_at = NULL",
            (name, generation),
        )
        if name not in rows or rows[name] is not None:
            event(
                database,
                at=now,
                kind=table,
                subject=name,
                before=None,
                after="declared",
                cause=f"generation {generation}",
            )
    for name, removed in rows.items():
        if name not in names and removed is None:
            database.execute(
                f"UPDATE {table} SET removed_at = ? WHERE name = ?",
                (now, name),
            )
            event(
                database,
                at=now,
                kind=table,
                subject=name,
                before="declared",
                after="pruned",
                cause=f"generation {generation}",
            )


def set_conditions(
    database: Database,
    kind: str,
    wanted: Mapping[tuple[str, str], str],
    *,
    now: float,
) -> None:
    """Make the conditions of one kind exactly these: (object's name, reason) to message."""
    rows = {
        (row["name"], row["reason"]): row["message"]
        for row in database.query(
            "SELECT name, reason, message FROM condition WHERE kind = ?", (kind,)
        )
    }
    if rows == wanted:
        return
    with database.transaction():
        for name, reason in rows.keys() - wanted.keys():
            database.execute(
                "DELETE FROM condition WHERE kind = ? AND name = ? AND reason = ?",
                (kind, name, reason),
            )
            _condition_event(database, kind, name, reason, began=False, now=now)
        for (name, reason), message in wanted.items():
            database.execute(
                "INSERT INTO condition(kind, name, reason, message, since) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET message = excluded.message",
                (kind, name, reason, message, now),
            )
            if (name, reason) not in rows:
                _condition_event(database, kind, name, reason, began=True, now=now)


def _condition_event(
    database: Database, kind: str, name: str, reason: str, *, began: bool, now: float
) -> None:
    event(
        database,
        at=now,
        kind=kind,
        subject=name,
        before=None if began else reason,
        after=reason if began else None,
        cause="condition",
    )


def add_request(
    database: Database, *, verb: str, subject: str, who: str, why: str, now: float
) -> int:
    """Write down what a person asks of the daemon."""
    with database.transaction():
        return database.execute(
            "INSERT INTO request(verb, subject, who, why, made_at) VALUES (?, ?, ?, ?, ?)",
            (verb, subject, who, why, now),
        )


def answer_request(database: Database, request: int, *, answer: str, now: float) -> None:
    """Record what came of a request."""
    with database.transaction():
        row = database.one("SELECT verb, subject, who, why FROM request WHERE id = ?", (request,))
        assert row is not None
        database.execute(
            "UPDATE request SET handled_at = ?, answer = ? WHERE id = ?", (now, answer, request)
        )
        event(
            database,
            at=now,
            kind="request",
            subject=f"{row['verb']} {row['subject']}",
            before=None,
            after=answer,
            cause=f"{row['who']}: {row['why']}" if row["why"] else row["who"],
        )


def suspend(
    database: Database, jobset: JobsetName, *, who: str | None, why: str, now: float
) -> None:
    """Suspend a jobset for a person (`who`), or resume it (None)."""
    with database.transaction():
        database.execute(
            "UPDATE jobset SET suspended_at = ?, suspended_by = ?, suspended_why = ?"
            " WHERE name = ?",
            (None if who is None else now, who, None if who is None else why, jobset),
        )
