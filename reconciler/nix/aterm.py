"""Reading of any term in Nix's subset of ATerm: strings, lists, tuples and constructors.

Knows nothing of derivations.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from msgspec import Struct


class Constructor(Struct, frozen=True):
    """`Name(argument,…)`; a tuple is a constructor without a name."""

    name: str
    arguments: list[Term]


Term: TypeAlias = "str | list[Term] | Constructor"

_STRING = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_OPENING = re.compile(r"([A-Za-z]*+)\(")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}
_DEEPEST = 100


def unescape(text: str) -> str:
    """What stands between a string's quotes, without its escapes."""
    if "\\" not in text:
        return text
    return _ESCAPED.sub(lambda found: _CONTROLS.get(found[1], found[1]), text)


def string_at(text: str, at: int) -> str:
    """The string whose opening quote is at this place. ValueError where there is none."""
    return _Walk(text, at).string()


def parse(text: str) -> Term:
    """The one term that the text is. ValueError, with the place, where it is none."""
    walk = _Walk(text, 0)
    term = walk.term(_DEEPEST)
    if walk.at != len(text):
        raise walk.error()
    return term


class _Walk:
    def __init__(self, text: str, at: int) -> None:
        self.at = at
        self._text = text

    def error(self) -> ValueError:
        found = self._text[self.at : self.at + 20]
        return ValueError(
            f"unexpected {found!r} at character {self.at}" if found else "it ends too early"
        )

    def string(self) -> str:
        found = _STRING.match(self._text, self.at)
        if found is None:
            raise self.error()
        self.at = found.end()
        return unescape(found[1])

    def term(self, depth: int) -> Term:
        if not depth:
            raise ValueError(f"nested too deeply at character {self.at}")
        if self._text.startswith('"', self.at):
            return self.string()
        if self._took("["):
            return self._terms("]", depth)
        opening = _OPENING.match(self._text, self.at)
        if opening is None:
            raise self.error()
        self.at = opening.end()
        return Constructor(opening[1], self._terms(")", depth))

    def _terms(self, end: str, depth: int) -> list[Term]:
        terms: list[Term] = []
        if self._took(end):
            return terms
        while True:
            terms.append(self.term(depth - 1))
            if self._took(end):
                return terms
            if not self._took(","):
                raise self.error()

    def _took(self, symbol: str) -> bool:
        found = self._text.startswith(symbol, self.at)
        self.at += found
        return found
