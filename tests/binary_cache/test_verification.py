"""Every flaw that a path in a cache can have is found; done to real caches by hand."""

from __future__ import annotations

import pytest

from reconciler.binary_cache import Flaw, open_cache
from reconciler.model import Compression
from tests.binary_cache.harm import HARM, narinfo
from tests.binary_cache.support import build_chain, declare, make_key, push
from tests.support.private_store import PrivateStore


@pytest.mark.parametrize("compression", Compression)
async def test_each_flaw_is_found(store: PrivateStore, compression: Compression) -> None:
    _, middle, _ = paths = build_chain(store)
    key = make_key(store)
    for number, (harm, expected) in enumerate(HARM.values()):
        folder = store.root / f"binary-cache-{number}"
        declared = declare(folder, key=key, compression=compression)
        await push(store, declared, paths)
        harm(folder, middle)
        async with open_cache(declared, store_dir=str(store.store_dir)) as cache:
            found = await cache.verify(middle)
        assert [finding.flaw for finding in found] == expected, list(HARM)[number]
        assert all(middle in finding.message for finding in found)


async def test_a_reference_that_is_not_there_is_found(store: PrivateStore) -> None:
    base, middle, top = build_chain(store)
    declared = declare(store.root / "binary-cache")
    await push(store, declared, [base, middle, top])
    narinfo(store.root / "binary-cache", base).unlink()
    async with open_cache(declared, store_dir=str(store.store_dir)) as cache:
        (finding,) = await cache.verify(top)
    assert finding.flaw is Flaw.REFERENCE_ABSENT
    assert base in finding.message
