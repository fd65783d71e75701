"""`reconciler gc`: forget history that is older than it need be."""

from __future__ import annotations

import json
import time

import click

from reconciler import mirror
from reconciler.build import log as build_log
from reconciler.cli.output import plain, print_json
from reconciler.cli.settings import settings, verb
from reconciler.cli.state import reading
from reconciler.cli.text import lasting
from reconciler.database import collected, history, observe
from reconciler.database.file import Database, StateLock, open_writer
from reconciler.database.history import Waste
from reconciler.errors import UsageError
from reconciler.quantities import QuantityError, duration
from reconciler.states import CacheName
from reconciler.status import counted


@verb(
    "gc",
    examples="""
    reconciler gc --dry-run
    reconciler gc
    reconciler gc --older-than 7d
    """,
)
@click.option(
    "--older-than", "age", default="30d", show_default=True, metavar="AGE",
    help="How long history is kept.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only tell what would be forgotten.")
def gc(*, age: str, dry_run: bool, as_json: bool) -> None:
    """Forget old history.

    That is: jobsets and caches long pruned, builds and logs that nothing needs, old events. What
    an evaluation that is kept needs stays, whatever its age; how many are kept is declared (keep).
    Caches that are ours (gc: true) are the daemon's to collect; what it will delete is told here.
    The Nix store is collected by nix-collect-garbage, which spares what is rooted here.

    The daemon must be down: it has this history in use.
    """
    where, now = settings(), time.time()
    try:
        oldest = now - duration(age)
    except QuantityError as error:
        raise UsageError(f"--older-than {age} {error}") from error
    with reading(where) as database:
        found = history.waste(database, oldest=oldest)
        unneeded = collected.unneeded(database, _grace(database), now=now)
    if not dry_run:
        with StateLock(where.state_dir):
            writer = open_writer(where.state_dir, now=now)
            try:
                found = history.waste(writer, oldest=oldest)
                for attempt in history.forget(writer, oldest=oldest, now=now):
                    build_log.remove(where.logs, attempt)
                mirror.prune(where.state_dir / "mirrors", keep=_with_branches(writer))
                # Last: the logs that went may be the room that it takes.
                writer.compact()
            finally:
                writer.close()
    if as_json:
        print_json(
            {
                "dryRun": dry_run,
                "olderThan": now - oldest,
                "forgotten": plain(found),
                "unneeded": plain(unneeded),
            }
        )
        return
    _tell(found, age=now - oldest, dry_run=dry_run)
    for each in unneeded:
        later = each.paths - each.due
        parts = [f"{each.due} as soon as it runs"] if each.due else []
        if later:
            when = f", the first in {lasting(each.next_at - now)}" if not each.due else ""
            parts.append(f"{later} when their grace period has passed{when}")
        paths = counted(each.paths, "path")
        click.echo(f"The daemon deletes {paths} from cache {each.cache}: {', '.join(parts)}.")


def _with_branches(database: Database) -> set[str]:
    """Jobsets that are, or were not long ago, declared for branches."""
    rows = database.query(
        "SELECT name FROM jobset WHERE id IN (SELECT pattern FROM jobset) OR"
        " (pattern IS NULL AND removed_at IS NULL)"
    )
    return {row[0] for row in rows}


def _grace(database: Database) -> dict[CacheName, float]:
    """The caches that are ours, each with the seconds for which what is unneeded stays."""
    current = observe.document_in_force(database)
    declared = json.loads(current[1])["caches"] if current is not None else {}
    # A document of an earlier version says nothing of it.
    return {
        CacheName(name): duration(cache["gracePeriod"])
        for name, cache in declared.items()
        if cache.get("gc")
    }


def _tell(found: Waste, *, age: float, dry_run: bool) -> None:
    parts = [
        counted(number, noun)
        for number, noun in (
            (found.jobsets, "pruned jobset"),
            (found.caches, "pruned cache"),
            (found.evaluations, "evaluation"),
            (found.builds, "build"),
            (found.attempts, "log"),
            (found.events, "event"),
            (found.requests, "answered request"),
        )
        if number
    ]
    if not parts:
        click.echo(f"Nothing to forget: nothing is older than {lasting(age)}.")
    else:
        click.echo(f"{'Would forget' if dry_run else 'Forgot'} {', '.join(parts)}.")
