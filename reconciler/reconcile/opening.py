"""Puts a farm together: memory, executor and store over one database and state directory."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.database import Database, observe
from reconciler.executor import Executor
from reconciler.ingest import Ingest
from reconciler.model import Desired
from reconciler.nix.endpoint import local_endpoint
from reconciler.places import Places
from reconciler.reconcile.farm import Farm
from reconciler.store import Store
from reconciler.upstreams import Upstreams
from reconciler.work import Work


def open_store(places: Places) -> Store:
    """The local store; nothing is asked of it yet."""
    return Store(local_endpoint(places.environment), places.roots)


def open_farm(
    database: Database,
    desired: Desired,
    systems: frozenset[str],
    places: Places,
    store: Store,
    *,
    wake: Callable[[], None],
) -> Farm:
    """Put a farm together over the local store; nothing is read or started yet.

    `systems` are the machine's own, `wake` is called when something has ended.
    """
    executor = Executor(
        places=places,
        store=store,
        ingest=Ingest(database, store),
        upstreams=Upstreams(database),
        database=database,
        wake=wake,
    )
    return Farm(
        database=database,
        executor=executor,
        store=store,
        systems=systems,
        desired=desired,
        work=Work(observe.durations(database)),
    )
