"""Reads: what stands in the way of queued builds.

A queued build is not reached while something below it ended badly, fits no builder, or failed for
the infrastructure as often as allowed. Only that and what lies above it is loaded. Writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from reconciler.database.file import Database, Row
from reconciler.states import BuilderName, BuildState, JobsetName
from reconciler.status import UNSUPPORTED_GRACE, BuilderFacts, JobState, Stuck

if TYPE_CHECKING:
    from reconciler.graph import Platform
    from reconciler.model import ResourceRule
    from reconciler.resources import Needs
    from reconciler.scheduler import Fleet, Slots

# The graph and the scheduler are imported where they are used: where nothing stands in the way,
# loading them would take a good part of the time of `status`.

_NOT_GOOD = "state NOT IN ('succeeded', 'substituted')"
ENDED = ", ".join(f"'{state}'" for state in BuildState if not state.live and not state.good)
"""The states, as SQL, of what ended without outputs. Named one by one they are looked up in the
index; all that is neither queued nor building would be searched for among what is queued."""


LocalSystems = Callable[[Collection[str]], Collection[str]]
"""Gives what this machine builds for, as far as it matters to somebody who needs those systems:
what it is can be told at once, what else it builds for only by asking its Nix."""


class Declared(Protocol):
    """What is asked of the document in force."""

    @property
    def builders(self) -> Collection[BuilderFacts]:
        """The declared builders."""
        ...

    @property
    def applied_at(self) -> float:
        """When it was put in force."""
        ...

    @property
    def rules(self) -> Mapping[JobsetName, Collection[ResourceRule]]:
        """What the builds of jobs take of a builder's resources."""
        ...

    @property
    def fewest_attempts(self) -> int:
        """After so many infrastructure failures some jobset takes a build for failed."""
        ...


class Blocked(Struct, frozen=True, kw_only=True):
    """Queued builds that will not be built by themselves."""

    states: Mapping[int, JobState] = field(default_factory=dict)
    """By derivation: dependency-failed, unsupported or waiting, or (infrastructure) failed."""
    causes: Mapping[int, str] = field(default_factory=dict)
    """Of the dependency-failed ones: the name of the root cause."""
    messages: Mapping[int, str] = field(default_factory=dict)
    """Of the others: what is wrong."""
    fails_at: Mapping[int, float] = field(default_factory=dict)
    """Of those that wait for a builder: when they count as failed."""
    stuck: tuple[Stuck, ...] = ()
    needless: frozenset[int] = frozenset()
    """Queued builds that only what cannot be built needs: they are not started."""

    @property
    def number(self) -> int:
        """How many queued builds nothing will come of by itself."""
        return len(self.states) + len(self.needless)


def blocked(
    database: Database,
    document: Declared,
    *,
    local_systems: LocalSystems,
    now: float,
    grace: float = UNSUPPORTED_GRACE,
) -> Blocked:
    """Find them. For `grace` seconds what no builder can build only waits for one."""
    if not database.one("SELECT 1 FROM build WHERE +state = 'queued' AND " + _NOT_GOOD):
        return Blocked()
    # Of all that is looked for among the queued builds, in one pass, whether there is any.
    kinds = database.query(
        "SELECT DISTINCT d.system, d.features, d.unsupported IS NOT NULL AS unsupported,"
        " b.failures >= ? AS exhausted FROM build b JOIN derivation d ON d.id = b.derivation"
        f" WHERE b.{_NOT_GOOD} AND b.state = 'queued'",
        (document.fewest_attempts,),
    )
    stuck: dict[int, Stuck] = {}
    if any(kind["unsupported"] for kind in kinds):
        stuck |= _unsupported(database)
    stuck |= _unfitting(database, document, local_systems, kinds, now=now, grace=grace)
    hopeless = {*stuck}
    if any(kind["exhausted"] for kind in kinds):
        stuck |= _exhausted(database, document.fewest_attempts)
    ended = [
        row[0]
        for row in database.query(
            f"SELECT derivation FROM build WHERE {_NOT_GOOD} AND state IN ({ENDED})"
        )
    ]
    roots = {*ended, *(key for key, each in stuck.items() if each.state.bad)}
    causes = _causes(database, roots)
    names = derivation_names(database, set(causes.values()))
    # What failed for the infrastructure is tried again, so there is hope for what needs it; not
    # so for what no builder can build, even while it waits for one.
    hopeless.update(ended)
    hopeless.update(causes if hopeless == roots else _causes(database, hopeless))
    return Blocked(
        states={
            **dict.fromkeys(causes, JobState.DEPENDENCY_FAILED),
            **{key: each.state for key, each in stuck.items()},
        },
        causes={key: names[cause] for key, cause in causes.items()},
        messages={key: each.message for key, each in stuck.items()},
        fails_at={key: each.fails_at for key, each in stuck.items() if each.fails_at is not None},
        stuck=tuple(stuck.values()),
        needless=_needless(database, hopeless) if hopeless else frozenset(),
    )


def _causes(database: Database, roots: Collection[int]) -> dict[int, int]:
    """What queued builds lie above the roots, each with the nearest root."""
    from reconciler.graph import Graph, Node, Platform  # noqa: PLC0415

    if not roots:
        return {}
    above = [
        row[0]
        for row in database.query(
            "WITH RECURSIVE above(id) AS (SELECT value FROM json_each(?)"
            " UNION SELECT i.derivation FROM above a CROSS JOIN input i ON i.input = a.id"
            " JOIN build b ON b.derivation = i.derivation AND b.state = 'queued')"
            " SELECT id FROM above",
            (json.dumps(list(roots)),),
        )
        if row[0] not in roots
    ]
    if not above:
        return {}
    region = {*above, *roots}
    inputs: dict[int, list[int]] = {}
    for derivation, needed in database.query(
        "SELECT i.derivation, i.input FROM json_each(?) a"
        " CROSS JOIN input i ON i.derivation = a.value",
        (json.dumps(above),),
    ):
        if needed in region:
            inputs.setdefault(derivation, []).append(needed)
    graph = Graph()
    here = Platform("")
    reached = {needed for each in inputs.values() for needed in each if needed in roots}
    graph.add(Node(id=key, platform=here, state=BuildState.FAILED) for key in reached)
    graph.add(Node(id=key, platform=here, inputs=tuple(inputs[key])) for key in above)
    return graph.dependency_failed()


def _needless(database: Database, hopeless: Collection[int]) -> frozenset[int]:
    """The queued builds that only the hopeless ones need."""
    below = {
        row[0]
        for row in database.query(
            "WITH RECURSIVE below(id) AS (SELECT value FROM json_each(?)"
            " UNION SELECT i.input FROM below n CROSS JOIN input i ON i.derivation = n.id"
            " JOIN build b ON b.derivation = i.input AND b.state = 'queued')"
            " SELECT id FROM below",
            (json.dumps(list(hopeless)),),
        )
    }
    below.difference_update(hopeless)
    if not below:
        return frozenset()
    asked = json.dumps(list(below))
    needed = {
        row[0]
        for row in database.query(
            "SELECT j.derivation FROM json_each(?) a CROSS JOIN job j ON j.derivation = a.value"
            " JOIN evaluation e ON e.id = j.evaluation AND e.state IN ('running', 'succeeded')",
            (asked,),
        )
    }
    inputs: dict[int, list[int]] = {}
    for key, dependant in database.query(
        "SELECT i.input, i.derivation FROM json_each(?) a CROSS JOIN input i ON i.input = a.value"
        " JOIN build b ON b.derivation = i.derivation AND b.state = 'queued'",
        (asked,),
    ):
        if dependant in below:
            inputs.setdefault(dependant, []).append(key)
        elif dependant not in hopeless:
            needed.add(key)
    todo = list(needed)
    while todo:
        new = set(inputs.get(todo.pop(), ())) - needed
        needed |= new
        todo += new
    return frozenset(below - needed)


def _unsupported(database: Database) -> dict[int, Stuck]:
    """Queued builds that no Nix of ours can build."""
    return {
        row["id"]: Stuck(
            derivation=row["name"], state=JobState.UNSUPPORTED, message=row["unsupported"]
        )
        for row in database.query(
            "SELECT d.id, d.name, d.unsupported FROM build b JOIN derivation d"
            f" ON d.id = b.derivation WHERE b.{_NOT_GOOD} AND b.state = 'queued'"
            " AND d.unsupported IS NOT NULL"
        )
    }


def _unfitting(
    database: Database,
    document: Declared,
    local_systems: LocalSystems,
    kinds: Sequence[Row],
    *,
    now: float,
    grace: float,
) -> dict[int, Stuck]:
    """Queued builds that no declared builder can build."""
    here = local_systems({kind["system"] for kind in kinds})
    rules = document.rules
    doubtful = [
        kind
        for kind in kinds
        if not any(
            plainly_fits(each, kind["system"], kind["features"], here) for each in document.builders
        )
    ]
    if not doubtful and not rules:
        return {}
    from reconciler.database.needs import by_rule  # noqa: PLC0415
    from reconciler.scheduler import Fleet  # noqa: PLC0415
    from reconciler.work import platform_of  # noqa: PLC0415

    asked = by_rule(database, rules)
    slots = slots_of(database, document.builders, here, asked)
    fleet = Fleet(slots, {})
    found: dict[int, Stuck] = {}
    for row in _queued(database, doubtful, asked):
        platform = platform_of(row["system"], row["features"].split(), asked.get(row["id"], _NONE))
        if not fleet.fitting(platform):
            # Since it was queued, or since the builders are what they are.
            fails_at = max(row["queued_at"], document.applied_at) + grace
            waits = now < fails_at
            found[row["id"]] = Stuck(
                derivation=row["name"],
                state=JobState.WAITING if waits else JobState.UNSUPPORTED,
                message=no_builder(fleet, slots, platform),
                fails_at=fails_at if waits else None,
            )
    return found


_NONE: Needs = frozenset()


def _queued(
    database: Database, kinds: Sequence[Row], derivations: Collection[int]
) -> Iterable[Row]:
    """The queued builds of some systems and features, and some others."""
    columns = "SELECT d.id, d.name, d.system, d.features, b.queued_at FROM build b"
    queued = f"b.{_NOT_GOOD} AND b.state = 'queued'"
    asked = {(kind["system"], kind["features"]) for kind in kinds}
    for kind in asked:
        yield from database.query(
            f"{columns} JOIN derivation d ON d.id = b.derivation"
            f" WHERE {queued} AND d.system = ? AND d.features = ?",
            kind,
        )
    for row in database.query(
        f"{columns} JOIN derivation d ON d.id = b.derivation"
        f" WHERE {queued} AND b.derivation IN (SELECT value FROM json_each(?))",
        (json.dumps(list(derivations)),),
    ):
        if (row["system"], row["features"]) not in asked:
            yield row


def plainly_fits(builder: BuilderFacts, system: str, features: str, here: Collection[str]) -> bool:
    """Whether a builder can build for a platform beyond doubt: the usual case, told without
    loading the scheduler, whose rules decide the rest.
    """
    asked = set(features.split())
    return (
        builder.max_jobs > 0
        and system in (here if builder.systems is None else builder.systems)
        and asked.issuperset(builder.mandatory_features)
        and asked.issubset({*builder.features, *builder.mandatory_features})
    )


def no_builder(fleet: Fleet, slots: Iterable[Slots], platform: Platform) -> str:
    """Why nothing declared can build for a platform."""
    said = [
        f"{each.builder.name} {', '.join(r.message for r in fleet.mismatches(each, platform))}"
        for each in slots
    ]
    return "no builder can build it: " + ("; ".join(said) or "none is declared")


def slots_of(
    database: Database,
    builders: Collection[BuilderFacts],
    here: Collection[str],
    asked: Mapping[int, Needs],
) -> tuple[Slots, ...]:
    """The declared builders as they are now, as far as the database knows; `here` is what this
    machine builds for, `asked` what rules say that builds take.
    """
    from reconciler.database import needs  # noqa: PLC0415
    from reconciler.model import Builder  # noqa: PLC0415
    from reconciler.resources import amount  # noqa: PLC0415
    from reconciler.scheduler import Slots  # noqa: PLC0415

    with_resources = [each.name for each in builders if each.resources]
    amounts = needs.taken(database, with_resources, asked) if with_resources else {}

    taken = {
        row[0]: row[1]
        for row in database.query(
            "SELECT builder, count(*) FROM attempt WHERE finished_at IS NULL GROUP BY builder"
        )
    }
    wrong: dict[BuilderName, str] = {
        row[0]: row[1]
        for row in database.query(
            "SELECT name, message FROM condition"
            " WHERE kind = 'builder' AND reason IN ('quarantined', 'secret-missing')"
        )
    }
    return tuple(
        Slots(
            builder=Builder(
                name=each.name,
                uri=each.uri,
                systems=each.systems,
                max_jobs=each.max_jobs,
                speed_factor=each.speed_factor,
                supported_features=each.features,
                mandatory_features=each.mandatory_features,
                drain=each.drain,
                resources={name: amount(written) for name, written in each.resources.items()},
            ),
            systems=frozenset(here if each.systems is None else each.systems),
            free=max(0, each.max_jobs - taken.get(each.name, 0)),
            unavailable=wrong.get(each.name),
            taken=amounts.get(each.name, {}),
        )
        for each in builders
    )


def _exhausted(database: Database, attempts: int) -> dict[int, Stuck]:
    """Queued builds that failed for the infrastructure as often as allowed."""
    return {
        row["id"]: Stuck(
            derivation=row["name"],
            state=JobState.FAILED,
            message=f"{row['failures']} attempts failed: {row['message'] or 'no reason recorded'}",
            next_attempt_at=row["not_before"],
        )
        for row in database.query(
            "SELECT d.id, d.name, b.failures, b.not_before, (SELECT a.message FROM attempt a"
            " WHERE a.derivation = d.id ORDER BY a.id DESC LIMIT 1) AS message"
            " FROM build b JOIN derivation d ON d.id = b.derivation"
            f" WHERE b.{_NOT_GOOD} AND b.state = 'queued' AND b.failures >= ?",
            (attempts,),
        )
    }


def derivation_names(database: Database, derivations: Collection[int]) -> dict[int, str]:
    """Names by id."""
    return {
        row[0]: row[1]
        for row in database.query(
            "SELECT id, name FROM derivation WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(derivations)),),
        )
    }
