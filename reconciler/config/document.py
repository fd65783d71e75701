"""Reads a document, JSON or YAML by its content, into a tree with lines and columns.

Pure: bytes to tree. Bounded in time and memory whatever the bytes are.
"""

from __future__ import annotations

import re

from reconciler.config.json_text import NotJsonError, read_json
from reconciler.config.tree import MAX_TEXT, DocumentError, Mark, Node, TreeBuilder, refuse
from reconciler.problems import Problem

MAX_BYTES = MAX_TEXT

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
"""What YAML forbids unescaped, and JSON nearly all of."""
_LOOKS_LIKE_JSON = re.compile(r"\s*\{\s*[\"}]")


def read(data: bytes) -> tuple[Node, list[Problem]]:
    """Read a document; the problems are those that could be read past (a key written twice).

    Raises DocumentError for what cannot be read at all.
    """
    text = _decode(data)
    builder = _read_json_or_yaml(text)
    if builder.root is None:
        raise refuse(
            Mark(1, 1),
            "the document is empty",
            "write {} to declare nothing, or begin with jobsets:",
        )
    return builder.root, builder.problems


def _read_json_or_yaml(text: str) -> TreeBuilder:
    """Read as JSON what may be JSON, and as YAML what is not: `{a: b}` is YAML, too."""
    if not text.lstrip().startswith("{"):
        return _read_yaml(text)
    builder = TreeBuilder()
    try:
        read_json(text, builder)
    except NotJsonError:
        try:
            return _read_yaml(text)
        except DocumentError:
            if not _LOOKS_LIKE_JSON.match(text):
                raise
        raise
    return builder


def _read_yaml(text: str) -> TreeBuilder:
    # What the NixOS module renders is JSON, and needs none of this.
    from reconciler.config.yaml_text import read_yaml  # noqa: PLC0415

    builder = TreeBuilder()
    read_yaml(text, builder)
    return builder


def _decode(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise refuse(
            Mark(1, 1),
            f"the document is larger than {MAX_BYTES // 2**20} MiB",
            "declare less, or split it among several farms",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse(
            _mark_at(data[: error.start].decode("utf-8-sig", "replace")),
            f"the document is not UTF-8: byte 0x{data[error.start]:02x}",
            "save it as UTF-8",
        ) from None
    if found := _UNPRINTABLE.search(text):
        raise refuse(
            _mark_at(text[: found.start()]),
            f"the document has the control character U+{ord(found[0]):04X}",
            "remove it, or write it as an escape in double quotes",
        )
    return text


def _mark_at(before: str) -> Mark:
    """Find the place after a text."""
    return Mark(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
