from __future__ import annotations

import itertools

import click
import pytest

from reconciler.cli.text import cut, table, width_of, wrapped, wrapped_table

WORDS = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize("width", range(8, 60))
def test_a_colour_takes_no_room(width: int) -> None:
    plain = wrapped(WORDS, width=width, indent="  ", first="")
    colored = WORDS.replace("two", click.style("two", fg="red", bold=True))
    assert click.unstyle(wrapped(colored, width=width, indent="  ", first="")) == plain
    lines = plain.splitlines()
    assert all(len(line) <= width for line in lines)
    for line, after in itertools.pairwise(lines):  # no line ends before it has to
        assert len(f"{line} {after.split()[0]}") > width


def test_the_last_column_of_a_table_goes_on_below_it() -> None:
    lines = wrapped_table([["name", WORDS], ["path", "/" + "a" * 60]], width=40, indent="  ")
    assert lines == [
        "  name  one two three four five six",
        "        seven eight nine ten",
        "  path  /" + "a" * 60,  # to be copied whole
    ]


def test_what_is_wide_counts_as_it_is_shown() -> None:
    lines = wrapped("世界 " * 10, width=12).splitlines()
    assert lines == ["世界 世界"] * 5
    assert all(width_of(line) <= 12 for line in lines)


def test_what_is_too_long_stands_alone_and_gaps_stay() -> None:
    path = "/nix/store/" + "a" * 40
    assert wrapped(f"see {path} now", width=20, indent="  ", first="> ") == (
        f"> see\n  {path}\n  now"
    )
    assert wrapped("a  b\tc\nd", width=80) == "a  b c d"
    assert wrapped("", width=80, indent="  ") == ""


@pytest.mark.parametrize("width", range(9))
@pytest.mark.parametrize("text", ["abcdef", "世界世界", "a\u0301b\u0301c\u0301d", "ab  cdef", ""])
def test_what_is_cut_fits_and_says_so(text: str, width: int) -> None:
    shown = cut(text, width)
    assert width_of(shown) <= width
    if width_of(text) <= width:
        assert shown == text
    elif width:
        assert text.startswith(shown.removesuffix("…"))
        assert width_of(shown) + 2 >= min(width, width_of(text.replace("  ", " ")))


def test_a_line_of_a_mebibyte_is_cut_at_once() -> None:
    assert cut("世" * 2**20, 80) == "世" * 39 + "…"


def test_a_row_is_one_line_whatever_it_names() -> None:
    assert table([["two\nlines", "x"], ["a", "y"]]) == ["two lines  x", "a          y"]
