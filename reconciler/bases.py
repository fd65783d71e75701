"""Which earlier build's intermediates a build starts from, and why it is those or none.

Pure. Fingerprints and git's history are found elsewhere; here they are compared.

The first base by order that was made by the same means decides. Where its chain has become too long
or too old the build is a full one: one further back would only put that off, build by build.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NewType

from msgspec import Struct, field

from reconciler.model import Incremental
from reconciler.quantities import format_duration

INTERMEDIATES = "intermediates"
"""The output by which a job takes part."""

Trust = NewType("Trust", str)
"""A domain whose builds are all equally trusted: a repository, or one fork of it."""

KINDS = ("the input ", "the file ", "the variable ")
"""How parts of fingerprints are called, what others follow from first."""
_DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
"""Of store paths' hashes: any of them is as likely as any other."""
_SAMPLED_BY = 8
_TOLD = 3
"""Differences that are named; of more, only the number is."""


class Fingerprint(Struct, frozen=True, kw_only=True):
    """By what means a derivation builds its source: all of it but the source itself."""

    digest: str
    parts: Mapping[str, str] = field(default_factory=dict)
    """What it is made of, in words for people, each with a digest of its own."""


class Wanted(Struct, frozen=True, kw_only=True):
    """What is to be built, as the canonical evaluation has it."""

    job: str
    system: str
    fingerprint: Fingerprint
    branch: str | None
    """None: the source has but one."""
    trusts: frozenset[Trust]
    """Whose bases it may start from."""
    slot: str | None = None
    """The name under which its bases are kept; None: the job's own."""
    fallback: str | None = None
    """The name of the bases it starts from where it has none itself."""


class Base(Struct, frozen=True, kw_only=True):
    """Intermediates that an earlier build left."""

    id: int
    job: str
    system: str
    fingerprint: Fingerprint
    branch: str | None
    trust: Trust
    commit: str | None
    """The revision of its source, where that has one."""
    depth: int
    """How many builds lie between it and a full one; 0: it is of a full one."""
    full_at: float
    """When that full one was made."""
    created_at: float
    quarantined: str | None = None
    """Why it must not be used."""
    slot: str | None = None
    """The name under which it is kept; None: its job's own."""
    fetched_from: str | None = None
    """The artifact store that it is from; None: it was built here."""

    @property
    def kept_as(self) -> str:
        """The name under which it is kept."""
        return self.slot or self.job


class History(Struct, frozen=True, kw_only=True):
    """Where the commit to be built stands."""

    parents: tuple[str, ...] = ()
    """Its ancestors along first parents, the nearest first."""
    fork_point: str | None = None
    """Where its branch left the fallback branch."""


class Choice(Struct, frozen=True, kw_only=True):
    """What a build starts from."""

    base: Base | None
    """None: it is a full one."""
    reason: str
    """A sentence for people."""
    due: bool = False
    """A full build is due: no other base is wanted."""


def choose(
    wanted: Wanted,
    bases: Iterable[Base],
    history: History,
    settings: Incremental,
    *,
    now: float,
) -> Choice:
    """Choose what a build starts from."""
    names = {wanted.slot or wanted.job, wanted.fallback}
    of_job = [each for each in bases if each.kept_as in names and each.system == wanted.system]
    trusted = [each for each in of_job if each.trust in wanted.trusts]
    places = _Places(wanted, history, settings)
    ranked = sorted(
        ((rank, each) for each in trusted if (rank := places.rank(each)) is not None),
        key=lambda found: found[0],
    )
    refused: str | None = None
    group = -1.0
    for rank, base in ranked:
        found = places.name(base, newest=rank[0] != group)
        group = rank[0]
        if base.quarantined is not None:
            problem = f"{found} is in quarantine: {base.quarantined}"
        elif base.fingerprint.digest != wanted.fingerprint.digest:
            told = difference(base.fingerprint, wanted.fingerprint)
            problem = f"since {found}, {told}"
        elif (
            tired := worn(depth=base.depth, full_at=base.full_at, settings=settings, now=now)
        ) is not None:
            return Choice(base=None, reason=f"built in full: {found} {tired}", due=True)
        else:
            depth = "a full one" if not base.depth else f"{_builds(base.depth)} after a full one"
            return Choice(base=base, reason=f"starts from {found}, {depth}")
        refused = refused or problem
    reason = refused or _nothing(of_job, trusted, settings)
    return Choice(base=None, reason=f"built in full: {reason}")


def is_sampled(path: str, fraction: float) -> bool:
    """Whether a store path is in a sample of all: always the same ones, and more of a larger."""
    digits = path.rpartition("/")[2][:_SAMPLED_BY]
    part = 0.0
    for digit in reversed(digits):
        part = (part + _DIGITS.index(digit)) / len(_DIGITS)
    return part < fraction


def worn(*, depth: int, full_at: float, settings: Incremental, now: float) -> str | None:
    """Why a chain is not to be made longer, of so many builds after a full one."""
    if depth >= settings.max_depth:
        return f"is {_builds(depth)} after a full one, and chain.maxDepth is {settings.max_depth}"
    age = now - full_at
    if settings.full_every is not None and age >= settings.full_every:
        return (
            f"goes back to a full one made {format_duration(age)} ago,"
            f" and chain.fullEvery is {format_duration(settings.full_every)}"
        )
    return None


def _nothing(of_job: list[Base], trusted: list[Base], settings: Incremental) -> str:
    """Why no base is within reach."""
    if not of_job:
        return "no earlier build of this job has left intermediates"
    if not trusted:
        return "only branches that it must not trust have built this job"
    fallback = settings.fallback_branch
    also = "" if fallback is None else f" or of {fallback}"
    return f"none are left of its branch, of the {settings.parents} commits before it{also}"


class _Places:
    """The order of bases, and how a person would call each."""

    def __init__(self, wanted: Wanted, history: History, settings: Incremental) -> None:
        self._branch = wanted.branch
        self._slot = wanted.slot or wanted.job
        self._named = wanted.slot is not None
        self._fallback = settings.fallback_branch
        parents = history.parents[: settings.parents]
        self._back = {commit: number for number, commit in enumerate(parents, start=1)}
        self._fork_point = history.fork_point

    def rank(self, base: Base) -> tuple[float, ...] | None:
        """Less is nearer; None is out of reach."""
        newest = (-base.created_at, -base.id)
        if base.kept_as != self._slot:
            return (5, 0, *newest)
        if base.branch == self._branch:
            return (0, 0, *newest)
        if base.commit is not None and base.commit in self._back:
            return (1, self._back[base.commit], *newest)
        if base.commit is not None and base.commit == self._fork_point:
            return (2, 0, *newest)
        if base.branch is not None and base.branch == self._fallback:
            return (3, 0, *newest)
        # Who names a slot has said which builds are near enough.
        return (4, 0, *newest) if self._named else None

    def name(self, base: Base, *, newest: bool) -> str:
        """What a base within reach is to the build."""
        which = "the newest" if newest else "an earlier"
        at = "" if base.commit is None else f" (commit {base.commit[:12]})"
        fallback = base.kept_as != self._slot
        if base.fetched_from is not None:
            slot = f"{'the fallback ' if fallback else ''}slot {base.kept_as}"
            return f"{which} build of {slot} in the artifact store {base.fetched_from}{at}"
        if fallback:
            return f"{which} build of the fallback slot {base.kept_as}{at}"
        if base.branch == self._branch:
            of = "" if base.branch is None else f" of branch {base.branch}"
            return f"{which} build{of}{at}"
        if base.commit is not None and base.commit in self._back:
            back = self._back[base.commit]
            far = "the commit before" if back == 1 else f"{back} commits back"
            return f"the build of {far}{at}"
        if base.commit is not None and base.commit == self._fork_point:
            return f"the build of where its branch left {self._fallback}{at}"
        if base.branch is not None and base.branch == self._fallback:
            return f"{which} build of branch {self._fallback}{at}"
        return f"{which} build of the slot {base.kept_as}{at}"


def _builds(number: int) -> str:
    return "1 build" if number == 1 else f"{number} builds"


def _kind(part: str) -> int:
    return next((at for at, kind in enumerate(KINDS) if part.startswith(kind)), len(KINDS))


def difference(before: Fingerprint, after: Fingerprint) -> str:
    """What of the means changed, as the end of a sentence."""
    old, new = before.parts, after.parts
    told = [f"{part} changed" for part in new if part in old and old[part] != new[part]]
    told += [f"{part} was added" for part in new if part not in old]
    told += [f"{part} was removed" for part in old if part not in new]
    # Another compiler has other paths, which variables hold: the cause goes before what follows.
    told.sort(key=_kind)
    if not told:
        return "how it is fingerprinted changed"
    more = len(told) - _TOLD
    if more > 0:
        told = [*told[:_TOLD], f"{more} more"]
    *others, last = told
    return f"{', '.join(others)} and {last}" if others else last
