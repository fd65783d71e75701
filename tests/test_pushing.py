"""What Nix cannot tell of some paths, while they belong in a cache."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from reconciler.binary_cache.refusals import MAX_REFUSALS
from reconciler.model import PathInfo, PushRule, PushScope, StorePath
from reconciler.nix import local_endpoint
from reconciler.nix.endpoint import CommandEndpoint
from reconciler.pushing import close_over, push
from reconciler.store import Store
from reconciler.upstreams import Upstreams
from tests.binary_cache.support import add_files, build_chain, declare, spoil
from tests.support.private_store import PrivateStore


@pytest.fixture
async def asked(store: PrivateStore) -> AsyncIterator[Store]:
    made = Store(local_endpoint({**os.environ, **store.environment}), store.root / "roots")
    yield made
    await made.close()


@pytest.mark.parametrize("scope", [PushScope.JOBS, PushScope.REQUISITES])
async def test_what_belongs_to_others_is_found_beside_a_path_that_nix_refuses(
    store: PrivateStore, asked: Store, scope: PushScope
) -> None:
    files, (base, middle, top) = add_files(store, 5), build_chain(store)
    spoil(store, middle)
    outputs = {number: [path] for number, path in enumerate([*files, base, middle, top])}
    rule = PushRule(scope=scope)
    found = await close_over(declare(store.root / "cache"), rule, outputs, asked, Upstreams(None))
    refused = {6} if scope is PushScope.JOBS else {6, 7}
    assert found.unknown.keys() == refused
    assert all(str(middle) in why for why in found.unknown.values())
    assert {*found.derivations} == outputs.keys() - refused
    assert {*found.paths} == {path for number in found.derivations for path in outputs[number]}


@pytest.mark.parametrize(
    ("scope", "exclude", "wanted"),
    [
        (PushScope.JOBS, (), {"top", "other"}),
        (PushScope.JOBS, ("base", "t*"), {"other"}),
        (PushScope.REQUISITES, (), {"base", "middle", "top", "other"}),
        (PushScope.ALL, ("middle",), {"base", "other"}),
        (PushScope.REQUISITES, ("*",), set()),
    ],
)
async def test_a_rule_says_what_of_derivations_belongs_there(
    store: PrivateStore, asked: Store, scope: PushScope, exclude: tuple[str, ...], wanted: set[str]
) -> None:
    *_, top = build_chain(store)
    rule = PushRule(scope=scope, exclude=exclude)
    other = StorePath(store.run("nix-store", "--add", str(named(store, "other"))).stdout.strip())
    cache = declare(store.root / "cache")
    found = await close_over(cache, rule, {1: [top], 2: [other]}, asked, Upstreams(None))
    assert (found.rule, {*found.derivations}) == (rule, {1, 2})
    assert {Path(path).name.partition("-")[2] for path in found.paths} == wanted


def named(store: PrivateStore, name: str) -> Path:
    file = store.root / name
    file.write_text(name)
    return file


async def test_a_path_that_nix_refuses_keeps_no_other_of_its_batch_back(
    store: PrivateStore, asked: Store
) -> None:
    paths = add_files(store, 20)
    spoil(store, paths[3], paths[11])
    cache = declare(store.root / "cache")
    done = await push(cache, paths, asked, upstreams=Upstreams(None))
    assert done.unusable is None
    assert done.failed.keys() == {paths[3], paths[11]}
    assert str(paths[3]) in done.failed[paths[3]]
    assert done.sent.keys() == {*paths} - done.failed.keys()
    assert not done.gone


async def test_where_nix_refuses_everything_it_is_not_asked_for_each(
    store: PrivateStore, asked: Store
) -> None:
    paths = add_files(store, 100)
    spoil(store, *paths)
    questions: list[int] = []
    ask = asked.path_infos

    class Counting(Store):
        async def path_infos(self, paths: Sequence[StorePath]) -> dict[StorePath, PathInfo]:
            questions.append(len(paths))
            return await ask(paths)

    counting = Counting(asked.endpoint, store.root / "roots")
    cache = declare(store.root / "cache")
    done = await push(cache, paths, counting, upstreams=Upstreams(None))
    assert done.unusable is not None
    assert done.failed.keys() == {*paths}
    outputs = {n: [path] for n, path in enumerate(paths)}
    found = await close_over(cache, cache.rule, outputs, counting, Upstreams(None))
    assert found.unknown.keys() == {*range(100)}
    assert not found.paths
    assert len(questions) < 2 * (4 * MAX_REFUSALS + 16)


async def test_a_daemon_that_is_not_there_is_asked_once(store: PrivateStore) -> None:
    gone = Store(CommandEndpoint(argv=("/nowhere/nix-daemon",)), store.root / "roots")
    paths = add_files(store, 3)
    outputs = {number: [path] for number, path in enumerate(paths)}
    cache = declare(store.root / "cache")
    found = await close_over(cache, cache.rule, outputs, gone, Upstreams(None))
    assert found.unknown.keys() == outputs.keys()
    assert not found.derivations
