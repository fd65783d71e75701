"""What is evaluated, as it lies in the store: fetched from git before, and protected there.

Nix reads a file that an expression takes from a git tree out of git, each time with a look at its
attributes. In a process of its own that takes the tree as a path, it reads the copy in the store:
a source of 4,000 files is in a derivation six times sooner. What that derivation is stays the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from reconciler.model import StorePath
from reconciler.source import LockedGit, LockedSource, fetch_environment, tree_of
from reconciler.store import Store

_FETCH = """
{ fetch }:
let
  tree = builtins.fetchGit (builtins.fromJSON fetch);
in
{
  path = tree.outPath;
  inherit (tree) narHash;
}
"""


async def checked_out(
    locked: LockedSource,
    *,
    store: Store,
    environment: Mapping[str, str],
    timeout: float,  # noqa: ASYNC109
) -> LockedSource:
    """The source as an evaluation reads it, its copy protected as long as the daemon is connected.

    SourceError for what cannot be fetched; ProcessTimeoutError after so many seconds; NixError.
    """
    if isinstance(locked.origin, LockedGit):
        tree = await tree_of(
            _FETCH,
            {"fetch": json.dumps(dict(locked.origin.fetch))},
            failing=f"{locked.locked} cannot be fetched",
            env=fetch_environment(environment),
            timeout=timeout,
        )
        # A Nix with lazy trees copies it when a derivation needs it, and reads it out of git.
        if Path(tree.store_path).exists():  # noqa: ASYNC240  (a local look-up)
            locked = replace(locked, origin=tree, store_path=tree.store_path)
    if locked.store_path is not None:
        await store.protect([StorePath(locked.store_path)])
    return locked
