"""Fixtures for every test: real Nix in a private store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.environment import NO_NIX, find_nix, stores_of_a_session, use_nix
from tests.support.private_store import PrivateStore


def pytest_configure(config: pytest.Config) -> None:
    """Set up what every test stands on; xdist's workers inherit it from the first process."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    nix = find_nix()
    if nix is None:
        pytest.exit(NO_NIX, returncode=pytest.ExitCode.USAGE_ERROR)
    use_nix(nix)
    cleanup = ExitStack()
    cleanup.enter_context(stores_of_a_session())
    config.add_cleanup(cleanup.close)


@pytest.fixture
def store() -> Iterator[PrivateStore]:
    """An empty private Nix store."""
    made = PrivateStore.create()
    yield made
    made.destroy()
