from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.binary_cache.file_store import FileStore, folder_of
from reconciler.errors import CacheError

HOLDER = """
import asyncio, sys
from pathlib import Path
from reconciler.binary_cache.file_store import FileStore

async def main():
    store = await FileStore.open(Path(sys.argv[1]))
    (store.staging / "half.nar").write_bytes(b"half")
    print(store.staging, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def start_holder(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process that has the store open; its staging folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def exists(path: Path) -> bool:
    return path.exists()


async def test_objects_are_written_read_and_found(tmp_path: Path) -> None:
    store = await FileStore.open(tmp_path / "a" / "b")
    staged = store.staging / "big"
    staged.write_bytes(b"big" * 1_000_000)
    objects: dict[str, bytes | Path] = {"nar/x.nar": staged, "y.narinfo": b"small"}
    assert await store.put(objects) == {}
    assert not exists(staged)
    assert await store.present(["nar/x.nar", "y.narinfo", "z"]) == {"nar/x.nar", "y.narinfo"}
    assert await store.read("y.narinfo") == b"small"
    assert await store.read("z") is None
    chunks = [chunk async for chunk in store.stream("nar/x.nar")]
    assert b"".join(chunks) == b"big" * 1_000_000
    assert len(chunks) > 1
    with pytest.raises(FileNotFoundError):
        _ = [chunk async for chunk in store.stream("nar/z")]
    await store.close()


@pytest.mark.parametrize("count", [3, 100])
async def test_every_object_of_a_put_gets_to_its_name(tmp_path: Path, count: int) -> None:
    store = await FileStore.open(tmp_path)
    objects: dict[str, bytes | Path] = {f"{n}.narinfo": str(n).encode() for n in range(count)}
    assert await store.put(objects) == {}
    assert {name: await store.read(name) for name in objects} == objects
    await store.close()
    assert set(os.listdir(tmp_path)) == {*objects, "nar"}  # noqa: PTH208


async def test_an_object_that_cannot_be_written_costs_only_itself(tmp_path: Path) -> None:
    store = await FileStore.open(tmp_path)
    (tmp_path / "b.narinfo" / "in the way").mkdir(parents=True)
    failed = await store.put({"a.narinfo": b"a", "b.narinfo": b"b", "c.narinfo": b"c"})
    assert failed.keys() == {"b.narinfo"}
    assert "cannot be written" in failed["b.narinfo"]
    assert await store.read("c.narinfo") == b"c"
    await store.close()


async def test_others_may_read_what_was_staged_in_private(tmp_path: Path) -> None:
    store = await FileStore.open(tmp_path)
    staged = store.staging / "nar"
    staged.touch(mode=0o600)
    await store.put({"nar/x.nar": staged, "x.narinfo": b"x"})
    for name in ("nar/x.nar", "x.narinfo"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644
    await store.close()


async def test_a_folder_that_went_away_is_not_an_empty_one(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    store = await FileStore.open(folder)
    folder.rename(tmp_path / "unmounted")
    with pytest.raises(CacheError, match="cannot be read"):
        await store.present(["x"])
    with pytest.raises(CacheError, match="cannot be read"):
        await store.read("x")
    assert (await store.put({"x": b"x"})).keys() == {"x"}
    await store.close()


async def test_the_staging_folder_of_the_living_is_kept_and_of_the_dead_removed(
    tmp_path: Path,
) -> None:
    holder, staging = start_holder(tmp_path)
    with holder:
        await (await FileStore.open(tmp_path)).close()
        assert exists(staging / "half.nar")
        holder.kill()
        holder.wait()
        assert exists(staging / "half.nar")
        await (await FileStore.open(tmp_path)).close()
        assert not exists(staging)


def test_addresses() -> None:
    assert folder_of("file:///var/cache/nix") == Path("/var/cache/nix")
    assert folder_of("file:/var/cache/nix") == Path("/var/cache/nix")
    assert folder_of("file:///a%20b") == Path("/a b")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file:x/y", "must be absolute"),
        ("file://", "must be absolute"),
        ("file://host/x", "names the host"),
        ("file:///x?compression=xz", "takes no parameters"),
        ("file:///x#y", "takes no parameters"),
    ],
)
def test_addresses_that_are_none(uri: str, message: str) -> None:
    with pytest.raises(CacheError, match=message):
        folder_of(uri)
