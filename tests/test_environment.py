"""The folder of a session's stores is removed at its end, or by the next session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.environment import stores_of_a_session
from tests.support.private_store import PrivateStore


def test_stores_left_by_a_test_go_with_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECONCILER_TEST_STORES", str(tmp_path))
    with stores_of_a_session() as session:
        left = PrivateStore.create()
        (left.store_dir / "path").mkdir(mode=0o555)
        assert left.root.parent == session
    assert not session.exists()


def test_a_killed_session_is_cleaned_up_and_a_live_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECONCILER_TEST_STORES", str(tmp_path))
    killed = tmp_path / "run-killed"
    killed.mkdir()
    (killed / "lock").touch()
    with stores_of_a_session() as live:
        assert not killed.exists()
        monkeypatch.setenv("RECONCILER_TEST_STORES", str(tmp_path))
        with stores_of_a_session() as other:
            assert live.exists()
            assert other != live
