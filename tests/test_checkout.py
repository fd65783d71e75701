"""Sources in the store before they are evaluated: real git, real Nix, a real collector."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from reconciler.checkout import checked_out
from reconciler.errors import SourceError
from reconciler.model import EvaluatedJob, GitSource
from reconciler.nix.endpoint import local_endpoint
from reconciler.nix.evaluation import evaluate
from reconciler.source import LockedSource, LockedTree, lock
from reconciler.store import Store
from tests.support.jobsets import jobset
from tests.support.private_store import PrivateStore
from tests.support.repositories import Repository

RELEASE = """
{
  whole = derivation { name = "whole"; system = "s"; builder = "b"; src = ./.; };
  part = derivation { name = "part"; system = "s"; builder = "b"; src = ./part; };
}
"""


class Project:
    """A repository, and whoever reads it."""

    def __init__(self, private: PrivateStore, folder: Path) -> None:
        self.private = private
        self.repository = Repository.create(folder)
        self.repository.commit(".gitattributes", "hidden export-ignore\n")
        self.repository.commit("hidden", "not exported")
        self.repository.commit("part", "of it")
        self.repository.commit("release.nix", RELEASE)
        self.environment = {**os.environ, **private.environment}
        self.store = Store(local_endpoint(self.environment), private.root / "roots")

    async def locked(self) -> LockedSource:
        source = GitSource(url=self.repository.url, ref="main", file="release.nix")
        return await lock(source, environment=self.environment, copy=self.store.add_folder)

    async def checked_out(self, locked: LockedSource) -> LockedSource:
        return await checked_out(locked, store=self.store, environment=self.environment, timeout=60)

    async def jobs(self, locked: LockedSource) -> dict[str, str]:
        rows = evaluate(
            locked,
            jobset(),
            environment=self.environment,
            work_dir=self.private.root / "home",
        )
        found = {}
        async with aclosing(rows):
            async for some in rows:
                for row in some:
                    assert isinstance(row, EvaluatedJob), row
                    found[row.attr] = str(row.drv_path)
        return found


def names(folder: str) -> set[str]:
    return {each.name for each in Path(folder).glob("*")}


@pytest.fixture
async def project(store: PrivateStore, tmp_path: Path) -> AsyncIterator[Project]:
    made = Project(store, tmp_path / "repository")
    yield made
    await made.store.close()


async def test_what_is_in_git_lies_in_the_store(project: Project) -> None:
    read = await project.checked_out(await project.locked())
    assert isinstance(read.origin, LockedTree)
    assert read.store_path == read.origin.store_path
    assert names(read.origin.store_path) == {".gitattributes", "part", "release.nix"}


async def test_its_derivations_are_those_of_the_git_tree(project: Project) -> None:
    locked = await project.locked()
    read = await project.checked_out(locked)
    assert await project.jobs(read) == await project.jobs(locked)
    assert read.fingerprint == locked.fingerprint
    assert read.revision == locked.revision


async def test_the_collector_leaves_the_copy_alone(project: Project) -> None:
    read = await project.checked_out(await project.locked())
    assert read.store_path is not None
    project.private.run("nix-store", "--gc")
    assert names(read.store_path)
    await project.store.release_protected()
    project.private.run("nix-store", "--gc")
    assert not names(read.store_path)


async def test_a_revision_that_is_gone_is_one_message(project: Project, tmp_path: Path) -> None:
    locked = await project.locked()
    (tmp_path / "repository").rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError) as caught:
        await project.checked_out(locked)
    message = str(caught.value)
    assert message.startswith(f"{locked.locked} cannot be fetched: ")
    assert len(message.splitlines()) == 1
