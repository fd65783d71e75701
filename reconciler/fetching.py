"""Fetches outputs that only a substituter has, and tells what became of each.

What a substituter turns out not to have after all is looked at again: then it is built. Every end
is a value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from reconciler.errors import NixError
from reconciler.ingest import Ingest
from reconciler.model import DrvPath, StorePath
from reconciler.outcomes import Fetched
from reconciler.store import Store

Wanted = Mapping[int, tuple[DrvPath, Collection[StorePath]]]
"""Derivations, each with its path and the outputs that are to be here."""


async def fetch(wanted: Wanted, store: Store, ingest: Ingest, *, now: float) -> Fetched:
    """Fetch what is missing of the outputs."""
    paths = {path for _, outputs in wanted.values() for path in outputs}
    try:
        await store.protect(paths)
        there, said = await store.fetch(paths)
    except NixError as error:
        return Fetched(failed=dict.fromkeys(wanted, str(error)))
    missing = {key: drv for key, (drv, outputs) in wanted.items() if not there.issuperset(outputs)}
    done = tuple(key for key in wanted if key not in missing)
    failed = dict.fromkeys(missing, said or "the substituters do not deliver it, and say nothing")
    try:
        batch = await ingest.revisit(missing.values(), now=now) if missing else None
    except NixError:
        batch = None  # its derivation is gone as well; it is fetched, or evaluated again
    return Fetched(done=done, failed=failed, batch=batch)
