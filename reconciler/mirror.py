"""The commits of a repository, without their content, in a bare clone of our own.

It answers what git's listing does not: when commits were made, and from what they come. A cache:
one that is damaged, or has become many packs, is made again. Knows nothing of jobsets.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from reconciler import process
from reconciler.branches import Commit, ref_of
from reconciler.errors import SourceError
from reconciler.source import TIMEOUT, reason

DEPTH = 100
"""Commits back from each branch, unless more are asked for."""
MAX_PACKS = 100
"""Each fetch adds one, and nothing joins them."""
MAX_COMMITS = 500_000
"""Commits read at once."""
BATCH = 200
"""Branches fetched at once: each is an argument of git's."""
_MADE = "mirror-of"
"""The file with the URL; written last, so that what has it is whole."""
_SETTINGS = ("gc.auto=0", "maintenance.auto=false", "fetch.unpackLimit=1", "core.hooksPath=")


class Mirror:
    """The mirror of `url` in a folder; made when it is first asked."""

    def __init__(self, folder: Path, url: str, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._url = url
        self._env = env

    async def commits(self, heads: Mapping[str, str], *, depth: int) -> dict[str, Commit]:
        """The commits that branches (name to revision) come from, at least `depth` back.

        A branch that has moved on meanwhile is left out. SourceError for what cannot be fetched.
        """
        depth = max(depth, DEPTH)
        try:
            await self._bring(heads, depth=depth)
        except SourceError:
            # A fetch that was killed leaves locks behind, a full disk half a pack.
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            await self._bring(heads, depth=depth)
        known = await self._tips()
        return await self._read([each for each in heads.values() if each in known])

    async def _bring(self, heads: Mapping[str, str], *, depth: int) -> None:
        await self._make()
        known = await self._tips()
        missing = [branch for branch, revision in heads.items() if revision not in known]
        for start in range(0, len(missing), BATCH):
            specs = [_refspec(branch) for branch in missing[start : start + BATCH]]
            # Where a server cannot leave out trees, git says so and takes them along.
            await self._git(
                "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc",
                "--no-recurse-submodules", f"--depth={depth}", "--filter=tree:0", "origin", *specs,
            )  # fmt: skip

    async def _make(self) -> None:
        if await asyncio.to_thread(self._usable):
            return
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._git("init", "--quiet", "--bare", "--template=")
        await self._git("config", "remote.origin.url", self._url)
        (self._folder / _MADE).write_text(self._url)

    def _usable(self) -> bool:
        try:
            mirrored = (self._folder / _MADE).read_text()
            packs = sum(1 for _ in self._folder.glob("objects/pack/*.pack"))
        except (OSError, UnicodeDecodeError):
            return False
        return mirrored == self._url and packs <= MAX_PACKS

    async def _tips(self) -> frozenset[str]:
        listed = await self._git("for-each-ref", "--format=%(objectname)", "refs/mirror/")
        return frozenset(listed.decode().split())

    async def _read(self, revisions: Sequence[str]) -> dict[str, Commit]:
        if not revisions:
            return {}
        listed = await self._git(
            "rev-list", "--timestamp", "--parents", f"--max-count={MAX_COMMITS}", *revisions
        )
        rows = (line.split() for line in listed.decode().splitlines())
        return {row[1]: Commit(tuple(row[2:]), float(row[0])) for row in rows}

    async def _git(self, *arguments: str) -> bytes:
        settings = [part for each in _SETTINGS for part in ("-c", each)]
        done = await process.run(
            ["git", f"--git-dir={self._folder}", *settings, *arguments],
            env=self._env,
            timeout=TIMEOUT,
        )
        if done.returncode != 0:
            raise SourceError(f"git cannot mirror '{self._url}': {reason(done.stderr)}")
        return done.stdout


def prune(mirrors: Path, *, keep: Collection[str]) -> None:
    """Remove the mirrors of all jobsets but these."""
    try:
        names = [each.name for each in mirrors.iterdir()]
    except FileNotFoundError:
        return
    for name in names:
        if name not in keep:
            shutil.rmtree(mirrors / name, ignore_errors=True)


def _refspec(branch: str) -> str:
    """By a name of our own: a branch `a` may go and an `a/b` come, which git keeps no refs for."""
    ours = hashlib.sha256(branch.encode()).hexdigest()[:40]
    return f"+{ref_of(branch)}:refs/mirror/{ours}"
