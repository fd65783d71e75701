"""One poll: where a jobset's source stands now, as an outcome; what cannot be told is one, too."""

from __future__ import annotations

from collections.abc import Mapping

from reconciler import source
from reconciler.errors import ReconcilerError
from reconciler.model import Jobset
from reconciler.outcomes import Polled
from reconciler.store import Store


async def resolve(
    jobset: Jobset, store: Store, environment: Mapping[str, str], *, at: str | None
) -> Polled:
    """Find out where a jobset's source stands; that of a branch, `at` the revision listed."""
    try:
        locked = await source.lock(
            jobset.source, environment=environment, copy=store.add_folder, at=at
        )
    except ReconcilerError as problem:
        return Polled(jobset=jobset.name, locked=None, error=str(problem))
    return Polled(jobset=jobset.name, locked=locked, error=None)
