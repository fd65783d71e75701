"""Sources locked as the daemon does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reconciler import source as sources
from reconciler.model import Source
from reconciler.nix.endpoint import local_endpoint
from reconciler.source import TIMEOUT, LockedSource
from reconciler.store import Store


async def lock(
    source: Source,
    environment: Mapping[str, str],
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109
) -> LockedSource:
    """A source, locked with a connection of its own: what it copies nothing protects afterwards."""
    store = Store(local_endpoint(environment), Path("/nowhere"))
    try:
        return await sources.lock(
            source, environment=environment, copy=store.add_folder, timeout=timeout
        )
    finally:
        await store.close()
