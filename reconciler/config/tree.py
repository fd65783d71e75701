"""A document as a tree whose every node knows its line and column.

Pure. `TreeBuilder` is told by a reader (JSON or YAML) what comes next, and keeps the tree within
its bounds: depth, number of values and length of text, each with repeated parts counted as often
as they are used. Knows nothing of what the document means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from reconciler.problems import Problem, quote, render_path

MAX_DEPTH = 64
MAX_VALUES = 250_000
MAX_TEXT = 16 * 2**20
"""Characters of all texts together, and bytes of the document."""
MAX_PROBLEMS = 1000
"""Problems gathered of one kind: enough for any person."""
MAX_INTEGER = 2**63
"""Beyond Nix's and SQLite's integers."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Mark(Struct, frozen=True):
    """A place in the text, counted from 1."""

    line: int
    column: int


class ScalarNode(Struct, frozen=True):
    """A value without parts; `text` is how it is written."""

    value: bool | int | float | str | None
    text: str
    mark: Mark


class ListNode(Struct, frozen=True):
    """A list."""

    items: list[Node]
    mark: Mark


class MapNode(Struct, frozen=True):
    """A mapping; each key with its own place."""

    entries: dict[str, Entry]
    mark: Mark


class Entry(Struct, frozen=True):
    """A key of a mapping and what it holds."""

    key_mark: Mark
    node: Node


Node = ScalarNode | ListNode | MapNode


def number(text: str) -> int | float:
    """Read a number as JSON writes it; one far too large is infinite."""
    if text.lstrip("+-").isdigit():
        # Python refuses to read thousands of digits, for the time that takes.
        return int(text) if len(text) <= 20 else math.inf
    return float(text)


class DocumentError(Exception):
    """A document that cannot be read on from here."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def refuse(mark: Mark, message: str, mend: str, *, path: Sequence[str | int] = ()) -> DocumentError:
    """Say why the document cannot be read on."""
    return DocumentError(problem_at(mark, path, message, mend))


def problem_at(mark: Mark, path: Sequence[str | int], message: str, mend: str) -> Problem:
    """Name a problem at a place in the text."""
    return Problem(
        path=render_path(path), line=mark.line, column=mark.column, message=message, mend=mend
    )


class Extent(Struct):
    """How much a node holds, itself and repeated parts included."""

    values: int = 1
    text: int = 0
    height: int = 1

    def add(self, other: Extent) -> None:
        """Take in a part."""
        self.values += other.values
        self.text += other.text
        self.height = max(self.height, other.height + 1)


class _Frame(Struct):
    """A list or mapping that is still being read."""

    node: ListNode | MapNode
    extent: Extent = field(default_factory=Extent)
    key: tuple[str, Mark] | None = None
    merging: bool = False
    merges: list[MapNode] = field(default_factory=list)


class TreeBuilder:
    """Builds the tree of one document; `problems` are those it could read past."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._frames: list[_Frame] = []
        self._values = 0
        self._text = 0

    @property
    def depth(self) -> int:
        """How many lists and mappings are open."""
        return len(self._frames)

    @property
    def in_mapping(self) -> bool:
        """Whether the innermost that is open is a mapping."""
        return bool(self._frames) and isinstance(self._frames[-1].node, MapNode)

    @property
    def expects_key(self) -> bool:
        """Whether the next thing is a key."""
        return self.in_mapping and self._frames[-1].key is None

    def open(self, node: ListNode | MapNode) -> None:
        """Begin a list or mapping; what follows is its content until `close`."""
        self._count(node.mark, values=1, text=0)
        self._check_depth(node.mark, self.depth + 1)
        self._frames.append(_Frame(node))

    def key(self, text: str, mark: Mark) -> None:
        """Name the value that comes next."""
        self._check_text(text, mark)
        self._count(mark, values=0, text=len(text))
        frame = self._frames[-1]
        frame.key = (text, mark)
        frame.extent.text += len(text)

    def merge_key(self, mark: Mark) -> None:
        """Announce that the next value's entries are merged into this mapping (YAML's `<<`)."""
        frame = self._frames[-1]
        frame.key = ("<<", mark)
        frame.merging = True

    def scalar(self, node: ScalarNode) -> Extent:
        """Add a value without parts."""
        length = len(node.value) if isinstance(node.value, str) else 0
        self._check_value(node)
        self._count(node.mark, values=1, text=length)
        extent = Extent(text=length)
        self._place(node, extent)
        return extent

    def repeat(self, node: Node, extent: Extent, mark: Mark) -> None:
        """Add a node once more (YAML's alias, at `mark`)."""
        self._count(mark, values=extent.values, text=extent.text)
        self._check_depth(mark, self.depth + extent.height)
        self._place(node, extent)

    def close(self) -> tuple[Node, Extent]:
        """End the innermost list or mapping."""
        frame = self._frames.pop()
        if isinstance(frame.node, MapNode):
            for other in frame.merges:
                for name, entry in other.entries.items():
                    frame.node.entries.setdefault(name, entry)
        self._place(frame.node, frame.extent)
        return frame.node, frame.extent

    def path(self) -> tuple[str | int, ...]:
        """Where the next value goes."""
        steps: list[str | int] = []
        for frame in self._frames:
            if isinstance(frame.node, ListNode):
                steps.append(len(frame.node.items))
            elif frame.key is not None:
                steps.append(frame.key[0])
        return tuple(steps)

    def _place(self, node: Node, extent: Extent) -> None:
        if not self._frames:
            self.root = node
            return
        frame = self._frames[-1]
        frame.extent.add(extent)
        if isinstance(frame.node, ListNode):
            frame.node.items.append(node)
        elif frame.merging:
            self._merge(frame, node)
            frame.key, frame.merging = None, False
        else:
            self._enter(frame, frame.node, node)

    def _enter(self, frame: _Frame, mapping: MapNode, node: Node) -> None:
        assert frame.key is not None  # a reader gives a key before each value
        name, mark = frame.key
        if (before := mapping.entries.get(name)) is None:
            mapping.entries[name] = Entry(mark, node)
        elif len(self.problems) < MAX_PROBLEMS:
            self.problems.append(
                problem_at(
                    mark,
                    self.path(),
                    f"{quote(name)} is written twice, first on line {before.key_mark.line}",
                    "keep one of them",
                )
            )
        frame.key = None

    def _merge(self, frame: _Frame, node: Node) -> None:
        for part in node.items if isinstance(node, ListNode) else [node]:
            if not isinstance(part, MapNode):
                raise refuse(
                    node.mark,
                    "<< merges mappings, and this is none",
                    'write "<<: *name" with the name of an anchored mapping',
                    path=self.path()[:-1],
                )
            frame.merges.append(part)

    def _count(self, mark: Mark, *, values: int, text: int) -> None:
        self._values += values
        self._text += text
        if self._values > MAX_VALUES or self._text > MAX_TEXT:
            raise refuse(
                mark,
                f"the document holds more than {MAX_VALUES:,} values or {MAX_TEXT:,} characters "
                "up to here, repeated parts (aliases) included",
                "declare less, or split it among several farms",
            )

    def _check_depth(self, mark: Mark, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise refuse(
                mark,
                f"lists and mappings are nested more than {MAX_DEPTH} deep",
                "nest them less; nothing here needs that",
            )

    def _check_value(self, node: ScalarNode) -> None:
        match node.value:
            case str(text):
                self._check_text(text, node.mark)
            case bool() | None:
                pass
            case int(number) | float(number) if not -MAX_INTEGER <= number < MAX_INTEGER:
                raise refuse(
                    node.mark,
                    f"the number {quote(node.text)} is too large",
                    "write one of at most 18 digits, or a text in quotes",
                    path=self.path(),
                )

    def _check_text(self, text: str, mark: Mark) -> None:
        # No file name, argument or variable can hold a NUL; UTF-8 cannot hold half a surrogate.
        if "\0" in text or not _is_unicode(text):
            raise refuse(
                mark,
                f"the text {quote(text)} has a character that cannot be stored",
                "write it without NUL (\\0) and without half a surrogate pair (\\ud800 to \\udfff)",
                path=self.path(),
            )


def plain(node: Node) -> Json:
    """Turn the tree into plain values; repeated parts become separate ones."""
    match node:
        case ScalarNode():
            return node.value
        case ListNode():
            return [plain(item) for item in node.items]
        case MapNode():
            return {name: plain(entry.node) for name, entry in node.entries.items()}


def locate(root: Node, path: Iterable[str | int]) -> Node | None:
    """Find the node at a path; None where it is not written in the document."""
    node: Node | None = root
    for step in path:
        match node, step:
            case MapNode(), str():
                entry = node.entries.get(step)
                node = entry.node if entry else None
            case ListNode(), int():
                node = node.items[step] if step < len(node.items) else None
            case _:
                return None
    return node


def mark_of_key(root: Node, path: Sequence[str | int]) -> Mark:
    """Find the place of the key (or list item) at a path, or of the nearest thing that holds it."""
    for length in range(len(path), 0, -1):
        parent = locate(root, path[: length - 1])
        step = path[length - 1]
        if isinstance(parent, MapNode) and isinstance(step, str) and step in parent.entries:
            return parent.entries[step].key_mark
        if isinstance(parent, ListNode) and (item := locate(parent, [step])):
            return item.mark
    return root.mark


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
