"""A reconciler of each test's own, and what must be true of it when the test is over."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler import preview
from reconciler.database import database_path
from tests.support import invariants
from tests.support.private_store import PrivateStore, stores_root
from tests.support.trial import Trial, processes_with


@pytest.fixture
def trial() -> Iterator[Trial]:
    """A reconciler with an empty store; the invariants are checked at the end."""
    with a_trial() as made:
        yield made


@contextmanager
def a_trial() -> Iterator[Trial]:
    """The same, for a fixture that lives longer."""
    root = Path(tempfile.mkdtemp(prefix="t-", dir=stores_root()))
    root.chmod(0o755)
    store_root = root / "nix"
    store_root.mkdir()
    made = Trial(root, PrivateStore.create(root=store_root))
    yield made
    try:
        check(made)
    finally:
        PrivateStore(root).destroy()


def check(trial: Trial) -> None:
    """DESIGN's invariants, of whatever the test left."""
    assert processes_with(str(trial.store.root)) == []
    path = database_path(trial.state_dir)
    if not path.exists() or path.stat().st_size == 0:
        return
    invariants.check_database(path)
    if not trial.collected:
        for name, paths in invariants.outputs_that_should_exist(path).items():
            gone = [each for each in paths if not Path(each).exists()]
            assert not gone, f"{name} succeeded, but {gone} is not there"
    if trial.settled:
        ahead = asyncio.run(
            preview.preview(
                config_path=trial.config, state_dir=trial.state_dir, environment=trial.env
            )
        )
        assert ahead.plan.actions == ()
