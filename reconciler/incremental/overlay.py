"""Commits of ours on top of a source's, in a bare repository of ours: cache.nix and commit.txt.

cache.nix holds the bases, commit.txt the commit that it is really about. Nothing is pushed
upstream, no branch there changes. A commit is named by what is in it: its author is always the
same, its dates are those of the commit below it, so that anyone who puts the same text on the same
commit gets the same one, whenever and wherever.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

from msgspec import Struct
from msgspec.structs import replace

from reconciler import process
from reconciler.errors import SourceError
from reconciler.source import TIMEOUT, LockedFlake, LockedGit, LockedSource, reason

AUTHOR = ("nix-reconciler", "nix-reconciler@localhost")
MESSAGE = "Bases for incremental builds"
REFS = "refs/heads/incremental/"
FILES = ("cache.nix", "commit.txt")
_HOSTS = {"github": "github.com", "gitlab": "gitlab.com", "sourcehut": "git.sr.ht"}
_NAMED_BY_REVISION = frozenset({"ref", "rev", "narHash", "lastModified", "revCount", "allRefs"})
"""What a locked flake reference says of its revision, which is another one in ours."""


class Origin(Struct, frozen=True, kw_only=True):
    """A commit in somebody's repository."""

    url: str
    revision: str


def origin(locked: LockedSource) -> Origin:
    """The repository and commit of a locked source; SourceError where it is in none."""
    match locked.origin:
        case LockedGit(fetch=fetch):
            return Origin(url=str(fetch["url"]), revision=str(fetch["rev"]))
        case LockedFlake(url=url):
            found = _of_flake(url)
            if found is not None:
                return found
        case _:
            pass
    raise SourceError(
        f"cache.nix needs a commit to be put on top of, and {locked.locked} is at none: commit what"
        " changed, or use another of `incremental.protocols`"
    )


def _of_flake(url: str) -> Origin | None:
    address, _, query = url.partition("?")
    facts = dict(parse_qsl(query))
    if address.startswith("git+") and "rev" in facts:
        return Origin(url=address.removeprefix("git+"), revision=facts["rev"])
    kind, _, path = address.partition(":")
    parts = path.split("/")
    if kind in _HOSTS and len(parts) == 3:
        host = facts.get("host", _HOSTS[kind])
        owner, name, revision = parts
        return Origin(url=f"https://{host}/{owner.replace('%2F', '/')}/{name}", revision=revision)
    return None


def relocated(locked: LockedSource, repository: str, revision: str) -> LockedSource:
    """A source as it is in another repository, of which only this one commit is known."""
    ref = f"{REFS}{revision}"
    match locked.origin:
        case LockedGit():
            fetch: dict[str, str | bool] = {
                "url": f"file://{repository}", "ref": ref, "rev": revision, "shallow": True
            }  # fmt: skip
            return replace(locked, origin=LockedGit(fetch))
        case LockedFlake(url=url):
            kept = [
                (name, value)
                for name, value in parse_qsl(url.partition("?")[2])
                if name not in _NAMED_BY_REVISION and name not in ("host", "shallow")
            ]
            facts = [("ref", ref), ("rev", revision), ("shallow", "1"), *kept]
            return replace(
                locked, origin=LockedFlake(f"git+file://{repository}?{urlencode(facts, safe='/')}")
            )
        case _:
            raise AssertionError("only what is in a repository can be in another one")


def contents(text: str, commit: str) -> dict[str, str]:
    """The files that a commit of ours adds, by name."""
    cache, told = FILES
    return {cache: text, told: f"{commit}\n"}


class Overlays:
    """Such a repository in a folder, which is made when it is first needed; one for each source."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._env = env
        self._turn = asyncio.Lock()
        self._unlocked = False

    async def add(self, on: Origin, text: str) -> str:
        """Put the text of bases on top of a commit; the new commit. SourceError."""
        async with self._turn:
            await self._make(on.revision)
            if not await self._has(on.revision):
                await self._git("fetch", "--quiet", "--no-tags", "--depth=1", on.url, on.revision)
            with tempfile.TemporaryDirectory(prefix="overlay-", dir=self._folder) as scratch:
                commit = await self._commit(on.revision, text, Path(scratch))
            await self._git("update-ref", f"{REFS}{commit}", commit)
            return commit

    async def keep_only(self, commits: Callable[[], Collection[str]]) -> None:
        """Forget all commits of ours but these, as they are when it is our turn: another branch may
        have been given one meanwhile.
        """
        async with self._turn:
            if not (self._folder / "HEAD").exists():
                return
            listed = await self._git("for-each-ref", "--format=%(objectname)", REFS)
            for commit in set(listed.split()) - set(commits()):
                await self._git("update-ref", "-d", f"{REFS}{commit}")
            # Whatever nothing refers to any more: the commits below them, too.
            await self._git("prune", "--expire=now")

    def locked(self, source: LockedSource, commit: str) -> LockedSource:
        """The source as it is with a commit of ours."""
        return relocated(source, quote(str(self._folder)), commit)

    async def _make(self, revision: str) -> None:
        if (self._folder / "HEAD").exists():
            if not self._unlocked:
                # Left by a git that was killed: nobody else works here.
                for lock in self._folder.rglob("*.lock"):
                    lock.unlink(missing_ok=True)
            self._unlocked = True
            return
        self._unlocked = True
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        kind = "sha256" if len(revision) == 64 else "sha1"
        await self._git("init", "--quiet", "--bare", "--template=", f"--object-format={kind}")

    async def _has(self, revision: str) -> bool:
        try:
            await self._git("cat-file", "-e", f"{revision}^{{tree}}")
        except SourceError:
            return False
        return True

    async def _commit(self, revision: str, text: str, scratch: Path) -> str:
        index = {"GIT_INDEX_FILE": str(scratch / "index")}
        await self._git("read-tree", revision, extra=index)
        for name, content in contents(text, revision).items():
            (scratch / name).write_text(content, encoding="utf-8")
            blob = await self._git("hash-object", "-w", "--no-filters", str(scratch / name))
            entry = f"100644,{blob},{name}"
            await self._git("update-index", "--add", "--replace", "--cacheinfo", entry, extra=index)
        tree = await self._git("write-tree", extra=index)
        date = await self._git("show", "--no-patch", "--date=raw", "--format=%cd", revision)
        arguments = ("commit-tree", "--no-gpg-sign", "-p", revision, "-m", MESSAGE, tree)
        return await self._git(*arguments, extra=signature(date))

    async def _git(self, *arguments: str, extra: Mapping[str, str] | None = None) -> str:
        done = await process.run(
            ["git", f"--git-dir={self._folder}", *SETTINGS, *arguments],
            env={**self._env, **(extra or {})},
            timeout=TIMEOUT,
        )
        if done.returncode != 0:
            raise SourceError(f"git cannot make a commit with bases: {reason(done.stderr)}")
        return done.stdout.decode().strip()


SETTINGS = ("-c", "i18n.commitEncoding=UTF-8", "-c", "core.hooksPath=", "-c", "gc.auto=0")
"""So that a commit is the same whatever somebody's own git is set to."""


def signature(date: str) -> dict[str, str]:
    """The variables from which git takes who made a commit, and when."""
    name, email = AUTHOR
    return {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", name), ("EMAIL", email), ("DATE", f"@{date}"))
    }
