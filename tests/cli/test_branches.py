"""Jobsets of branches, as the command line shows and takes them."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import yaml

from reconciler.branches import jobset_name
from reconciler.database import branches, declared, evaluated, observe
from reconciler.errors import ReconcilerError
from reconciler.model import JobsetName, Outcome
from tests.cli.farm import DOCUMENT, Farm
from tests.test_architecture import PROJECT

WEB = JobsetName("web")
GIT = {"url": "https://git.example.org/web", "branches": ["main", "release-*"]}
BRANCHES: dict[str, Any] = {
    **DOCUMENT,
    "jobsets": {"web": {"source": {"git": GIT, "file": "release.nix"}}},
}


def listed(farm: Farm, *names: str) -> None:
    found = {jobset_name(WEB, each): each for each in names}
    branches.set_branches(farm.database, WEB, found, now=time.time())


def condition(farm: Farm, message: str) -> None:
    wanted = {("web", "source-unavailable"): message}
    declared.set_conditions(farm.database, "jobset", wanted, now=time.time())


@pytest.fixture
def several(farm: Farm) -> Farm:
    """Three branches, of which one has a failed job."""
    farm.declare(BRANCHES)
    listed(farm, "main", "release-1.0", "feature/x")
    farm.derivations({"good-1.0": [], "bad-1.0": []})
    farm.attempt("good-1.0")
    farm.attempt("bad-1.0", Outcome.FAILED, message="builder failed", log=b"a log\n")
    for name in ("web@main", "web@feature/x"):
        farm.evaluation(name, {"site": "good-1.0"})
    farm.evaluation("web@release-1.0", {"site.x": "bad-1.0", "old": "good-1.0"})
    return farm


def test_status_shows_branches_below_their_jobset(several: Farm) -> None:
    listed(several, "main", "release-1.0")
    listed(several, "main", "release-1.0", "feature/x")
    listed(several, "main", "release-1.0")
    result = several.run("status")
    assert result.exit_code == 1, result.output
    shown = [re.sub(r"\d+(ms|s) ago", "now", line) for line in result.output.splitlines()]
    assert shown[1:6] == [
        "✓  web                2 branches  branches main, release-*",
        "✓    web@main         in sync     1 job succeeded",
        "✗    web@release-1.0  1 failed    1 of 2 succeeded, 1 failed",
        "-  web.next                       pruned now",
        "-  web@…                          1 branch pruned, the last now",
    ]
    assert "failed: 2 jobsets" in several.run("status", "--oneline").output


def test_the_readme_shows_what_is_shown(farm: Farm) -> None:
    readme = (PROJECT / "README.md").read_text()
    section = re.search(r"^## Branches\n(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    assert section is not None
    document, shown = re.findall(r"^```\w+\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    farm.declare(yaml.safe_load(document))
    website = JobsetName("website")
    found = {jobset_name(website, each): each for each in ("main", "release-2.1")}
    branches.set_branches(farm.database, website, found, now=time.time())
    farm.derivations({"good-1.0": [], "bad-1.0": []})
    farm.attempt("good-1.0")
    farm.attempt("bad-1.0", Outcome.FAILED)
    farm.evaluation("website@main", {"site": "good-1.0"})
    farm.evaluation("website@release-2.1", {"site": "good-1.0", "tests": "bad-1.0"})
    commands = [
        line[2:].partition("#")[0].split()[1:] for line in shown.splitlines() if "$" in line
    ]
    assert [each[0] for each in commands] == ["status", "why", "trigger"]
    for command in commands:
        assert not isinstance(farm.run(*command).exception, ReconcilerError), command
    expected = [line for line in shown.splitlines() if not line.startswith(("$", "  …"))]
    assert farm.run("status").output.splitlines()[: len(expected)] == expected


def test_status_as_json_tells_branches_apart(several: Farm) -> None:
    found = several.json("status", schema="status")
    by_name = {each["name"]: each for each in found["jobsets"]}
    assert by_name["web"]["patterns"] == ["main", "release-*"]
    assert by_name["web"]["branches"] == 3
    assert by_name["web"]["jobs"] == {}
    release = by_name["web@release-1.0"]
    assert (release["branchOf"], release["branch"]) == ("web", "release-1.0")
    assert release["patterns"] is None
    assert release["source"] == "https://git.example.org/web, release.nix, branch release-1.0"


def test_the_jobset_s_own_condition_is_shown(several: Farm) -> None:
    condition(several, "git cannot read it")
    result = several.run("status")
    assert "✗  web                source unavailable" in result.output
    assert "jobset web: source unavailable: git cannot read it" in result.output
    detail = several.run("status", "web")
    assert detail.exit_code == 1
    assert "git cannot read it" in detail.output
    assert "✓  web@main         in sync" in detail.output


def test_one_that_was_not_listed_yet_is_in_progress(farm: Farm) -> None:
    farm.declare(BRANCHES)
    result = farm.run("status")
    assert result.exit_code == 3
    assert "…  web       not listed yet  branches main, release-*" in result.output


def test_a_jobset_of_branches_in_detail(several: Farm) -> None:
    result = several.run("status", "web")
    assert result.exit_code == 1
    assert "branches  main, release-*" in result.output
    assert "✗  web@release-1.0  1 failed" in result.output
    found = several.json("status", "web", schema="status-jobset")
    assert (found["branches"], found["jobList"]) == (3, [])


@pytest.mark.parametrize(
    ("verb", "subject", "told"),
    [
        ("status", "web@release-1.0.site.x", "web@release-1.0.site.x  failed"),
        ("why", "web@release-1.0.site.x", "web@release-1.0.site.x (failed): "),
        ("log", "web@release-1.0.site.x", "a log"),
        ("graph", "web@release-1.0.site.x", "bad-1.0  failed"),
        ("status", "web@feature/x.site", "web@feature/x.site  succeeded"),
        ("graph", "web@feature/x.site", "good-1.0  succeeded"),
        ("diff", "web@feature/x", "web@feature/x #2 is the first evaluation"),
        ("status", "web@feature/x", "web@feature/x  in sync"),
    ],
)
def test_names_of_branches_have_dots_and_slashes(
    several: Farm, verb: str, subject: str, told: str
) -> None:
    assert told in several.run(verb, subject).output


def test_the_longest_jobset_that_has_the_job_is_meant(several: Farm) -> None:
    listed(several, "main", "release-1.0", "feature/x", "release-1")
    several.evaluation("web@release-1", {"0.old": "bad-1.0", "0.new": "bad-1.0"})
    assert several.run("status", "web@release-1.0.old").exit_code == 0
    assert several.run("status", "web@release-1.0.new").exit_code == 1


def test_a_branch_may_be_called_like_a_derivation(several: Farm) -> None:
    listed(several, "main", "x.drv")
    several.evaluation("web@x.drv", {"site": "good-1.0"})
    assert "web@x.drv  in sync" in several.run("status", "web@x.drv").output


def test_what_is_built_as_branches_is_not_asked_for_its_own_jobs(several: Farm) -> None:
    message = str(several.failure("why", "web.site"))
    assert message == (
        "jobset web is built as its branches; name one, such as web@feature/x.site:"
        " there are web@feature/x, web@main, web@release-1.0"
    )
    assert "name one, such as web@feature/x" in str(several.failure("diff", "web"))
    assert "did you mean web@main" in str(several.failure("status", "web@mian"))


@pytest.mark.parametrize("verb", ["trigger", "suspend", "resume", "retry", "cancel", "bump"])
@pytest.mark.parametrize("subject", ["web", "web@feature/x"])
def test_all_branches_and_one_are_asked_for(several: Farm, verb: str, subject: str) -> None:
    several.run(verb, subject)
    (made,) = observe.open_requests(several.database)
    assert (made.verb, made.subject) == (verb, subject)


def test_a_branch_is_suspended_with_its_jobset(several: Farm) -> None:
    declared.suspend(several.database, WEB, who="ann", why="holiday", now=time.time())
    found = {each["name"]: each for each in several.json("status", schema="status")["jobsets"]}
    assert found["web@main"]["suspended"]["by"] == "ann"
    assert several.run("status").exit_code == 0
    several.derivations({"later-1.0": []})
    several.evaluation("web@main", {"later": "later-1.0"})
    said = " ".join(several.run("why", "web@main.later").output.split())
    assert "jobset web was suspended by ann (holiday): `reconciler resume web`" in said


def test_gc_removes_mirrors_and_branches_of_what_is_long_gone(several: Farm) -> None:
    mirrors = several.state_dir / "mirrors"
    (mirrors / "web" / "objects").mkdir(parents=True)
    several.declare({**DOCUMENT, "jobsets": {}})
    several.run("gc")
    assert (mirrors / "web").is_dir()
    for name in ("web@main", "web@feature/x", "web@release-1.0"):
        evaluated.prune_jobset(several.database, JobsetName(name), now=time.time())
    with several.database.transaction():
        several.database.execute("UPDATE jobset SET removed_at = 1")
    assert "5 pruned jobsets, 3 evaluations" in " ".join(several.run("gc").output.split())
    assert not (mirrors / "web").exists()
    assert observe.jobsets(several.database) == {}
