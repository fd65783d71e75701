"""Reads JSON (RFC 8259) into a tree with lines and columns.

Pure. Strict: what JSON forbids is refused. Knows nothing of what the document means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from reconciler.config.tree import (
    DocumentError,
    ListNode,
    MapNode,
    Mark,
    ScalarNode,
    TreeBuilder,
    number,
    problem_at,
)
from reconciler.problems import quote

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![0-9A-Za-z.+-])")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.+-]*")
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None}


class NotJsonError(DocumentError):
    """The text is not JSON; what it is may be YAML."""


def read_json(text: str, builder: TreeBuilder) -> None:
    """Read one document into `builder`.

    Raises NotJsonError at the first place that is not JSON, DocumentError where the builder
    refuses what is.
    """
    _JsonReader(text, builder).document()


class _JsonReader:
    """A position in the text; the open lists and mappings are the builder's."""

    def __init__(self, text: str, builder: TreeBuilder) -> None:
        self._text = text
        self._builder = builder
        self._at = 0
        self._line = 1
        self._line_start = 0
        # Its string scanner is C; the position it stops at tells where the text ends.
        self._scan_string = json.JSONDecoder().raw_decode

    def document(self) -> None:
        """Read values until none is open, then the end."""
        self._space()
        self._value()
        while self._builder.depth:
            self._next_in_open()
        self._space()
        if self._at < len(self._text):
            raise self._wrong(
                f"text follows the end of the document: {quote(self._ahead())}",
                "remove it, or a bracket too many before it",
            )

    def _next_in_open(self) -> None:
        """Read what follows a complete value: a comma and the next one, or the closing bracket."""
        closing = "}" if self._builder.in_mapping else "]"
        self._space()
        if self._take(closing):
            self._builder.close()
            return
        if not self._take(","):
            raise self._unexpected(f'"," or {quote(closing)}')
        self._space()
        self._item()

    def _item(self) -> None:
        """Read a list's item, or a mapping's key and value."""
        if self._builder.in_mapping:
            mark = self._mark()
            if not self._text.startswith('"', self._at):
                raise self._unexpected("a key in double quotes")
            self._builder.key(self._string(), mark)
            self._space()
            if not self._take(":"):
                raise self._unexpected('":" after the key')
            self._space()
        self._value()

    def _value(self) -> None:
        """Read a value; of a list or mapping up to and with its first item."""
        mark, start = self._mark(), self._at
        match self._text[start : start + 1]:
            case "{":
                self._open(MapNode({}, mark), closing="}")
            case "[":
                self._open(ListNode([], mark), closing="]")
            case '"':
                value = self._string()
                self._builder.scalar(ScalarNode(value, value, mark))
            case _:
                self._bare(mark)

    def _bare(self, mark: Mark) -> None:
        """Read a number, true, false or null."""
        if found := _NUMBER.match(self._text, self._at):
            node = ScalarNode(number(found[0]), found[0], mark)
        elif (found := _WORD.match(self._text, self._at)) and found[0] in _WORDS:
            node = ScalarNode(_WORDS[found[0]], found[0], mark)
        else:
            raise self._unexpected("a value")
        self._at = found.end()
        self._builder.scalar(node)

    def _open(self, node: ListNode | MapNode, *, closing: str) -> None:
        self._builder.open(node)
        self._at += 1
        self._space()
        if self._take(closing):
            self._builder.close()
        else:
            self._item()

    def _string(self) -> str:
        try:
            value, self._at = self._scan_string(self._text, self._at)
        except json.JSONDecodeError as error:
            self._at = error.pos
            raise self._wrong(
                f"a text is not written as JSON has it: {error.msg}",
                'end it with ", write a line break as \\n and a backslash as \\\\',
            ) from None
        return str(value)

    def _space(self) -> None:
        """Skip white space, the only place where JSON has line breaks."""
        found = _SPACE.match(self._text, self._at)
        if found is None or found.end() == self._at:
            return
        if breaks := found[0].count("\n"):
            self._line += breaks
            self._line_start = self._at + found[0].rindex("\n") + 1
        self._at = found.end()

    def _take(self, character: str) -> bool:
        if self._text.startswith(character, self._at):
            self._at += 1
            return True
        return False

    def _mark(self) -> Mark:
        return Mark(self._line, self._at - self._line_start + 1)

    def _ahead(self) -> str:
        return self._text[self._at : self._at + 20].partition("\n")[0]

    def _unexpected(self, wanted: str) -> NotJsonError:
        found = quote(self._ahead()) if self._at < len(self._text) else "the end of the document"
        return self._wrong(
            f"this is not JSON: {found} stands where {wanted} must",
            "put it there, or look for a bracket, comma or quote missing before",
        )

    def _wrong(self, message: str, mend: str) -> NotJsonError:
        return NotJsonError(problem_at(self._mark(), self._builder.path(), message, mend))
