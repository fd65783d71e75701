"""What every kind of cache must do, on a real one of each kind; judged by Nix, and by its files."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from reconciler.binary_cache import CACHE_INFO, Flaw, LocalNars, open_cache, reach
from reconciler.binary_cache.landing import PAGE
from reconciler.binary_cache.narinfo import narinfo_name, parse
from reconciler.errors import CacheError
from reconciler.model import Builder, Cache, PathInfo, StorePath
from tests.binary_cache.harm import HARM, flip, narinfo
from tests.binary_cache.servers import (
    Server,
    dav_server,
    netrc,
    nginx_server,
    s3_credentials,
    s3_server,
)
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
)
from tests.nix.connection_daemons import newer_nix
from tests.support.builders import TestBuilder
from tests.support.private_store import PrivateStore

KINDS = ["file", "s3", "http", "nginx"]
"""Those that are files; a test of every kind is marked so, and looks at no narinfo."""

of_every_kind = pytest.mark.parametrize("place", [*KINDS, "ssh-ng"], indirect=True)


@dataclass(frozen=True)
class Place:
    """A cache of one kind, and its files as they lie on the server's disk."""

    uri: str
    credentials: Path | None
    folder: Path
    substituter: str
    """Where Nix reads it."""
    refresh: Callable[[], None]
    """To be called after the files were changed by hand."""
    netrc: Path | None = None
    machine: Builder | None = None
    """The one that is reached by ssh."""

    def declare(self, key: Path | None = None) -> Cache:
        cache = replace(
            declare(self.folder, key=key),
            uri=self.uri,
            credentials_file=None if self.credentials is None else str(self.credentials),
        )
        return cache if self.machine is None else on_machine(cache, self.machine)

    def files(self) -> set[str]:
        found = (file for file in self.folder.rglob("*") if file.is_file())
        return {str(file.relative_to(self.folder)) for file in found}


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[tuple[Path, Server]]:
    # A server for each test: it may hide a bucket that is made while it has files on their way.
    bucket = tmp_path / "s3" / "bucket"
    bucket.mkdir(parents=True)
    with s3_server(bucket.parent) as server:
        yield bucket, server


@pytest.fixture(scope="module")
def dav(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    folder = tmp_path_factory.mktemp("dav")
    with dav_server(folder) as server:
        yield folder, server


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    folder = tmp_path_factory.mktemp("nginx")
    with nginx_server(folder) as server:
        yield folder, server


@pytest.fixture
def remote(store: PrivateStore) -> Iterator[TestBuilder]:
    made = TestBuilder(store, newer_nix())
    yield made
    made.close()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "file":
            folder = tmp_path / "cache"
            return Place(f"file://{folder}", None, folder, f"file://{folder}", lambda: None)
        case "s3":
            bucket, server = request.getfixturevalue("s3")
            uri = f"s3://{bucket.name}/some/folder?endpoint={server.address}&scheme=http"
            folder = bucket / "some" / "folder"
            # Debian's Nix does not speak S3; a bucket's objects are files here.
            keys = s3_credentials(tmp_path / "keys")
            return Place(uri, keys, folder, f"file://{folder}", server.refresh)
        case "http" | "nginx" as kind:
            root, server = request.getfixturevalue("dav" if kind == "http" else kind)
            folder = root / tmp_path.name / "folder"
            uri = f"http://{server.address}/{tmp_path.name}/folder"
            keys = netrc(tmp_path / "keys")
            return Place(uri, keys, folder, uri, server.refresh, netrc=keys)
        case "ssh-ng":
            remote: TestBuilder = request.getfixturevalue("remote")
            machine = remote.declared()
            assert machine.uri is not None
            folder = remote.store_dir
            folder.mkdir(parents=True)
            substituter = remote.substituter
            return Place(machine.uri, None, folder, substituter, lambda: None, machine=machine)
        case kind:
            raise AssertionError(kind)


def remove(store: PrivateStore, paths: list[StorePath]) -> None:
    store.run("nix-store", "--delete", *paths)
    assert not any(os.path.lexists(path) for path in paths)


def substitute(
    store: PrivateStore, place: Place, trusted: str, paths: list[StorePath], *more: str
) -> int:
    """Have Nix fetch paths, signatures required; its exit status."""
    options = {
        "substituters": place.substituter,
        "trusted-public-keys": trusted,
        "require-sigs": "true",
        "netrc-file": str(place.netrc or "/dev/null"),
    }
    flags = [word for key, value in options.items() for word in ("--option", key, value)]
    # Nix remembers what a cache of this address had.
    shutil.rmtree(store.root / "cache", ignore_errors=True)
    return store.run("nix-store", "--realise", *paths, *flags, *more, check=False).returncode


def empty_store(store: PrivateStore) -> str:
    """Another store, of the same paths, that has none of them yet."""
    folder = store.root / "empty"
    (folder / "store").mkdir(parents=True)
    places = {"store": store.store_dir, "real": folder / "store", "state": folder / "state"}
    return "local?" + "&".join(f"{key}={place}" for key, place in places.items())


@of_every_kind
async def test_the_contract(store: PrivateStore, place: Place) -> None:
    base, middle, top = paths = build_chain(store)
    infos, nars = await infos_of(store, paths), LocalNars(store.store_dir)
    key = make_key(store)
    store_dir = str(store.store_dir)
    async with open_cache(place.declare(key), store_dir=store_dir) as cache:
        assert await cache.missing(paths) == set(paths)
        assert (await cache.push(infos, nars)).sent.keys() == set(paths)
        # Each with its references, signed, and whole to the last byte.
        assert await cache.missing(paths) == set()
        assert await cache.examine(paths) == ()
        harm_nar(place, middle)
        assert [(each.path, each.flaw) for each in await cache.examine(paths)] == [
            (middle, Flaw.NAR_DAMAGED)
        ]
        report = await cache.push(infos, nars, replace=[middle])
        assert (report.failed, report.waiting) == ({}, {})
        assert await cache.examine(paths) == ()
    empty = ("--store", empty_store(store))
    assert substitute(store, place, public_key(store, make_key(store, "x-1")), [top], *empty) != 0
    assert substitute(store, place, public_key(store, key), [top], *empty) == 0
    store.run("nix-store", "--check-validity", *paths, *empty)
    store.run("nix-store", "--verify", "--check-contents", *empty)
    async with open_cache(place.declare(key), store_dir=store_dir) as cache:
        if place.machine is None:
            assert await cache.unneeded(ours=paths, wanted=[middle]) == {top}
            assert await cache.delete(paths, keep=[middle]) == {top}
            assert await cache.missing(paths) == {top}
        else:  # what stays there its own collector decides
            with pytest.raises(CacheError, match=r"garbage collector of its own: set gc to false"):
                await cache.unneeded(ours=paths, wanted=[middle])
            with pytest.raises(CacheError, match=r"garbage collector of its own: set gc to false"):
                await cache.delete(paths, keep=[middle])
            assert await cache.missing(paths) == set()
        assert await cache.examine([base, middle]) == ()


def harm_nar(place: Place, path: StorePath) -> None:
    """Change a byte of a path as the cache has it."""
    if place.machine is None:
        flip(place.folder, path)
        place.refresh()
    else:
        damage(place.folder / Path(path).name)


@of_every_kind
async def test_what_is_pushed_is_signed_and_whole_and_nix_substitutes_it(
    store: PrivateStore, place: Place
) -> None:
    paths = build_chain(store)
    before = store.run("nix-store", "--query", "--hash", *paths).stdout
    key = make_key(store)
    report = await push(store, place.declare(key), paths)
    assert report.sent.keys() == set(paths)
    assert all(size > 0 for size in report.sent.values())
    assert not report.failed
    remove(store, paths)
    other = public_key(store, make_key(store, "other-1"))
    assert substitute(store, place, other, paths) != 0
    assert substitute(store, place, public_key(store, key), paths) == 0
    assert store.run("nix-store", "--query", "--hash", *paths).stdout == before
    store.run("nix-store", "--verify", "--check-contents")


@of_every_kind
async def test_a_second_push_sends_nothing(store: PrivateStore, place: Place) -> None:
    paths = build_chain(store)
    await push(store, place.declare(), paths)
    before = {name: (place.folder / name).stat().st_mtime_ns for name in place.files()}
    report = await push(store, place.declare(), paths)
    assert report.sent == dict.fromkeys(paths, 0)
    assert before == {name: (place.folder / name).stat().st_mtime_ns for name in place.files()}


async def test_nothing_is_visible_before_what_it_needs(store: PrivateStore, place: Place) -> None:
    base, middle, top = build_chain(store)
    report = await push(store, place.declare(), [middle, top])
    assert report.waiting.keys() == {middle, top}
    assert place.files() == {CACHE_INFO, PAGE}
    assert (await push(store, place.declare(), [base])).sent.keys() == {base}
    assert (await push(store, place.declare(), [top, middle])).sent.keys() == {middle, top}
    for path in (base, middle, top):
        assert (place.folder / parse(narinfo(place.folder, path).read_text()).url).exists()


@of_every_kind
async def test_a_damaged_path_and_its_referrers_stay_out(store: PrivateStore, place: Place) -> None:
    base, middle, top = build_chain(store)
    damage(middle)
    report = await push(store, place.declare(), [top, middle, base])
    assert report.sent.keys() == {base}
    assert "damaged in the store" in report.failed[middle]
    assert report.waiting == {top: middle}
    assert not {narinfo_name(middle), narinfo_name(top)} & place.files()


async def test_nothing_of_the_work_remains(store: PrivateStore, place: Place) -> None:
    paths = build_chain(store)
    async with open_cache(place.declare(), store_dir=str(store.store_dir)) as cache:
        await cache.push(await infos_of(store, paths), LocalNars(store.store_dir))
    names = {parse(narinfo(place.folder, path).read_text()).url for path in paths}
    assert place.files() == {CACHE_INFO, PAGE, *names, *map(narinfo_name, paths)}


async def test_every_flaw_is_found(store: PrivateStore, place: Place) -> None:
    base, middle, top = paths = build_chain(store)
    declared = place.declare(make_key(store))
    await push(store, declared, paths)
    whole = {name: (place.folder / name).read_bytes() for name in place.files()}
    async with open_cache(declared, store_dir=str(store.store_dir)) as cache:
        for case, (harm, expected) in HARM.items():
            harm(place.folder, middle)
            place.refresh()
            found = await cache.verify(middle)
            assert [finding.flaw for finding in found] == expected, case
            for name, content in whole.items():
                (place.folder / name).write_bytes(content)
        narinfo(place.folder, base).unlink()
        place.refresh()
        assert [each.flaw for each in await cache.verify(top)] == [Flaw.REFERENCE_ABSENT]


@of_every_kind
@pytest.mark.parametrize("asked", [5, 400])
async def test_what_is_there_is_told_in_bulk(store: PrivateStore, place: Place, asked: int) -> None:
    paths = add_files(store, 200)
    assert (await push(store, place.declare(), paths)).sent.keys() == set(paths)
    absent = [other_hash(path) for path in paths]
    mixed = [path for pair in zip(paths, absent, strict=True) for path in pair][:asked]
    async with open_cache(place.declare(), store_dir=str(store.store_dir)) as cache:
        assert await cache.missing(mixed) == set(mixed) & set(absent)
        assert await cache.missing(paths[:asked]) == set()
        assert await cache.missing(absent[:asked]) == set(absent[:asked])
        assert await cache.missing([]) == set()


def other_hash(path: StorePath) -> StorePath:
    """A path whose narinfo sorts close to another's."""
    folder, _, name = path.rpartition("/")
    last = "0" if name[31] != "0" else "1"
    return StorePath(f"{folder}/{name[:31]}{last}{name[32:]}")


@of_every_kind
async def test_a_key_is_rotated(store: PrivateStore, place: Place) -> None:
    old, new = make_key(store, "old-1"), make_key(store, "new-2")
    paths = build_chain(store)
    await push(store, place.declare(old), paths[:1])
    await push(store, place.declare(new), paths)
    async with open_cache(place.declare(new), store_dir=str(store.store_dir)) as cache:
        found = {path: [each.flaw for each in await cache.verify(path)] for path in paths}
    assert found == {paths[0]: [Flaw.UNSIGNED], paths[1]: [], paths[2]: []}
    remove(store, paths)
    keys = f"{public_key(store, old)} {public_key(store, new)}"
    assert substitute(store, place, public_key(store, new), paths) != 0
    assert substitute(store, place, keys, paths) == 0


@of_every_kind
async def test_several_keys_sign(store: PrivateStore, place: Place) -> None:
    old, new = make_key(store, "old-1"), make_key(store, "new-2")
    paths = build_chain(store)
    await push(store, replace(place.declare(old), signing_key_files=(str(new),)), paths)
    for key in (old, new):
        async with open_cache(place.declare(key), store_dir=str(store.store_dir)) as cache:
            assert await cache.examine(paths) == ()
        remove(store, paths)
        assert substitute(store, place, public_key(store, key), paths) == 0


async def test_a_person_finds_a_page_with_the_keys(store: PrivateStore, place: Place) -> None:
    old, new = make_key(store, "old-1"), make_key(store, "new-2")
    await push(store, place.declare(old), [])
    page = place.folder / PAGE
    assert public_key(store, old) in page.read_text()
    assert "extra-trusted-public-keys" in page.read_text()
    await push(store, replace(place.declare(old), signing_key_files=(str(new),)), [])
    place.refresh()
    assert f"{public_key(store, old)} {public_key(store, new)}" in page.read_text()
    page.write_text("<h1>ours</h1>")
    place.refresh()
    await push(store, place.declare(new), [])
    assert page.read_text() == "<h1>ours</h1>"


async def test_what_is_there_is_listed(store: PrivateStore, place: Place) -> None:
    paths = add_files(store, 3)
    async with open_cache(place.declare(), store_dir=str(store.store_dir)) as cache:
        empty = await cache.hashes()
    await push(store, place.declare(), paths)
    async with open_cache(place.declare(), store_dir=str(store.store_dir)) as cache:
        found = await cache.hashes()
    assert empty == frozenset()
    assert found == frozenset(Path(path).name[:32] for path in paths)


@of_every_kind
async def test_a_large_nar(store: PrivateStore, place: Place) -> None:
    large = store.root / "large"
    large.write_bytes(os.urandom(20_000_000))
    path = StorePath(store.run("nix-store", "--add", str(large)).stdout.strip())
    key = make_key(store)
    report = await push(store, place.declare(key), [path])
    assert report.sent[path] > 20_000_000
    async with open_cache(place.declare(key), store_dir=str(store.store_dir)) as cache:
        assert await cache.verify(path) == ()


async def test_a_cache_of_another_store_is_refused(store: PrivateStore, place: Place) -> None:
    await push(store, place.declare(), [])
    (place.folder / CACHE_INFO).write_text("StoreDir: /elsewhere/store\n")
    place.refresh()
    with pytest.raises(CacheError, match="/elsewhere/store"):
        await push(store, place.declare(), [])


async def test_a_cache_is_reached_without_changing_it(store: PrivateStore, place: Place) -> None:
    store_dir = str(store.store_dir)
    assert await reach(place.declare(), store_dir=store_dir) == f"{place.uri} answers, and is empty"
    assert not place.files()
    await push(store, place.declare(), [])
    assert await reach(place.declare(), store_dir=store_dir) == f"{place.uri} answers"
    (place.folder / CACHE_INFO).write_text("<html>Please log in</html>")
    place.refresh()
    with pytest.raises(CacheError, match="names no StoreDir"):
        await reach(place.declare(), store_dir=store_dir)


@of_every_kind
async def test_two_pushers_at_once_agree(store: PrivateStore, place: Place) -> None:
    paths = build_chain(store)
    infos: list[PathInfo] = await infos_of(store, paths)

    async def one() -> None:
        async with open_cache(place.declare(), store_dir=str(store.store_dir)) as cache:
            report = await cache.push(infos, LocalNars(store.store_dir))
            assert report.sent.keys() == set(paths)
            assert [await cache.verify(path) for path in paths] == [()] * len(paths)

    # Of Nix processes that make a new store's database at once, one finds it busy.
    async with open_cache(place.declare(), store_dir=str(store.store_dir)) as cache:
        assert await cache.missing(paths) == frozenset(paths)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(one())
