"""The text of narinfo files, against Nix's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.binary_cache.narinfo import NarInfo, fingerprint, narinfo_name, parse, render
from reconciler.errors import CacheError
from reconciler.model import StorePath
from tests.binary_cache.support import add_files, build_chain, make_key
from tests.support.private_store import PrivateStore

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
PATH = StorePath(f"/nix/store/{DIGITS}-hello-2.12")
OTHER = StorePath(f"/nix/store/{DIGITS[::-1]}-glibc+x.y?z=1")
HASH = "sha256:" + "0" * 52

INFO = NarInfo(
    path=PATH,
    url="nar/" + "0" * 52 + ".nar.zst",
    compression="zstd",
    file_hash=HASH,
    file_size=10,
    nar_hash=HASH,
    nar_size=20,
    references=(OTHER, PATH),
    deriver=f"{DIGITS}-hello-2.12.drv",
    signatures=("a-1:AAAA", "b-1:BBBB"),
    content_address="fixed:r:" + HASH,
)


def test_nixs_own_files_are_read_and_written_to_the_byte(store: PrivateStore) -> None:
    paths = [*build_chain(store), *add_files(store, 1)]
    folder = store.root / "binary-cache"
    store.run("nix", "copy", "--to", f"file://{folder}?secret-key={make_key(store)}", *paths)
    for path in paths:
        text = (folder / narinfo_name(path)).read_text()
        info = parse(text)
        assert info.path == path
        assert (folder / info.url).stat().st_size == info.file_size
        assert render(info) == text
    base, middle, top = (parse((folder / narinfo_name(path)).read_text()) for path in paths[:3])
    assert set(top.references) == {base.path, middle.path, top.path}
    assert base.deriver is not None
    assert base.deriver.endswith("-base.drv")


def test_what_is_written_is_read_back() -> None:
    assert parse(render(INFO)) == INFO


def test_the_fingerprint_has_references_in_full_and_sorted() -> None:
    text = fingerprint(PATH, nar_hash=HASH, nar_size=20, references=(OTHER, PATH))
    assert text == f"1;{PATH};{HASH};20;{PATH},{OTHER}"


def test_unknown_fields_are_skipped_and_optional_ones_may_lack() -> None:
    lines = [line for line in render(INFO).splitlines() if not line.startswith(("CA", "Sig"))]
    lines[-1] = "Deriver: unknown-deriver"
    info = parse("\n".join([*lines, "System: x86_64-linux"]))
    assert (info.deriver, info.content_address, info.signatures) == (None, None, ())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("StorePath", "/nix/store/hello"),
        ("StorePath", f"{DIGITS}-hello"),
        ("URL", "../../etc/passwd"),
        ("URL", "/etc/passwd"),
        ("URL", "nar/../../x"),
        ("URL", "http://example.org/x.nar"),
        ("FileHash", "sha256:short"),
        ("NarHash", "md5:" + "0" * 52),
        ("NarHash", "sha256:" + "e" * 52),
        ("FileSize", "-1"),
        ("NarSize", "many"),
        ("NarSize", "9" * 5000),
        ("References", "../x"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: str) -> None:
    lines = [
        f"{field}: {value}" if line.startswith(f"{field}:") else line
        for line in render(INFO).splitlines()
    ]
    with pytest.raises(CacheError, match=field):
        parse("\n".join(lines))


@pytest.mark.parametrize(
    "field", ["StorePath", "URL", "FileHash", "FileSize", "NarHash", "NarSize"]
)
def test_a_missing_field_is_named(field: str) -> None:
    lines = [line for line in render(INFO).splitlines() if not line.startswith(f"{field}:")]
    with pytest.raises(CacheError, match=f"{field} is missing"):
        parse("\n".join(lines))


@pytest.mark.parametrize("text", ["", "<html>", "StorePath: a\nStorePath: b", "\0" * 40])
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(CacheError, match="not a narinfo"):
        parse(text)


def test_a_narinfo_is_named_by_the_hash_part() -> None:
    assert narinfo_name(PATH) == f"{Path(PATH).name[:32]}.narinfo"
