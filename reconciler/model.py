"""The types that every other module speaks in.

Plain frozen values: no behaviour beyond small derived properties, no I/O, no clock. Times are
seconds since the epoch (UTC) as float, durations seconds as float, sizes bytes as int.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct, field

from reconciler.push_rules import PushRule, PushScope
from reconciler.resources import Amount, Needs
from reconciler.states import (
    BuilderName,
    BuildState,
    CacheName,
    DrvPath,
    EvaluationState,
    JobsetName,
    Outcome,
    PushState,
    StorePath,
)

__all__ = [
    "Amount",
    "ArtifactStore",
    "AttemptResult",
    "Branches",
    "BuildProduct",
    "BuildState",
    "Builder",
    "BuilderName",
    "Cache",
    "CacheName",
    "Compression",
    "Derivation",
    "Desired",
    "DrvPath",
    "EvaluatedJob",
    "EvaluationFailure",
    "EvaluationSettings",
    "EvaluationState",
    "FlakeSource",
    "GitSource",
    "Incremental",
    "Jobset",
    "JobsetName",
    "Limits",
    "Metric",
    "Needs",
    "Outcome",
    "OutputFact",
    "PathInfo",
    "PathSource",
    "Protocol",
    "PushRule",
    "PushScope",
    "PushState",
    "ResourceRule",
    "Retry",
    "Source",
    "StorePath",
    "Strategy",
    "Upstream",
]


# --- Desired state: what the document declares -------------------------------------------------


class FlakeSource(Struct, frozen=True, kw_only=True):
    """A flake reference, as `nix` takes it on its command line."""

    url: str


class GitSource(Struct, frozen=True, kw_only=True):
    """A file in a git repository at the head of a ref, called with `args` if it is a function."""

    url: str
    ref: str
    file: str
    args: Mapping[str, Any] = field(default_factory=dict)


class PathSource(Struct, frozen=True, kw_only=True):
    """A file below a local directory, watched: a save triggers an evaluation."""

    path: str
    file: str
    args: Mapping[str, Any] = field(default_factory=dict)


Source = FlakeSource | GitSource | PathSource


class Branches(Struct, frozen=True, kw_only=True):
    """The branches of a repository that become jobsets of their own."""

    patterns: tuple[str, ...]
    """Globs of branch names; one that starts with `!` leaves out."""
    limit: int
    """How many at most."""


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of one build; None is no bound. Seconds and bytes."""

    timeout: float | None = None
    max_silent: float | None = None
    max_log: int | None = None
    max_output: int | None = None


class Retry(Struct, frozen=True, kw_only=True):
    """How often and how patiently infrastructure failures are retried; back-off in seconds."""

    attempts: int
    backoff: float


class EvaluationSettings(Struct, frozen=True, kw_only=True):
    """How a jobset is evaluated. `max_memory` in bytes for each worker, `timeout` in seconds."""

    workers: int
    max_memory: int
    timeout: float
    allow_import_from_derivation: bool
    pure: bool


class ResourceRule(Struct, frozen=True, kw_only=True):
    """What the builds of a jobset's jobs take whose names match a glob."""

    match: str
    needs: Needs


class Protocol(StrEnum):
    """How a base reaches the expressions of a jobset."""

    GARNIX = "garnix"
    CACHE_NIX = "cache.nix"
    ARG = "arg"


class Strategy(StrEnum):
    """How a base reaches a build."""

    PURE = "pure"
    """The derivation names it."""
    HIDDEN = "hidden"
    """The build is shown it, the derivation is the canonical one."""
    COMPILER_CACHE = "compiler-cache"
    """There is none: the build is shown what compilers kept."""


class Incremental(Struct, frozen=True, kw_only=True):
    """How a jobset's builds start from what earlier ones left."""

    enable: bool = False
    protocols: tuple[Protocol, ...] = ()
    """Never empty where the source has one that fits, unless the document says so."""
    strategy: Strategy = Strategy.PURE
    parents: int = 20
    """Commits that are searched for a base, along first parents."""
    fallback_branch: str | None = "main"
    max_depth: int = 20
    """Incremental builds that may follow a full one."""
    full_every: float | None = 7 * 86400.0
    """Seconds after which a chain's full build is too old; None: never."""
    audit_fraction: float = 0.05
    audit_before_release: bool = False
    per_slot: int = 3
    """Bases kept of each job and branch."""
    max_size: int = 20 * 2**30
    """Bytes of all bases of the jobset together."""
    retry_clean: bool = True
    untrusted: tuple[str, ...] = ()
    """Patterns for branches, beside whole refs, that serve no others; with `!`, that do."""
    share_read: bool = True
    """Whether its builds may start from bases of artifact stores."""
    share_write: bool = True
    """Whether what they leave goes there."""


class Jobset(Struct, frozen=True, kw_only=True):
    """A declared jobset."""

    name: JobsetName
    source: Source
    attributes: tuple[str, ...] | None
    """Attribute paths to evaluate; None: `hydraJobs`, else `checks` and `packages` (flakes),
    or the whole expression. Empty means none."""
    systems: tuple[str, ...] | None
    """Systems whose jobs are wanted; None: every system that evaluates. Empty means none."""
    interval: float | None
    """Seconds between polls of the source; None: only on a trigger or a watched change."""
    enabled: bool
    shares: int
    caches: Mapping[CacheName, PushRule]
    """Where it is pushed to, and what of it."""
    keep: int
    limits: Limits
    retry: Retry
    evaluation: EvaluationSettings
    resources: tuple[ResourceRule, ...] = ()
    incremental: Incremental = Incremental()
    branches: Branches | None = None
    """It is declared for these branches of its source: each is built as a jobset of its own, it
    itself is not."""
    branch_of: JobsetName | None = None
    """It is a branch's, of the one that is declared."""
    branch: str | None = None


class Builder(Struct, frozen=True, kw_only=True):
    """A declared builder; `uri` None is the machine itself."""

    name: BuilderName
    uri: str | None
    systems: tuple[str, ...] | None
    """Systems it builds for; None: those of this machine. Empty means none."""
    max_jobs: int
    speed_factor: float
    supported_features: tuple[str, ...]
    mandatory_features: tuple[str, ...]
    drain: bool
    ssh_key_file: str | None = None
    public_host_key: str | None = None
    resources: Mapping[str, Amount] = field(default_factory=dict)
    """What it has of what builds take; of anything else it has nothing."""


class Upstream(Struct, frozen=True, kw_only=True):
    """A cache of someone else's: what it has is fetched, not built, and not pushed again."""

    url: str
    public_key: str | None


class Compression(StrEnum):
    """How NARs are compressed in a cache."""

    NONE = "none"
    ZSTD = "zstd"
    XZ = "xz"


S3_PARAMETERS = ("region", "endpoint", "scheme", "profile", "addressing-style")
"""What may stand after the question mark of an `s3:` URI."""


class Cache(Struct, frozen=True, kw_only=True):
    """A declared binary cache."""

    name: CacheName
    uri: str
    signing_key_file: str | None
    credentials_file: str | None
    compression: Compression
    rule: PushRule
    """What goes there for jobsets that say nothing else."""
    upstreams: tuple[Upstream, ...]
    signing_key_files: tuple[str, ...] = ()
    """Further ones, while a key is replaced."""
    public_keys: tuple[str, ...] = ()
    """What clients trust; none: whatever signs."""
    gc: bool = False
    """It is ours: what no kept evaluation needs is deleted."""
    grace_period: float = 604800.0
    """Seconds for which that waits."""
    logs: bool = False
    """The logs of builds go there too, beside what they made."""
    bandwidth: int | None = None
    """Bytes a second that are sent at most; None: as fast as it goes."""
    ssh_key_file: str | None = None
    """As of a builder, for the store of another machine."""
    public_host_key: str | None = None

    @property
    def key_files(self) -> tuple[str, ...]:
        """All that sign."""
        first = () if self.signing_key_file is None else (self.signing_key_file,)
        return (*first, *self.signing_key_files)


class ArtifactStore(Struct, frozen=True, kw_only=True):
    """A declared store of what builds leave for later ones, on any machine."""

    name: str
    url: str
    credentials_file: str | None = None


class Desired(Struct, frozen=True, kw_only=True):
    """One valid document."""

    jobsets: Mapping[JobsetName, Jobset]
    builders: Mapping[BuilderName, Builder]
    caches: Mapping[CacheName, Cache]
    digest: str
    """SHA-256 of `document`, in hexadecimal."""
    document: str = "{}"
    """The document as canonical JSON: every default written out, every path absolute."""
    patterns: Mapping[JobsetName, Jobset] = field(default_factory=dict)
    """Those that are declared for branches; the branches' own are among `jobsets`, once known."""
    artifact_stores: Mapping[str, ArtifactStore] = field(default_factory=dict)

    def rules_of(self, cache: CacheName) -> frozenset[PushRule]:
        """By which rules anything goes to a cache; where no jobset names it, the cache's own."""
        declared = (*self.jobsets.values(), *self.patterns.values())
        found = {each.caches[cache] for each in declared if cache in each.caches}
        if not found and cache in self.caches:
            found.add(self.caches[cache].rule)
        return frozenset(found)


# --- What Nix says -----------------------------------------------------------------------------


class Derivation(Struct, frozen=True, kw_only=True):
    """What the graph needs of one derivation file."""

    path: DrvPath
    name: str
    """The derivation's name (`hello-2.12`), without hash and `.drv`."""
    system: str
    outputs: Mapping[str, StorePath | None]
    """Output name to path; None where the path is known only after the build
    (content-addressed, or depending on one that is)."""
    inputs: Mapping[DrvPath, tuple[str, ...]]
    """Input derivations, each with the outputs wanted of it."""
    required_features: tuple[str, ...] = ()
    prefer_local: bool = False
    fixed_output: bool = False
    """Its content is known by hash (a download, most often)."""
    unsupported: str | None = None
    """Why no Nix of ours can build it (a dynamic derivation, say); None where one can."""


class EvaluatedJob(Struct, frozen=True, kw_only=True):
    """One job of an evaluation, the same whichever evaluator found it."""

    attr_path: tuple[str, ...]
    name: str
    system: str
    drv_path: DrvPath
    outputs: Mapping[str, StorePath | None]
    description: str | None = None
    timeout: float | None = None
    max_silent: float | None = None
    priority: int = 0
    """`meta.schedulingPriority`: greater goes first among the jobs of its jobset."""
    constituents: tuple[str, ...] = ()
    """Of an aggregate: names of the jobs (dotted attribute paths) it is made of."""

    @property
    def attr(self) -> str:
        """The job's name, as people write it: its attribute path with dots."""
        return ".".join(self.attr_path)


class EvaluationFailure(Struct, frozen=True, kw_only=True):
    """An attribute that does not evaluate; an empty path: the evaluation as a whole."""

    attr_path: tuple[str, ...]
    message: str

    @property
    def attr(self) -> str:
        """The attribute's name, as people write it."""
        return ".".join(self.attr_path)


# --- What builds come to -----------------------------------------------------------------------


class OutputFact(Struct, frozen=True, kw_only=True):
    """What an attempt made of one output. `size` is the NAR's, in bytes."""

    path: StorePath
    size: int


class BuildProduct(Struct, frozen=True, kw_only=True):
    """A line of `nix-support/hydra-build-products`."""

    kind: str
    subtype: str
    path: str


class Metric(Struct, frozen=True, kw_only=True):
    """A line of `nix-support/hydra-metrics`."""

    name: str
    value: float
    unit: str | None


class AttemptResult(Struct, frozen=True, kw_only=True):
    """The end of one attempt at one derivation."""

    outcome: Outcome
    message: str
    started_at: float
    finished_at: float
    outputs: Mapping[str, OutputFact] = field(default_factory=dict)
    products: tuple[BuildProduct, ...] = ()
    metrics: tuple[Metric, ...] = ()
    realisations: Mapping[str, str] = field(default_factory=dict)
    """What Nix says in full of where outputs are, as JSON; of use for content-addressed ones."""
    log_bytes: int = 0
    """Bytes of log before compression and truncation."""
    substituted: bool = False
    """The outputs came from a substituter; nothing was built."""
    building: float = 0.0
    """Seconds that the build itself took, without what was copied for it."""
    found: bool = False
    """The outputs were there already, left by an attempt that was cut off, say."""
    builder_failed: bool = False
    """The builder is to blame for the failure: it would fail anything else just as well."""
    builder_unfit: bool = False
    """And it will until somebody mends something: its host key is another, say."""


class PathInfo(Struct, frozen=True, kw_only=True):
    """What a store says of one valid path."""

    path: StorePath
    deriver: DrvPath | None
    nar_hash: str
    """`sha256:` and the hash in Nix's base 32, as a narinfo's NarHash."""
    nar_size: int
    references: tuple[StorePath, ...]
    """Sorted; may contain the path itself."""
    signatures: tuple[str, ...] = ()
    content_address: str | None = None
    registered_at: float = 0
    ultimate: bool = False
    """Built here, not copied from elsewhere."""
