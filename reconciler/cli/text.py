"""Text for people: tables, ages, colours; and text from builds made harmless.

Knows nothing of what it prints. Nothing here reads the database.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from reconciler.quantities import format_duration

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movements
    r"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)"  # OSC, DCS, …: titles, links
    r"|[ -/]*[0-~])"
)
_CONTROLS = re.compile(
    # C0 but tab and newline, DEL, C1; what turns the direction of text; line separators.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
_GAPS = re.compile("([ \t\n]+)")

GOOD, BAD, BUSY, DIM = "green", "red", "yellow", "bright_black"


def harmless(text: str) -> str:
    """Text without anything a terminal would act upon but tabs and line ends."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str, *, limit: int = 2000) -> str:
    """The same on one line."""
    return " ".join(harmless(text[: limit * 2]).split())[:limit]


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def columns() -> int | None:
    """The terminal's width; None where there is none, and nothing is to be cut off."""
    if not on_terminal():
        return None
    import shutil  # noqa: PLC0415 - brings the archive formats with it, which a pipe need not pay

    return shutil.get_terminal_size((80, 24)).columns


def width_of(text: str) -> int:
    """Columns that a text takes, colours aside."""
    plain = click.unstyle(text)
    if plain.isascii():
        return len(plain)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in plain
    )


def cut(text: str, width: int | None) -> str:
    """A plain text in at most `width` columns, with … where it goes on."""
    if width is None or width_of(text) <= width:
        return text
    room = width - 1
    kept = ""
    for character in text:
        room -= width_of(character)
        if room < 0:
            break
        kept += character
    return kept.rstrip() + "…" if width > 0 else ""


def table(
    rows: Sequence[Sequence[str]],
    *,
    header: Sequence[str] | None = None,
    width: int | None = None,
    indent: str = "",
) -> list[str]:
    """Lines with aligned columns, two spaces apart; the last column is cut to fit `width`."""
    # A job may have any name: one line it is all the same.
    shown = [[cell.replace("\n", " ") for cell in row] for row in rows]
    if header is not None:
        shown.insert(0, [click.style(cell, bold=True) if cell else "" for cell in header])
    if not shown:
        return []
    widths = [max(width_of(row[i]) for row in shown) for i in range(len(shown[0]) - 1)]
    left = len(indent) + sum(widths) + 2 * len(widths)
    lines = []
    for row in shown:
        cells = [cell + " " * (w - width_of(cell)) for cell, w in zip(row, widths, strict=False)]
        last = row[-1]
        if width is not None and width_of(last) > width - left:
            last = cut(click.unstyle(last), max(width - left, 8))
        lines.append((indent + "  ".join([*cells, last])).rstrip())
    return lines


def wrapped_table(
    rows: Sequence[Sequence[str]],
    *,
    header: Sequence[str] | None = None,
    width: int | None = None,
    indent: str = "",
) -> list[str]:
    """Lines as of `table`; what does not fit in the last column goes on below it."""
    if width is None or not rows:
        return table(rows, header=header, indent=indent)
    others = zip(*(row[:-1] for row in [*rows, *([header] if header else [])]), strict=True)
    filled = [" " * max(map(width_of, cells)) for cells in others]
    room = max(width - len(indent) - sum(len(each) + 2 for each in filled), 20)
    lines: list[list[str]] = []
    for row in rows:
        parts = [row[-1]]
        if width_of(row[-1]) > room:
            parts = wrapped(click.unstyle(row[-1]), width=room).split("\n")
        lines += [[*row[:-1], parts[0]], *([*filled, part] for part in parts[1:])]
    return table(lines, header=header, indent=indent)


def wrapped(text: str, *, width: int | None, indent: str = "", first: str | None = None) -> str:
    """A paragraph, broken between words.

    Not by `textwrap`, which takes a colour for text, and so breaks too early.
    """
    parts = _GAPS.split(text)
    lines = [(indent if first is None else first) + parts[0]]
    for gap, word in zip(parts[1::2], parts[2::2], strict=True):
        longer = lines[-1] + " " * len(gap) + word
        if width_of(longer.rstrip()) <= (width or 100):
            lines[-1] = longer
        else:
            lines.append(indent + word)
    return "\n".join(line.rstrip() for line in lines)


def readable(text: str) -> str:
    """What is written by the line, for a terminal: sentences broken between words, and left as they
    are what is indented, such as a program that is quoted.
    """
    import shutil  # noqa: PLC0415 - as above

    width = shutil.get_terminal_size((80, 24)).columns
    return "\n".join(
        line if line.startswith((" ", "\t")) else wrapped(line, width=width, indent="  ", first="")
        for line in text.split("\n")
    )


def ago(then: float, now: float) -> str:
    """How long ago, in a word."""
    return f"{format_duration(float(max(0, round(now - then))))} ago"


def lasting(seconds: float) -> str:
    """A duration."""
    return format_duration(max(0.0, seconds))


def clock(at: float) -> str:
    """A time of day with its date, local."""
    return datetime.fromtimestamp(at, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
