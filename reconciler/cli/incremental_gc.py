"""`incremental gc`: let go of what incremental builds left that serves no later one.

The daemon does so by itself, but may not remove what compilers keep: that is of root and of the
build users. While it runs, only those folders are touched here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import click
from msgspec import Struct

from reconciler import branches, config, leftovers
from reconciler.cli.output import Json, print_json
from reconciler.cli.requests import wake
from reconciler.cli.settings import Settings, settings, verb
from reconciler.cli.state import daemon, reading
from reconciler.cli.text import columns, harmless, table
from reconciler.database import bases, incremental, kept_bases
from reconciler.database import branches as stored
from reconciler.database.file import Database, StateLock, open_writer
from reconciler.leftovers import Kind, Leftover
from reconciler.model import Desired
from reconciler.places import Places
from reconciler.quantities import format_size
from reconciler.store import release_bases

_FOLDERS = {
    Kind.COMPILER_CACHE: ("compilers' cache of", kept_bases.UNDECLARED),
    Kind.OVERLAY: ("commits with bases, of", kept_bases.UNDECLARED),
    Kind.SCRATCH: ("scratch in", "left by what was killed"),
}
_DAEMONS = "the daemon lets go of it by itself"
_STRANGE = "of no jobset that is known here: remove it by hand, unless another farm needs it"
_IN_USE = "builds go on that may be shown it: try again later"


class _Item(Struct, kw_only=True):
    """Something that serves nobody."""

    kind: str
    name: str
    path: Path
    size: int | None
    reason: str
    base: int | None = None
    removed: bool = False
    """It was let go."""
    error: str | None = None
    """Why it was not."""


@verb(
    "gc",
    examples="""
    reconciler incremental gc --dry-run
    reconciler incremental gc
    """,
)
@click.option("--dry-run", is_flag=True, help="Only tell what would be let go.")
def collect(*, dry_run: bool, as_json: bool) -> None:
    """Let go of what serves no later build any more.

    That is: bases beyond `retention`, and of jobsets that are declared no longer or have no
    incremental builds; what compilers keep for jobsets that are gone; commits with bases on top of
    their sources; scratch. What bases were, nix-collect-garbage deletes.

    The daemon does all this by itself, but for what compilers keep, which may take root. While it
    runs, the rest is left to it.
    """
    where = settings()
    declared = config.load(where.config)
    running = daemon(where) is not None
    places = Places(where.state_dir, dict(os.environ))
    with reading(where) as database:
        desired = branches.expanded(declared, stored.known(database))
        found = leftovers.find(database, desired, places)
        found += [] if running else leftovers.scratch(places)
        items = [*_bases(database, kept_bases.unneeded(database, desired)), *map(_item, found)]
        strangers = [_item(each) for each in leftovers.strangers(database, places)]
        in_use = running and leftovers.in_use(database, desired)
    if not dry_run:
        if running:
            _beside_the_daemon(items, found, in_use=in_use)
            wake(where)
        else:
            _remove(where, desired, places, items, found)
    for each in strangers:
        each.reason = each.error = _STRANGE
    items += strangers
    if as_json:
        listed: list[Json] = [_json(each) for each in items]
        print_json({"dryRun": dry_run, "daemonRunning": running, "leftovers": listed})
    else:
        click.echo("\n".join(_text(items, dry_run=dry_run)))


def _bases(database: Database, unneeded: Mapping[int, str]) -> list[_Item]:
    return [
        _Item(
            kind="base",
            name=f"{each.slot.jobset}.{each.slot.job}",
            path=Path(each.path),
            size=each.size,
            reason=unneeded[each.base.id],
            base=each.base.id,
        )
        for each in bases.stored(database, unneeded)
    ]


def _item(found: Leftover) -> _Item:
    return _Item(
        kind=found.kind,
        name=found.jobset or found.path.name,
        path=found.path,
        size=found.size(),
        reason=_FOLDERS[found.kind][1],
    )


def _beside_the_daemon(items: list[_Item], found: list[Leftover], *, in_use: bool) -> None:
    folders = {each.path: each for each in found}
    for each in items:
        if each.kind != Kind.COMPILER_CACHE:
            each.error = _DAEMONS
        elif in_use:
            each.error = _IN_USE
        else:
            _done(each, leftovers.remove(folders[each.path]))


def _remove(
    where: Settings, desired: Desired, places: Places, items: list[_Item], found: list[Leftover]
) -> None:
    now = time.time()
    folders = {each.path: each for each in found}
    with StateLock(where.state_dir), closing(open_writer(where.state_dir, now=now)) as writer:
        for base, cause in kept_bases.unneeded(writer, desired).items():
            incremental.release(writer, [base], cause=cause, now=now)
        release_bases(places.roots, keep=kept_bases.held_paths(writer))
        for each in items:
            _done(each, leftovers.remove(folders[each.path]) if each.base is None else None)


def _done(item: _Item, error: str | None) -> None:
    item.removed, item.error = error is None, error


def _json(item: _Item) -> Json:
    return {
        "kind": item.kind,
        "name": item.name,
        "base": item.base,
        "path": str(item.path),
        "size": item.size,
        "reason": item.reason,
        "removed": item.removed,
        "error": item.error,
    }


def _text(items: list[_Item], *, dry_run: bool) -> Iterator[str]:
    if not items:
        yield "Nothing to let go of."
        return
    rows = [
        [harmless(_named(each)), _size(each), each.reason if each.error is None else each.error]
        for each in items
    ]
    yield from table(rows, width=columns())
    sizes = {
        each.path: each.size or 0
        for each in items
        if each.removed or (dry_run and each.error is None)
    }
    total = format_size(sum(sizes.values()))
    yield f"Would let go of {total}." if dry_run else f"Let go of {total}."
    if any(each.base is not None and each.removed for each in items):
        yield "What bases were, nix-collect-garbage deletes."


def _named(item: _Item) -> str:
    if item.base is not None:
        return f"base {item.base} of {item.name}"
    return f"{_FOLDERS[Kind(item.kind)][0]} {item.name}"


def _size(item: _Item) -> str:
    return "?" if item.size is None else format_size(item.size)
