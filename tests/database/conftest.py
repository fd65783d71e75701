"""A farm whose tables are checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.farm import Farm
from tests.support.invariants import checked


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """With a document in force and nothing else."""
    made = Farm(tmp_path)
    made.declare()
    with checked(made.database):
        yield made
