"""Locking of sources: real git, real flakes, real folders."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from reconciler.errors import ReconcilerError, SourceError
from reconciler.model import FlakeSource, GitSource, PathSource, Source
from reconciler.source import LockedFlake, LockedGit, LockedSource, LockedTree
from tests.support.locking import lock
from tests.support.private_store import PrivateStore

FLAKE = (
    '{ outputs = _: { hydraJobs.a = derivation { name = "a"; system = "s"; builder = "b"; }; }; }'
)


def git(folder: Path, *argv: str) -> str:
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "c",
        "GIT_COMMITTER_EMAIL": "c@example.org",
    }
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *argv],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def commit(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    git(folder, "add", name)
    git(folder, "commit", "-q", "-m", f"change {name}")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    commit(folder, "release.nix", "{ }")
    return folder


async def locked(store: PrivateStore, source: Source) -> LockedSource:
    return await lock(source, {**os.environ, **store.environment})


async def refused(store: PrivateStore, source: Source) -> str:
    with pytest.raises(SourceError) as caught:
        await locked(store, source)
    message = str(caught.value)
    assert "Traceback" not in message
    return message


def branch(folder: Path | str, ref: str = "main", file: str = "release.nix") -> GitSource:
    return GitSource(url=str(folder), ref=ref, file=file)


# --- Git ---


async def test_a_branch_is_locked_to_its_revision_and_follows_it(
    store: PrivateStore, repository: Path
) -> None:
    first = git(repository, "rev-parse", "HEAD")
    before = await locked(store, branch(repository))
    again = await locked(store, branch(f"file://{repository}"))
    assert before.locked == f"file://{repository}?rev={first}"
    assert before.fingerprint == again.fingerprint
    second = commit(repository, "release.nix", "{ a = 1; }")
    after = await locked(store, branch(repository))
    assert isinstance(after.origin, LockedGit)
    assert after.origin.fetch["rev"] == second
    assert after.fingerprint != before.fingerprint


async def test_a_tag_is_locked_to_its_commit(store: PrivateStore, repository: Path) -> None:
    revision = git(repository, "rev-parse", "HEAD")
    git(repository, "tag", "light")
    git(repository, "tag", "-a", "annotated", "-m", "annotated")
    commit(repository, "later", "")
    for ref in ("light", "annotated", "refs/tags/annotated"):
        assert (await locked(store, branch(repository, ref))).locked.endswith(f"?rev={revision}")


async def test_a_branch_is_not_taken_for_another_that_ends_like_it(
    store: PrivateStore, repository: Path
) -> None:
    git(repository, "branch", "other/topic")
    assert "no branch or tag 'topic'" in await refused(store, branch(repository, "topic"))
    assert (await locked(store, branch(repository, "other/topic"))).locked


async def test_a_full_revision_needs_no_asking(store: PrivateStore, repository: Path) -> None:
    revision = git(repository, "rev-parse", "HEAD")
    source = await locked(store, branch(repository, revision))
    assert source.locked == f"file://{repository}?rev={revision}"
    assert source.fingerprint == (await locked(store, branch(repository))).fingerprint


async def test_arguments_and_file_are_part_of_the_fingerprint(
    store: PrivateStore, repository: Path
) -> None:
    def called(file: str, args: dict[str, object]) -> GitSource:
        return GitSource(url=str(repository), ref="main", file=file, args=args)

    sources = [called("a.nix", {}), called("b.nix", {}), called("a.nix", {"x": 1})]
    prints = {(await locked(store, source)).fingerprint for source in sources}
    assert len(prints) == 3


async def test_a_repository_that_is_not_there(store: PrivateStore, tmp_path: Path) -> None:
    message = await refused(store, branch(tmp_path / "nowhere"))
    assert "git cannot read 'file://" in message
    assert "nowhere" in message


async def test_a_host_that_is_not_there(store: PrivateStore) -> None:
    message = await refused(store, branch("https://127.0.0.1:1/repository"))
    assert "git cannot read 'https://127.0.0.1:1/repository'" in message


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c 'touch /tmp/owned'",
        "--upload-pack=touch /tmp/owned",
        "-oProxyCommand=touch",
        "host:-oProxyCommand",
        "fd::17",
        "ftp://example.org/x",
        "relative/path",
        "",
    ],
)
async def test_what_is_no_git_url_is_refused(store: PrivateStore, url: str) -> None:
    assert "is not a git URL" in await refused(store, branch(url))


@pytest.mark.parametrize("ref", ["--upload-pack=x", "", " "])
async def test_what_is_no_ref_is_refused(store: PrivateStore, repository: Path, ref: str) -> None:
    assert "is not a git ref" in await refused(store, branch(repository, ref))


@pytest.mark.parametrize("file", ["/etc/passwd", "../outside.nix", "a/../../b", ""])
async def test_a_file_outside_is_refused(store: PrivateStore, repository: Path, file: str) -> None:
    assert "below the source's top" in await refused(store, branch(repository, file=file))
    assert "below the source's top" in await refused(
        store, PathSource(path=str(repository), file=file)
    )


async def test_a_password_in_a_url_is_refused_and_not_repeated(store: PrivateStore) -> None:
    sources: list[Source] = [
        branch("https://me:s3cret@example.org/x"),
        FlakeSource(url="git+https://me:s3cret@example.org/x"),
    ]
    for source in sources:
        message = await refused(store, source)
        assert "holds a password" in message
        assert "s3cret" not in message


async def test_a_peer_that_never_answers_is_given_up(store: PrivateStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SourceError, match=r"did not answer within 0\.5 s"):
            await lock(
                branch(f"http://127.0.0.1:{port}/x"),
                {**os.environ, **store.environment},
                timeout=0.5,
            )


# --- Folders ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    (made / "below").mkdir(parents=True)
    (made / "release.nix").write_text("{ }")
    (made / "below" / "script").write_text("echo")
    return made


async def test_a_folder_is_locked_to_a_copy(store: PrivateStore, folder: Path) -> None:
    source = await locked(store, PathSource(path=str(folder), file="release.nix"))
    assert isinstance(source.origin, LockedTree)
    assert source.store_path == source.origin.store_path
    (folder / "release.nix").write_text("changed")
    assert (Path(source.origin.store_path) / "release.nix").read_text() == "{ }"


NIXS_COPY = """
{ folder }: let
  copy = builtins.path {
    path = /. + folder;
    name = "source";
    filter = path: type: baseNameOf path != ".git" && type != "unknown";
  };
in "${copy} ${(builtins.fetchTree { type = "path"; path = copy; }).narHash}"
"""


@pytest.mark.parametrize("size", [10, 10_000_000], ids=["small", "large"])
async def test_the_copy_is_the_one_that_nix_makes(
    store: PrivateStore, folder: Path, size: int
) -> None:
    (folder / "below" / "script").chmod(0o755)
    (folder / "below" / "link").symlink_to("script")
    (folder / "below" / "empty").mkdir()
    (folder / "below" / ".git").write_text("gitdir: elsewhere")
    (folder / "data").write_bytes(os.urandom(size))
    git(folder, "init", "-q")
    os.mkfifo(folder / "pipe")
    source = await locked(store, PathSource(path=str(folder), file="release.nix"))
    assert isinstance(source.origin, LockedTree)
    asked = ["--eval", "--raw", "--read-write-mode", "--argstr", "folder", str(folder)]
    features = ["--extra-experimental-features", "nix-command flakes"]
    nixs = store.run("nix-instantiate", *features, *asked, "--expr", NIXS_COPY).stdout
    assert f"{source.origin.store_path} {source.origin.nar_hash}" == nixs


async def test_a_store_that_cannot_be_reached(store: PrivateStore, folder: Path) -> None:
    environment = {**os.environ, **store.environment, "NIX_REMOTE": "unix:///nowhere/socket"}
    with pytest.raises(SourceError, match=r"cannot be copied: .*cannot reach .*/nowhere/socket"):
        await lock(PathSource(path=str(folder), file="release.nix"), environment)


async def test_every_change_of_content_mode_or_name_is_seen(
    store: PrivateStore, folder: Path
) -> None:
    async def fingerprint() -> str:
        return (await locked(store, PathSource(path=str(folder), file="release.nix"))).fingerprint

    seen = [await fingerprint()]
    (folder / "below" / "script").chmod(0o755)
    seen.append(await fingerprint())
    (folder / "below" / "script").write_text("ECHO")
    seen.append(await fingerprint())
    (folder / "below" / "script").rename(folder / "below" / "renamed")
    seen.append(await fingerprint())
    (folder / "below" / "link").symlink_to("renamed")
    seen.append(await fingerprint())
    assert len(set(seen)) == len(seen)


async def test_what_is_no_content_is_not_seen(store: PrivateStore, folder: Path) -> None:
    source = PathSource(path=str(folder), file="release.nix")
    before = await locked(store, source)
    git(folder, "init", "-q")
    os.mkfifo(folder / "pipe")
    os.utime(folder / "release.nix", (1, 1))
    assert (await locked(store, source)).fingerprint == before.fingerprint


async def test_a_folder_behind_a_link_is_followed(
    store: PrivateStore, folder: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    direct = await locked(store, PathSource(path=str(folder), file="release.nix"))
    linked = await locked(store, PathSource(path=str(link), file="release.nix"))
    assert linked.origin == direct.origin


@pytest.mark.parametrize(
    ("path", "message"),
    [("relative", "write an absolute one"), ("/no/such/folder", "there is no folder")],
)
async def test_a_folder_that_is_not_there(store: PrivateStore, path: str, message: str) -> None:
    assert message in await refused(store, PathSource(path=path, file="release.nix"))


# --- Flakes ---


async def test_a_flake_in_git_is_locked_to_its_revision(
    store: PrivateStore, repository: Path
) -> None:
    revision = commit(repository, "flake.nix", FLAKE)
    reference = FlakeSource(url=f"git+file://{repository}?ref=main")
    before = await locked(store, reference)
    assert isinstance(before.origin, LockedFlake)
    assert f"rev={revision}" in before.origin.url
    assert before.store_path is None
    assert (await locked(store, reference)).fingerprint == before.fingerprint
    commit(repository, "other", "")
    assert (await locked(store, reference)).fingerprint != before.fingerprint


async def test_a_flake_with_uncommitted_changes_is_locked_to_a_copy(
    store: PrivateStore, repository: Path
) -> None:
    commit(repository, "flake.nix", FLAKE)
    (repository / "flake.nix").write_text(FLAKE.replace('"a"', '"changed"'))
    source = await locked(store, FlakeSource(url=f"git+file://{repository}"))
    assert source.store_path is not None
    assert "changed" in (Path(source.store_path) / "flake.nix").read_text()
    assert source.locked.startswith(f"path:{source.store_path}?narHash=sha256-")


async def test_a_flake_in_a_folder_is_locked_to_a_copy(store: PrivateStore, folder: Path) -> None:
    (folder / "flake.nix").write_text(FLAKE)
    before = await locked(store, FlakeSource(url=f"path:{folder}"))
    (folder / "flake.nix").write_text(FLAKE + "\n")
    after = await locked(store, FlakeSource(url=f"path:{folder}"))
    assert before.store_path is not None
    assert (Path(before.store_path) / "flake.nix").read_text() == FLAKE
    assert before.fingerprint != after.fingerprint


async def test_a_flake_that_is_not_there(store: PrivateStore, tmp_path: Path) -> None:
    message = await refused(store, FlakeSource(url=f"path:{tmp_path}/nowhere"))
    assert "cannot be locked" in message
    assert "nowhere" in message


async def test_a_flake_whose_lock_file_is_missing_says_so(
    store: PrivateStore, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "input"
    other.mkdir()
    (other / "flake.nix").write_text("{ outputs = _: { }; }")
    (folder / "flake.nix").write_text(
        f'{{ inputs.other.url = "path:{other}"; outputs = _: {{ }}; }}'
    )
    assert "lock" in await refused(store, FlakeSource(url=f"path:{folder}"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("-x", "is not a flake reference"),
        ("", "is not a flake reference"),
        ("path:/srv/x#hydraJobs", "write it under `attributes`"),
    ],
)
async def test_what_is_no_flake_reference(store: PrivateStore, url: str, message: str) -> None:
    assert message in await refused(store, FlakeSource(url=url))


@pytest.mark.parametrize("source", [FlakeSource(url="path:/srv/x"), branch("/srv/x")])
async def test_without_nix_or_git_on_path(store: PrivateStore, source: Source) -> None:
    with pytest.raises(ReconcilerError, match="not on PATH"):
        await lock(source, {**store.environment, "PATH": "/nowhere"})
