"""Pushes paths to a new cache in the daemon's batches; prints the seconds as JSON.

python -m bench.push_child PATHS CACHE_FOLDER
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from reconciler import config, pushing
from reconciler.model import CacheName, StorePath
from reconciler.nix.endpoint import local_endpoint
from reconciler.reconcile import PUSH_BATCH
from reconciler.store import Store


async def push(paths: list[StorePath], folder: Path) -> float:
    document = {"caches": {"bench": {"uri": f"file:{folder}", "compression": "zstd"}}}
    cache = config.parse(json.dumps(document).encode(), name="bench").caches[CacheName("bench")]
    store = Store(local_endpoint(dict(os.environ)), folder / "roots")
    began = time.perf_counter()
    for at in range(0, len(paths), PUSH_BATCH):
        batch = paths[at : at + PUSH_BATCH]
        done = await pushing.push(cache, batch, store)
        assert len(done.sent) == len(batch), done
    seconds = time.perf_counter() - began
    await store.close()
    return seconds


if __name__ == "__main__":
    wanted = [StorePath(line) for line in Path(sys.argv[1]).read_text().split()]
    print(json.dumps(asyncio.run(push(wanted, Path(sys.argv[2])))))
