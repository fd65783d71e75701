"""Reads YAML into a tree with lines and columns.

Pure. Plain values are resolved as YAML 1.2 and JSON have them (`no`, `on`, `1:30`, `010` and dates
are texts), keys are texts as written, tags are refused. Anchors, aliases and `<<` work within the
builder's bounds. Knows nothing of what the document means.

The events of libyaml's parser are used, not its composer: that one builds nodes without bounds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from reconciler.config.tree import (
    Extent,
    ListNode,
    MapNode,
    Mark,
    Node,
    ScalarNode,
    TreeBuilder,
    number,
    refuse,
)
from reconciler.problems import quote

_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_MENDS: Mapping[str, str] = {
    "mapping values are not allowed": "put a value that has a colon and a space in it in quotes, "
    "or mend the indentation",
    "cannot start any token": "put a text that starts with @, `, % or a tab in quotes, and indent "
    "with spaces",
    "did not find expected key": "mend the indentation of this line or of those above it, or close "
    "a quote",
    "did not find expected '-' indicator": "mend the indentation of this line",
    "could not find expected ':'": "end the key with a colon and a space, or mend the indentation",
    "unexpected end of stream": "close the quote that was opened before",
    "did not find expected ',' or": "close the bracket that was opened before, or add a comma",
    "escape": "write a backslash in double quotes as \\\\, or use single quotes",
}
"""What to do about libyaml's complaints, by a part of their texts."""


def read_yaml(text: str, builder: TreeBuilder) -> None:
    """Read one document into `builder`; DocumentError at the first place that cannot be read."""
    reader = _YamlReader(builder)
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error) from None


class _YamlReader:
    """Turns libyaml's events into the builder's calls."""

    def __init__(self, builder: TreeBuilder) -> None:
        self._builder = builder
        self._anchors: dict[str, tuple[Node, Extent] | None] = {}
        self._open_anchors: list[str | None] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """Take the next event."""
        mark = _mark(event)
        match event:
            case yaml.ScalarEvent():
                self._refuse_tag(event.tag, mark)
                self._scalar(event, mark)
            case yaml.AliasEvent():
                self._alias(str(event.anchor), mark)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._refuse_tag(event.tag, mark)
                self._refuse_as_key(mark)
                mapping = isinstance(event, yaml.MappingStartEvent)
                self._builder.open(MapNode({}, mark) if mapping else ListNode([], mark))
                self._open_anchors.append(event.anchor)
                if event.anchor is not None:
                    self._anchors[event.anchor] = None
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                closed = self._builder.close()
                if (anchor := self._open_anchors.pop()) is not None:
                    self._anchors[anchor] = closed
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise refuse(
                        mark, "a second document begins here", "keep one, and no other --- line"
                    )
            case _:
                pass  # the ends of document and stream

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> None:
        plain = event.style is None or event.style == ""
        if self._builder.expects_key:
            if event.anchor is not None:
                raise refuse(mark, "a key has an anchor", "put the anchor before a value")
            if plain and event.value == "<<":
                self._builder.merge_key(mark)
            else:
                self._builder.key(event.value, mark)
            return
        value = _resolve(event.value) if plain else event.value
        node = ScalarNode(value, event.value, mark)
        extent = self._builder.scalar(node)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, extent)

    def _alias(self, anchor: str, mark: Mark) -> None:
        self._refuse_as_key(mark)
        if anchor not in self._anchors:
            raise refuse(
                mark,
                f"*{anchor} repeats what no anchor before it names",
                f"put &{anchor} before the value to repeat, or quote a text that starts with *",
                path=self._builder.path(),
            )
        anchored = self._anchors[anchor]
        if anchored is None:
            raise refuse(
                mark,
                f"*{anchor} repeats the value it is part of, without end",
                "write the value out",
                path=self._builder.path(),
            )
        node, extent = anchored
        self._builder.repeat(node, extent, mark)

    def _refuse_as_key(self, mark: Mark) -> None:
        if self._builder.expects_key:
            raise refuse(
                mark,
                "a key is not a plain text",
                "write the key as a text; quote one that starts with [, {, * or ?",
                path=self._builder.path(),
            )

    def _refuse_tag(self, tag: str | None, mark: Mark) -> None:
        if tag is not None:
            raise refuse(
                mark,
                f"the tag {quote(tag)} is not understood here",
                "remove it (a text that starts with ! goes in quotes)",
                path=self._builder.path(),
            )


def _resolve(text: str) -> bool | int | float | str | None:
    """Give a plain scalar its type."""
    if text in _WORDS:
        return _WORDS[text]
    return number(text) if _NUMBER.fullmatch(text) else text


def _mark(event: yaml.Event) -> Mark:
    start = event.start_mark
    return Mark(start.line + 1, start.column + 1) if start else Mark(1, 1)


def _syntax_error(error: yaml.MarkedYAMLError) -> Exception:
    place = error.problem_mark or error.context_mark
    mark = Mark(place.line + 1, place.column + 1) if place else Mark(1, 1)
    complaint = error.problem or "it cannot be read"
    context = f" ({error.context}{_opened(error)})" if error.context else ""
    mend = next(
        (mend for part, mend in _MENDS.items() if part in complaint),
        "mend the line, or put its texts in quotes",
    )
    return refuse(mark, f"this is not YAML: {complaint}{context}", mend)


def _opened(error: yaml.MarkedYAMLError) -> str:
    return f" begun on line {error.context_mark.line + 1}" if error.context_mark else ""
