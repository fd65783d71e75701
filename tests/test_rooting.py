"""What is kept from collection, in a real store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from reconciler.model import StorePath
from reconciler.nix.endpoint import local_endpoint
from reconciler.outcomes import Faulted, Outcome
from reconciler.rooting import Rooting
from reconciler.store import Store
from tests.support.private_store import PrivateStore


class Ours:
    """Rooting, and what came of it."""

    def __init__(self, private: PrivateStore) -> None:
        self.private = private
        self.under_way = False
        self.outcomes: list[Outcome] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._begun = asyncio.Event()
        self._store = Store(
            local_endpoint({**os.environ, **private.environment}), private.root / "roots"
        )
        self.roots = Rooting(
            store=self._store,
            start=self._start,
            report=self.outcomes.append,
            under_way=lambda: self.under_way,
        )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.ensure_future(work))
        self._begun.set()

    def path(self, name: str) -> StorePath:
        file = self.private.root / name
        file.write_text(name)
        return StorePath(self.private.run("nix-store", "--add", str(file)).stdout.strip())

    def there(self, *paths: StorePath) -> list[bool]:
        return [Path(path).exists() for path in paths]

    def roots_made(self) -> dict[str, int]:
        folders = (self.private.root / "roots").iterdir()
        return {folder.name: len(list(folder.iterdir())) for folder in folders}

    async def settled(self) -> None:
        """All is done that was begun, or is to begin."""
        async with asyncio.timeout(60):
            while self.roots.waiting:
                self._begun.clear()
                await self._begun.wait()
            await asyncio.gather(*self._tasks)

    async def collected(self) -> None:
        """The connection ends, and with it what it protects; then all is collected."""
        await self._store.close()
        self.private.run("nix-store", "--gc")


@pytest.fixture
def ours(store: PrivateStore) -> Ours:
    return Ours(store)


async def test_what_an_evaluation_made_is_kept(ours: Ours) -> None:
    paths = [ours.path("a"), ours.path("b"), ours.path("c")]
    ours.under_way = True
    ours.roots.hold(1, paths[:1])
    ours.roots.hold(2, paths[1:2])
    ours.roots.hold(1, paths[2:])
    assert ours.roots.waiting
    await ours.settled()
    await ours.collected()
    assert all(ours.there(*paths))
    assert ours.roots_made() == {"1": 2, "2": 1}
    assert ours.outcomes == []


async def test_what_is_given_up_is_not_kept(ours: Ours) -> None:
    wrong, right = ours.path("wrong"), ours.path("right")
    ours.under_way = True
    ours.roots.hold(1, [wrong, right])
    ours.roots.protect_soon([wrong])
    await ours.roots.give_up([wrong])
    await ours.settled()
    await ours.collected()
    assert ours.there(wrong, right) == [False, True]


async def test_what_was_just_made_is_protected_when_its_makers_go(ours: Ours) -> None:
    made = ours.path("made")
    ours.roots.protect_soon([made])
    await ours.roots.give_up([])
    ours.private.run("nix-store", "--gc")
    assert ours.there(made) == [True]
    await ours.collected()
    assert ours.there(made) == [False]


async def test_what_cannot_be_rooted_is_said_until_it_can(ours: Ours) -> None:
    path = ours.path("a")
    folder = ours.private.root / "roots" / "bases"
    folder.parent.mkdir()
    folder.write_text("in the way")
    ours.roots.hold_bases([path])
    await ours.settled()
    (fault,) = ours.outcomes
    assert isinstance(fault, Faulted)
    assert (fault.reason, str(folder) in (fault.message or "")) == ("bases-free", True)
    folder.unlink()
    ours.roots.hold_bases([path])
    await ours.settled()
    _, over = ours.outcomes
    assert isinstance(over, Faulted)
    assert over.message is None
    await ours.collected()
    assert ours.there(path) == [True]
