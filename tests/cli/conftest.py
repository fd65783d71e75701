"""Farms in several states."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.database import database_path
from reconciler.model import Outcome
from tests.cli.farm import Farm
from tests.support.invariants import check_database


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """A farm with a document in force and nothing else; what a test makes of it is checked."""
    made = Farm(tmp_path)
    made.declare()
    yield made
    made.database.close()
    check_database(database_path(made.state_dir))


@pytest.fixture
def good(farm: Farm) -> Farm:
    """All is built and pushed."""
    farm.derivations({"lib-1.0": [], "site-1.0": ["lib-1.0"]})
    farm.attempt("lib-1.0")
    farm.attempt("site-1.0", log=b"\x1b[1mlinking\x1b[0m\r\ndone \x07\xff\n")
    farm.evaluation("web", {"site": "site-1.0"})
    farm.evaluation("web.next", {"lib": "lib-1.0"})
    farm.push("site-1.0", pushed_bytes=1000)
    return farm


@pytest.fixture
def broken(farm: Farm) -> Farm:
    """A library failed; what needs it does not, and something else was built."""
    farm.derivations(
        {"lib-1.0": [], "mid-1.0": ["lib-1.0"], "site-1.0": ["mid-1.0"], "docs-1.0": []}
    )
    log = b"".join(b"line %d\n" % number for number in range(30)) + b"error: no such file"
    farm.attempt("lib-1.0", Outcome.FAILED, message="builder failed with exit code 2", log=log)
    farm.attempt("docs-1.0")
    farm.evaluation(
        "web",
        {"site": "site-1.0", "docs": "docs-1.0"},
        errors={"old": "error: attribute 'gone' missing"},
    )
    farm.evaluation("web.next", {"docs": "docs-1.0"})
    return farm


@pytest.fixture
def waiting(farm: Farm) -> Farm:
    """Something is being built, and the rest waits for it."""
    farm.derivations({"lib-1.0": [], "other-1.0": [], "site-1.0": ["lib-1.0", "other-1.0"]})
    farm.start("lib-1.0")
    farm.evaluation("web", {"site": "site-1.0", "other": "other-1.0"})
    farm.derivations({"ready-1.0": []})
    farm.evaluation("web.next", {"ready": "ready-1.0"})
    return farm
