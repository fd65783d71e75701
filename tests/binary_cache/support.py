"""What the tests of binary caches stand on: paths worth pushing, keys, a declared cache."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection
from pathlib import Path

from msgspec.structs import replace

from reconciler.binary_cache import LocalNars
from reconciler.binary_cache.interface import PushReport
from reconciler.binary_cache.push import push_batch
from reconciler.model import (
    Builder,
    Cache,
    CacheName,
    Compression,
    PathInfo,
    PushRule,
    PushScope,
    StorePath,
)
from reconciler.nix import Connection, local_endpoint
from tests.support.private_store import PrivateStore

CHAIN = """
let
  make = name: text: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" "echo ${text} $out > $out" ];
  };
  base = make "base" "base";
  middle = make "middle" "${base}";
in make "top" "${base} ${middle}"
"""
"""Three outputs, each of which refers to itself and to those before it. Input-addressed: Nix wants
them signed, as it would not want a file that was added."""

PATIENCE = 60.0


async def connect(store: PrivateStore) -> Connection:
    """A connection to the store's own daemon."""
    return await Connection.open(
        local_endpoint({**os.environ, **store.environment}), patience=PATIENCE
    )


def build_chain(store: PrivateStore) -> list[StorePath]:
    """Build CHAIN: base, middle and top."""
    (drv,) = store.instantiate(CHAIN)
    (top,) = store.run("nix-store", "--realise", drv).stdout.split()
    closure = store.run("nix-store", "--query", "--requisites", top).stdout.split()
    return [StorePath(path) for path in closure]


def spoil(store: PrivateStore, *paths: StorePath, folder: str = "state/db") -> None:
    """Have Nix's database say nonsense of paths, which it then refuses to describe."""
    with sqlite3.connect(store.root / folder / "db.sqlite") as database:
        for path in paths:
            done = database.execute("UPDATE ValidPaths SET hash = 'x' WHERE path = ?", (path,))
            assert done.rowcount == 1
    database.close()


def damage(path: StorePath | Path, *, longer: bool = False) -> None:
    """Change one byte of a path in the store, or make it longer."""
    file = Path(path)
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content * 9 if longer else content[:-2] + b"?\n")


def add_files(store: PrivateStore, count: int) -> list[StorePath]:
    """Add small files of different contents."""
    folder = store.root / "files"
    folder.mkdir()
    for number in range(count):
        (folder / f"file-{number:04}").write_text(f"content {number}\n" * 100)
    files = sorted(str(file) for file in folder.iterdir())
    return [StorePath(path) for path in store.run("nix-store", "--add", *files).stdout.split()]


def make_key(store: PrivateStore, name: str = "test-1") -> Path:
    """A secret key of Nix's making."""
    file = store.root / f"{name}.secret"
    file.write_text(store.run("nix", "key", "generate-secret", "--key-name", name).stdout)
    return file


def public_key(store: PrivateStore, secret: Path) -> str:
    """What Nix says belongs to it."""
    text = f'nix key convert-secret-to-public < "{secret}"'
    return store.run("sh", "-c", text).stdout.strip()


def declare(
    folder: Path,
    *,
    key: Path | None = None,
    compression: Compression = Compression.ZSTD,
) -> Cache:
    """A cache in a folder."""
    made = declared_at(f"file://{folder}")
    key_file = None if key is None else str(key)
    return replace(made, signing_key_file=key_file, compression=compression)


def declared_at(uri: str, *, credentials: Path | None = None) -> Cache:
    """A cache of any kind."""
    return Cache(
        name=CacheName("main"),
        uri=uri,
        signing_key_file=None,
        credentials_file=None if credentials is None else str(credentials),
        compression=Compression.ZSTD,
        rule=PushRule(scope=PushScope.REQUISITES),
        upstreams=(),
    )


def on_machine(cache: Cache, machine: Builder) -> Cache:
    """The store of a machine as a cache."""
    assert machine.uri is not None
    return replace(
        cache,
        uri=machine.uri,
        ssh_key_file=machine.ssh_key_file,
        public_host_key=machine.public_host_key,
    )


async def infos_of(store: PrivateStore, paths: list[StorePath]) -> list[PathInfo]:
    """What the store's daemon says of paths that it has."""
    async with await connect(store) as connection:
        infos = [await connection.query_path_info(path) for path in paths]
    return [info for info in infos if info is not None]


async def push(
    store: PrivateStore,
    cache: Cache,
    paths: list[StorePath],
    *,
    alone: Collection[StorePath] = (),
) -> PushReport:
    """Push from the store's files."""
    async with await connect(store) as connection:
        return await push_batch(
            cache,
            paths,
            store_dir=str(store.store_dir),
            path_infos=connection.query_path_infos,
            nars=LocalNars(store.store_dir),
            alone=alone,
        )


def narinfo_file(folder: Path, path: StorePath) -> Path:
    """Where a path's narinfo lies."""
    return folder / f"{Path(path).name[:32]}.narinfo"
