"""A graph as SVG: boxes in columns, what is needed to the right of what needs it.

A plain layered drawing that needs no other program. Knows nothing of where the graph comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

from reconciler.database.closure import ClosureNode
from reconciler.status import JobState

CHARACTER, LINE, GAP_X, GAP_Y, PAD = 7.2, 16, 70, 14, 8
FILL = {
    JobState.SUCCEEDED: "#c8e6c9",
    JobState.BUILDING: "#fff3c4",
    JobState.QUEUED: "#eceff1",
    JobState.CANCELLED: "#e1d5ea",
}
BAD_FILL = "#ffcdd2"
HEIGHT = 2 * LINE + PAD
ROUNDS = 4
"""Passes that order each column by its neighbours' places, which untangles most crossings."""


def draw(nodes: Mapping[int, ClosureNode], root: int) -> Iterator[str]:
    """The drawing, line by line."""
    columns = _ordered(_columns(nodes, root), nodes)
    widths = [
        max(max(len(nodes[key].name), len(nodes[key].state)) for key in column) * CHARACTER
        + 2 * PAD
        for column in columns
    ]
    places: dict[int, tuple[float, float, float]] = {}
    left = PAD * 1.0
    tallest = max(len(column) for column in columns)
    for column, width in zip(columns, widths, strict=True):
        top = PAD + (tallest - len(column)) * (HEIGHT + GAP_Y) / 2
        for row, key in enumerate(column):
            places[key] = (left, top + row * (HEIGHT + GAP_Y), width)
        left += width + GAP_X
    total_width = left - GAP_X + PAD
    total_height = 2 * PAD + tallest * (HEIGHT + GAP_Y) - GAP_Y
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total_width:.0f}" '
        f'height="{total_height:.0f}" font-family="monospace" font-size="12">'
    )
    yield '<rect width="100%" height="100%" fill="white"/>'
    for key, node in nodes.items():
        for needed in node.inputs:
            yield _edge(places[key], places[needed])
    for key, node in nodes.items():
        yield from _box(node, places[key])
    yield "</svg>"


def _columns(nodes: Mapping[int, ClosureNode], root: int) -> list[list[int]]:
    """By the longest way from the root, so that every arrow points to the right."""
    depth: dict[int, int] = {root: 0}
    for key in _root_first(nodes, root):
        for needed in nodes[key].inputs:
            depth[needed] = max(depth.get(needed, 0), depth[key] + 1)
    columns: list[list[int]] = [[] for _ in range(max(depth.values()) + 1)]
    for key, level in depth.items():
        columns[level].append(key)
    return columns


def _root_first(nodes: Mapping[int, ClosureNode], root: int) -> list[int]:
    """Topologically sorted, what needs before what is needed."""
    order: list[int] = []
    seen: set[int] = {root}
    stack = [(root, iter(nodes[root].inputs))]
    while stack:
        key, rest = stack[-1]
        needed = next((each for each in rest if each not in seen), None)
        if needed is None:
            order.append(key)
            stack.pop()
        else:
            seen.add(needed)
            stack.append((needed, iter(nodes[needed].inputs)))
    return order[::-1]


def _ordered(columns: list[list[int]], nodes: Mapping[int, ClosureNode]) -> list[list[int]]:
    above: dict[int, list[int]] = {}
    for key, node in nodes.items():
        for needed in node.inputs:
            above.setdefault(needed, []).append(key)
    for number in range(ROUNDS):
        place = {key: row / len(column) for column in columns for row, key in enumerate(column)}
        downwards = number % 2 == 0
        for column in columns if downwards else reversed(columns):
            mean = {}
            for row, key in enumerate(column):
                near = above.get(key, []) if downwards else nodes[key].inputs
                mean[key] = sum(place[n] for n in near) / len(near) if near else row / len(column)
            column.sort(key=lambda key, mean=mean: mean[key])  # type: ignore[misc]
            place.update({key: row / len(column) for row, key in enumerate(column)})
    return columns


def _edge(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    x1, y1 = start[0] + start[2], start[1] + HEIGHT / 2
    x2, y2 = end[0], end[1] + HEIGHT / 2
    bend = max((x2 - x1) / 2, 20)
    return (
        f'<path d="M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} '
        f'{x2:.1f} {y2:.1f}" fill="none" stroke="#90a4ae"/>'
    )


def _box(node: ClosureNode, place: tuple[float, float, float]) -> Iterator[str]:
    x, y, width = place
    yield (
        f'<g><title>{escape(node.path)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{HEIGHT}" rx="4" fill="{FILL.get(node.state, BAD_FILL)}" stroke="#607d8b"/>'
    )
    yield f'<text x="{x + PAD:.1f}" y="{y + LINE:.1f}">{escape(node.name)}</text>'
    yield (f'<text x="{x + PAD:.1f}" y="{y + 2 * LINE:.1f}" fill="#546e7a">{node.state}</text></g>')
