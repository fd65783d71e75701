"""What builds left goes to artifact stores, and leaves them again.

Yields outcomes; what is to go where, and when it is tried, is decided elsewhere. Done again after
it was cut off, it comes to the same: names there do not depend on when.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from reconciler.binary_cache.interface import ObjectStore
from reconciler.binary_cache.nars import GoneError, LocalNars
from reconciler.binary_cache.remote import UnusableError
from reconciler.database.artifacts import Due
from reconciler.database.bases import StoredBase
from reconciler.errors import CacheError, NixError
from reconciler.incremental import artifacts
from reconciler.incremental.artifacts import FORMAT, Description
from reconciler.model import ArtifactStore
from reconciler.outcomes import Shared
from reconciler.store import Store


async def share(store: ArtifactStore, due: Due, local: Store, *, farm: str) -> Shared:
    """Put bases of the local store into an artifact store, and delete what is not to stay."""
    shared: dict[str, StoredBase] = {}
    gone: dict[str, StoredBase] = {}
    withdrawn: tuple[str, ...] = ()
    fault: str | None = None
    try:
        async with artifacts.opened(store) as objects:
            for base in due.share:
                stem = stem_of(base, farm=farm)
                try:
                    there = await _put(objects, stem, base, local, farm=farm)
                except UnusableError:
                    raise
                except CacheError as error:
                    fault = fault or str(error)
                else:
                    (shared if there else gone)[stem] = base
            await artifacts.remove(objects, due.withdraw)
            withdrawn = due.withdraw
    except (CacheError, NixError) as error:
        fault = fault or str(error)
    return Shared(
        store=store,
        shared=shared,
        gone=gone,
        withdrawn=withdrawn,
        unusable=fault,
    )


def stem_of(base: StoredBase, *, farm: str) -> str:
    """What a base is called there, without its ending: two farms never write to one name."""
    inside = artifacts.folder(
        system=base.slot.system, fingerprint=base.base.fingerprint.digest, slot=base.base.kept_as
    )
    return f"{inside}{base.base.created_at * 1000:.0f}-{farm}-{base.base.id}"


async def _put(
    objects: ObjectStore, stem: str, base: StoredBase, local: Store, *, farm: str
) -> bool:
    """Put one there; whether the store has it still. CacheError, NixError."""
    info = await local.path_info(base.path)
    if info is None:
        return False
    described = Description(
        format=FORMAT,
        slot=base.base.kept_as,
        system=base.slot.system,
        fingerprint=base.base.fingerprint.digest,
        name=base.name,
        nar_hash=base.nar_hash,
        nar_size=base.size,
        depth=base.base.depth,
        full_at=base.base.full_at,
        created_at=base.base.created_at,
        farm=farm,
        jobset=base.slot.jobset,
        job=base.slot.job,
        commit=base.base.commit,
        canonical=base.canonical,
        built=base.built,
    )
    with contextlib.suppress(GoneError):
        await artifacts.put(objects, stem, described, info, LocalNars(Path(base.path).parent))
        return True
    return False
