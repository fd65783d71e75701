"""Attribute paths and Nix strings, as they are put into an expression."""

from __future__ import annotations

import json

import pytest

from reconciler.errors import UsageError
from reconciler.nix.expression import nix_lib, nix_string, parse_attr_path
from tests.support.private_store import PrivateStore


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("hydraJobs", ("hydraJobs",)),
        ("a.b.c", ("a", "b", "c")),
        ('a."b.c".d', ("a", "b.c", "d")),
        ('"a.b"', ("a.b",)),
    ],
)
def test_attribute_paths(text: str, path: tuple[str, ...]) -> None:
    assert parse_attr_path(text) == path


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", 'a."b', '""'])
def test_what_is_no_attribute_path(text: str) -> None:
    with pytest.raises(UsageError, match="is not an attribute path"):
        parse_attr_path(text)


def test_any_text_survives_as_a_nix_string(store: PrivateStore) -> None:
    text = "quote\" back\\slash ${dollar} $${twice} $\"{ '' \n\t\r größe \u2028 \U0001f600"
    read = store.run("nix-instantiate", "--eval", "--json", "--expr", nix_string(text)).stdout
    assert json.loads(read) == text


@pytest.mark.parametrize("name", ["base.nix", "garnix.nix", "jobs.nix", "walk.nix"])
def test_what_goes_on_a_command_line_is_plain(name: str) -> None:
    """A locale may have no encoding for anything else."""
    assert nix_lib(name).isascii()
