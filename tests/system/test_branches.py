"""Branches by pattern: each is a jobset of its own for as long as it is there."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import Any

import pytest

from reconciler import preview
from tests.support.repositories import Repository
from tests.support.trial import PREAMBLE, Trial

FILE = "release.nix"


def job(name: str, script: str = "") -> str:
    return PREAMBLE + f'{{ it = job "{name}" "{script} echo {name} > $out"; }}'


@pytest.fixture
def repository(trial: Trial) -> Repository:
    made = Repository.create(trial.root / "repository")
    made.commit(FILE, job("main"), at=1000)
    return made


def declare(trial: Trial, repository: Repository, *patterns: str, **rest: Any) -> None:
    git = {"url": repository.url, "branches": patterns, **rest.pop("git", {})}
    trial.declare({"web": {"source": {"git": git, "file": FILE}, "keep": 5, **rest}})


def jobsets(trial: Trial) -> set[str]:
    """The branches in force."""
    return {
        name
        for (name,) in trial.query(
            "SELECT name FROM jobset WHERE removed_at IS NULL AND pattern IS NOT NULL"
        )
    }


def add(repository: Repository, branch: str, *, at: int | None = None) -> str:
    repository.branch(branch)
    return repository.commit(FILE, job(branch.replace("/", "-")), at=at)


def causes(trial: Trial, jobset: str) -> list[str]:
    """Why each of a jobset's evaluations was made, oldest first."""
    return [
        cause
        for (cause,) in trial.query(
            "SELECT e.cause FROM evaluation e JOIN jobset j ON j.id = e.jobset"
            " WHERE j.name = ? ORDER BY e.id",
            jobset,
        )
    ]


def origins(trial: Trial, jobset: str) -> list[tuple[str | None, list[str], str | None]]:
    """Commit, first parents and merge base of each of a jobset's evaluations, oldest first."""
    return [
        (revision, json.loads(ancestors), merge_base)
        for revision, ancestors, merge_base in trial.query(
            "SELECT e.revision, e.ancestors, e.merge_base FROM evaluation e"
            " JOIN jobset j ON j.id = e.jobset WHERE j.name = ? ORDER BY e.id",
            jobset,
        )
    ]


def test_branches_come_and_go_and_come_again(trial: Trial, repository: Repository) -> None:
    add(repository, "release-1")
    add(repository, "other")
    declare(trial, repository, "main", "release-*")
    assert trial.once()
    assert jobsets(trial) == {"web@main", "web@release-1"}
    assert trial.builds() == {"main": "succeeded", "release-1": "succeeded"}
    assert trial.conditions() == {}

    add(repository, "release-2")
    repository.git("branch", "-m", "release-1", "release-1b")
    assert trial.once()
    assert jobsets(trial) == {"web@main", "web@release-1b", "web@release-2"}
    assert trial.attempts("release-1") == ["succeeded"]  # the same commit: nothing is built again
    assert trial.evaluations("web@release-1") == [("superseded", None)]

    repository.git("branch", "release-1", "release-1b")
    assert trial.once()
    assert trial.evaluations("web@release-1") == [("superseded", None), ("succeeded", None)]
    stories = trial.query("SELECT after, cause FROM event WHERE subject = 'web@release-1'")
    assert stories == [
        ("declared", "its branch is there"),
        ("pruned", "its branch is gone"),
        ("declared", "its branch is there"),
    ]


def test_each_evaluation_knows_where_its_commit_comes_from(
    trial: Trial, repository: Repository
) -> None:
    root = repository.revision()
    first = add(repository, "topic")
    declare(trial, repository, "main", "topic")
    assert trial.once()
    second = repository.commit(FILE, job("second"))
    assert trial.once()
    # Rewritten: just another commit.
    repository.git("reset", "-q", "--hard", "main")
    third = repository.commit(FILE, job("third"))
    assert trial.once()
    assert origins(trial, "web@main") == [(root, [], None)]
    assert origins(trial, "web@topic") == [
        (first, [root], root),
        (second, [first, root], root),
        (third, [root], root),
    ]
    assert causes(trial, "web@topic") == ["first evaluation", "source changed", "source changed"]
    assert trial.builds()["third"] == "succeeded"


def test_a_listing_that_fails_prunes_nothing(trial: Trial, repository: Repository) -> None:
    add(repository, "topic")
    declare(trial, repository, "*")
    assert trial.once()
    away = repository.folder.rename(trial.root / "elsewhere")
    assert trial.once()
    assert jobsets(trial) == {"web@main", "web@topic"}
    assert [*trial.conditions()] == [("jobset", "web", "source-unavailable")]
    assert "git cannot read" in trial.conditions()["jobset", "web", "source-unavailable"]
    assert trial.evaluations("web@topic") == [("succeeded", None)]
    away.rename(repository.folder)
    repository.git("checkout", "-q", "main")
    repository.git("branch", "-D", "topic")
    assert trial.once()
    assert jobsets(trial) == {"web@main"}
    assert trial.conditions() == {}


def test_a_repository_that_was_never_there_is_no_empty_one(
    trial: Trial, repository: Repository
) -> None:
    shutil.rmtree(repository.folder)
    declare(trial, repository, "*")
    assert trial.once()
    assert [*trial.conditions()] == [("jobset", "web", "source-unavailable")]


def test_patterns_that_nothing_fits_are_told(trial: Trial, repository: Repository) -> None:
    declare(trial, repository, "release-*", "!release-0*")
    add(repository, "release-01")
    assert trial.once()
    assert jobsets(trial) == set()
    told = trial.conditions()["jobset", "web", "no-branch-matches"]
    assert told == "the repository has no branch that release-*, !release-0* asks for"
    repository.git("branch", "release-1")
    assert trial.once()
    assert jobsets(trial) == {"web@release-1"}
    assert trial.conditions() == {}


def test_of_too_many_branches_the_newest_are_built(trial: Trial, repository: Repository) -> None:
    for number in range(1, 5):
        add(repository, f"topic-{number}", at=1000 * number)
    declare(trial, repository, "*", "main", git={"maxBranches": 3})
    assert trial.once()
    assert jobsets(trial) == {"web@main", "web@topic-4", "web@topic-3"}
    told = trial.conditions()["jobset", "web", "too-many-branches"]
    assert told.startswith("5 branches are asked for, of which 3 are built")
    repository.git("checkout", "-q", "topic-1")
    repository.commit(FILE, job("again"), at=9000)
    assert trial.once()
    assert jobsets(trial) == {"web@main", "web@topic-1", "web@topic-4"}
    declare(trial, repository, "*", "!topic-*", git={"maxBranches": 3})
    assert trial.once()
    assert trial.conditions() == {}


def test_other_patterns_take_effect_although_nothing_can_be_listed(
    trial: Trial, repository: Repository
) -> None:
    add(repository, "topic")
    declare(trial, repository, "*")
    assert trial.once()
    shutil.rmtree(repository.folder)
    declare(trial, repository, "main")
    assert trial.once()
    assert jobsets(trial) == {"web@main"}
    assert trial.evaluations("web@topic") == [("superseded", None)]


def test_a_jobset_becomes_one_for_branches_and_an_ordinary_one_again(
    trial: Trial, repository: Repository
) -> None:
    one = {"source": {"git": {"url": repository.url, "ref": "main"}, "file": FILE}}
    trial.declare({"web": one})
    assert trial.once()
    declare(trial, repository, "main")
    assert trial.once()
    assert trial.evaluations("web") == [("superseded", None)]
    assert trial.evaluations("web@main") == [("succeeded", None)]
    trial.declare({"web": one})
    assert trial.once()
    assert jobsets(trial) == set()
    assert trial.evaluations("web")[-1] == ("succeeded", None)
    assert trial.evaluations("web@main") == [("superseded", None)]
    assert trial.attempts("main") == ["succeeded"]


def test_another_repository_has_branches_of_its_own(trial: Trial, repository: Repository) -> None:
    add(repository, "here")
    declare(trial, repository, "*")
    assert trial.once()
    other = Repository.create(trial.root / "other")
    other.commit(FILE, job("other-main"))
    add(other, "there")
    declare(trial, other, "*")
    assert trial.once()
    assert jobsets(trial) == {"web@main", "web@there"}
    newest = trial.value(
        "SELECT e.locked FROM evaluation e JOIN jobset j ON j.id = e.jobset"
        " WHERE j.name = 'web@main' ORDER BY e.id DESC"
    )
    assert newest == f"{other.url}?rev={other.revision('main')}"


def flake(name: str) -> str:
    body = job(name).replace("in\n", "in {{ hydraJobs = ", 1).replace("{{", "{") + "; }"
    return f"{{ outputs = _: {body}; }}"


@pytest.mark.parametrize("kind", ["file", "flake"])
def test_pull_requests_come_and_go_as_branches_do(
    trial: Trial, repository: Repository, kind: str
) -> None:
    name, text = (FILE, job) if kind == "file" else ("flake.nix", flake)
    repository.commit(name, text("main"))
    repository.git("checkout", "-q", "--detach")
    pulled = repository.commit(name, text("pulled"))
    repository.git("update-ref", "refs/pull/7/head", pulled)
    repository.git("checkout", "-q", "main")
    branches = ["*", "refs/pull/*/head"]
    if kind == "file":
        declare(trial, repository, *branches)
    else:
        source = {"flake": f"git+{repository.url}", "branches": branches}
        trial.declare({"web": {"source": source}})
    assert trial.once()
    assert trial.builds() == {"main": "succeeded", "pulled": "succeeded"}
    assert jobsets(trial) == {"web@main", "web@refs/pull/7/head"}
    assert origins(trial, "web@refs/pull/7/head")[0][::2] == (pulled, repository.revision())
    repository.git("update-ref", "-d", "refs/pull/7/head")
    assert trial.once()
    assert jobsets(trial) == {"web@main"}


def test_branches_of_a_flake(trial: Trial, repository: Repository) -> None:
    repository.commit("flake.nix", flake("main"))
    repository.branch("feature/ü-1.0")
    topic = repository.commit("flake.nix", flake("topic"))
    source = {"flake": f"git+{repository.url}", "branches": ["*"]}
    trial.declare({"web": {"source": source}})
    assert trial.once()
    assert trial.builds() == {"main": "succeeded", "topic": "succeeded"}
    assert jobsets(trial) == {"web@main", "web@feature/ü-1.0"}
    assert origins(trial, "web@feature/ü-1.0")[0][0] == topic
    moved = repository.commit("flake.nix", flake("moved"))
    assert trial.once()
    assert origins(trial, "web@feature/ü-1.0")[1][:2] == (
        moved,
        repository.git("rev-list", "--first-parent", "HEAD~1").split(),
    )


def test_a_plan_shows_branches_that_come_and_go_and_writes_nothing(
    trial: Trial, repository: Repository
) -> None:
    add(repository, "topic")
    declare(trial, repository, "*")
    assert trial.once()
    repository.git("branch", "-m", "topic", "renamed")
    before = trial.dump()
    ahead = asyncio.run(
        preview.preview(config_path=trial.config, state_dir=trial.state_dir, environment=trial.env)
    )
    assert (ahead.jobsets.added, ahead.jobsets.removed) == (("web@renamed",), ("web@topic",))
    assert trial.dump() == before
    assert trial.once()


def test_a_branch_that_goes_while_it_is_built_is_stopped(
    trial: Trial, repository: Repository
) -> None:
    repository.branch("slow")
    repository.commit(FILE, PREAMBLE + '{ it = job "slow" "sleep 3600"; }')
    declare(trial, repository, "*", interval="1s")
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.builds() == {"main": "succeeded", "slow": "building"})
        repository.git("checkout", "-q", "main")
        repository.git("branch", "-D", "slow")
        daemon.eventually(lambda: trial.builds()["slow"] == "cancelled")
        assert jobsets(trial) == {"web@main"}


def test_a_running_daemon_follows_branches(trial: Trial, repository: Repository) -> None:
    declare(trial, repository, "*", interval="1s")
    other = Repository.create(trial.root / "other")
    other.commit(FILE, job("of-other"))
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.builds().get("main") == "succeeded")
        repository.commit(FILE, job("moved"))
        daemon.eventually(lambda: trial.builds().get("moved") == "succeeded")
        add(repository, "new")
        daemon.eventually(lambda: trial.builds().get("new") == "succeeded")
        # From now on they are another repository's: nothing of it is at the old commits.
        declare(trial, other, "*", interval="1h")
        daemon.eventually(lambda: trial.builds().get("of-other") == "succeeded")
        daemon.eventually(lambda: jobsets(trial) == {"web@main"})
        # And in the end it is an ordinary jobset: what was wrong with its branches is over.
        declare(trial, other, "none-*", interval="1h")
        daemon.eventually(lambda: ("jobset", "web", "no-branch-matches") in trial.conditions())
        one = {"git": {"url": other.url, "ref": "main"}, "file": FILE}
        trial.declare({"web": {"source": one, "interval": "1h"}})
        daemon.eventually(lambda: trial.evaluations("web") == [("succeeded", None)])
        daemon.eventually(lambda: trial.conditions() == {})
        declare(trial, other, "main", interval="1h")
        daemon.eventually(lambda: trial.evaluations("web@main")[-1:] == [("succeeded", None)])
    assert trial.conditions() == {}
    assert trial.evaluations("web@main")[-1] == ("succeeded", None)
    found = trial.query("SELECT state FROM evaluation WHERE state = 'failed'")
    assert found == []


def test_people_ask_for_all_branches_or_for_one(trial: Trial, repository: Repository) -> None:
    repository.branch("release-1.0")
    repository.commit(FILE, job("it-1.0"))
    declare(trial, repository, "*", interval=None)
    with trial.running() as daemon:
        daemon.eventually(lambda: set(trial.builds().values()) == {"succeeded"})
        daemon.eventually(lambda: len(trial.builds()) == 2)
        # One branch, which moved meanwhile: what it is now is evaluated, and only that.
        repository.commit(FILE, job("moved"))
        assert "listed" in daemon.ask("trigger", "web@release-1.0")
        daemon.eventually(lambda: trial.builds().get("moved") == "succeeded")
        assert causes(trial, "web@release-1.0")[1:] == ["asked for by tester"]
        assert causes(trial, "web@main") == ["first evaluation"]
        # All of them, and one that is new.
        repository.branch("new")
        assert "branches are listed" in daemon.ask("trigger", "web")
        daemon.eventually(lambda: trial.evaluations("web@new")[-1:] == [("succeeded", None)])
        daemon.eventually(lambda: causes(trial, "web@main")[1:] == ["asked for by tester"])
        daemon.eventually(lambda: len(causes(trial, "web@release-1.0")) == 3)
        # Suspending all suspends each, and one that is resumed alone stays so.
        assert "suspended" in daemon.ask("suspend", "web")
        answer = daemon.ask("resume", "web@main")
        assert answer == "resumed; yet all branches of its jobset are suspended"
        repository.commit(FILE, job("later"))
        daemon.ask("trigger", "web")
        daemon.ask("bump", "web@main")
        assert "later" not in trial.builds()
        assert daemon.ask("resume", "web") == "resumed"
        daemon.eventually(lambda: trial.builds().get("later") == "succeeded")
        assert daemon.ask("trigger", "web@none").startswith("refused: there is no jobset")


def test_requests_name_jobs_of_branches_with_dots(trial: Trial, repository: Repository) -> None:
    """`it.it` of the branch `1` and `it` of the branch `1.it` are written alike: the longer branch
    is meant.
    """
    repository.branch("1")
    nested = '{ it = { recurseForDerivations = true; it = job "of-1" "exit 1"; }; }'
    repository.commit(FILE, PREAMBLE + nested)
    repository.branch("1.it")
    repository.commit(FILE, PREAMBLE + '{ it = job "of-1-it" "exit 1"; }')
    declare(trial, repository, "1*")
    assert trial.once()
    assert trial.attempts("of-1") == trial.attempts("of-1-it") == ["failed"]
    trial.request("retry", "web@1.it.it")
    assert trial.once()
    assert (trial.attempts("of-1"), trial.attempts("of-1-it")) == (["failed"], ["failed"] * 2)
    trial.request("retry", "web")
    assert trial.once()
    assert (trial.attempts("of-1"), trial.attempts("of-1-it")) == (["failed"] * 2, ["failed"] * 3)


def test_a_daemon_killed_between_listing_and_recording_loses_nothing(
    trial: Trial, repository: Repository
) -> None:
    """Its git has told all, but does not end before the daemon is killed."""
    add(repository, "topic")
    declare(trial, repository, "*")
    folder = trial.root / "bin"
    folder.mkdir()
    git, asked = shutil.which("git"), trial.root / "asked"
    stand_in = folder / "git"
    stand_in.write_text(
        f'#!/bin/sh\n{git} "$@" || exit\n'
        f'case "$*" in *ls-remote*) : > {asked}; exec sleep 3600;; esac\n'
    )
    stand_in.chmod(0o755)
    trial.environment["PATH"] = f"{folder}:{trial.env['PATH']}"
    with trial.running() as daemon:
        daemon.eventually(asked.exists)
        assert jobsets(trial) == set()
        daemon.kill()
    trial.until_nothing_runs()
    del trial.environment["PATH"]
    assert trial.once()
    assert jobsets(trial) == {"web@main", "web@topic"}
    assert set(trial.builds().values()) == {"succeeded"}


def test_one_listing_tells_of_all_branches(trial: Trial, repository: Repository) -> None:
    for number in range(5):
        repository.git("branch", f"topic-{number}")
    traces = trial.root / "traces"
    traces.mkdir()
    declare(trial, repository, "*", interval=None)
    for listings in (1, 2):
        trial.environment["GIT_TRACE2_EVENT"] = str(traces)
        assert trial.once()
        del trial.environment["GIT_TRACE2_EVENT"]
        told = "".join(each.read_text() for each in traces.iterdir())
        assert told.count('"name":"ls-remote"') == listings
    assert len(jobsets(trial)) == 6
    assert trial.attempts("main") == ["succeeded"]


def test_branches_share_what_their_jobset_has(trial: Trial, repository: Repository) -> None:
    """Three branches beside one other jobset: with equal shares, every other build is its own."""
    several = "; ".join(f'j{n} = job "NAME-{n}" "sleep 0.3; echo > $out"' for n in range(4))
    jobs = PREAMBLE + f"{{ {several}; }}"
    for name in ("a", "b", "c"):
        repository.branch(name)
        repository.commit(FILE, jobs.replace("NAME", name))
    git = {"url": repository.url, "branches": ["?"]}
    declared: dict[str, Any] = {
        "web": {"source": {"git": git, "file": FILE}},
        "other": {"source": trial.source("other", jobs.partition("in\n")[2].replace("NAME", "x"))},
    }
    # All are known before the first of them begins.
    trial.declare(declared, builders={"local": {"maxJobs": 1, "drain": True}})
    assert trial.once()
    assert len(trial.builds()) == 16
    trial.declare(declared, builders={"local": {"maxJobs": 1}})
    assert trial.once()
    order = [
        name[0]
        for (name,) in trial.query(
            "SELECT d.name FROM attempt a JOIN derivation d ON d.id = a.derivation ORDER BY a.id"
        )
    ]
    assert order[:8].count("x") == 4
    assert all(order[:8].count(name) >= 1 for name in "abc")
