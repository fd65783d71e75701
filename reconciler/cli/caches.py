"""`reconciler caches`: what each has, what it lacks, and when it was last looked into."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from reconciler.cli.output import flat, plain, print_json
from reconciler.cli.settings import Verbs, settings, verb
from reconciler.cli.state import document_in_force, reading
from reconciler.cli.status_text import mark
from reconciler.cli.text import ago, columns, harmless, lasting, one_line, wrapped_table
from reconciler.database import cached, report
from reconciler.database.cached import CacheContents
from reconciler.push_progress import PushProgress
from reconciler.quantities import format_size
from reconciler.status import CacheStatus, counted, judge_cache


class _Caches(Verbs):
    """Has `verify` below it, which is loaded only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return ["verify"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name != "verify":
            return None
        from reconciler.cli.verify import verify  # noqa: PLC0415

        return verify


@verb(
    "caches",
    examples="""
    reconciler caches
    reconciler caches --json | jq '.caches[] | select(.open > 0)'
    reconciler caches verify main --heal
    """,
    group=_Caches,
)
def caches(*, as_json: bool) -> None:
    """Show each cache: in sync, or what it lacks and why."""
    if click.get_current_context().invoked_subcommand is not None:
        return
    now = time.time()
    with reading(settings()) as database:
        document_in_force(database)
        conditions = report.all_conditions(database)
        found = [judge_cache(each) for each in cached.caches(database, conditions, now=now)]
        contents = cached.cache_contents(database)
    if as_json:
        print_json(
            {
                "caches": [
                    {**flat(each), "contents": plain(contents[each.facts.name])} for each in found
                ]
            }
        )
    elif not found:
        click.echo("No cache is declared: nothing is pushed.")
    else:
        for each in found:
            for line in _cache_lines(each, contents[each.facts.name], now=now):
                click.echo(line)


def _progress(progress: PushProgress, *, now: float) -> Iterator[list[str]]:
    """How far pushing is; how long the rest takes is said in the summary."""
    sent = f"{counted(progress.sent_paths, 'path')}, {format_size(progress.sent_bytes)}"
    yield ["sent now", f"{sent} since {ago(progress.since, now)}"]
    left = f"{counted(progress.left_paths, 'path')}, {format_size(progress.left_bytes)} unpacked"
    if progress.estimate is not None:
        left += f", about {lasting(progress.estimate)}"
    yield ["left", left]
    if progress.rate is not None:
        yield ["rate", f"{format_size(int(progress.rate))}/s"]


def _cache_lines(each: CacheStatus, contents: CacheContents, *, now: float) -> Iterator[str]:
    facts, width = each.facts, columns()
    if facts.removed_at is not None:
        yield f"- {facts.name}  pruned {ago(facts.removed_at, now)}"
        return
    yield f"{mark(each.verdict)} {click.style(facts.name, bold=True)}  {each.summary}"
    pushed = f"{counted(contents.pushed, 'path')}, {format_size(contents.bytes)} sent"
    if contents.last_push_at is not None:
        pushed += f", the last {ago(contents.last_push_at, now)}"
    pairs = [["address", harmless(facts.uri)], ["pushed", pushed]]
    if facts.progress is not None:
        pairs += _progress(facts.progress, now=now)
    if facts.looked_at is not None:
        pairs.append(["looked into", ago(facts.looked_at, now)])
    if facts.seen_at is not None:
        pairs.append(["all seen", f"within {lasting(round(now - facts.seen_at))}"])
    if contents.dropped:
        dropped = counted(contents.dropped, "path")
        pairs.append(["dropped", f"{dropped}, collected before they were pushed"])
    if facts.beside_error:
        pairs.append(["logs failing", one_line(facts.beside_error)])
    if facts.failing and facts.error:
        pairs.append(["failing", one_line(facts.error)])
    if facts.next_due_at is not None and facts.next_due_at > now:
        pairs.append(["next try", f"in {lasting(facts.next_due_at - now)}"])
    pairs += [[c.reason.replace("-", " "), one_line(c.message)] for c in facts.conditions]
    yield from wrapped_table(pairs, indent="  ", width=width)
