"""Realisations get signatures that are right for what Nix signs."""

from __future__ import annotations

import json

from reconciler.binary_cache.realisation import in_order, signed
from reconciler.binary_cache.signing import PublicKey, read_secret_key
from tests.binary_cache.support import make_key, public_key
from tests.support.private_store import PrivateStore

REALISATION = (
    '{"dependentRealisations":{},"id":"sha256:4d2f!out","outPath":"d3yf-b","signatures":["a-1:AA"]}'
)
WITHOUT = '{"dependentRealisations":{},"id":"sha256:4d2f!out","outPath":"d3yf-b"}'


def test_it_is_signed_with_every_key_beside_what_signed_it(store: PrivateStore) -> None:
    files = [make_key(store, name) for name in ("one-1", "two-1")]
    keys = [read_secret_key(file, store_dir=str(store.store_dir)) for file in files]
    content = signed(REALISATION.encode(), keys)
    assert json.loads(content)["outPath"] == "d3yf-b"
    signatures = json.loads(content)["signatures"]
    assert [each.partition(":")[0] for each in signatures] == ["a-1", "one-1", "two-1"]
    for file in files:
        assert PublicKey.parse(public_key(store, file)).signed(WITHOUT, signatures)
    assert signed(content, keys) == content
    assert signed(REALISATION.encode(), [])


def test_spaces_and_order_change_nothing(store: PrivateStore) -> None:
    key = read_secret_key(make_key(store), store_dir=str(store.store_dir))
    loose = json.dumps(dict(reversed(json.loads(REALISATION).items())), indent=2)
    assert signed(loose.encode(), [key]) == signed(REALISATION.encode(), [key])


def test_what_others_depend_on_goes_first() -> None:
    def depending(*on: str) -> bytes:
        return json.dumps({"dependentRealisations": dict.fromkeys(on, "d3yf-b")}).encode()

    objects = {
        "realisations/c!out.doi": depending("b!out", "elsewhere!out"),
        "log/x.drv": b"any text",
        "realisations/b!out.doi": depending("a!out"),
        "realisations/a!out.doi": depending(),
    }
    ordered = in_order(objects)
    assert sorted(ordered) == sorted(objects)
    assert [name[13] for name in ordered if name != "log/x.drv"] == ["a", "b", "c"]
