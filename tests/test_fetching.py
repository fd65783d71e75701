"""What a fetch comes to, of real substituters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.database import Database, open_memory
from reconciler.fetching import fetch
from reconciler.ingest import Ingest
from reconciler.model import DrvPath, StorePath
from reconciler.nix.endpoint import local_endpoint
from reconciler.store import Store
from tests.support.private_store import PrivateStore

NOW = 1_000_000.0
EXPRESSION = """
  derivation {
    name = "it"; system = builtins.currentSystem;
    builder = "/bin/sh"; args = [ "-c" "echo > $out" ];
  }
"""


@pytest.fixture
def database() -> Iterator[Database]:
    made = open_memory(now=NOW)
    yield made
    made.close()


class Elsewhere:
    """A derivation whose output is in a cache, and not here."""

    def __init__(self, private: PrivateStore) -> None:
        self.cache = private.root / "elsewhere"
        (drv,) = private.instantiate(EXPRESSION)
        self.drv = DrvPath(drv)
        self.output = StorePath(private.run("nix-store", "--realise", drv).stdout.strip())
        private.run("nix", "copy", "--to", f"file://{self.cache}", self.output)
        private.run("nix-store", "--delete", self.output)
        with (private.root / "conf" / "nix.conf").open("a") as conf:
            conf.write(f"extra-substituters = file://{self.cache}?want-mass-query=true\n")
            conf.write("require-sigs = false\n")
        self.store = Store(
            local_endpoint({**os.environ, **private.environment}), private.root / "roots"
        )
        self.wanted = {7: (self.drv, [self.output])}


@pytest.fixture
def elsewhere(store: PrivateStore) -> Elsewhere:
    return Elsewhere(store)


async def test_what_is_there_is_fetched(elsewhere: Elsewhere, database: Database) -> None:
    ingest = Ingest(database, elsewhere.store)
    assert (await elsewhere.store.locate([elsewhere.output])).away == {elsewhere.output}
    fetched = await fetch(elsewhere.wanted, elsewhere.store, ingest, now=NOW)
    assert fetched.done == (7,)
    assert fetched.failed == {}
    assert fetched.batch is None
    assert (await elsewhere.store.locate([elsewhere.output])).here == {elsewhere.output}
    await elsewhere.store.close()


async def test_what_is_not_delivered_says_why(elsewhere: Elsewhere, database: Database) -> None:
    shutil.rmtree(elsewhere.cache / "nar")
    ingest = Ingest(database, elsewhere.store)
    fetched = await fetch(elsewhere.wanted, elsewhere.store, ingest, now=NOW)
    assert fetched.done == ()
    assert "nar" in fetched.failed[7]
    # A substituter still says that it has it: nothing is to be built.
    assert fetched.batch is not None
    assert fetched.batch.live == ()
    await elsewhere.store.close()


async def test_what_is_nowhere_is_to_be_built(elsewhere: Elsewhere, database: Database) -> None:
    forget(elsewhere.cache)
    ingest = Ingest(database, elsewhere.store)
    fetched = await fetch(elsewhere.wanted, elsewhere.store, ingest, now=NOW)
    assert fetched.failed.keys() == {7}
    assert fetched.batch is not None
    assert len(fetched.batch.live) == 1
    await elsewhere.store.close()


def forget(cache: Path) -> None:
    for narinfo in cache.glob("*.narinfo"):
        narinfo.unlink()


async def test_nor_can_it_be_built_without_its_derivation(
    elsewhere: Elsewhere, database: Database, store: PrivateStore
) -> None:
    forget(elsewhere.cache)
    store.run("nix-store", "--delete", elsewhere.drv)
    ingest = Ingest(database, elsewhere.store)
    fetched = await fetch(elsewhere.wanted, elsewhere.store, ingest, now=NOW)
    assert fetched.failed.keys() == {7}
    assert fetched.batch is None
    await elsewhere.store.close()


async def test_a_store_that_is_gone_fails_all(elsewhere: Elsewhere, database: Database) -> None:
    ingest = Ingest(database, elsewhere.store)
    missing = Store(local_endpoint({"PATH": "/nowhere"}), elsewhere.cache)
    fetched = await fetch(elsewhere.wanted, missing, ingest, now=NOW)
    assert fetched.failed.keys() == {7}
    assert "nix-daemon" in fetched.failed[7]
