"""What is wrong with a document, in lines that a person can follow and a terminal can print."""

from __future__ import annotations

import pytest

from reconciler.problems import (
    ConfigError,
    Problem,
    did_you_mean,
    nearest,
    quote,
    render_path,
    undeclared,
)


def problem(line: int | None, *, path: str = "caches.main", message: str = "is odd") -> Problem:
    column = None if line is None else 7
    return Problem(path=path, line=line, column=column, message=message, mend="mend it")


def test_problems_are_told_in_the_order_of_the_document() -> None:
    found = [problem(9, path="", message="ends too soon"), problem(None), problem(2)]
    assert str(ConfigError(found, name="farm.yaml")).splitlines() == [
        "farm.yaml: caches.main: is odd; mend it",
        "farm.yaml:2:7: caches.main: is odd; mend it",
        "farm.yaml:9:7: ends too soon; mend it",
    ]


def test_a_hundred_problems_are_told_and_the_others_counted() -> None:
    error = ConfigError([problem(line) for line in range(1, 104)], name="farm.yaml")
    lines = str(error).splitlines()
    assert lines[99:] == [
        "farm.yaml:100:7: caches.main: is odd; mend it",
        "farm.yaml: and 3 more problems",
    ]
    assert len(error.problems) == 103


def test_a_file_whose_name_would_move_the_cursor_is_quoted() -> None:
    error = ConfigError([problem(1)], name="farm\r.yaml")
    assert str(error) == '"farm\\r.yaml":1:7: caches.main: is odd; mend it'


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ((), ""),
        (("jobsets", "web", "caches", 0), "jobsets.web.caches[0]"),
        (("jobsets", "a.b", "x"), 'jobsets."a.b".x'),
        (("a b",), '"a b"'),
    ],
)
def test_a_path_is_written_as_people_write_it(path: tuple[str | int, ...], written: str) -> None:
    assert render_path(path) == written


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("größe", '"größe"'),
        ("\x1b[2J", '"\\u001b[2J"'),
        ("x" * 81, f'"{"x" * 80}…"'),
        ("https://me:secret@example.org/", '"https://…@example.org/"'),
        (True, "true"),
        (["ö"], '["\\u00f6"]'),
        ([1] * 99, f"[{'1, ' * 26}1…"),
    ],
)
def test_a_value_is_printed_safely(value: object, printed: str) -> None:
    assert quote(value) == printed


def test_what_was_meant_is_found_whatever_its_case() -> None:
    assert nearest("JobSets", ["caches", "jobsets"]) == "jobsets"
    assert nearest("zzz", ["caches", "jobsets"]) is None


def test_a_suggestion_names_what_there_is() -> None:
    names = ["caches", "jobsets"]
    meant = did_you_mean("cahces", names, label="known")
    assert meant == 'did you mean "caches"? (known: caches, jobsets)'
    assert did_you_mean("zzz", names, label="known") == "known: caches, jobsets"
    many = [f"name{number:02}" for number in range(21)]
    assert did_you_mean("zzz", many, label="known").endswith("name18, name19, …")
    assert did_you_mean("name00" * 40, many, label="known").startswith("known: name00, ")


def test_what_is_not_declared() -> None:
    assert undeclared("mian", ["main"], how="write it") == 'did you mean "main"? (declared: main)'
    assert undeclared("mian", [], how="write it") == "declare it: write it"
