"""Reading documents: values as written, places exact, anything hostile refused at its place."""

from __future__ import annotations

import contextlib
import json
import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.config import document
from reconciler.config.tree import (
    MAX_DEPTH,
    MAX_VALUES,
    DocumentError,
    Json,
    Mark,
    locate,
    mark_of_key,
    plain,
)


def value(data: bytes) -> Json:
    root, problems = document.read(data)
    assert problems == []
    return plain(root)


def refusal(data: bytes) -> tuple[int | None, int | None, str, str]:
    with pytest.raises(DocumentError) as refused:
        document.read(data)
    problem = refused.value.problem
    return problem.line, problem.column, problem.path, f"{problem.message}; {problem.mend}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("010", "010"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        ("=", "="),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("12", 12),
        ("+12", 12),
        ("-1.50", -1.5),
        ("12e3", 12000.0),
        ("'12'", "12"),
        ('"true"', "true"),
    ],
)
def test_plain_values_are_those_of_yaml_1_2_and_json(text: str, expected: Json) -> None:
    read = value(f"a: {text}\n".encode())
    assert read == {"a": expected}
    assert isinstance(read, dict)
    assert type(read["a"]) is type(expected)


def test_keys_are_texts_as_written() -> None:
    assert value(b"1: a\ntrue: b\nnull: c\non: d\n1.10: e\n") == {
        "1": "a",
        "true": "b",
        "null": "c",
        "on": "d",
        "1.10": "e",
    }


def test_anchors_repeat_and_merge() -> None:
    text = b"a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: *a\nd: {<<: [*a, *b], x: 5}\n"
    read = value(text)
    assert isinstance(read, dict)
    assert read["c"] == {"x": 1, "y": 2}
    assert read["d"] == {"x": 5, "y": 2, "z": 4}
    assert value(b"a: &t text\nb: *t\n") == {"a": "text", "b": "text"}


def test_merging_is_yaml_only() -> None:
    assert value(b'{"<<": {"a": 1}}') == {"<<": {"a": 1}}


def test_json_is_read_where_yaml_would_not() -> None:
    assert value(b'\xef\xbb\xbf{"a"\n:\t"\\ud83d\\ude00\\/"}') == {"a": "\U0001f600/"}


def test_flow_yaml_is_read_where_json_would_not() -> None:
    assert value(b'{a: b, "c": [1, 2,],}') == {"a": "b", "c": [1, 2]}


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
    | st.floats(-1e18, 1e18)
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(st.text("abc", max_size=3), trees, max_size=4), st.sampled_from([None, 1]))
def test_every_json_document_is_read_as_json_reads_it(tree: Json, indent: int | None) -> None:
    text = json.dumps(tree, indent=indent)
    assert value(text.encode()) == json.loads(text)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(DocumentError):
        root, _ = document.read(data)
        assert root.mark.line >= 1


@settings(deadline=None)
@given(st.text("{}[]:,\"'-?&*!|>#%@`~ \n\tab1<\\", max_size=40))
def test_any_syntax_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(DocumentError):
        root, _ = document.read(text.encode())
        assert json.loads(json.dumps(plain(root))) == plain(root)


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_every_value_and_key_has_its_place(form: str) -> None:
    text = {
        "yaml": b"a:\n  b: [x,\n    {c: 1}]\n",
        "json": b'{\n "a": {"b": ["x",\n\n   {"c": 1}]}}',
    }[form]
    root, _ = document.read(text)
    item = locate(root, ["a", "b", 1, "c"])
    assert item is not None
    assert item.mark == {"yaml": Mark(3, 9), "json": Mark(4, 10)}[form]
    assert mark_of_key(root, ["a", "b"]) == {"yaml": Mark(2, 3), "json": Mark(2, 8)}[form]
    assert mark_of_key(root, ["a", "b", 0]) == {"yaml": Mark(2, 7), "json": Mark(2, 14)}[form]
    assert mark_of_key(root, ["a", "none", "such"]) == mark_of_key(root, ["a"])
    assert mark_of_key(root, []) == Mark(1, 1)
    elsewhere: list[list[str | int]] = [["a", "b", 2], ["a", 0], ["z"], ["a", "b", "c"]]
    for nowhere in elsewhere:
        assert locate(root, nowhere) is None


@pytest.mark.parametrize(
    ("data", "places"),
    [
        (b"a: 1\nb:\n  c: 1\n  c: 2\na: 3\n", [(4, 3, "b.c"), (5, 1, "a")]),
        (b'{"a": 1,\n "b": {"c": 1, "c": 2}, "a": 3}', [(2, 16, "b.c"), (2, 25, "a")]),
        (b"{a: 1, a: 2}", [(1, 8, "a")]),
        (b"l: [{x: 1}, {x: 1, x: 2}]", [(1, 20, "l[1].x")]),
    ],
)
def test_a_key_written_twice_is_a_problem_at_the_second(
    data: bytes, places: list[tuple[int, int, str]]
) -> None:
    _, problems = document.read(data)
    assert [(p.line, p.column, p.path) for p in problems] == places
    assert all("written twice, first on line" in p.message for p in problems)


@pytest.mark.parametrize(
    ("data", "line", "column", "words"),
    [
        (b"", 1, 1, "is empty; write {}"),
        (b"# nothing\n\n", 1, 1, "is empty; write {}"),
        (b"a: caf\xe9\n", 1, 7, "not UTF-8: byte 0xe9; save it as UTF-8"),
        ("a: b".encode("utf-16"), 1, 1, "not UTF-8"),
        (b"a: 1\nb: x\0y\n", 2, 5, "control character U+0000"),
        (b"a: \x1b[31m\n", 1, 4, "control character U+001B"),
        (b'a: 1\nb: "x\\0y"\n', 2, 4, "cannot be stored; write it without NUL"),
        (b'{"a": "\\u0000"}', 1, 7, "cannot be stored; write it without NUL"),
        (b'{"a": "\\ud800"}', 1, 7, "half a surrogate"),
        (b'{"\\ud800": 1}', 1, 2, "half a surrogate"),
        (b"a: 1e999\n", 1, 4, '"1e999" is too large; write one of at most 18 digits'),
        (b"a: " + b"9" * 5000, 1, 4, "is too large"),
        (b'{"a": 9223372036854775808}', 1, 7, "is too large"),
        (b"a: 1\n---\nb: 2\n", 2, 1, "a second document begins here"),
        (b"a: !!python/object/apply:os.system [ls]\n", 1, 4, "python/object/apply:os.system"),
        (b"a: !secret x\n", 1, 4, 'the tag "!secret"'),
        (b"a: *b\n", 1, 4, "put &b before the value to repeat"),
        (b"a: &a [1, *a]\n", 1, 11, "repeats the value it is part of"),
        (b"a: &a 1\nb: {<<: *a}\n", 1, 4, "<< merges mappings"),
        (b"[a, b]: c\n", 1, 1, "a key is not a plain text"),
        (b"{a: 1}: c\n", 1, 1, "a key is not a plain text"),
        (b"? [a]\n: c\n", 1, 3, "a key is not a plain text"),
        (b"a: &x y\n*x : c\n", 2, 1, "a key is not a plain text"),
        (b"&k a: c\n", 1, 1, "a key has an anchor"),
        (b"a:\n\tb: 1\n", 2, 1, "indent with spaces"),
        (b"a: b: c\n", 1, 5, "put a value that has a colon and a space in it in quotes"),
        (b"a: @x\n", 1, 4, "starts with @"),
        (b"a:\n   b: 1\n  c: 2\n", 3, 3, "mend the indentation"),
        (b'a: "x\nb: 1\n', 3, 1, "close the quote that was opened before"),
        (b"a: [1, 2\nb: 3\n", 2, 2, "close the bracket"),
        (b'a: "\\q"\n', 1, 5, "write a backslash in double quotes as"),
        (b"a: 1\nfoo\nb: 1\n", 3, 1, "end the key with a colon and a space"),
        (b'{"a": 1 "b": 2}', 1, 9, 'stands where "," or "}" must'),
        (b'{"a": ["x" 2]}', 1, 12, 'stands where "," or "]" must'),
        (b'{"a" 1}', 1, 6, 'stands where ":" after the key must'),
        (b'{"a": 1, b}: 2', 1, 10, "a key in double quotes"),
        (b'{"a": }}', 1, 7, "stands where a value must"),
        (b'{"a": 1', 1, 8, "the end of the document stands where"),
        (b'{"a": "x', 1, 7, "a text is not written as JSON has it"),
        (b'{"a": 1}\n}', 2, 1, "text follows the end of the document"),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_place(
    data: bytes, line: int, column: int, words: str
) -> None:
    found = refusal(data)
    assert found[:2] == (line, column)
    assert words in found[3]


def test_the_path_to_a_refused_value_is_named() -> None:
    assert refusal(b"a:\n  b c:\n  - x\n  - !t y\n")[2] == 'a."b c"[1]'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"#" * (document.MAX_BYTES + 1), "larger than 16 MiB"),
        (b"".join(b"a%d: 1\n" % i for i in range(1_000_000)), f"more than {MAX_VALUES:,} values"),
        (b"a: 1\n" * 1_000_000, f"more than {MAX_VALUES:,} values"),
        (b"[" * 1_000_000, f"nested more than {MAX_DEPTH} deep"),
        (b"- " * 1_000_000, f"nested more than {MAX_DEPTH} deep"),
        (b'{"a":' * 1_000_000, f"nested more than {MAX_DEPTH} deep"),
        (b'{"a":[' + b"1,\n" * 1_000_000 + b"1]}", f"more than {MAX_VALUES:,} values"),
        (b"? " * 1_000_000, "a key is not a plain text"),
        (
            b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(
                b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9))
                for c in range(98, 120)
            ),
            "repeated parts (aliases) included",
        ),
        (
            b"a: &a " + b"x" * 1_000_000 + b"\nb: [" + b"*a," * 1000 + b"]\n",
            "repeated parts (aliases) included",
        ),
        (
            b"a0: &a0 [x]\n"
            + b"".join(b"a%d: &a%d [*a%d]\n" % (i, i, i - 1) for i in range(1, 200)),
            f"nested more than {MAX_DEPTH} deep",
        ),
    ],
    ids=[
        "bytes", "lines", "same-key", "brackets", "dashes", "json-deep", "json-long", "keys",
        "anchor-bomb", "text-bomb", "anchor-tower",
    ],
)  # fmt: skip
def test_documents_beyond_the_bounds_are_refused_in_bounded_memory(data: bytes, words: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert words in refusal(data)[3]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400 * 1024  # KiB
