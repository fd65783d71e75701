"""Keys and signatures, against Nix's own."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from msgspec.structs import replace

from reconciler.binary_cache import open_cache
from reconciler.binary_cache.narinfo import fingerprint, narinfo_name, parse
from reconciler.binary_cache.signing import PublicKey, read_secret_key, signing_keys
from reconciler.errors import CacheError
from tests.binary_cache.support import build_chain, declare, make_key, public_key
from tests.support.private_store import PrivateStore

STORE = "/nix/store"


def test_the_public_key_is_the_one_nix_derives(store: PrivateStore) -> None:
    file = make_key(store, "cache.example.org-1")
    secret = read_secret_key(file, store_dir=str(store.store_dir))
    assert str(secret.public) == public_key(store, file)
    assert PublicKey.parse(str(secret.public)) == secret.public


def test_nix_and_we_sign_alike(store: PrivateStore) -> None:
    *_, top = build_chain(store)
    file = make_key(store)
    store.run("nix", "copy", "--to", f"file://{store.root}/nixs?secret-key={file}", top)
    info = parse((store.root / "nixs" / narinfo_name(top)).read_text())
    text = fingerprint(
        info.path, nar_hash=info.nar_hash, nar_size=info.nar_size, references=info.references
    )
    secret = read_secret_key(file, store_dir=str(store.store_dir))
    assert info.signatures == (secret.sign(text),)
    assert secret.public.signed(text, info.signatures)


def test_a_signature_of_other_words_or_another_key_does_not_count(store: PrivateStore) -> None:
    ours, other = (
        read_secret_key(make_key(store, name), store_dir=STORE) for name in ("a-1", "b-1")
    )
    assert not ours.public.signed("text", [ours.sign("other text")])
    assert not ours.public.signed("text", [other.sign("text")])
    forged = other.sign("text").replace("b-1:", "a-1:")
    assert not ours.public.signed("text", [forged, "a-1:", "a-1:!", "a-1:AAAA", "nonsense"])
    assert ours.public.signed("text", [forged, ours.sign("text")])


def test_a_key_is_not_shown(store: PrivateStore) -> None:
    file = make_key(store)
    secret = read_secret_key(file, store_dir=STORE)
    assert file.read_text().partition(":")[2][:20] not in repr(secret)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no signing key"),
        (b"no colon at all", "holds no signing key"),
        (b"name:", "holds no signing key"),
        (b":" + base64.b64encode(bytes(64)), "holds no signing key"),
        (b"name:not base 64!", "holds no signing key"),
        (b"name:" + base64.b64encode(bytes(63)), "holds no signing key"),
        (b"name:" + base64.b64encode(bytes(32)), "holds a public key"),
        (b"name:" + base64.b64encode(bytes(64)), "is damaged"),
        (bytes(range(256)) * 100, "holds no signing key"),
    ],
)
def test_a_file_that_is_no_key(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(CacheError, match=message) as caught:
        read_secret_key(file, store_dir=STORE)
    assert str(file) in str(caught.value)
    assert content[5:].decode("latin1") not in str(caught.value) or len(content) <= 5


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for file in (tmp_path / "absent", tmp_path):
        with pytest.raises(CacheError, match=f"{file} cannot be read"):
            read_secret_key(file, store_dir=STORE)


def test_a_key_in_the_store_is_refused_also_behind_a_link(store: PrivateStore) -> None:
    file = make_key(store)
    added = store.run("nix-store", "--add", str(file)).stdout.strip()
    link = store.root / "link"
    link.symlink_to(added)
    for each in (Path(added), link):
        with pytest.raises(CacheError, match="is in the Nix store"):
            read_secret_key(each, store_dir=str(store.store_dir))


def test_a_cache_is_signed_with_keys_that_clients_trust(store: PrivateStore) -> None:
    files = [make_key(store, name) for name in ("a-1", "b-1")]
    a, b = (public_key(store, file) for file in files)
    cache = replace(declare(store.root / "main", key=files[0]), signing_key_files=(str(files[1]),))
    for trusted in ((), (a, b), (b, a, a.replace("a-1", "c-1"))):
        keys = signing_keys(replace(cache, public_keys=trusted), store_dir=STORE)
        assert [str(key.public) for key in keys] == [a, b]


async def test_a_key_that_clients_do_not_trust_does_not_sign(store: PrivateStore) -> None:
    ours, other = (make_key(store, name) for name in ("a-1", "b-1"))
    trusted = (public_key(store, ours),)
    cache = replace(declare(store.root / "main", key=other), public_keys=trusted)
    with pytest.raises(CacheError, match="b-1, which is not among publicKeys") as refused:
        async with open_cache(cache, store_dir=str(store.store_dir)):
            pass
    assert str(other) in str(refused.value)
    assert f"declare {public_key(store, other)} there" in str(refused.value)


@pytest.mark.parametrize("text", ["", "name", "name:", ":AAAA", "name:AAAA"])
def test_what_is_no_public_key(text: str) -> None:
    with pytest.raises(CacheError, match="no public key"):
        PublicKey.parse(text)
