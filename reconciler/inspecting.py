"""Looks into a cache, and tells what of the paths that were pushed to it is not as it was.

`inspect` is the daemon's: bounded, and every end is a value. `survey` and `heal` are a person's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from reconciler.binary_cache import Finding, Flaw, Lines, Traffic, open_cache
from reconciler.binary_cache.narinfo import hash_part
from reconciler.errors import CacheError, NixError
from reconciler.model import Cache, PushRule, StorePath
from reconciler.outcomes import Inspected
from reconciler.pushing import elsewhere, from_upstreams, order, push
from reconciler.states import InspectionScope
from reconciler.store import Store
from reconciler.upstreams import Upstreams

SURVEY_BATCH = 256
"""Paths between two reports of progress."""
READ_OF_SAMPLE = 64 * 1024 * 1024
"""Bytes of NARs that are read in full for a sample; of the others it is asked whether they are
there, as of all when the whole is looked at: `reconciler caches verify` reads everything."""


async def inspect(
    cache: Cache,
    scope: InspectionScope,
    paths: Collection[StorePath],
    store: Store,
    upstreams: Upstreams,
    *,
    alone: Collection[StorePath],
    traffic: Traffic,
    lines: Lines,
) -> Inspected:
    """Look at paths that were pushed, some of them `alone`, without what they refer to."""
    folder = Path(next(iter(paths))).parent
    read_up_to = READ_OF_SAMPLE if scope is InspectionScope.SAMPLE else 0
    try:
        async with open_cache(cache, store_dir=str(folder), traffic=traffic, lines=lines) as opened:
            findings = await opened.examine(paths, alone=alone, read_up_to=read_up_to)
        findings = await without_elsewhere(cache, findings, store, upstreams)
    except (CacheError, NixError) as error:
        return Inspected(cache=cache.name, scope=scope, unusable=str(error))
    return Inspected(
        cache=cache.name,
        scope=scope,
        seen=tuple(paths),
        lost={each.path: each.message for each in findings if each.flaw is Flaw.ABSENT},
        broken={each.path: each.message for each in findings if each.flaw in BROKEN},
        dangling={each.reference: each.message for each in findings if each.reference is not None},
    )


BROKEN = frozenset(
    {Flaw.UNREADABLE, Flaw.UNSIGNED, Flaw.NAR_ABSENT, Flaw.NAR_DAMAGED},
)
"""What a path has to be sent again for although the cache has something of it."""


async def without_elsewhere(
    cache: Cache, findings: Iterable[Finding], store: Store, upstreams: Upstreams
) -> tuple[Finding, ...]:
    """Without absent references that readers of the cache get from its upstreams."""
    found = tuple(findings)
    absent = {each.reference for each in found if each.reference is not None}
    had = await from_upstreams(cache, absent, store, upstreams) if absent else frozenset[str]()
    return tuple(each for each in found if each.reference not in had)


# --- The whole, by a person --------------------------------------------------------------------


class Survey(Struct, frozen=True, kw_only=True):
    """All that is wrong with a cache."""

    paths: int
    """Looked at, every byte of them."""
    of: int
    """That there are to look at."""
    listed: bool
    """The cache told what it has; otherwise only what was pushed was looked at."""
    findings: tuple[Finding, ...]
    seen: frozenset[StorePath]


async def survey(
    cache: Cache,
    pushed: Collection[StorePath],
    store: Store,
    *,
    store_dir: str,
    progress: Callable[[int, int], None],
    upstreams: Upstreams,
    alone: Collection[StorePath] = (),
    sample: int | None = None,
) -> Survey:
    """Read everything that a cache has, and what was pushed to it; of a `sample`, so many of these
    paths, any of them. Where some are there `alone`, what others pushed may be so, too.

    `progress` is told how many paths of how many are done. Raises CacheError, NixError.
    """
    findings: list[Finding] = []
    async with open_cache(cache, store_dir=store_dir) as opened:
        hashes = await opened.hashes()
        others = (hashes or frozenset()) - {hash_part(path) for path in pushed}
        # Nix too writes `x` for the name where only the hash is known.
        foreign = [StorePath(f"{store_dir}/{digits}-x") for digits in sorted(others)]
        everything = [*pushed, *foreign]
        paths = _some(everything, sample)
        apart = [*alone, *foreign] if alone else ()
        for start in range(0, len(paths), SURVEY_BATCH):
            progress(start, len(paths))
            some = paths[start : start + SURVEY_BATCH]
            findings += await opened.examine(some, foreign=foreign, alone=apart)
    findings = [each for each in findings if each.flaw is not Flaw.ABSENT or each.path in pushed]
    return Survey(
        paths=len(paths),
        of=len(everything),
        listed=hashes is not None,
        findings=await without_elsewhere(cache, findings, store, upstreams),
        seen=frozenset(paths),
    )


def _some(paths: list[StorePath], number: int | None) -> list[StorePath]:
    if number is None or number >= len(paths):
        return paths
    return random.sample(paths, number)


async def heal(
    cache: Cache,
    findings: Iterable[Finding],
    pushed: Collection[StorePath],
    store: Store,
    *,
    store_dir: str,
    upstreams: Upstreams,
    rules: Collection[PushRule],
    alone: Collection[StorePath] = (),
) -> Mapping[StorePath, str]:
    """Push again what is wrong of what was pushed, and what that refers to unless it is there
    `alone`, as far as one of the `rules` sends it; what could not be mended, with the reason.

    What was mended is read back once more. What others pushed is left alone: that it is in the
    store too does not make it theirs to have.
    """
    ours = [each for each in findings if each.path in pushed]
    wanted = {each.reference or each.path for each in ours}
    # What is absent has references of which nothing is known yet.
    there = await store.closure(wanted.difference(alone))
    there |= await store.path_infos(tuple(wanted))
    left = {path: GONE for path in wanted if path not in there}
    replace = {each.path for each in ours if each.flaw in BROKEN}
    paths = order(rules, there, await elsewhere(cache, there.values(), upstreams))
    for start in range(0, len(paths), SURVEY_BATCH):
        some = paths[start : start + SURVEY_BATCH]
        report = await push(
            cache,
            some,
            store,
            upstreams=upstreams,
            replace=replace.intersection(some),
            alone=alone,
        )
        left |= report.failed
        left |= dict.fromkeys(report.gone, GONE)
        left |= {path: f"{lacks} is not in the cache" for path, lacks in report.waiting.items()}
    async with open_cache(cache, store_dir=store_dir) as opened:
        findings = await opened.examine(wanted - left.keys(), alone=alone)
    still = await without_elsewhere(cache, findings, store, upstreams)
    return left | {each.path: each.message for each in still}


GONE = "the store has it no longer"
