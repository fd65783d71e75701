"""`reconciler graph`: a job's dependencies with their states."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import click

from reconciler.cli.graph_svg import BAD_FILL, FILL, draw
from reconciler.cli.output import plain, print_json
from reconciler.cli.settings import settings, verb
from reconciler.cli.state import document_in_force, local_systems, not_a_job, reading
from reconciler.cli.status import complete_subject
from reconciler.cli.status_text import state
from reconciler.cli.text import DIM
from reconciler.database import lookup
from reconciler.database.blocked import blocked
from reconciler.database.closure import ClosureNode, closure
from reconciler.database.lookup import JobsetSubject
from reconciler.errors import UsageError

LIMIT = 500
"""Derivations shown unless asked otherwise: more is no picture any more."""


@verb(
    "graph",
    examples="""
    reconciler graph website.tests
    reconciler graph website.tests --depth 2
    reconciler graph website.tests --format svg > tests.svg
    reconciler graph website.tests --format dot | dot -Tpng > tests.png
    """,
)
@click.argument("job", shell_complete=complete_subject)
@click.option(
    "--format", "form", type=click.Choice(["text", "dot", "svg"]), default="text",
    show_default=True, help="How it is drawn.",
)  # fmt: skip
@click.option("--depth", type=click.IntRange(min=0), metavar="N", help="Levels below JOB.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=LIMIT, show_default=True, metavar="N",
    help="Derivations shown, the nearest first.",
)  # fmt: skip
def graph(job: str, *, form: str, depth: int | None, limit: int, as_json: bool) -> None:
    """Show what JOB depends on, with the state of each.

    What was there already when a job was evaluated is not looked below.
    """
    with reading(settings()) as database:
        subject = lookup.resolve(database, job)
        if isinstance(subject, JobsetSubject):
            raise not_a_job(database, subject.jobset)
        if subject.derivation is None:
            raise UsageError(f"{job} does not evaluate, so it has no graph: reconciler why {job}")
        in_way = blocked(
            database, document_in_force(database), local_systems=local_systems, now=time.time()
        )
        nodes, whole = closure(database, subject.derivation, in_way, limit=limit)
    root = subject.derivation
    if depth is not None:
        nodes = _above(nodes, root, depth)
    if as_json:
        print_json({"root": root, "complete": whole, "nodes": plain(list(nodes.values()))})
        return
    match form:
        case "dot":
            lines: Iterator[str] = _dot(nodes)
        case "svg":
            lines = draw(nodes, root)
        case _:
            lines = _tree(nodes, root)
    for line in lines:
        click.echo(line)
    if not whole:
        click.echo(f"only the nearest {len(nodes)} are shown: --limit shows more", err=True)


def _above(nodes: Mapping[int, ClosureNode], root: int, depth: int) -> dict[int, ClosureNode]:
    level, kept = [root], {root}
    for _ in range(depth):
        level = [key for above in level for key in nodes[above].inputs if key not in kept]
        kept.update(level)
    return {
        key: ClosureNode(
            id=each.id,
            name=each.name,
            path=each.path,
            system=each.system,
            state=each.state,
            inputs=tuple(i for i in each.inputs if i in kept),
        )
        for key, each in nodes.items()
        if key in kept
    }


def _tree(nodes: Mapping[int, ClosureNode], root: int) -> Iterator[str]:
    """An indented tree; what was shown above with its inputs is not unfolded again."""
    shown: set[int] = set()
    waiting = [(root, "", "")]
    while waiting:
        key, lead, below = waiting.pop()
        node = nodes[key]
        again = key in shown and bool(node.inputs)
        note = click.style("  (see above)", fg=DIM) if again else ""
        yield f"{lead}{node.name}  {state(node.state)}{note}"
        if again:
            continue
        shown.add(key)
        children = list(node.inputs)
        for place, child in reversed(list(enumerate(children))):
            last = place == len(children) - 1
            waiting.append(
                (child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))
            )


def _dot(nodes: Mapping[int, ClosureNode]) -> Iterator[str]:
    """Graphviz's language; an arrow points to what is needed."""
    yield "digraph dependencies {"
    yield "  rankdir=LR;"
    yield '  node [shape=box, style="filled,rounded", fontname="sans-serif"];'
    for node in nodes.values():
        label = f'{_quoted(node.name)[:-1]}\\n{node.state}"'
        yield f'  n{node.id} [label={label}, fillcolor="{FILL.get(node.state, BAD_FILL)}"];'
    for node in nodes.values():
        for key in node.inputs:
            yield f"  n{node.id} -> n{key};"
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
