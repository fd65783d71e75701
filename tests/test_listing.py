"""Listings of real repositories, and the mirror of their commits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from reconciler import mirror as mirrors
from reconciler.branches import Head
from reconciler.listing import ANCESTRY, UNNAMED, list_branches
from reconciler.model import Branches, FlakeSource, GitSource, Incremental, Jobset
from reconciler.outcomes import Listed
from tests.support.jobsets import jobset
from tests.support.repositories import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.create(tmp_path / "repository")
    for number in range(3):
        made.commit("file", f"main {number}", at=1000 + number)
    return made


def declared(repository: Repository, *patterns: str, parents: int = 20) -> Jobset:
    return replace(
        jobset(GitSource(url=repository.url, ref="HEAD", file="x.nix")),
        branches=Branches(patterns=patterns, limit=10),
        incremental=Incremental(parents=parents),
    )


async def listed(
    asked: Jobset,
    mirror: Path | None,
    before: Mapping[str, Head] | None = None,
    **variables: str,
) -> Listed:
    return await list_branches(
        asked,
        before or {},
        mirror=mirror,
        environment={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", **variables},
    )


def heads(outcome: Listed) -> dict[str, Head]:
    assert outcome.error is None, outcome.error
    return {each.branch: each for each in outcome.heads}


def commands(traces: Path) -> list[str]:
    """What git was asked to do, as git itself tells."""
    found = []
    for file in sorted(traces.iterdir()):
        events = [json.loads(line) for line in file.read_text().splitlines()]
        found += [event["name"] for event in events if event["event"] == "cmd_name"]
        file.unlink()
    return found


async def test_branches_are_listed_with_what_they_come_from(
    repository: Repository, tmp_path: Path
) -> None:
    main = repository.git("rev-list", "main").split()
    repository.branch("feature/x.1", "main~1")
    topic = repository.commit("other", "", at=5000)
    repository.branch("left-out")
    found = heads(await listed(declared(repository, "main", "feature/*"), tmp_path / "m"))
    assert found == {
        "main": Head(
            branch="main", revision=main[0], committed_at=1002.0, ancestors=tuple(main[1:])
        ),
        "feature/x.1": Head(
            branch="feature/x.1",
            revision=topic,
            committed_at=5000.0,
            ancestors=tuple(main[1:]),
            merge_base=main[1],
        ),
    }


async def test_merges_are_followed_along_first_parents(
    repository: Repository, tmp_path: Path
) -> None:
    first = repository.revision()
    repository.branch("side")
    repository.commit("side", "", at=2000)
    repository.git("checkout", "-q", "main")
    repository.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    found = heads(await listed(declared(repository, "main", parents=1), tmp_path / "m"))
    assert found["main"].ancestors == (first,)


async def test_the_mirror_has_commits_and_nothing_of_their_content(
    repository: Repository, tmp_path: Path
) -> None:
    repository.git("config", "uploadpack.allowFilter", "true")
    folder = tmp_path / "m"
    found = heads(await listed(declared(repository, "main"), folder))
    assert len(found["main"].ancestors) == 2
    kinds = repository.git(
        f"--git-dir={folder}",
        "cat-file",
        "--batch-all-objects",
        "--batch-check=%(objecttype)",
    )
    assert set(kinds.split()) == {"commit"}


async def test_what_has_not_moved_is_asked_for_once_and_fetched_no_more(
    repository: Repository, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        repository.branch(name)
        repository.commit("file", name)
    traces = tmp_path / "traces"
    traces.mkdir()
    asked, folder = declared(repository, "*"), tmp_path / "m"
    first = heads(await listed(asked, folder, GIT_TRACE2_EVENT=str(traces)))
    assert commands(traces).count("ls-remote") == 1
    assert heads(await listed(asked, folder, first, GIT_TRACE2_EVENT=str(traces))) == first
    assert [each for each in commands(traces) if each != "upload-pack"] == ["ls-remote"]
    moved = repository.commit("file", "more")
    again = heads(await listed(asked, folder, first, GIT_TRACE2_EVENT=str(traces)))
    assert again["c"].revision == moved
    assert again["c"].ancestors[0] == first["c"].revision
    assert {name: again[name] for name in "ab"} == {name: first[name] for name in "ab"}
    assert commands(traces).count("fetch") == 1


async def test_a_branch_that_was_rewritten_is_where_it_is_now(
    repository: Repository, tmp_path: Path
) -> None:
    folder, asked = tmp_path / "m", declared(repository, "topic")
    repository.branch("topic")
    repository.commit("file", "first")
    before = heads(await listed(asked, folder))
    repository.git("reset", "-q", "--hard", "main~2")
    rewritten = repository.commit("file", "second")
    after = heads(await listed(asked, folder, before))["topic"]
    assert after.revision == rewritten
    assert after.ancestors == (repository.revision("main~2"),)
    assert after.merge_base == repository.revision("main~2")


async def test_a_branch_gives_way_to_a_folder_of_branches(
    repository: Repository, tmp_path: Path
) -> None:
    folder, asked = tmp_path / "m", declared(repository, "a", "a/*")
    repository.git("branch", "a")
    assert set(heads(await listed(asked, folder))) == {"a"}
    repository.git("branch", "-D", "a")
    repository.git("branch", "a/b", "main~1")
    found = heads(await listed(asked, folder))
    assert found["a/b"].committed_at == 1001.0


async def test_a_mirror_that_a_killed_fetch_left_locked_or_that_is_damaged_is_made_again(
    repository: Repository, tmp_path: Path
) -> None:
    folder, asked = tmp_path / "m", declared(repository, "main")
    for harm in ("shallow.lock", "config.lock", "HEAD", "config"):
        await listed(asked, folder)
        if harm.endswith(".lock"):
            (folder / harm).touch()
        else:
            (folder / harm).write_text("\0 nonsense")
        repository.commit("file", harm)
        outcome = await listed(asked, folder)
        assert outcome.notes[ANCESTRY] is None
        assert len(heads(outcome)["main"].ancestors) >= 3, harm


async def test_a_mirror_of_another_repository_is_made_anew(
    repository: Repository, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    await listed(declared(repository, "main"), folder)
    other = Repository.create(tmp_path / "other")
    only = other.commit("file", "of the other")
    assert heads(await listed(declared(other, "main"), folder))["main"].ancestors == ()
    assert only in other.git(f"--git-dir={folder}", "rev-list", "--all")
    kept = repository.revision() in other.git(f"--git-dir={folder}", "rev-list", "--all")
    assert not kept


async def test_a_mirror_of_too_many_packs_is_made_anew(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "MAX_PACKS", 2)
    folder, asked = tmp_path / "m", declared(repository, "main")
    packs = []
    for number in range(6):
        revision = repository.commit("file", f"more {number}")
        assert heads(await listed(asked, folder))["main"].revision == revision
        packs.append(len([*folder.glob("objects/pack/*.pack")]))
    assert max(packs) == 3


async def test_without_a_mirror_branches_are_still_listed(
    repository: Repository, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    outcome = await listed(declared(repository, "main"), blocked / "m")
    note = outcome.notes[ANCESTRY]
    assert note is not None
    assert "what the branches come from is not known" in note
    assert heads(outcome) == {"main": Head(branch="main", revision=repository.revision())}
    # It is tried again although nothing moved.
    later = await listed(declared(repository, "main"), tmp_path / "m", heads(outcome))
    assert heads(later)["main"].committed_at == 1002.0


async def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    nowhere = Repository(tmp_path / "nowhere")
    outcome = await listed(declared(nowhere, "main"), tmp_path / "m")
    assert outcome.error is not None
    assert "git cannot read 'file://" in outcome.error
    assert outcome.heads == ()
    assert not (tmp_path / "m").exists()


async def test_a_scheme_that_is_not_ours_is_not_asked(tmp_path: Path) -> None:
    asked = replace(
        declared(Repository(tmp_path), "main"), source=FlakeSource(url="git+ext::sh -c x")
    )
    outcome = await listed(asked, tmp_path / "m")
    assert outcome.error is not None
    assert "is not a git URL" in outcome.error


async def test_an_empty_repository_has_no_branches(tmp_path: Path) -> None:
    empty = Repository.create(tmp_path / "empty")
    assert heads(await listed(declared(empty, "*"), tmp_path / "m")) == {}


async def test_a_name_that_is_no_text_is_left_out_and_told(
    repository: Repository, tmp_path: Path
) -> None:
    repository.git("update-ref", os.fsdecode(b"refs/heads/caf\xe9"), "main")
    outcome = await listed(declared(repository, "*"), tmp_path / "m")
    assert set(heads(outcome)) == {"main"}
    note = outcome.notes[UNNAMED]
    assert note is not None
    assert "caf\\xe9" in note


async def test_pull_requests_are_listed_by_their_refs(
    repository: Repository, tmp_path: Path
) -> None:
    main = repository.revision()
    repository.branch("theirs")
    pulled = repository.commit("other", "", at=5000)
    repository.git("checkout", "-q", "main")
    for ref in ("refs/pull/7/head", "refs/pull/8/merge", "refs/tags/refs/pull/9/head"):
        repository.git("update-ref", ref, pulled)
    repository.git("branch", "-q", "-D", "theirs")
    # It would be called as one of theirs.
    repository.git("branch", "-q", "refs/pull/7/head", "main")
    outcome = await listed(declared(repository, "main", "refs/pull/*/head"), tmp_path / "m")
    found = heads(outcome)
    assert set(found) == {"main", "refs/pull/7/head"}
    head = found["refs/pull/7/head"]
    assert (head.revision, head.ancestors[0], head.merge_base) == (pulled, main, main)
    note = outcome.notes[UNNAMED]
    assert note is not None
    assert "begins with refs/: refs/pull/7/head; rename it" in note
    assert set(heads(await listed(declared(repository, "*"), tmp_path / "m"))) == {"main"}


def test_mirrors_of_forgotten_jobsets_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "mirrors"
    mirrors.prune(folder, keep=())
    for name in ("kept", "gone"):
        (folder / name / "objects").mkdir(parents=True)
    mirrors.prune(folder, keep={"kept"})
    assert [each.name for each in folder.iterdir()] == ["kept"]
