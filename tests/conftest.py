"""Fixtures for every test: real Nix in a private store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.private_store import PrivateStore


@pytest.fixture
def store() -> Iterator[PrivateStore]:
    """An empty private Nix store."""
    made = PrivateStore.create()
    yield made
    made.destroy()
