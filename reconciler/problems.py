"""What is wrong with a document, where, and how it is mended.

Pure. Says nothing of what a document may hold; `config` is what reports problems with this.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from reconciler.errors import UsageError

_SHOWN = 100
"""Problems printed; a person mends the first ones and runs the check again."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_$@+-]+")
_PASSWORD = re.compile(r"//[^/@\s]*:[^/\s]*@")
_CLIP = 80


class Problem(Struct, frozen=True, kw_only=True):
    """One thing wrong. `line` and `column` count from 1; None where no place can be named."""

    path: str
    """Where in the document, as people write it: `jobsets.website.caches[0]`; empty: all of it."""
    line: int | None
    column: int | None
    message: str
    mend: str

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        return f"{place}{self.message}; {self.mend}"


class ConfigError(UsageError):
    """A document that cannot be put in force, with everything that is wrong with it.

    Printed as one line for each problem, `name:line:column: path: message; mend`.
    """

    def __init__(self, problems: Iterable[Problem], *, name: str) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.line or 0, p.column or 0)))
        lines = told(self.problems[:_SHOWN], name=name)
        if (hidden := len(self.problems) - _SHOWN) > 0:
            lines.append(f"{_printable(name)}: and {hidden} more problems")
        super().__init__("\n".join(lines))


def told(problems: Iterable[Problem], *, name: str) -> list[str]:
    """A line for each, `name:line:column: path: message; mend`."""
    return [f"{_place(_printable(name), problem)}{problem}" for problem in problems]


def _printable(name: str) -> str:
    return name if name.isprintable() else quote(name)


def _place(name: str, problem: Problem) -> str:
    if problem.line is None:
        return f"{name}: "
    return f"{name}:{problem.line}:{problem.column}: "


def render_path(path: Sequence[str | int]) -> str:
    """Print a document path; a name that would be misread is quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if _PLAIN_NAME.fullmatch(step) else quote(step)
            text += f".{name}" if text else name
    return text


def quote(value: object) -> str:
    """Print a value from the document safely: as JSON, clipped, passwords left out."""
    if isinstance(value, str):
        value = _PASSWORD.sub("//…@", value)
    if isinstance(value, str) and len(value) > _CLIP:
        return json.dumps(value[:_CLIP])[:-1] + '…"'
    text = json.dumps(value, ensure_ascii=not (isinstance(value, str) and value.isprintable()))
    return text if len(text) <= _CLIP + 2 or isinstance(value, str) else text[:_CLIP] + "…"


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Find the name most like `word`, letter case aside; None where none is like it."""
    by_folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def did_you_mean(word: str, names: Sequence[str], *, label: str) -> str:
    """Suggest the nearest of `names` and list them, up to twenty, after `label`."""
    # difflib costs the product of both lengths and the number of names.
    close = nearest(word, names[:200]) if len(word) <= 200 else None
    listed = f"{label}: {', '.join(names[:20])}" + (", …" if len(names) > 20 else "")
    return f"did you mean {quote(close)}? ({listed})" if close else listed


def undeclared(word: str, names: Sequence[str], *, how: str) -> str:
    """Suggest the nearest of what is declared; where nothing is, say `how` to declare it."""
    return did_you_mean(word, names, label="declared") if names else f"declare it: {how}"
