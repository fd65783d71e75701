"""Commits with bases on top of real ones: the same everywhere, and nothing changes upstream."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from reconciler.errors import SourceError
from reconciler.incremental import replay
from reconciler.incremental.inputs import expression
from reconciler.incremental.overlay import Origin, Overlays, origin
from reconciler.incremental.replay import Evaluated
from reconciler.model import FlakeSource, GitSource, PathSource, Protocol, Source
from reconciler.nix.expression import native_system
from reconciler.source import LockedFlake, LockedSource
from tests.incremental.support import BASE, CACHE_FILE, CACHE_FLAKE, Evaluator, Repository
from tests.nix.connection_daemons import older_nix
from tests.support.private_store import PrivateStore

TEXT = expression([replace(BASE, job="app")])


def upstream(folder: Path, **files: str) -> Repository:
    """A repository whose owner does as Typhon's issue 77 has it."""
    return Repository(folder, cache_nix="null", commit_txt="", **files)


def overlays(folder: Path, **variables: str) -> Overlays:
    return Overlays(folder, {**os.environ, **variables})


def git(folder: Path, *arguments: str) -> str:
    argv = ["git", f"--git-dir={folder}", *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


# --- Commits -----------------------------------------------------------------------------------


async def test_a_commit_holds_the_bases_and_says_what_it_is_about(tmp_path: Path) -> None:
    source = upstream(tmp_path / "source", release_nix=CACHE_FILE)
    before = source.git("for-each-ref"), source.git("status", "--porcelain")
    revision = source.git("rev-parse", "HEAD")
    folder = tmp_path / "ours"
    ours = overlays(folder)
    commit = await ours.add(Origin(url=source.url, revision=revision), TEXT)
    assert git(folder, "show", f"{commit}:cache.nix") == TEXT
    assert git(folder, "show", f"{commit}:commit.txt") == f"{revision}\n"
    assert git(folder, "show", f"{commit}:release.nix") == CACHE_FILE
    assert git(folder, "rev-parse", f"{commit}^").strip() == revision
    dates = "--format=%cd %ad", "--date=raw", "--no-patch"
    date = source.git("show", "--format=%cd", *dates[1:], revision)
    assert git(folder, "show", *dates, commit).strip() == f"{date} {date}"
    assert (source.git("for-each-ref"), source.git("status", "--porcelain")) == before


async def test_whatever_has_its_names_is_replaced(tmp_path: Path) -> None:
    """A folder, and a link: nothing is written through it."""
    source = upstream(tmp_path / "source", release_nix=CACHE_FILE)
    (source.folder / "cache.nix").unlink()
    (source.folder / "cache.nix").mkdir()
    (source.folder / "cache.nix/default.nix").write_text("throw 1")
    (source.folder / "commit.txt").unlink()
    (source.folder / "commit.txt").symlink_to("release.nix")
    source.git("add", "--all")
    source.git("commit", "--quiet", "--message=odd")
    revision = source.git("rev-parse", "HEAD")
    commit = await overlays(tmp_path / "ours").add(Origin(url=source.url, revision=revision), TEXT)
    listed = git(tmp_path / "ours", "ls-tree", "--format=%(objectmode) %(path)", commit)
    assert listed.splitlines() == ["100644 cache.nix", "100644 commit.txt", "100644 release.nix"]
    assert git(tmp_path / "ours", "show", f"{commit}:cache.nix") == TEXT


async def test_two_farms_make_the_same_commit(tmp_path: Path) -> None:
    """Whenever they do, and whatever their git is set to."""
    source = upstream(tmp_path / "source", release_nix=CACHE_FILE)
    config = tmp_path / "gitconfig"
    config.write_text(
        "[user]\n name = somebody\n[commit]\n gpgSign = true\n[core]\n autocrlf = true\n"
        "[i18n]\n commitEncoding = ISO-8859-1\n"
    )
    on = Origin(url=source.url, revision=source.git("rev-parse", "HEAD"))
    one = await overlays(tmp_path / "one").add(on, TEXT)
    other = overlays(
        tmp_path / "two", GIT_CONFIG_GLOBAL=str(config), TZ="Asia/Tokyo", GIT_AUTHOR_NAME="me"
    )
    assert await other.add(on, TEXT) == one
    assert await other.add(on, expression([])) != one


async def test_what_was_made_before_is_found_again(tmp_path: Path) -> None:
    source = upstream(tmp_path / "source", release_nix=CACHE_FILE)
    on = Origin(url=source.url, revision=source.git("rev-parse", "HEAD"))
    folder = tmp_path / "ours"
    commit = await overlays(folder).add(on, TEXT)
    # As a git that was killed leaves it.
    (folder / "shallow.lock").write_text("")
    (folder / "refs/heads/incremental" / f"{commit}.lock").write_text("")
    source.git("commit", "--quiet", "--amend", "--message=rewritten")
    # The repository upstream knows it no longer under any name.
    assert await overlays(folder).add(on, TEXT) == commit
    newer = source.git("rev-parse", "HEAD")
    assert await overlays(folder).add(Origin(url=source.url, revision=newer), TEXT) != commit


async def test_only_the_commits_asked_for_are_kept(tmp_path: Path) -> None:
    source = upstream(tmp_path / "source", release_nix=CACHE_FILE)
    folder = tmp_path / "ours"
    ours = overlays(folder)
    await ours.keep_only(list)  # nothing is there yet
    commits = []
    for number in range(3):
        revision = source.commit(release_nix=f"{number}")
        commits.append(await ours.add(Origin(url=source.url, revision=revision), TEXT))
    await ours.keep_only(lambda: commits[1:])
    assert git(folder, "for-each-ref", "--format=%(objectname)").split() == sorted(commits[1:])
    with pytest.raises(subprocess.CalledProcessError):
        git(folder, "cat-file", "-e", commits[0])
    assert git(folder, "fsck", "--no-dangling").strip() == ""


async def test_what_is_recorded_while_others_tidy_up_is_kept(tmp_path: Path) -> None:
    """Two branches of a source are evaluated at once."""
    source = upstream(tmp_path / "source", release_nix=CACHE_FILE)
    folder = tmp_path / "ours"
    ours = overlays(folder)
    on = Origin(url=source.url, revision=source.git("rev-parse", "HEAD"))
    recorded: list[str] = []

    async def evaluate() -> None:
        recorded.append(await ours.add(on, TEXT))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(evaluate())
        tasks.create_task(ours.keep_only(lambda: tuple(recorded)))
    assert git(folder, "for-each-ref", "--format=%(objectname)").split() == recorded


async def test_a_commit_that_upstream_lacks_is_an_error_with_its_reason(tmp_path: Path) -> None:
    source = upstream(tmp_path / "source")
    with pytest.raises(SourceError, match="git cannot make a commit with bases: "):
        await overlays(tmp_path / "ours").add(Origin(url=source.url, revision="1" * 40), TEXT)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("git+https://h/r?ref=main&rev=abc&narHash=x", ("https://h/r", "abc")),
        ("git+ssh://git@h/r?rev=abc", ("ssh://git@h/r", "abc")),
        ("github:owner/name/abc?narHash=x", ("https://github.com/owner/name", "abc")),
        ("gitlab:group%2Fsub/name/abc?host=g.org", ("https://g.org/group/sub/name", "abc")),
        ("sourcehut:~me/name/abc", ("https://git.sr.ht/~me/name", "abc")),
        ("path:/nix/store/x?narHash=x", None),
        ("git+https://h/r", None),
    ],
)
def test_where_a_locked_flake_is(url: str, found: tuple[str, str] | None) -> None:
    locked = LockedSource(locked=url, origin=LockedFlake(url))
    if found is None:
        with pytest.raises(SourceError, match=r"needs a commit .* use another of"):
            origin(locked)
    else:
        assert (origin(locked).url, origin(locked).revision) == found


# --- Evaluation --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flake", "file"])
@pytest.mark.parametrize("version", ["newer", "older"])
async def test_a_source_is_evaluated_with_its_bases(
    store: PrivateStore, tmp_path: Path, kind: str, version: str
) -> None:
    evaluator = Evaluator(store, nix=older_nix() if version == "older" else None)
    source = upstream(tmp_path / "source", release_nix=CACHE_FILE, flake_nix=CACHE_FLAKE)
    declared: Source = GitSource(url=source.url, ref="main", file="release.nix")
    path: tuple[str, ...] = ("app",)
    if kind == "flake":
        declared, path = FlakeSource(url=f"git+{source.url}"), ("packages", "x86_64-linux", "app")
    job = ".".join(path)
    locked = await evaluator.lock(declared)
    plain = await evaluator.jobs(locked)
    assert evaluator.variables(plain[job])["base"] == ""
    ours = overlays(tmp_path / "our commits")
    text = expression([replace(BASE, job=job)])
    commit = await ours.add(origin(locked), text)
    jobs = await evaluator.jobs(ours.locked(locked, commit))
    assert evaluator.below(jobs[job]) == ["app-intermediates.drv"]
    variables = evaluator.variables(jobs[job])
    assert variables["about"] == source.git("rev-parse", "HEAD") + "\n"
    if kind == "flake":
        assert variables["revision"] == commit
    again = replay.script(
        Evaluated(
            source=locked,
            jobs=(path,),
            system=native_system(),
            systems=None,
            texts={Protocol.CACHE_NIX: text},
            overlay=commit,
        )
    )
    assert evaluator.elsewhere(again) == [jobs[job]]
    await evaluator.store.close()


async def test_a_folder_has_no_commit_to_be_put_on_top_of(
    store: PrivateStore, tmp_path: Path
) -> None:
    evaluator = Evaluator(store)
    (tmp_path / "release.nix").write_text(CACHE_FILE)
    locked = await evaluator.lock(PathSource(path=str(tmp_path), file="release.nix"))
    with pytest.raises(SourceError, match=r"cache\.nix needs a commit"):
        origin(locked)
    await evaluator.store.close()
