"""What a build left as a base, or why it is none, whatever the build wrote there."""

from __future__ import annotations

import tracemalloc

import pytest

from reconciler import keeping
from reconciler.bases import Fingerprint, Trust
from reconciler.database.bases import Left
from reconciler.database.incremental import Slot
from reconciler.model import JobsetName
from reconciler.outcomes import Kept
from tests.incremental.test_intermediates import Built
from tests.support.private_store import PrivateStore

SLOT = Slot(jobset=JobsetName("it"), job="app", system="s", branch=None, trust=Trust("it"))
MIB = 2**20


async def keep(built: Built, *, max_size: int = 2**30, name: str = "app") -> Kept:
    left = Left(
        derivation=1,
        path=built.drv,
        name=name,
        intermediates=built.intermediates,
        slot=SLOT,
        fingerprint=Fingerprint(digest="f"),
        canonical=built.drv,
        parent=None,
        revision=None,
    )
    kept = await keeping.keep(left, built.store, max_size=max_size)
    await built.store.close()
    return kept


async def test_it_says_what_its_policy_names(store: PrivateStore) -> None:
    built = Built(store, variables='incrementalPolicy = "slot of mine\\nbucket builds\\n";')
    kept = await keep(built, name="a" * 211)
    assert kept.base is not None
    assert (kept.base.shared_slot, kept.base.bucket) == ("of mine", "builds")
    assert kept.base.name == "a" * 190 + "-intermediates"


async def test_what_says_that_it_is_of_no_use_is_none(store: PrivateStore) -> None:
    built = Built(
        store, "printf 'format 1\\nunusable it was Monday\\n' >$intermediates/incremental"
    )
    assert (await keep(built)).refused == "it was Monday"


@pytest.mark.parametrize("word", ["unusable ", "made "])
async def test_one_endless_line_is_not_read_whole(store: PrivateStore, word: str) -> None:
    script = f"{{ printf '{word}'; head -c {32 * MIB} /dev/zero; }} >$intermediates/incremental"
    built = Built(store, script)
    tracemalloc.start()
    try:
        kept = await keep(built, max_size=MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB
    assert kept.refused is not None
    assert len(kept.refused) < 1000
    assert kept.base is None


async def test_what_links_elsewhere_says_nothing(store: PrivateStore) -> None:
    """Nor is what lies there looked at."""
    elsewhere = store.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "incremental").write_text("unusable this is none of its business\n")
    script = f"rm -r $intermediates; ln -s {elsewhere} $intermediates"
    kept = await keep(Built(store, script))
    assert kept.refused is None
    assert kept.base is not None
