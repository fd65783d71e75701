"""What a fault ends a command with, and which may pass by themselves."""

from __future__ import annotations

import pytest

from reconciler.errors import (
    ConnectionLostError,
    NixError,
    NoNixError,
    ReconcilerError,
    StateError,
    UsageError,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ReconcilerError, 1),
        (NixError, 1),
        (ConnectionLostError, 1),
        (UsageError, 2),
        (StateError, 4),
        (NoNixError, 4),
    ],
)
def test_the_exit_status_tells_input_machine_and_the_rest_apart(
    error: type[ReconcilerError], status: int
) -> None:
    assert error("a reason").exit_status == status


def test_a_connection_that_was_lost_may_come_back() -> None:
    assert ConnectionLostError("the daemon went away").passing
