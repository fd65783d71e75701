"""Pushes paths to a cache in the daemon's batches; prints the seconds as JSON.

    python -m bench.push_child PATHS URI [--again]

`--again`: as a daemon does that has lost its state, which asks beside its first batch for all else.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from pathlib import Path

from reconciler import config, pushing
from reconciler.model import CacheName, StorePath
from reconciler.nix.endpoint import local_endpoint
from reconciler.reconcile import ASKED_AT_ONCE, PUSH_BATCH
from reconciler.store import Store
from reconciler.upstreams import Upstreams


async def push(paths: list[StorePath], uri: str, *, again: bool) -> float:
    document = {"caches": {"bench": {"uri": uri, "compression": "zstd"}}}
    cache = config.parse(json.dumps(document).encode(), name="bench").caches[CacheName("bench")]
    store = Store(local_endpoint(dict(os.environ)), Path("nowhere"))
    upstreams = Upstreams(None)
    if uri.startswith("s3:"):
        importlib.import_module("reconciler.binary_cache.s3_store")  # a daemon does it once
    await store.connection()  # a daemon has one
    began = time.perf_counter()
    while paths:
        batch, rest = paths[:PUSH_BATCH], paths[PUSH_BATCH:]
        further = rest[:ASKED_AT_ONCE] if again else []
        done = await pushing.push(cache, batch, store, upstreams=upstreams, further=further)
        assert len(done.sent) == len(batch), done
        found = set(done.found)
        paths = [path for path in rest if path not in found]
    seconds = time.perf_counter() - began
    await store.close()
    return seconds


if __name__ == "__main__":
    wanted = [StorePath(line) for line in Path(sys.argv[1]).read_text().split()]
    took = asyncio.run(push(wanted, sys.argv[2], again="--again" in sys.argv))
    print(json.dumps(took))
