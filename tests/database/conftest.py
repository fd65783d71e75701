"""A farm whose tables are checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.farm import Farm
from tests.support.invariants import check_tables


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """With a document in force and nothing else."""
    made = Farm(tmp_path)
    made.declare()
    yield made
    check_tables(made.database)
    made.database.close()
