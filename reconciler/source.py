"""Where a jobset's source stands now, locked: the same content however late it is evaluated.

Locking asks git or Nix and is bounded in time; nothing ever asks a person. It evaluates nothing of
the source but a flake's metadata. What cannot be locked is a SourceError with one message.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, assert_never
from urllib.parse import urlsplit

from msgspec import Struct, field

from reconciler import process
from reconciler.errors import NixError, SourceError
from reconciler.model import FlakeSource, GitSource, PathSource, Source

TIMEOUT = 300.0
"""Seconds for asking a repository where it stands, or for copying a local tree."""
_NIX_FEATURES = ("--extra-experimental-features", "nix-command flakes")
_GIT_SCHEMES = ("https", "http", "ssh", "git", "file")
REVISION = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A commit's full name."""


class LockedFlake(Struct, frozen=True):
    """A flake reference that names one content only, as pure evaluation demands."""

    url: str


class LockedGit(Struct, frozen=True):
    """What `builtins.fetchGit` takes, with a revision."""

    fetch: Mapping[str, str | bool]


class LockedTree(Struct, frozen=True):
    """A copy of a local folder in the store."""

    store_path: str
    nar_hash: str


class LockedSource(Struct, frozen=True, kw_only=True):
    """What a source resolved to."""

    locked: str
    """For the record and for people: a flake reference, or URL and revision."""
    origin: LockedFlake | LockedGit | LockedTree
    file: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    store_path: str | None = None
    """The copy in the store that evaluation needs; None where Nix can fetch it again."""
    revision: str | None = None
    """The commit, of what lies in git."""

    @property
    def fingerprint(self) -> str:
        """Equal for sources that evaluate to the same, all else being equal."""
        facts = json.dumps([self.locked, self.file, dict(self.args)], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()


class Copy(Protocol):
    """Copies what is `wanted` of a folder into the store; NixError or OSError where it cannot."""

    async def __call__(
        self, folder: Path, /, *, wanted: Callable[[os.DirEntry[bytes]], bool]
    ) -> LockedTree:
        """The copy."""


async def lock(
    source: Source,
    *,
    environment: Mapping[str, str],
    copy: Copy,
    at: str | None = None,
    timeout: float = TIMEOUT,  # noqa: ASYNC109
) -> LockedSource:
    """Resolve a source to what it is now; SourceError when that cannot be told.

    Of a source whose ref is known to be `at` a revision, it is that. `copy` makes the copies of
    local folders.
    """
    env = fetch_environment(environment)
    try:
        match source:
            case FlakeSource():
                return await _lock_flake(source, env=env, at=at, timeout=timeout)
            case GitSource():
                return await _lock_git(source, env=env, at=at, timeout=timeout)
            case PathSource():
                return await _lock_path(source, copy=copy, timeout=timeout)
            case _:
                assert_never(source)
    except process.ProcessTimeoutError as error:
        raise SourceError(f"the source did not answer within {timeout:g} s: {error}") from error
    except TimeoutError:
        raise SourceError(f"the source could not be copied within {timeout:g} s") from None


def fetch_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, so that git and ssh fail where they would ask a person something."""
    return {
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=30",
        **environment,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": ":".join(_GIT_SCHEMES),
        "SSH_ASKPASS_REQUIRE": "never",
        "LC_ALL": "C.UTF-8",
    }


# --- Flakes ------------------------------------------------------------------------------------


async def _lock_flake(
    source: FlakeSource,
    *,
    env: Mapping[str, str],
    at: str | None,
    timeout: float,  # noqa: ASYNC109
) -> LockedSource:
    url = source.url
    _refuse_secrets(url)
    if url.startswith("-") or not url.strip():
        raise SourceError(f"'{url}' is not a flake reference")
    if "#" in url:
        raise SourceError(
            f"the flake reference '{url}' names an attribute: write it under `attributes` instead"
        )
    asked = await process.run(
        # A branch is asked for anew: without --refresh Nix trusts its cache for an hour. A lock
        # file that does not fit is an error now, rather than one of every attribute later.
        [
            "nix",
            "flake",
            "metadata",
            *_NIX_FEATURES,
            "--json",
            "--refresh",
            "--no-update-lock-file",
            "--",
            url if at is None else f"{url}&rev={at}",
        ],
        env=env,
        timeout=timeout,
    )
    if asked.returncode != 0:
        raise SourceError(f"the flake '{url}' cannot be locked: {reason(asked.stderr)}")
    facts = _json_object(asked.stdout, f"the metadata of the flake '{url}'")
    return _locked_flake(facts)


def _locked_flake(facts: Mapping[str, Any]) -> LockedSource:
    attributes = facts["locked"]
    if "rev" in attributes:
        return LockedSource(
            locked=facts["url"], origin=LockedFlake(facts["url"]), revision=attributes["rev"]
        )
    # A local folder or a work tree with changes: only the copy that Nix has just made of it
    # stays as it is.
    tree = LockedTree(facts["path"], attributes["narHash"])
    folder = f"&dir={attributes['dir']}" if attributes.get("dir") else ""
    url = f"path:{tree.store_path}?narHash={tree.nar_hash.replace('+', '%2B')}{folder}"
    return LockedSource(locked=url, origin=LockedFlake(url), store_path=tree.store_path)


# --- Git ---------------------------------------------------------------------------------------


async def _lock_git(
    source: GitSource,
    *,
    env: Mapping[str, str],
    at: str | None,
    timeout: float,  # noqa: ASYNC109
) -> LockedSource:
    url = git_url(source.url)
    file = _file(source.file)
    ref, revision = source.ref, at or source.ref
    if at is None and not REVISION.fullmatch(revision):
        ref, revision = await _resolve(url, ref, env=env, timeout=timeout)
    fetch: dict[str, str | bool] = {"url": url, "ref": ref, "rev": revision}
    if ref == revision:
        fetch = {"url": url, "rev": revision, "allRefs": True}
    return LockedSource(
        locked=f"{url}?rev={revision}",
        origin=LockedGit(fetch),
        file=file,
        args=source.args,
        revision=revision,
    )


async def _resolve(
    url: str,
    ref: str,
    *,
    env: Mapping[str, str],
    timeout: float,  # noqa: ASYNC109
) -> tuple[str, str]:
    """The full name of a ref and the revision it is at: a branch before a tag of its name."""
    if ref.startswith("-") or not ref.strip():
        raise SourceError(f"'{ref}' is not a git ref: write a branch, a tag or a full revision")
    names = [ref] if ref == "HEAD" or ref.startswith("refs/") else []
    names += [f"refs/heads/{ref}", f"refs/tags/{ref}"]
    # An annotated tag is an object of its own; with ^{} it is the commit.
    patterns = [pattern for name in names for pattern in (name, f"{name}^{{}}")]
    asked = await process.run(["git", "ls-remote", "--", url, *patterns], env=env, timeout=timeout)
    if asked.returncode != 0:
        raise SourceError(f"git cannot read '{url}': {reason(asked.stderr)}")
    revisions = dict(_refs(asked.stdout))
    for name in names:
        revision = revisions.get(f"{name}^{{}}") or revisions.get(name)
        if revision:
            return name, revision
    raise SourceError(f"the repository '{url}' has no branch or tag '{ref}'")


def _refs(output: bytes) -> list[tuple[str, str]]:
    rows = [line.split("\t", 1) for line in output.decode(errors="replace").splitlines()]
    return [(row[1], row[0]) for row in rows if len(row) == 2 and REVISION.fullmatch(row[0])]


def git_url(url: str) -> str:
    """The URL as git and Nix both take it; SourceError for what is none."""
    _refuse_secrets(url)
    if url.startswith("/"):
        return f"file://{url}"
    scheme, separator, _ = url.partition("://")
    if separator and scheme in _GIT_SCHEMES and not url.startswith("-"):
        return url
    # scp's form, HOST:PATH, is ssh; HELPER::ADDRESS would start a program.
    if re.fullmatch(r"[A-Za-z0-9_][\w.@-]*:(?!:)[^\s-]\S*", url) and not separator:
        return url
    raise SourceError(
        f"'{url}' is not a git URL: write one with {'://, '.join(_GIT_SCHEMES)}://, "
        "HOST:PATH for ssh, or an absolute path"
    )


# --- Local folders -----------------------------------------------------------------------------


async def _lock_path(
    source: PathSource,
    *,
    copy: Copy,
    timeout: float,  # noqa: ASYNC109
) -> LockedSource:
    file = _file(source.file)
    folder = Path(source.path)
    if not folder.is_absolute():
        raise SourceError(f"the path '{folder}' is relative: write an absolute one")
    if not folder.is_dir():  # noqa: ASYNC240  (a local look-up)
        raise SourceError(f"there is no folder '{folder}'")
    try:
        async with asyncio.timeout(timeout):
            tree = await copy(folder.resolve(), wanted=_is_content)  # noqa: ASYNC240
    except (NixError, OSError) as error:
        raise SourceError(f"'{folder}' cannot be copied: {error}") from error
    return LockedSource(
        locked=f"{folder}?narHash={tree.nar_hash}",
        origin=tree,
        file=file,
        args=source.args,
        store_path=tree.store_path,
    )


def _is_content(entry: os.DirEntry[bytes]) -> bool:
    """Sockets and the like have no place in the store; git's folder changes without the tree."""
    if entry.name == b".git":
        return False
    return entry.is_symlink() or entry.is_file() or entry.is_dir()


# --- All of them -------------------------------------------------------------------------------


async def tree_of(
    function: str,
    arguments: Mapping[str, str],
    *,
    failing: str,
    env: Mapping[str, str],
    timeout: float,  # noqa: ASYNC109
) -> LockedTree:
    """The copy in the store that a Nix function of strings says it made: `path` and `narHash`.

    SourceError: what is `failing`, and what Nix says. ProcessTimeoutError.
    """
    given = [part for name, value in arguments.items() for part in ("--argstr", name, value)]
    asked = await process.run(
        [
            "nix-instantiate",
            *_NIX_FEATURES,
            "--eval",
            "--strict",
            "--json",
            "--read-write-mode",
            "--option",
            "pure-eval",
            "false",
            "--option",
            "restrict-eval",
            "false",
            *given,
            "--expr",
            function,
        ],
        env=env,
        timeout=timeout,
    )
    if asked.returncode != 0:
        raise SourceError(f"{failing}: {reason(asked.stderr)}")
    facts = _json_object(asked.stdout, "a path and its hash")
    return LockedTree(facts["path"], facts["narHash"])


def _file(file: str) -> str:
    path = PurePosixPath(file)
    if not file or path.is_absolute() or ".." in path.parts:
        raise SourceError(f"the file '{file}' must be a path below the source's top folder")
    return str(path)


def _refuse_secrets(url: str) -> None:
    """A password in a URL would be recorded, shown and passed on command lines."""
    try:
        secret = urlsplit(url).password
    except ValueError as error:
        raise SourceError(f"'{url}' is not a URL: {error}") from error
    if secret is not None:
        host = urlsplit(url).hostname
        raise SourceError(
            f"the URL on {host} holds a password: use an ssh key, a git credential helper or "
            "Nix's access-tokens instead"
        )


def reason(stderr: str) -> str:
    """The lines that say what is wrong, of what git or Nix printed."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(error|fatal): \S", line)]
    return "; ".join(telling[-2:] or lines[-2:] or ["no reason given"])[:2000]


def _json_object(text: bytes, what: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SourceError(f"Nix printed something else than {what}") from error
    if not isinstance(value, dict):
        raise SourceError(f"Nix printed something else than {what}")
    return value
