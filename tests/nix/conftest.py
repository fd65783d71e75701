"""Fixtures for the tests of the worker-protocol client: daemons of both versions of Nix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nix.connection_daemons import Daemon, daemon, newer_nix, older_nix


@pytest.fixture(params=["newer-command", "newer-socket", "older-command", "older-socket"])
def any_daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """An empty store behind its daemon, in each combination of version and way."""
    version, _, behind = request.param.partition("-")
    with daemon(newer_nix() if version == "newer" else older_nix(), behind=behind) as made:
        yield made


@pytest.fixture(params=["newer-socket", "older-command"])
def either_daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """The same, each version and each way once."""
    version, _, behind = request.param.partition("-")
    with daemon(newer_nix() if version == "newer" else older_nix(), behind=behind) as made:
        yield made
