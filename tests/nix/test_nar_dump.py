"""NARs of ours, byte for byte those of Nix."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.errors import NixError
from reconciler.nix.nar_dump import CHUNK, dump
from tests.support.private_store import PrivateStore


def nixs_dump(store: PrivateStore, path: Path) -> bytes:
    target = store.root / "nar"
    store.run("sh", "-c", f'nix-store --dump "{path}" > "{target}"')
    return target.read_bytes()


def make_tree(root: Path) -> None:
    """All that can be in a store, and sizes around every boundary."""
    root.mkdir()
    for name in ("a", "B", "a.b", "a-b", "a0", "ab", "é", "𝄞", " ", "~", "-", "café", "x" * 255):
        (root / name).write_text(name)
    (root / os.fsdecode(b"not utf-8 \xff")).write_bytes(b"")
    for size in (0, 1, 7, 8, 9, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5):
        (root / f"size-{size}").write_bytes(os.urandom(size))
    for mode in (0o755, 0o700, 0o644, 0o444, 0o055, 0o4711):
        (root / f"mode-{mode:o}").write_text("x")
        (root / f"mode-{mode:o}").chmod(mode)
    (root / "empty").mkdir()
    (root / "link").symlink_to("a")
    (root / "dangling").symlink_to("/nowhere/" + "y" * 500)
    (root / "up").symlink_to("..")
    many = root / "many"
    many.mkdir()
    for number in range(3000):
        (many / str(number)).symlink_to(str(number))
    deep = root
    for _ in range(60):
        deep = deep / "d"
        deep.mkdir()
    (deep / "end").write_text("end")


def test_a_tree_of_everything(store: PrivateStore) -> None:
    tree = store.root / "tree"
    make_tree(tree)
    chunks = list(dump(tree))
    assert b"".join(chunks) == nixs_dump(store, tree)
    assert max(map(len, chunks)) < 3 * CHUNK
    assert all(chunks)


@pytest.mark.parametrize("kind", ["file", "executable", "empty file", "link", "empty folder"])
def test_a_single_node(store: PrivateStore, kind: str) -> None:
    path = store.root / "node"
    match kind:
        case "file" | "executable":
            path.write_text("content")
            path.chmod(0o755 if kind == "executable" else 0o644)
        case "empty file":
            path.touch()
        case "link":
            path.symlink_to("target")
        case _:
            path.mkdir()
    assert b"".join(dump(path)) == nixs_dump(store, path)


def test_a_file_that_shrinks_meanwhile_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(3 * CHUNK))
    chunks = dump(file)
    next(chunks)
    os.truncate(file, CHUNK)
    with pytest.raises(NixError, match="became shorter"):
        list(chunks)


def test_what_no_store_holds_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NixError, match="fifo is neither file"):
        list(dump(tmp_path))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(dump(tmp_path / "absent"))
