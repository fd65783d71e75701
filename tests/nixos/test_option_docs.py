"""The page of the options says what they are."""

from __future__ import annotations

from tests.nixos.option_docs import PAGE, page


def test_the_page_is_what_the_options_are() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.nixos.option_docs"
