"""The document in force, as far as a report shows it, read without its schema. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from reconciler.database import branches
from reconciler.database.file import Database
from reconciler.states import BuilderName, CacheName, JobsetName
from reconciler.status import BuilderFacts

if TYPE_CHECKING:  # loading it takes longer than a report
    from reconciler.model import ResourceRule


class DeclaredJobset(Struct, frozen=True, kw_only=True):
    """What the document in force says of a jobset, as far as a report shows it."""

    enabled: bool
    source: str
    caches: tuple[CacheName, ...]
    attempts: int
    resources: tuple[tuple[str, Mapping[str, str | int]], ...]
    """Rules: a pattern, and what the document writes of what such builds take."""
    patterns: tuple[str, ...] | None = None
    """Of one that is declared for branches: for which."""
    branch_of: JobsetName | None = None
    branch: str | None = None
    """Of a branch's: it is not in the document itself."""


class InForce(Struct, frozen=True, kw_only=True):
    """The document in force."""

    generation: int
    digest: str
    applied_at: float
    jobsets: Mapping[JobsetName, DeclaredJobset]
    builders: tuple[BuilderFacts, ...]

    @property
    def rules(self) -> Mapping[JobsetName, Collection[ResourceRule]]:
        """What the builds of jobs take, of the jobsets that say so."""
        found = {name: each.resources for name, each in self.jobsets.items() if each.resources}
        if not found:
            return {}
        from reconciler.model import ResourceRule  # noqa: PLC0415 - as above
        from reconciler.resources import amount  # noqa: PLC0415

        return {
            name: [
                ResourceRule(
                    match=match,
                    needs=frozenset((of, amount(written)) for of, written in needs.items()),
                )
                for match, needs in rules
            ]
            for name, rules in found.items()
        }

    @property
    def fewest_attempts(self) -> int:
        """After so many infrastructure failures some jobset takes a build for failed."""
        return min((each.attempts for each in self.jobsets.values()), default=1)


def in_force(database: Database) -> InForce | None:
    """The document in force; None: there was none yet.

    It is canonical, every default written out, so it is read without the schema: validating it
    would take longer than all the rest of a report.
    """
    row = database.one(
        "SELECT id, digest, applied_at, document FROM generation ORDER BY id DESC LIMIT 1"
    )
    if row is None:
        return None
    loaded: dict[str, Any] = json.loads(row["document"])
    known = branches.known(database)
    jobsets = {
        JobsetName(name): _declared_jobset(value)
        for name, value in loaded.get("jobsets", {}).items()
    }
    return InForce(
        generation=row["id"],
        digest=row["digest"],
        applied_at=row["applied_at"],
        jobsets={
            name: each
            for declared, value in jobsets.items()
            for name, each in [(declared, value), *_branches(declared, value, known)]
        },
        builders=tuple(
            _declared_builder(name, value) for name, value in loaded.get("builders", {}).items()
        ),
    )


def _branches(
    name: JobsetName, value: DeclaredJobset, known: Mapping[JobsetName, Mapping[JobsetName, str]]
) -> list[tuple[JobsetName, DeclaredJobset]]:
    """Those that come of one that is declared for branches."""
    if value.patterns is None:
        return []
    return [
        (
            jobset,
            replace(
                value,
                source=f"{value.source}, branch {branch}",
                patterns=None,
                branch_of=name,
                branch=branch,
            ),
        )
        for jobset, branch in sorted(known.get(name, {}).items())
    ]


def _declared_jobset(value: dict[str, Any]) -> DeclaredJobset:
    source = value["source"]
    git = source.get("git", {})
    # What a document from before there were branches does not have.
    patterns = git.get("branches", source.get("branches"))
    if "flake" in source:
        text = str(source["flake"])
    elif patterns is not None:
        text = f"{git['url']}, {source['file']}"
    elif git:
        text = f"{git['url']} {git['ref'] or 'HEAD'}, {source['file']}"
    else:
        text = f"{source['path']}/{source['file']}"
    return DeclaredJobset(
        enabled=value["enabled"],
        source=text,
        caches=tuple(
            CacheName(each if isinstance(each, str) else each["name"]) for each in value["caches"]
        ),
        attempts=value["retry"]["attempts"],
        resources=tuple((each["match"], each["needs"]) for each in value.get("resources", ())),
        patterns=None if patterns is None else tuple(patterns),
    )


def _declared_builder(name: str, value: dict[str, Any]) -> BuilderFacts:
    systems = value["systems"]
    return BuilderFacts(
        name=BuilderName(name),
        uri=value["uri"],
        systems=None if systems is None else tuple(systems),
        features=tuple(value["supportedFeatures"]),
        mandatory_features=tuple(value["mandatoryFeatures"]),
        max_jobs=value["maxJobs"],
        speed_factor=value["speedFactor"],
        running=0,
        drain=value["drain"],
        # What a document from before they were known does not have.
        resources=value.get("resources", {}),
    )
