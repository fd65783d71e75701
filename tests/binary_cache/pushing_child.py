"""A process that pushes what it reads from standard input, for tests that kill it.

Arguments: the cache's folder, the store's, and the path (or nothing) whose NAR comes to a halt
half way, which is then said on standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from reconciler.binary_cache import LocalNars, StreamedNars, open_cache
from reconciler.model import PathInfo, StorePath
from tests.binary_cache.support import declare


async def main(folder: Path, store_dir: Path, stalls_at: str) -> None:
    given = json.load(sys.stdin)
    infos = [PathInfo(**{**info, "references": tuple(info["references"])}) for info in given]
    local = LocalNars(store_dir)

    async def stalling(path: StorePath) -> AsyncGenerator[bytes, None]:
        for chunk in local.read(path):
            if path == stalls_at:
                yield chunk[: len(chunk) // 2]
                sys.stdout.write("half way\n")
                sys.stdout.flush()
                await asyncio.Event().wait()
            yield chunk

    nars = StreamedNars(stalling) if stalls_at else local
    async with open_cache(declare(folder), store_dir=str(store_dir)) as cache:
        await cache.push(infos, nars)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
