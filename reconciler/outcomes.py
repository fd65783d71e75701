"""What effects report back to the reconciler: plain values, through one queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field

from reconciler.branches import Head
from reconciler.build.mounts import Mount
from reconciler.ingest import Ingested
from reconciler.model import (
    ArtifactStore,
    AttemptResult,
    BuilderName,
    CacheName,
    DrvPath,
    Jobset,
    JobsetName,
    PushRule,
    StorePath,
)
from reconciler.source import LockedSource
from reconciler.states import InspectionScope

if TYPE_CHECKING:
    from reconciler.database.bases import Left, StoredBase
    from reconciler.database.incremental import NewBase


class Polled(Struct, frozen=True, kw_only=True):
    """A source was resolved, or could not be."""

    jobset: JobsetName
    locked: LockedSource | None
    error: str | None


class Listed(Struct, frozen=True, kw_only=True):
    """The branches of a repository were listed, or could not be."""

    asked: Jobset
    """The jobset that is declared for them, as it was then."""
    heads: tuple[Head, ...] = ()
    """All that are asked for."""
    error: str | None = None
    """Why nothing is known of them."""
    notes: Mapping[str, str | None] = field(default_factory=dict)
    """What else is wrong, by reason."""


class EvaluationStarted(Struct, frozen=True, kw_only=True):
    """It was an evaluation's turn."""

    evaluation: int


class Discovered(Struct, frozen=True, kw_only=True):
    """A batch of an evaluation's jobs is in the database."""

    jobset: JobsetName
    evaluation: int
    batch: Ingested
    away: tuple[int, ...] = ()
    """Derivations of jobs whose outputs exist, but not all of them here."""


class Evaluated(Struct, frozen=True, kw_only=True):
    """An evaluation ended; `error` None: well."""

    jobset: JobsetName
    evaluation: int
    error: str | None
    fault: str | None = None
    """What cut it off that says nothing of the source: it is evaluated again after a pause."""


class Built(Struct, frozen=True, kw_only=True):
    """An attempt ended."""

    attempt: int
    derivation: int
    builder: BuilderName
    result: AttemptResult
    mount: Mount | None = None
    """What it was to be shown."""
    refused: str | None = None
    """Why it was not."""


class Kept(Struct, frozen=True, kw_only=True):
    """What a build left is a base in the store, or can be none."""

    left: Left
    base: NewBase | None = None
    refused: str | None = None
    """Why it can be none."""
    error: str | None = None
    """Why it could not be found out: it is tried again."""


class Shared(Struct, frozen=True, kw_only=True):
    """Bases were put into an artifact store, by their names there, and others taken out."""

    store: ArtifactStore
    """As it was declared then."""
    shared: Mapping[str, StoredBase] = field(default_factory=dict)
    gone: Mapping[str, StoredBase] = field(default_factory=dict)
    """There was nothing to put there: the local store has lost it."""
    withdrawn: tuple[str, ...] = ()
    unusable: str | None = None
    """Why not all of it is done."""


class Twinned(Struct, frozen=True, kw_only=True):
    """There is a clean twin to audit a build by, or there can be none."""

    audit: int
    twin: DrvPath | None = None
    error: str | None = None
    """Why there is none."""


class Discarded(Struct, frozen=True, kw_only=True):
    """Wrong outputs were deleted, or could not be."""

    builds: frozenset[int]
    error: str | None = None


class Audited(Struct, frozen=True, kw_only=True):
    """What a build from a base came to was held against its clean twin."""

    audit: int
    difference: str | None = None
    """None: there is none."""
    error: str | None = None
    """Why it could not be found out."""


class Fetched(Struct, frozen=True, kw_only=True):
    """What only substituters had was fetched, or could not be."""

    done: tuple[int, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)
    batch: Ingested | None = None
    """Of the failed ones, what turned out to have to be built."""


class Closed(Struct, frozen=True, kw_only=True):
    """What belongs to derivations in a cache by a rule was found."""

    cache: CacheName
    rule: PushRule
    derivations: tuple[int, ...] = ()
    paths: tuple[StorePath, ...] = ()
    unknown: Mapping[int, str] = field(default_factory=dict)
    """Derivations of which it was not found, with the reason."""
    sizes: Mapping[StorePath, int] = field(default_factory=dict)
    """Bytes of their archives."""
    derivers: Mapping[StorePath, DrvPath] = field(default_factory=dict)
    """As the store has them: of content-addressed outputs, the resolved ones."""


class Sending(Struct, frozen=True, kw_only=True):
    """How many bytes of the batch under way were sent to a cache so far."""

    cache: CacheName
    sent: int


class Pushed(Struct, frozen=True, kw_only=True):
    """A batch was sent to a cache."""

    cache: CacheName
    sent: Mapping[StorePath, int] = field(default_factory=dict)
    """Bytes sent for each path that is there now; 0: it was there before."""
    found: tuple[StorePath, ...] = ()
    """Beside the batch: paths that wait to be pushed, and are there."""
    gone: tuple[StorePath, ...] = ()
    """Paths that the store has no longer."""
    waiting: Mapping[StorePath, StorePath] = field(default_factory=dict)
    """Paths kept back, each for a reference that is not in the cache yet."""
    failed: Mapping[StorePath, str] = field(default_factory=dict)
    unusable: str | None = None
    """Why the cache as a whole cannot be used."""
    traffic: int = 0
    """Bytes sent, those of attempts that failed included."""


class AskedToWait(Struct, frozen=True, kw_only=True):
    """A cache's server asks to be left alone, until seconds since the epoch."""

    cache: CacheName
    until: float


class Accompanied(Struct, frozen=True, kw_only=True):
    """Logs and realisations were sent to a cache, by their names there."""

    cache: CacheName
    sent: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each that is there now."""
    gone: tuple[str, ...] = ()
    """There is nothing to send: the log was removed."""
    failed: Mapping[str, str] = field(default_factory=dict)


class Inspected(Struct, frozen=True, kw_only=True):
    """A cache was looked into."""

    cache: CacheName
    scope: InspectionScope
    seen: tuple[StorePath, ...] = ()
    lost: Mapping[StorePath, str] = field(default_factory=dict)
    """Those of the paths seen that are not there, each with a sentence."""
    broken: Mapping[StorePath, str] = field(default_factory=dict)
    """Those that are there and of no use."""
    dangling: Mapping[StorePath, str] = field(default_factory=dict)
    """What they refer to and the cache lacks."""
    unusable: str | None = None
    """Why nothing could be seen."""


class Emptied(Struct, frozen=True, kw_only=True):
    """Of a cache not even that is there which every one has."""

    cache: CacheName


class Marked(Struct, frozen=True, kw_only=True):
    """What of a cache is needed was found out."""

    cache: CacheName
    seen: tuple[StorePath, ...] = ()
    unwanted: frozenset[StorePath] = frozenset()
    """Those of the paths seen that nothing needs."""
    unusable: str | None = None


class Collected(Struct, frozen=True, kw_only=True):
    """Paths were deleted from a cache."""

    cache: CacheName
    gone: frozenset[StorePath] = frozenset()
    kept: frozenset[StorePath] = frozenset()
    """Those that something needs after all."""
    beside: tuple[str, ...] = ()
    """Logs and realisations that went with them, by their names there."""
    unusable: str | None = None
    """Why it is not done: what is left is deleted the next time."""


class Revisited(Struct, frozen=True, kw_only=True):
    """Derivations whose outputs were lost were looked at again."""

    derivations: tuple[DrvPath, ...]
    batch: Ingested | None = None
    """None: they cannot be read."""


class Faulted(Struct, frozen=True, kw_only=True):
    """Something went wrong with an object; `message` None: it is well again."""

    kind: str
    name: str
    reason: str
    message: str | None


Outcome = (
    Polled
    | Listed
    | EvaluationStarted
    | Discovered
    | Evaluated
    | Built
    | Kept
    | Shared
    | Audited
    | Twinned
    | Discarded
    | Twinned
    | Fetched
    | Closed
    | Sending
    | Pushed
    | AskedToWait
    | Accompanied
    | Inspected
    | Emptied
    | Revisited
    | Marked
    | Collected
    | Faulted
)
