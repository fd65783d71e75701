"""The local store, by a real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.errors import NixError
from reconciler.model import StorePath
from reconciler.nix.endpoint import local_endpoint
from reconciler.store import Store
from tests.support.private_store import PrivateStore


async def test_what_cannot_be_kept_is_in_nobodys_way(store: PrivateStore, tmp_path: Path) -> None:
    """A new connection protects again all that is protected."""
    ours = Store(local_endpoint({**os.environ, **store.environment}), store.root / "roots")
    (tmp_path / "file").write_text("kept")
    kept = StorePath(store.run("nix-store", "--add", str(tmp_path / "file")).stdout.strip())
    await ours.protect([kept])
    with pytest.raises(NixError, match="nowhere"):
        await ours.protect([StorePath(f"/nowhere/{'0' * 32}-x")])
    await ours.close()
    assert await ours.valid([kept]) == {kept}
    store.run("nix-store", "--gc")
    assert await ours.valid([kept]) == {kept}
    await ours.close()
    store.run("nix-store", "--gc")
    assert await ours.valid([kept]) == frozenset()
    await ours.close()
