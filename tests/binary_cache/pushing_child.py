"""A process that pushes what it reads from standard input, for tests that kill it.

Arguments: the cache's folder, or its URI and file of credentials with a space between; the store's
folder; and the path (or nothing) whose NAR comes to a halt half way, which is then said on standard
output.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from reconciler.binary_cache import LocalNars, StreamedNars, open_cache
from reconciler.model import PathInfo, StorePath
from tests.binary_cache.support import declare, declared_at


async def main(place: str, store_dir: Path, stalls_at: str) -> None:
    uri, _, credentials = place.partition(" ")
    cache = declared_at(uri, credentials=Path(credentials)) if credentials else declare(Path(place))
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
    async with open_cache(cache, store_dir=str(store_dir)) as opened:
        await opened.push(infos, nars)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
