"""The store of another machine as a cache: what goes wrong there, and what is never done to it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from reconciler.binary_cache import (
    BinaryCache,
    Flaw,
    LocalNars,
    StreamedNars,
    Traffic,
    open_cache,
    reach,
)
from reconciler.errors import CacheError
from reconciler.model import Cache, StorePath
from tests.binary_cache.support import (
    add_files,
    build_chain,
    damage,
    declare,
    infos_of,
    make_key,
    on_machine,
    public_key,
    push,
    spoil,
)
from tests.nix.connection_daemons import newer_nix, older_nix
from tests.support import builders
from tests.support.builders import TestBuilder
from tests.support.private_store import PrivateStore


@pytest.fixture
def remote(store: PrivateStore) -> Iterator[TestBuilder]:
    made = TestBuilder(store, newer_nix())
    yield made
    made.close()


def declared(remote: TestBuilder, key: Path | None = None) -> Cache:
    return on_machine(declare(remote.store.root, key=key), remote.declared())


@asynccontextmanager
async def opened(cache: Cache, store: PrivateStore) -> AsyncIterator[BinaryCache]:
    async with open_cache(cache, store_dir=str(store.store_dir)) as it:
        yield it


async def refusal(store: PrivateStore, cache: Cache, paths: list[StorePath]) -> str:
    with pytest.raises(CacheError) as raised:
        await push(store, cache, paths)
    return str(raised.value)


def contents(path: str | Path) -> bytes:
    return Path(path).read_bytes()


DATABASE_THERE = "root/nix/var/nix/db"


def verify_all(remote: TestBuilder) -> None:
    """Have Nix look there for what is not as it is registered."""
    remote.run("nix-store", "--verify", "--check-contents")


# --- What is there is whole ----------------------------------------------------------------------


@pytest.mark.parametrize("version", ["newer", "older"])
async def test_two_versions_of_nix_take_what_is_pushed(store: PrivateStore, version: str) -> None:
    remote = TestBuilder(store, newer_nix() if version == "newer" else older_nix())
    try:
        paths = build_chain(store)
        cache = declared(remote, make_key(store))
        assert (await push(store, cache, paths)).sent.keys() == set(paths)
        async with opened(cache, store) as it:
            assert await it.examine(paths) == ()
            assert await it.missing(paths) == set()
        verify_all(remote)
    finally:
        remote.close()


async def test_a_path_waits_for_what_it_refers_to(store: PrivateStore, remote: TestBuilder) -> None:
    base, middle, top = build_chain(store)
    report = await push(store, declared(remote), [middle, top])
    assert report.waiting.keys() == {middle, top}
    assert report.waiting[middle] == base
    assert not remote.holds(top)
    assert (await push(store, declared(remote), [base])).sent.keys() == {base}
    assert (await push(store, declared(remote), [top, middle])).sent.keys() == {middle, top}


async def test_one_damaged_path_of_many_keeps_back_only_what_refers_to_it(
    store: PrivateStore, remote: TestBuilder
) -> None:
    files, (base, middle, top) = add_files(store, 5), build_chain(store)
    damage(files[2], longer=True)
    damage(middle)
    report = await push(store, declared(remote), [*files, top, middle, base])
    assert report.failed.keys() == {files[2], middle}
    assert "is longer than" in report.failed[files[2]]
    assert report.waiting == {top: middle}
    assert report.sent.keys() == {base, *files} - {files[2]}
    verify_all(remote)


async def test_a_path_that_the_store_lost_is_told(store: PrivateStore, remote: TestBuilder) -> None:
    base, middle, top = build_chain(store)
    infos = await infos_of(store, [base, middle, top])
    store.run("nix-store", "--delete", middle, top)
    async with opened(declared(remote), store) as cache:
        report = await cache.push(infos, LocalNars(store.store_dir))
    assert report.sent.keys() == {base}
    assert report.gone == (middle,)
    assert report.waiting == {top: middle}


async def test_a_line_that_breaks_leaves_what_is_whole(
    store: PrivateStore, remote: TestBuilder
) -> None:
    base, middle, top = paths = build_chain(store)
    infos = await infos_of(store, paths)
    nars = LocalNars(store.store_dir)

    async def stream(path: StorePath) -> AsyncGenerator[bytes, None]:
        if path == middle:
            # What went before is there by now, or on its way; the line is cut in mid-path.
            async with opened(declared(remote), store) as other:
                while await other.missing([base]):
                    pass
            remote.sshd.hang_up()
        async for chunk in nars.stream(path):
            yield chunk

    async with opened(declared(remote), store) as cache:
        with pytest.raises(CacheError, match="the connection was lost"):
            await cache.push(infos, StreamedNars(stream))
    remote.settle()
    verify_all(remote)
    async with opened(declared(remote), store) as cache:
        assert await cache.missing(paths) == {middle, top}
        report = await cache.push(infos, nars)
    assert report.sent == {base: 0, **{info.path: info.nar_size for info in infos[1:]}}


# --- What is found there, and mended -------------------------------------------------------------


async def test_every_flaw_is_found_and_mended(store: PrivateStore, remote: TestBuilder) -> None:
    cache = declared(remote, make_key(store))
    base, middle, top = paths = build_chain(store)
    await push(store, replace(cache, signing_key_file=None), [base])
    await push(store, cache, [middle, top])
    damage(remote.stored(middle))
    remote.stored(top).unlink()
    lost = add_files(store, 1)
    async with opened(cache, store) as it:
        findings = await it.examine([*paths, *lost])
        assert {each.path: each.flaw for each in findings} == {
            base: Flaw.UNSIGNED,
            middle: Flaw.NAR_DAMAGED,
            top: Flaw.NAR_ABSENT,
            lost[0]: Flaw.ABSENT,
        }
        assert await it.examine([middle, top], read_up_to=0) == ()
        report = await it.push(
            await infos_of(store, [*paths, *lost]), LocalNars(store.store_dir), replace=paths
        )
        assert not report.failed
        assert {path for path, size in report.sent.items() if size} == {middle, top, *lost}
        assert await it.examine([*paths, *lost]) == ()
    verify_all(remote)


async def test_what_it_cannot_describe_or_send_is_found_with_all_else(
    store: PrivateStore, remote: TestBuilder
) -> None:
    cache = declared(remote, make_key(store))
    files, (base, middle, top) = add_files(store, 300), build_chain(store)
    paths = [*files, base, middle, top]
    await push(store, cache, paths)
    undescribed = {*files[5:25], files[299], base}
    spoil(remote.store, *undescribed, folder=DATABASE_THERE)
    stored = remote.stored(middle)
    stored.unlink()
    stored.mkdir()
    os.mkfifo(stored / "pipe")  # which no NAR holds: Nix hangs up in the middle
    damage(remote.stored(files[7]))
    damage(remote.stored(files[30]))
    async with opened(cache, store) as it:
        findings = {each.path: each for each in await it.examine(paths)}
        assert {path: each.flaw for path, each in findings.items()} == {
            **dict.fromkeys(undescribed, Flaw.UNREADABLE),
            middle: Flaw.NAR_DAMAGED,
            files[30]: Flaw.NAR_DAMAGED,
        }
        assert all(each.path in each.message for each in findings.values())
        infos = await infos_of(store, [*findings])
        report = await it.push(infos, LocalNars(store.store_dir), replace=[*findings])
        assert not report.failed
        assert await it.examine(paths) == ()
    verify_all(remote)


async def test_another_build_of_a_path_is_left_alone(
    store: PrivateStore, remote: TestBuilder
) -> None:
    expression = (
        'derivation { name = "x"; system = builtins.currentSystem; builder = "/bin/sh"; '
        'args = [ "-c" "echo $$ ${toString builtins.currentTime} > $out; read x < /proc/uptime; '
        'echo $x >> $out" ]; }'
    )
    (drv,) = store.instantiate(expression)
    path = StorePath(store.run("nix-store", "--realise", drv).stdout.strip())
    cache = declared(remote, make_key(store))
    await push(store, replace(cache, signing_key_file=None), [path])
    theirs = contents(remote.stored(path))
    store.run("nix-store", "--delete", path)
    store.run("nix-store", "--realise", drv)
    assert contents(path) != theirs
    async with opened(cache, store) as it:
        assert [each.flaw for each in await it.verify(path)] == [Flaw.UNSIGNED]
        report = await it.push(
            await infos_of(store, [path]), LocalNars(store.store_dir), replace=[path]
        )
    assert "has another build" in report.failed[path]
    assert contents(remote.stored(path)) == theirs


async def test_nothing_is_deleted_there(store: PrivateStore, remote: TestBuilder) -> None:
    paths = build_chain(store)
    await push(store, declared(remote), paths)
    async with opened(declared(remote), store) as cache:
        with pytest.raises(CacheError, match="a garbage collector of its own"):
            await cache.unneeded(ours=paths, wanted=[])
        with pytest.raises(CacheError, match="set gc to false"):
            await cache.delete(paths, keep=[])
        assert await cache.hashes() is None
        assert await cache.missing(paths) == set()


async def test_what_an_upstream_has_must_be_fetched_there(
    store: PrivateStore, remote: TestBuilder, tmp_path: Path
) -> None:
    base, middle, top = paths = build_chain(store)
    infos = await infos_of(store, paths)
    nars = LocalNars(store.store_dir)
    async with opened(declared(remote), store) as cache:
        report = await cache.push(infos[1:], nars, elsewhere=[base])
    assert "name the upstream among them" in report.failed[middle]
    assert base in report.failed[middle]
    upstream = declare(tmp_path / "upstream")
    await push(store, upstream, [base])
    with remote.behind_a_daemon(substituters=upstream.uri, require_sigs="false"):
        async with opened(declared(remote), store) as cache:
            report = await cache.push(infos[1:], nars, elsewhere=[base])
            assert report.sent.keys() == {middle, top}
            assert await cache.missing(paths) == set()


# --- Who is let in -------------------------------------------------------------------------------


async def test_a_store_that_does_not_trust_us_takes_what_it_trusts(
    store: PrivateStore, remote: TestBuilder
) -> None:
    paths, key, other = build_chain(store), make_key(store), make_key(store, "other-1")
    store_dir = str(store.store_dir)
    trusted = public_key(store, key)
    with remote.behind_a_daemon(trusted_users="nobody", trusted_public_keys=trusted):
        with pytest.raises(CacheError, match=r"does not trust us: declare a signingKeyFile"):
            await reach(declared(remote), store_dir=store_dir)
        assert "test-1 must be" in await reach(declared(remote, key), store_dir=store_dir)
        message = await refusal(store, declared(remote, other), paths)
        assert f"put {public_key(store, other)} into its trusted-public-keys" in message
        assert not any(remote.holds(path) for path in paths)
        cache = declared(remote, key)
        assert (await push(store, cache, paths)).sent.keys() == set(paths)
        damage(remote.stored(paths[0]))
        async with opened(cache, store) as it:
            infos = await infos_of(store, paths)
            report = await it.push(infos, LocalNars(store.store_dir), replace=paths[:1])
            assert not report.failed
            assert await it.examine(paths) == ()


REALISATION = b'{"dependentRealisations":{},"id":"sha256:%b!out","outPath":"%b","signatures":[]}'


async def test_what_it_does_not_take_beside_paths_is_told(
    store: PrivateStore, remote: TestBuilder
) -> None:
    key, (path,) = make_key(store), add_files(store, 1)
    cache = declared(remote, key)
    await push(store, cache, [path])
    log, told = f"log/{'0' * 32}-x.drv", f"realisations/sha256:{'0' * 64}!out.doi"
    content = REALISATION % (b"0" * 64, Path(path).name.encode())
    async with opened(cache, store) as it:
        failed = await it.accompany({log: b"I am x\n", told: content})
    assert failed.keys() == {told}
    assert "add ca-derivations to its experimental-features" in failed[told]
    assert remote.run("nix-store", "--read-log", f"{store.store_dir}/{log[4:]}") == "I am x"
    trusted = public_key(store, key)
    feature = "extra-experimental-features"
    settings = {feature: "ca-derivations", "trusted_users": "nobody"}
    with remote.behind_a_daemon(**settings, trusted_public_keys=trusted):
        async with opened(cache, store) as it:
            failed = await it.accompany({log: b"I am another\n", told: content})
    assert failed.keys() == {log}, failed
    assert "name our user in its trusted-users, or set logs to false" in failed[log]


async def test_a_machine_that_is_not_the_one_or_is_not_there(
    store: PrivateStore, remote: TestBuilder, tmp_path: Path
) -> None:
    paths, cache = add_files(store, 1), declared(remote)
    stranger = builders.make_key(tmp_path / "stranger")
    wrong = replace(cache, ssh_key_file=str(tmp_path / "stranger"))
    assert "it does not let us in" in await refusal(store, wrong, paths)
    message = await refusal(store, replace(cache, public_host_key=stranger), paths)
    assert message.startswith(f"cache main ({cache.uri}): it shows another host key")
    lacking = replace(cache, ssh_key_file="/no/such/key")
    assert "cannot be read: No such file" in await refusal(store, lacking, paths)
    broken = replace(cache, uri="ssh-ng://user name@host")
    assert "is no address of a cache" in await refusal(store, broken, paths)
    remote.sshd.shut()
    assert "it turns connections away" in await refusal(store, cache, paths)


async def test_a_store_without_room_is_told(store: PrivateStore, remote: TestBuilder) -> None:
    remote.shrink("2M")
    large = store.root / "large"
    large.write_bytes(os.urandom(8_000_000))
    path = StorePath(store.run("nix-store", "--add", str(large)).stdout.strip())
    assert "no room left: make room there" in await refusal(store, declared(remote), [path])


async def test_a_store_elsewhere_is_another_store(store: PrivateStore, remote: TestBuilder) -> None:
    elsewhere = {"NIX_STORE_DIR": f"{remote.store.root}/other/store"}
    remote.sshd.set_environment({**remote.environment, **elsewhere})
    cache = declared(remote)
    assert "is another store than" in await refusal(store, cache, add_files(store, 1))
    with pytest.raises(CacheError, match="is another store than"):
        await reach(cache, store_dir=str(store.store_dir))


async def test_it_is_reached_without_changing_it(store: PrivateStore, remote: TestBuilder) -> None:
    said = await reach(declared(remote), store_dir=str(store.store_dir))
    assert said.startswith(f"{remote.declared().uri} answers: Nix ")
    assert said.endswith(", trusts us")
    assert not [*remote.store_dir.glob("*-*")]


async def test_a_push_that_is_cancelled_ends_and_is_whole(
    store: PrivateStore, remote: TestBuilder
) -> None:
    paths = build_chain(store)
    infos = await infos_of(store, paths)
    reached = asyncio.Event()

    async def stream(path: StorePath) -> AsyncGenerator[bytes, None]:
        if path == paths[-1]:
            reached.set()
            await asyncio.Event().wait()
        async for chunk in LocalNars(store.store_dir).stream(path):
            yield chunk

    async def work() -> None:
        async with opened(declared(remote), store) as cache:
            await cache.push(infos, StreamedNars(stream))

    task = asyncio.create_task(work())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    remote.settle()
    verify_all(remote)
    assert not remote.holds(paths[-1])


async def test_what_is_sent_is_counted_and_held_to_the_limit(
    store: PrivateStore, remote: TestBuilder
) -> None:
    paths = add_files(store, 3)
    infos = await infos_of(store, paths)
    size = sum(info.nar_size for info in infos)
    traffic = Traffic(limit=20_000)
    began = time.monotonic()
    async with open_cache(
        declared(remote), store_dir=str(store.store_dir), traffic=traffic
    ) as cache:
        assert (await cache.push(infos, LocalNars(store.store_dir))).sent.keys() == set(paths)
    assert traffic.sent == size
    # No upper bound, which a busy machine would break; the lower one is the limit itself.
    assert time.monotonic() - began >= size / 20_000 * 0.9
