"""Audits: which builds are to be made again without a base, their twins, and what is wrong.

Nothing here compares or decides what is audited; that audits are asked for and end is written by
`incremental`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from reconciler.bases import INTERMEDIATES
from reconciler.database import due, incremental
from reconciler.database.bases import DIFFERENT, IN_FORCE, Audit
from reconciler.database.blocked import ENDED
from reconciler.database.file import Database
from reconciler.model import BuildState, DrvPath, JobsetName, StorePath

_WRONG = (
    "(SELECT c.derivation, c.slot FROM base CROSS JOIN build_base c ON c.base = base.id"
    " WHERE base.quarantined_at IS NOT NULL UNION SELECT c.derivation, c.slot"
    f" FROM {DIFFERENT} d CROSS JOIN build_base c ON c.derivation = d.id"
    " WHERE c.mode = 'incremental') wrong"
    " CROSS JOIN build_base c ON c.derivation = wrong.derivation AND c.slot = wrong.slot"
)
"""Rows `c` of build_base: from what is in quarantine, or not what a build without a base is."""
_LEAVES = "EXISTS (SELECT 1 FROM output o WHERE o.derivation = c.derivation AND o.name = ?1)"
_ABOVE = "above(id) AS ({} UNION SELECT i.derivation FROM above a JOIN input i ON i.input = a.id)"


class Unaudited(Struct, frozen=True, kw_only=True):
    """A good build from a base for which no audit was ever asked."""

    jobset: JobsetName
    derivation: int
    path: DrvPath
    canonical: DrvPath
    base: int


class Wrong(Struct, frozen=True, kw_only=True):
    """A job in force that was built from what is in quarantine by now."""

    jobset: JobsetName
    job: str
    derivation: int
    base: int | None
    reason: str
    hidden: bool
    """It was shown what it started from, so that it is where a clean build belongs."""


class Twins(Struct, frozen=True, kw_only=True):
    """What a build and its clean twin came to: outputs by name."""

    audit: int
    built: Mapping[str, StorePath]
    clean: Mapping[str, StorePath]
    renamed: Mapping[StorePath, StorePath]
    """Outputs of what else has a twin and both may refer to: the clean one's to the other's."""


def unaudited(database: Database) -> list[Unaudited]:
    """Good builds of jobs in force and due that started from a base and left intermediates."""
    return [
        Unaudited(
            jobset=JobsetName(row["jobset"]),
            derivation=row["derivation"],
            path=DrvPath(row["path"]),
            canonical=DrvPath(row["canonical"]),
            base=row["base"],
        )
        for row in database.query(
            f"SELECT j.name AS jobset, c.derivation, d.path, c.canonical, c.base FROM {due.BUILDS}"
            " JOIN incremental_slot s ON s.id = c.slot JOIN jobset j ON j.id = s.jobset"
            " JOIN derivation d ON d.id = c.derivation JOIN build b ON b.derivation = c.derivation"
            " JOIN output o ON o.derivation = c.derivation AND o.name = ?"
            " WHERE c.base IS NOT NULL AND b.state IN ('succeeded', 'substituted')"
            " AND NOT EXISTS (SELECT 1 FROM audit WHERE audit.derivation = c.derivation)"
            f" AND j.removed_at IS NULL AND {IN_FORCE}",
            (INTERMEDIATES,),
        )
    ]


def request(database: Database, derivations: Collection[int], *, now: float) -> int:
    """Have those of the derivations audited that were built from a base; how many they are.

    The reconciler finds what is asked for whenever it looks.
    """
    rows = database.query(
        "SELECT c.derivation, c.canonical, c.base FROM build_base c"
        " JOIN build b ON b.derivation = c.derivation"
        " JOIN output o ON o.derivation = c.derivation AND o.name = ?"
        " WHERE c.mode = 'incremental' AND b.state IN ('succeeded', 'substituted')"
        " AND c.derivation IN (SELECT value FROM json_each(?)) GROUP BY c.derivation",
        (INTERMEDIATES, json.dumps(list(derivations))),
    )
    for row in rows:
        incremental.ask_audit(
            database, row["derivation"], base=row["base"], clean=DrvPath(row["canonical"]), now=now
        )
    return len(rows)


def ended_below(database: Database, clean: DrvPath) -> dict[int, BuildState]:
    """A clean build and all it needs, as far as these ended without outputs."""
    rows = database.query(
        "WITH RECURSIVE below(id) AS (SELECT id FROM derivation WHERE path = ?"
        " UNION SELECT i.input FROM below n JOIN build b ON b.derivation = n.id"
        " AND b.state NOT IN ('succeeded', 'substituted') JOIN input i ON i.derivation = n.id)"
        " SELECT b.derivation, b.state FROM below n JOIN build b ON b.derivation = n.id"
        f" WHERE b.state IN ({ENDED})",
        (clean,),
    )
    return {row["derivation"]: BuildState(row["state"]) for row in rows}


def made_by(database: Database, drv: DrvPath) -> list[int]:
    """The bases that a derivation left."""
    return [row[0] for row in database.query("SELECT id FROM base WHERE built = ?", (drv,))]


def twins(database: Database, audit: Audit) -> Twins:
    """What is to be compared."""
    outputs: dict[str, dict[str, StorePath]] = {audit.path: {}, audit.clean: {}}
    for row in database.query(
        "SELECT d.path AS drv, o.name, o.path FROM derivation d"
        " JOIN output o ON o.derivation = d.id WHERE d.path IN (?, ?) AND o.path IS NOT NULL",
        (audit.path, audit.clean),
    ):
        outputs[row["drv"]][row["name"]] = StorePath(row["path"])
    built, clean = outputs[audit.path], outputs[audit.clean]
    renamed = _renamed(database, audit.derivation)
    if INTERMEDIATES in built and INTERMEDIATES in clean:
        renamed[clean.pop(INTERMEDIATES)] = built.pop(INTERMEDIATES)
    return Twins(audit=audit.id, built=built, clean=clean, renamed=renamed)


def _renamed(database: Database, derivation: int) -> dict[StorePath, StorePath]:
    """Of all below a derivation that was built from a base: the clean outputs' other paths."""
    rows = database.query(
        "WITH RECURSIVE below(id) AS (SELECT input FROM input WHERE derivation = ?1"
        " UNION SELECT i.input FROM below n JOIN input i ON i.derivation = n.id)"
        " SELECT clean.path, built.path FROM below JOIN build_base c ON c.derivation = below.id"
        " JOIN derivation d ON d.path = c.canonical JOIN output clean ON clean.derivation = d.id"
        " JOIN output built ON built.derivation = c.derivation AND built.name = clean.name"
        " WHERE c.mode = 'incremental' AND clean.path IS NOT NULL AND built.path IS NOT NULL"
        # What others say a derivation is built in place of may be made up.
        " AND (SELECT trust FROM incremental_slot WHERE id = c.slot) IN (SELECT s.trust"
        "  FROM build_base own JOIN incremental_slot s ON s.id = own.slot"
        "  WHERE own.derivation = ?1)",
        (derivation,),
    )
    return {row[0]: row[1] for row in rows}


def known_by_audit(database: Database, paths: Iterable[DrvPath]) -> frozenset[DrvPath]:
    """Those of the canonical derivations that are known for an audit's sake, which found nothing
    wrong so far.
    """
    rows = database.query(
        "SELECT DISTINCT clean FROM audit WHERE state <> 'different'"
        " AND clean IN (SELECT value FROM json_each(?))",
        (json.dumps(list(paths)),),
    )
    return frozenset(DrvPath(row[0]) for row in rows)


def wrong(database: Database) -> list[Wrong]:
    """Jobs in force that must be built without what they were built from."""
    return [
        Wrong(
            jobset=JobsetName(row["jobset"]),
            job=row["job"],
            derivation=row["derivation"],
            base=row["base"],
            reason=row["reason"],
            hidden=row["strategy"] == "hidden",
        )
        for row in database.query(
            "SELECT DISTINCT j.name AS jobset, s.job, c.derivation, c.base, c.strategy, coalesce("
            "(SELECT 'an audit: ' || detail FROM audit a WHERE a.derivation = c.derivation"
            " AND a.state = 'different'), base.quarantine,"
            f" 'it needs what an audit found wrong') AS reason FROM {_WRONG}"
            " JOIN incremental_slot s ON s.id = c.slot JOIN jobset j ON j.id = s.jobset"
            " JOIN build b ON b.derivation = c.derivation LEFT JOIN base ON base.id = c.base"
            " JOIN job ON job.derivation = c.derivation AND job.attr = s.job"
            " JOIN evaluation e ON e.id = job.evaluation AND e.jobset = j.id"
            " WHERE b.state IN ('queued', 'building', 'succeeded', 'substituted')"
            " AND e.state IN ('running', 'succeeded') AND j.removed_at IS NULL"
            " ORDER BY j.name, c.at, s.job"
        )
    ]


def held(database: Database, before_release: Collection[JobsetName]) -> frozenset[int]:
    """What is not to be pushed: built from what is in quarantine, or, for some jobsets, from a base
    without an audit that found it right; and all that needs such.
    """
    roots = (
        f"SELECT c.derivation FROM {_WRONG}"
        # What was shown its base is where everybody looks for a clean build.
        " UNION SELECT c.derivation FROM build_base c WHERE c.strategy = 'hidden'"
        f" AND c.mode = 'incremental' AND c.vouched = 0 AND {_LEAVES}"
        " UNION SELECT c.derivation FROM json_each(?2) strict"
        " CROSS JOIN jobset j ON j.name = strict.value"
        " CROSS JOIN incremental_slot s ON s.jobset = j.id CROSS JOIN build_base c"
        f" ON c.slot = s.id AND c.mode = 'incremental' AND c.vouched = 0 WHERE {_LEAVES}"
    )
    rows = database.query(
        f"WITH RECURSIVE {_ABOVE.format(roots)} SELECT id FROM above",
        (INTERMEDIATES, json.dumps(list(before_release))),
    )
    return frozenset(row[0] for row in rows)


Spoilt = dict[int, tuple[DrvPath, frozenset[StorePath]]]
"""Builds by number: their derivations, and outputs."""


def spoilt(database: Database) -> Spoilt:
    """What is wrong where clean builds belong, and all that needs it: by number, derivations and
    the outputs of those that were built, or of which a part may be left since they were.
    """
    roots = f"SELECT c.derivation FROM {_WRONG} WHERE c.strategy = 'hidden'"
    rows = database.query(
        f"WITH RECURSIVE {_ABOVE.format(roots)} SELECT d.id, d.path, o.path FROM above a"
        " JOIN derivation d ON d.id = a.id LEFT JOIN build b ON b.derivation = d.id"
        " AND (b.state IN ('succeeded', 'substituted') OR b.state = 'queued'"
        " AND EXISTS (SELECT 1 FROM attempt t WHERE t.derivation = d.id))"
        " LEFT JOIN output o ON o.derivation = b.derivation AND o.path IS NOT NULL"
    )
    found: Spoilt = {}
    for number, drv, output in rows:
        paths: frozenset[StorePath] = found[number][1] if number in found else frozenset()
        found[number] = DrvPath(drv), paths | {StorePath(output)} if output else paths
    return found


def set_twin(database: Database, audit: int, clean: DrvPath) -> None:
    """Note by what a build is audited whose own derivation names no base."""
    with database.transaction():
        database.execute("UPDATE audit SET clean = ? WHERE id = ?", (clean, audit))


def withdraw_pushes(database: Database) -> None:
    """Take off the caches' queues what was built from what is in quarantine, all that needs it, and
    bases in quarantine.
    """
    roots = f"SELECT c.derivation FROM {_WRONG}"
    with database.transaction():
        database.execute(
            f"WITH RECURSIVE {_ABOVE.format(roots)} DELETE FROM push WHERE state = 'pending'"
            # Its key begins so.
            " AND cache IN (SELECT id FROM cache)"
            " AND (path IN (SELECT o.path FROM above a JOIN output o ON o.derivation = a.id)"
            " OR path IN (SELECT path FROM base b WHERE quarantined_at IS NOT NULL AND NOT EXISTS"
            " (SELECT 1 FROM base o WHERE o.path = b.path AND o.quarantined_at IS NULL)))"
        )
        database.execute(
            f"WITH RECURSIVE {_ABOVE.format(roots)} DELETE FROM push_root"
            " WHERE cache IN (SELECT id FROM cache) AND derivation IN (SELECT id FROM above)"
            " AND NOT EXISTS (SELECT 1 FROM push p JOIN output o ON o.path = p.path"
            " WHERE p.cache = push_root.cache"
            " AND o.derivation = push_root.derivation)"
        )


def failed(database: Database) -> list[tuple[JobsetName, str, str, bool]]:
    """Jobs in force of which nothing could be found out: jobset, job, why, and whether they were
    shown what they started from.
    """
    return [
        (JobsetName(row[0]), row[1], row[2], row[3] == "hidden")
        for row in database.query(
            "SELECT DISTINCT j.name, s.job, a.detail, c.strategy FROM audit a"
            " CROSS JOIN build_base c ON c.derivation = a.derivation"
            " JOIN incremental_slot s ON s.id = c.slot JOIN jobset j ON j.id = s.jobset"
            " WHERE a.state = 'failed' AND c.mode = 'incremental' AND j.removed_at IS NULL"
            f" AND {IN_FORCE}"
            " ORDER BY j.name, s.job"
        )
    ]
