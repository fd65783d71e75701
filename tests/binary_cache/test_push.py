"""Pushes of real paths, judged by Nix: it substitutes them, or refuses."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec.structs import asdict, replace

from reconciler.binary_cache import (
    CACHE_INFO,
    LocalNars,
    Nars,
    StreamedNars,
    open_cache,
)
from reconciler.binary_cache.landing import PAGE
from reconciler.errors import CacheError, NixError
from reconciler.model import Compression, PathInfo, StorePath
from reconciler.nix.hashes import to_base32
from tests.binary_cache.support import (
    add_files,
    build_chain,
    connect,
    damage,
    declare,
    infos_of,
    make_key,
    narinfo_file,
    public_key,
    push,
)
from tests.support.private_store import PrivateStore


def remove(store: PrivateStore, paths: list[StorePath]) -> None:
    """Empty the store of paths."""
    store.run("nix-store", "--delete", *paths)
    assert not any(exists(path) for path in paths)


def exists(path: StorePath) -> bool:
    return Path(path).exists()


def fetch(
    store: PrivateStore, cache: Path, trusted: str, paths: list[StorePath]
) -> subprocess.CompletedProcess[str]:
    """Substitute paths from a cache, signatures required."""
    return store.run(
        "nix-store",
        "--realise",
        *paths,
        *("--option", "substituters", f"file://{cache}"),
        *("--option", "trusted-public-keys", trusted),
        *("--option", "require-sigs", "true"),
        check=False,
    )


@pytest.mark.parametrize("compression", Compression)
async def test_nix_substitutes_what_was_pushed(
    store: PrivateStore, compression: Compression
) -> None:
    paths = build_chain(store)
    before = {path: store.run("nix-store", "--query", "--hash", path).stdout for path in paths}
    key, folder = make_key(store), store.root / "binary-cache"
    report = await push(store, declare(folder, key=key, compression=compression), paths)
    assert report.sent.keys() == set(paths)
    assert all(size > 0 for size in report.sent.values())
    remove(store, paths)
    done = fetch(store, folder, public_key(store, key), paths)
    assert done.returncode == 0, done.stderr
    after = {path: store.run("nix-store", "--query", "--hash", path).stdout for path in paths}
    assert after == before
    store.run("nix-store", "--verify", "--check-contents")


async def test_nix_refuses_what_another_key_signed(store: PrivateStore) -> None:
    paths = build_chain(store)
    key, other = make_key(store), make_key(store, "test-2")
    folder = store.root / "binary-cache"
    await push(store, declare(folder, key=key), paths)
    remove(store, paths)
    assert fetch(store, folder, public_key(store, other), paths).returncode != 0
    assert not any(exists(path) for path in paths)
    assert fetch(store, folder, public_key(store, key), paths).returncode == 0


async def test_a_daemons_stream_gives_the_same_cache_as_the_files(store: PrivateStore) -> None:
    paths = [*build_chain(store), *add_files(store, 5)]
    key = make_key(store)
    infos = await infos_of(store, paths)
    folders = store.root / "from-files", store.root / "from-daemon"
    async with await connect(store) as connection:
        sources: tuple[Nars, Nars] = (
            LocalNars(store.store_dir),
            StreamedNars(connection.nar_from_path),
        )
        for folder, nars in zip(folders, sources, strict=True):
            declared = declare(folder, key=key)
            async with open_cache(declared, store_dir=str(store.store_dir)) as cache:
                report = await cache.push(infos, nars)
                assert report.sent.keys() == set(paths)
                assert [await cache.verify(path) for path in paths] == [()] * len(paths)
    assert contents(folders[0]) == contents(folders[1])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


async def test_a_closure_in_one_go_is_what_nix_copy_would_have_made(store: PrivateStore) -> None:
    paths = build_chain(store)
    key = make_key(store)
    ours, nixs = store.root / "ours", store.root / "nixs"
    await push(store, declare(ours, key=key, compression=Compression.NONE), paths)
    store.run("nix", "copy", "--to", f"file://{nixs}?compression=none&secret-key={key}", *paths)
    expected = contents(nixs)
    del expected["nix-cache-info"]
    found = contents(ours)
    assert {name: found.get(name) for name in expected} == expected


async def test_what_is_there_is_not_sent_again(store: PrivateStore) -> None:
    paths = build_chain(store)
    cache = declare(store.root / "binary-cache", key=make_key(store))
    await push(store, cache, paths)
    before = {file: file.stat().st_mtime_ns for file in (store.root / "binary-cache").rglob("*.n*")}
    report = await push(store, cache, paths)
    assert report.sent == dict.fromkeys(paths, 0)
    assert before == {file: file.stat().st_mtime_ns for file in before}


async def test_many_paths_of_all_sizes(store: PrivateStore) -> None:
    paths = add_files(store, 300)
    big = store.root / "big"
    big.write_bytes(os.urandom(3 * 1024 * 1024) * 4)
    paths.append(StorePath(store.run("nix-store", "--add", str(big)).stdout.strip()))
    folder = store.root / "binary-cache"
    report = await push(store, declare(folder, key=make_key(store)), paths)
    assert report.sent.keys() == set(paths)
    assert report.sent[paths[-1]] > 1024 * 1024
    async with open_cache(declare(folder), store_dir=str(store.store_dir)) as cache:
        assert await cache.missing(paths) == set()
        assert await cache.verify(paths[-1]) == ()


async def test_two_paths_of_one_content_share_a_nar(store: PrivateStore) -> None:
    paths = []
    for name in ("one", "two"):
        (store.root / name).write_text("the same")
        paths += store.run("nix-store", "--add", str(store.root / name)).stdout.split()
    folder = store.root / "binary-cache"
    report = await push(store, declare(folder), [StorePath(path) for path in paths])
    assert report.sent.keys() == set(paths)
    assert len(list((folder / "nar").iterdir())) == 1


# --- Order and closures -----------------------------------------------------------------------


async def test_a_path_waits_for_the_references_that_are_not_there(store: PrivateStore) -> None:
    base, middle, top = build_chain(store)
    cache = declare(store.root / "binary-cache")
    report = await push(store, cache, [middle, top])
    assert report.waiting.keys() == {middle, top}
    assert report.waiting[middle] == base
    assert not report.sent
    assert not list((store.root / "binary-cache").rglob("*.nar*"))
    assert (await push(store, cache, [base])).sent.keys() == {base}
    assert (await push(store, cache, [top, middle])).sent.keys() == {middle, top}


async def test_a_reference_in_an_upstream_is_not_waited_for(store: PrivateStore) -> None:
    base, middle, top = build_chain(store)
    infos = await infos_of(store, [middle, top])
    declared = declare(store.root / "binary-cache")
    async with open_cache(declared, store_dir=str(store.store_dir)) as cache:
        report = await cache.push(infos, LocalNars(store.store_dir), elsewhere=[base])
        assert report.sent.keys() == {middle, top}
        assert await cache.missing([base, middle, top]) == {base}


async def test_a_path_goes_there_alone_without_its_closure(store: PrivateStore) -> None:
    base, middle, top = build_chain(store)
    cache = declare(store.root / "binary-cache")
    assert (await push(store, cache, [top])).waiting.keys() == {top}
    assert (await push(store, cache, [top], alone=[top])).sent.keys() == {top}
    async with open_cache(cache, store_dir=str(store.store_dir)) as opened:
        assert await opened.examine([top], alone=[top]) == ()
        assert {each.reference for each in await opened.examine([top])} == {base, middle}


async def test_beside_one_that_goes_there_alone_others_wait_for_their_closure(
    store: PrivateStore,
) -> None:
    base, middle, top = build_chain(store)
    (other,) = add_files(store, 1)
    cache = declare(store.root / "binary-cache")
    # The whole of what `middle` refers to is to come, and then `top` can wait for it as well.
    report = await push(store, cache, [middle, top, other], alone=[top, other])
    assert report.waiting.keys() == {middle, top}
    assert report.sent.keys() == {other}
    assert (await push(store, cache, [base, middle, top])).sent.keys() == {base, middle, top}


# --- Faults -----------------------------------------------------------------------------------


async def test_a_path_that_was_collected_is_reported_as_gone(store: PrivateStore) -> None:
    paths = add_files(store, 3)
    infos = await infos_of(store, paths)
    store.run("nix-store", "--delete", paths[1])
    cache = declare(store.root / "binary-cache")
    report = await push(store, cache, paths)
    assert report.gone == (paths[1],)
    assert report.sent.keys() == {paths[0], paths[2]}
    async with open_cache(cache, store_dir=str(store.store_dir)) as opened:
        late = await opened.push(infos, LocalNars(store.store_dir))
    assert late.gone == (paths[1],)


async def test_an_absent_store_is_not_taken_for_a_collected_path(store: PrivateStore) -> None:
    infos = await infos_of(store, add_files(store, 1))
    cache = declare(store.root / "binary-cache")
    async with open_cache(cache, store_dir=str(store.store_dir)) as opened:
        report = await opened.push(infos, LocalNars(store.root / "unmounted"))
    assert not report.gone
    assert "cannot be read" in report.failed[infos[0].path]


async def test_a_damaged_path_and_its_referrers_stay_out(store: PrivateStore) -> None:
    base, middle, top = build_chain(store)
    (bystander,) = add_files(store, 1)
    damage(middle)
    folder = store.root / "binary-cache"
    report = await push(store, declare(folder), [top, middle, base, bystander])
    assert report.sent.keys() == {base, bystander}
    assert report.waiting == {top: middle}
    assert "damaged in the store" in report.failed[middle]
    assert not narinfo_file(folder, middle).exists()


@pytest.mark.parametrize("change", [-1, 1])
async def test_a_nar_of_another_size_is_refused(store: PrivateStore, change: int) -> None:
    (info,) = await infos_of(store, add_files(store, 1))
    wrong = replace(info, nar_size=info.nar_size + change)
    folder = store.root / "binary-cache"
    async with open_cache(declare(folder), store_dir=str(store.store_dir)) as cache:
        report = await cache.push([wrong], LocalNars(store.store_dir))
    assert "damaged in the store" in report.failed[info.path]
    assert contents(folder).keys() == {CACHE_INFO, PAGE}


async def test_a_stream_that_breaks_leaves_nothing(store: PrivateStore) -> None:
    base, middle, top = build_chain(store)
    infos = await infos_of(store, [base, middle, top])
    local = LocalNars(store.store_dir)

    async def broken(path: StorePath) -> AsyncGenerator[bytes, None]:
        for chunk in local.read(path):
            if path == middle:
                yield chunk[:64]
                raise NixError("the daemon went away")
            yield chunk

    folder = store.root / "binary-cache"
    async with open_cache(declare(folder), store_dir=str(store.store_dir)) as cache:
        report = await cache.push(infos, StreamedNars(broken))
    assert report.sent.keys() == {base}
    assert report.failed == {middle: "the daemon went away"}
    assert report.waiting == {top: middle}
    assert not narinfo_file(folder, middle).exists()
    assert not narinfo_file(folder, top).exists()


async def test_a_narinfo_that_cannot_be_written_holds_its_referrers_back(
    store: PrivateStore,
) -> None:
    base, middle, top = build_chain(store)
    folder = store.root / "binary-cache"
    local = LocalNars(store.store_dir)

    async def obstructing(path: StorePath) -> AsyncGenerator[bytes, None]:
        if path == middle:  # after the cache was asked what it has
            (narinfo_file(folder, middle) / "in the way").mkdir(parents=True)
        for chunk in local.read(path):
            yield chunk

    infos = await infos_of(store, [base, middle, top])
    async with open_cache(declare(folder), store_dir=str(store.store_dir)) as cache:
        report = await cache.push(infos, StreamedNars(obstructing))
    assert report.sent.keys() == {base}
    assert report.failed.keys() == {middle}
    assert report.waiting == {top: middle}
    assert not narinfo_file(folder, top).exists()


async def test_a_nar_that_cannot_be_staged_fails_its_path_only(store: PrivateStore) -> None:
    infos = await infos_of(store, add_files(store, 2))
    folder = store.root / "binary-cache"
    async with open_cache(declare(folder), store_dir=str(store.store_dir)) as cache:
        (staging_folder,) = staging(folder)
        (staging_folder / f"{Path(infos[0].path).name}.nar").mkdir()
        report = await cache.push(infos, LocalNars(store.store_dir))
    assert report.sent.keys() == {infos[1].path}
    assert "cannot be packed" in report.failed[infos[0].path]


async def test_a_large_stream_is_packed_piece_by_piece(store: PrivateStore) -> None:
    (store.root / "large").write_bytes(os.urandom(5_000_000))
    large = StorePath(store.run("nix-store", "--add", str(store.root / "large")).stdout.strip())
    infos = await infos_of(store, [large])
    declared = declare(store.root / "binary-cache")
    async with (
        await connect(store) as connection,
        open_cache(declared, store_dir=str(store.store_dir)) as cache,
    ):
        report = await cache.push(infos, StreamedNars(connection.nar_from_path))
        assert report.sent.keys() == {large}
        assert await cache.verify(large) == ()


async def test_a_push_that_is_cancelled_leaves_nothing(store: PrivateStore) -> None:
    infos = await infos_of(store, add_files(store, 2))
    folder = store.root / "binary-cache"
    begun = asyncio.Event()

    async def stalling(path: StorePath) -> AsyncGenerator[bytes, None]:
        yield path.encode()[:8]
        begun.set()
        await asyncio.Event().wait()

    async def work() -> None:
        async with open_cache(declare(folder), store_dir=str(store.store_dir)) as cache:
            await cache.push(infos, StreamedNars(stalling))

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert contents(folder).keys() == {CACHE_INFO, PAGE}
    assert not staging(folder)


# --- kill -9 ------------------------------------------------------------------------------------


def start_child(
    folder: Path, store: PrivateStore, infos: list[PathInfo], *, stalls_at: str = ""
) -> subprocess.Popen[str]:
    """A process of its own that pushes; see pushing_child.py."""
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.binary_cache.pushing_child"),
            *(str(folder), str(store.store_dir), stalls_at),
        ],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    json.dump([asdict(info) for info in infos], child.stdin)
    child.stdin.close()
    return child


def staging(folder: Path) -> list[Path]:
    return list(folder.glob(".staging-*"))


async def assert_sound(folder: Path, store: PrivateStore, paths: list[StorePath]) -> None:
    """What is visible is whole; a second push completes it, and cleans up after the dead."""
    cache = declare(folder)
    for name, content in contents(folder / "nar").items():
        assert to_base32(hashlib.sha256(content).digest()) == name.partition(".")[0]
    visible = [path for path in paths if narinfo_file(folder, path).exists()]
    async with open_cache(cache, store_dir=str(store.store_dir)) as opened:
        assert [await opened.verify(path) for path in visible] == [()] * len(visible)
        report = await opened.push(await infos_of(store, paths), LocalNars(store.store_dir))
        assert report.sent.keys() == set(paths)
        assert await opened.missing(paths) == set()
    assert not staging(folder)


async def test_killed_in_the_middle_of_a_nar(store: PrivateStore) -> None:
    paths = build_chain(store)
    folder = store.root / "binary-cache"
    with start_child(folder, store, await infos_of(store, paths), stalls_at=paths[1]) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half way\n"
        assert [file.name for file in staging(folder)[0].glob("*.nar")]
        child.send_signal(signal.SIGKILL)
    assert not any(narinfo_file(folder, path).exists() for path in paths)
    await assert_sound(folder, store, paths)


@pytest.mark.parametrize("suffix", [".nar.zst", ".narinfo"])
async def test_killed_when_the_first_files_appear(store: PrivateStore, suffix: str) -> None:
    paths = [*build_chain(store), *add_files(store, 400)]
    folder = store.root / "binary-cache"
    with start_child(folder, store, await infos_of(store, paths)) as child:
        while child.poll() is None and not list(folder.glob(f"**/*{suffix}")):
            pass
        child.send_signal(signal.SIGKILL)
    await assert_sound(folder, store, paths)


# --- A cache that cannot be used ----------------------------------------------------------------


async def refusal(store: PrivateStore, **changes: str | None) -> str:
    """The message with which a cache is not opened."""
    cache = replace(declare(store.root / "binary-cache"), **changes)
    with pytest.raises(CacheError) as caught:
        async with open_cache(cache, store_dir=str(store.store_dir)):
            pass
    return str(caught.value)


async def test_a_cache_of_another_store_is_refused(store: PrivateStore) -> None:
    folder = store.root / "binary-cache"
    folder.mkdir()
    (folder / "nix-cache-info").write_text("StoreDir: /elsewhere/store\n")
    message = await refusal(store)
    assert "/elsewhere/store" in message
    assert str(store.store_dir) in message


async def test_what_nix_reads_of_a_cache_is_there(store: PrivateStore) -> None:
    folder = store.root / "binary-cache"
    await push(store, declare(folder), add_files(store, 1))
    lines = (folder / "nix-cache-info").read_text().splitlines()
    assert f"StoreDir: {store.store_dir}" in lines
    (folder / "nix-cache-info").write_text(f"StoreDir: {store.store_dir}\nPriority: 7\n")
    await push(store, declare(folder), [])
    assert "Priority: 7" in (folder / "nix-cache-info").read_text(), "what is set is kept"


async def test_a_folder_that_cannot_be_made(store: PrivateStore) -> None:
    (store.root / "file").write_text("in the way")
    message = await refusal(store, uri=f"file://{store.root}/file/cache")
    assert f"{store.root}/file" in message
    assert "cannot be written" in message


async def test_a_signing_key_that_is_missing(store: PrivateStore) -> None:
    message = await refusal(store, signing_key_file=str(store.root / "no-key"))
    assert "no-key cannot be read" in message
    assert not (store.root / "binary-cache").exists()


@pytest.mark.parametrize(
    "uri",
    ["gopher://example.org", "relative/folder", "file:relative", "file://host/folder",
     "file:///folder?compression=xz"],
)  # fmt: skip
async def test_an_address_that_is_none(store: PrivateStore, uri: str) -> None:
    assert uri in await refusal(store, uri=uri)


async def test_a_full_disk_fails_the_path_and_leaves_nothing(store: PrivateStore) -> None:
    (small,) = add_files(store, 1)
    (store.root / "noise").write_bytes(os.urandom(200_000))
    big = StorePath(store.run("nix-store", "--add", str(store.root / "noise")).stdout.strip())
    infos = await infos_of(store, [small, big])
    folder = store.root / "binary-cache"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with open_cache(declare(folder), store_dir=str(store.store_dir)) as cache:
        # A write past the limit fails as one on a full disk does, for us alone.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            report = await cache.push(infos, LocalNars(store.store_dir))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert report.sent.keys() == {small}
        assert "File too large" in report.failed[big]
        assert await cache.missing([small, big]) == {big}
        report = await cache.push(infos, LocalNars(store.store_dir))
    assert report.sent.keys() == {small, big}
