"""`reconciler caches verify`: reads a cache back, every byte, and mends it if it is told to."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Mapping

import click
from msgspec import Struct

from reconciler import config, inspecting
from reconciler.binary_cache import Finding, Flaw
from reconciler.cli.output import Json, print_json
from reconciler.cli.requests import wake
from reconciler.cli.settings import Settings, settings, verb
from reconciler.cli.state import daemon, document_in_force, reading
from reconciler.cli.text import BAD, BUSY, GOOD, columns, on_terminal, one_line, wrapped
from reconciler.database import inspected, observe
from reconciler.database.file import open_writer
from reconciler.errors import UsageError
from reconciler.inspecting import BROKEN, Survey
from reconciler.model import Cache, CacheName, Desired, DrvPath, StorePath
from reconciler.nix.store_path import store_dir_in
from reconciler.places import Places
from reconciler.problems import did_you_mean
from reconciler.reconcile.opening import open_store
from reconciler.states import InspectionScope
from reconciler.status import counted
from reconciler.upstreams import Upstreams


class Judged(Struct, frozen=True, kw_only=True):
    """A finding, and what becomes of it."""

    finding: Finding
    ours: bool
    """It was pushed from here; what others pushed is left alone."""
    healed: bool = False
    why_not: str | None = None
    """What kept it from being mended, of one that was tried."""
    maker: DrvPath | None = None
    """The derivation to build again, of a path that the store has lost as well."""


class Verified(Struct, frozen=True, kw_only=True):
    """What verifying a cache came to."""

    cache: Cache
    survey: Survey
    judged: tuple[Judged, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong with it now."""
        return all(each.healed for each in self.judged)


@verb(
    "verify",
    examples="""
    reconciler caches verify main
    reconciler caches verify main --heal
    reconciler caches verify main --sample 100
    reconciler caches verify main --json | jq '.findings[].path'
    """,
    notes="""
    Exit status: 0 all is there and right (or is now), 1 something is not.
    """,
)
@click.argument("name", metavar="CACHE")
@click.option("--heal", is_flag=True, help="Push again from the store what is missing or damaged.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Read N paths, any of them, instead of all.",
)
def verify(*, name: str, heal: bool, sample: int | None, as_json: bool) -> None:
    """Read a cache back, every byte, and compare.

    All that the cache lists is read, and all that was pushed to it: narinfo, signature, NAR by its
    hashes, references. With --heal, what is missing or damaged is pushed again from the store; of
    what the store has lost too, the derivation is named, and the daemon builds it again if a jobset
    still wants it. What others pushed is judged, never changed. With --sample only so many paths
    are read, others each time.
    """
    found = asyncio.run(_verify(settings(), CacheName(name), heal=heal, sample=sample))
    if as_json:
        print_json(_json(found))
    else:
        for line in _lines(found, heal=heal):
            click.echo(line)
    click.get_current_context().exit(0 if found.good else 1)


async def _verify(where: Settings, name: CacheName, *, heal: bool, sample: int | None) -> Verified:
    with reading(where) as database:
        document_in_force(database)
        desired = _desired(observe.document_in_force(database))
        cache = _declared(desired, name)
        pushed = inspected.pushed_paths(database, name)
        alone = inspected.alone(database, name, pushed)
    environment = dict(os.environ)
    store = open_store(Places(state_dir=where.state_dir, environment=environment))
    store_dir = store_dir_in(environment)
    upstreams = Upstreams(None)  # its own memory: the daemon has the database
    try:
        survey = await inspecting.survey(
            cache,
            pushed,
            store,
            store_dir=store_dir,
            progress=_progress,
            upstreams=upstreams,
            alone=alone,
            sample=sample,
        )
        left: Mapping[StorePath, str] | None = None
        if heal:
            left = await inspecting.heal(
                cache,
                survey.findings,
                set(pushed),
                store,
                store_dir=store_dir,
                upstreams=upstreams,
                rules=desired.rules_of(name),
                alone=alone,
            )
    finally:
        await store.close()
    judged = _judge(where, survey.findings, set(pushed), left)
    if heal:
        _record(where, name, survey, pushed, judged)
    return Verified(cache=cache, survey=survey, judged=judged)


def _desired(document: tuple[str, str] | None) -> Desired:
    assert document is not None
    return config.parse(document[1].encode(), name="the document in force")


def _declared(desired: Desired, name: CacheName) -> Cache:
    caches = desired.caches
    if name not in caches:
        raise UsageError(
            f"there is no cache {name}; {did_you_mean(name, list(caches), label='declared')}"
            if caches
            else f"there is no cache {name}: none is declared"
        )
    return caches[name]


def _progress(done: int, of: int) -> None:
    if on_terminal() and done:
        click.echo(f"\r{done} of {of} paths\r", nl=False, err=True)


def _judge(
    where: Settings,
    findings: Iterable[Finding],
    pushed: set[StorePath],
    left: Mapping[StorePath, str] | None,
) -> tuple[Judged, ...]:
    lost = [path for path, why in (left or {}).items() if why == inspecting.GONE]
    with reading(where) as database:
        makers = inspected.makers(database, lost)
    judged = []
    for each in findings:
        ours, subject = each.path in pushed, each.reference or each.path
        tried = ours and left is not None
        judged.append(
            Judged(
                finding=each,
                ours=ours,
                healed=tried and subject not in (left or {}),
                why_not=(left or {}).get(subject) if ours else None,
                maker=makers.get(subject),
            )
        )
    return tuple(judged)


def _record(
    where: Settings,
    name: CacheName,
    survey: Survey,
    pushed: list[StorePath],
    judged: Iterable[Judged],
) -> None:
    """Note what was seen; what could not be mended here is the daemon's to mend."""
    left = [each.finding for each in judged if each.ours and not each.healed]
    now = time.time()
    writer = open_writer(where.state_dir, now=now)
    try:
        inspected.record(
            writer,
            name,
            inspected.Sight(
                scope=_scope(survey),
                seen=[path for path in pushed if path in survey.seen],
                lost={each.path: each.message for each in left if each.flaw is Flaw.ABSENT},
                broken={each.path: each.message for each in left if each.flaw in BROKEN},
                dangling={e.reference: e.message for e in left if e.reference is not None},
            ),
            now=now,
        )
    finally:
        writer.close()
    if left and daemon(where) is not None:
        wake(where)


def _scope(survey: Survey) -> InspectionScope:
    whole = survey.paths == survey.of
    return InspectionScope.WHOLE if whole else InspectionScope.SAMPLE


def _json(found: Verified) -> Json:
    return {
        "cache": found.cache.name,
        "uri": found.cache.uri,
        "listed": found.survey.listed,
        "paths": found.survey.paths,
        "of": found.survey.of,
        "good": found.good,
        "findings": [
            {
                "path": each.finding.path,
                "flaw": str(each.finding.flaw),
                "message": each.finding.message,
                "ours": each.ours,
                "healed": each.healed,
                "whyNot": each.why_not,
                "derivation": each.maker,
            }
            for each in found.judged
        ],
    }


def _lines(found: Verified, *, heal: bool) -> Iterator[str]:
    width = (columns() or 100) - 2
    for each in found.judged:
        sign, color = ("✓", GOOD) if each.healed else ("✗", BAD)
        text = one_line(each.finding.message)
        if each.healed:
            text += "; it was pushed again"
        elif not each.ours:
            text += "; it was not pushed from here, and is left alone"
        elif each.why_not is not None:
            text += f"; not mended: {one_line(each.why_not)}"
        if each.maker is not None:
            text += f"; build it again: nix-store --realise {each.maker}"
        body = wrapped(text, width=width, indent="  ", first="")
        yield f"{click.style(sign, fg=color)} {body}"
    paths = counted(found.survey.paths, "path")
    if found.survey.paths < found.survey.of:
        paths = f"{found.survey.paths} of {counted(found.survey.of, 'path')}, at random,"
    looked = (
        "" if found.survey.listed else " that were pushed (this kind of cache cannot be listed)"
    )
    left = sum(not each.healed for each in found.judged)
    healed = len(found.judged) - left
    said = [f"{counted(healed, 'flaw')} mended"] if healed else []
    said += [f"{counted(left, 'flaw')} left"] if left else []
    sign = click.style("✗", fg=BAD) if left else click.style("✓", fg=GOOD)
    yield f"{sign} {found.cache.name}: {paths}{looked} read: {', '.join(said) or 'all is right'}"
    if left and not heal and any(each.ours for each in found.judged):
        yield click.style(f"mend it: reconciler caches verify {found.cache.name} --heal", fg=BUSY)
