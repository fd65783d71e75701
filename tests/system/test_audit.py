"""Audits by the whole reconciler: builds from a base are made again without, and wrong ones go."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.database import open_writer
from reconciler.status import UNSUPPORTED_GRACE
from tests.support.trial import Trial
from tests.system.test_incremental import MAKEFILE, UNITS, Project
from tests.system.test_incremental_verbs import verb

ALL = {"fraction": 1}
NONE = {"fraction": 0}
ALREADY = "it.app was audited already: it is what a build without a base comes to"
STALE = MAKEFILE.replace(" common.h", "")
"""It lacks a dependency: where the header changes, nothing is compiled."""


@pytest.fixture
def project(trial: Trial) -> Project:
    return Project(trial)


def audits(project: Project) -> list[tuple[str, str | None]]:
    return project.trial.query("SELECT state, detail FROM audit ORDER BY id")


def in_force(project: Project) -> dict[str, str]:
    """Paths of the outputs of jobs, by name."""
    return dict(
        project.trial.query(
            "SELECT j.attr, o.path FROM job j JOIN evaluation e ON e.id = j.evaluation"
            " JOIN output o ON o.derivation = j.derivation AND o.name = 'out'"
            " WHERE e.state = 'succeeded'"
        )
    )


def cached(project: Project) -> set[str]:
    """The store paths that the cache has."""
    return {
        line.removeprefix("StorePath: ")
        for each in (project.trial.root / "cache").glob("*.narinfo")
        for line in each.read_text().splitlines()
        if line.startswith("StorePath: ")
    }


def cache_at(project: Project, uri: str) -> None:
    document = json.loads(project.trial.config.read_text())
    document["caches"]["main"]["uri"] = uri
    project.trial.document(document)


def test_a_right_build_is_found_the_same_and_stays(project: Project) -> None:
    project.declare(audit=ALL)
    assert len(project.compiled()) == UNITS + 1
    assert audits(project) == []
    project.edit(1, 5)
    assert len(project.compiled()) == UNITS + 1, "the newest build is the audit's"
    assert audits(project) == [("same", None)]
    assert project.result() == "7"
    before = in_force(project)
    assert set(before.values()) <= cached(project)
    clean = project.trial.value(
        "SELECT o.path FROM output o JOIN derivation d ON d.id = o.derivation"
        " JOIN audit a ON a.clean = d.path WHERE o.name = 'out'"
    )
    assert clean not in before.values()
    assert clean not in cached(project)
    assert project.trial.value("SELECT count(*) FROM base WHERE audited_at IS NOT NULL") == 1
    project.trial.request("trigger", "it")
    assert project.trial.once()
    assert in_force(project) == before
    assert audits(project) == [("same", None)]
    assert project.trial.conditions() == {}


def test_a_wrong_build_is_found_out_and_the_farm_heals(project: Project) -> None:
    project.write("src/Makefile", STALE)
    project.commit("unrelated", "")
    project.declare(audit=NONE)
    project.run()
    nowhere = "s3://bucket?endpoint=http://127.0.0.1:1"
    cache_at(project, nowhere)
    project.commit("src/common.h", "#define A 2\n")
    project.trial.once()
    wrong = in_force(project)
    assert project.result() == str(UNITS), "the header was not seen"
    queued = {path for (path,) in project.trial.query("SELECT path FROM push")}
    assert queued >= set(wrong.values())
    project.declare(audit=ALL)
    cache_at(project, nowhere)
    project.trial.once()
    assert audits(project) == [("different", "the output out differs in app")]
    right = in_force(project)
    assert right["app"] != wrong["app"]
    assert project.result() == str(2 * UNITS)
    assert [quarantined for _, _, quarantined in project.bases()] == [
        "an audit: the output out differs in app",
        "it goes back to base 1: an audit: the output out differs in app",
        None,
    ], "what the clean build left is the next one"
    waiting = {
        path for (path,) in project.trial.query("SELECT path FROM push WHERE state = 'pending'")
    }
    assert waiting.isdisjoint(wrong.values())
    assert waiting >= set(right.values())
    cause = project.trial.value("SELECT cause FROM evaluation ORDER BY id DESC")
    assert cause == (
        "app, built from a base, is not to be trusted: an audit: the output out differs in app"
    )
    project.declare(audit=ALL)
    assert project.trial.once()
    assert set(right.values()) <= cached(project)
    assert cached(project).isdisjoint(wrong.values())
    assert project.trial.conditions() == {}


GATED = """
{{ incrementalBases ? {{ }} }}:
{{
  app = derivation {{
    name = "app"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    outputs = [ "out" "intermediates" ];
    src = ./src;
    incrementalBase = incrementalBases.app or "";
    args = [ "-euc" ''
      if [ -z "$incrementalBase" ]; then
        while [ ! -e {gate} ]; do sleep 0.05; done
        [ ! -s {gate} ]
      fi
      mkdir $intermediates
      cp $src/unit1.c $intermediates/
      echo > $out
      :
    '' ];
  }};
  other = derivation {{
    name = "other"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    src = ./src;
    args = [ "-euc" "echo > $out\n:" ];
  }};
}}
"""
"""Without a base it waits for a file, and fails if there is something in that."""


def gated(project: Project, *, release: bool) -> Path:
    """A first build that left a base, and one from that whose audit will have to wait."""
    gate = project.trial.root / "gate/open"
    gate.parent.mkdir()
    gate.touch()
    with (project.trial.store.root / "conf/nix.conf").open("a") as file:
        file.write(f"extra-sandbox-paths = {gate.parent}\n")
    project.commit("release.nix", GATED.format(gate=gate))
    project.declare(audit={"fraction": 0, "beforeRelease": release})
    assert project.trial.once()
    gate.unlink()
    project.edit(1, 5)
    return gate


def audited(project: Project) -> str:
    return str(
        project.trial.value(
            "SELECT o.path FROM audit a JOIN output o ON o.derivation = a.derivation"
            " WHERE o.name = 'out'"
        )
    )


def test_what_is_for_release_is_pushed_once_its_audit_is_over_and_kills_change_nothing(
    project: Project,
) -> None:
    gate = gated(project, release=True)
    for _ in range(2):
        with project.trial.running() as daemon:
            daemon.eventually(lambda: audits(project) == [("running", None)])
            daemon.eventually(lambda: in_force(project).get("other") in cached(project))
            daemon.eventually(lambda: project.trial.attempts("app")[-1] is None)
            assert in_force(project)["app"] == audited(project)
            assert audited(project) not in cached(project)
            daemon.kill()
        project.trial.until_nothing_runs()
    gate.touch()
    assert project.trial.once()
    assert audits(project) == [("same", None)]
    assert audited(project) in cached(project)
    assert project.trial.conditions() == {}


def test_where_the_clean_build_fails_it_is_told_and_may_be_asked_for_again(
    project: Project,
) -> None:
    gate = gated(project, release=True)
    gate.write_text("fail")
    project.trial.once()
    assert audits(project) == [("failed", "its build without a base: failed")]
    assert project.trial.conditions() == {
        ("jobset", "it", "not-audited"): "app is not pushed, since its audit came to nothing (its"
        " build without a base: failed): audit it again with `reconciler incremental audit`"
    }
    assert audited(project) not in cached(project)
    gate.write_text("")
    ask(project)
    assert project.trial.once()
    assert audits(project) == [("same", None)]
    assert audited(project) in cached(project)
    assert project.trial.conditions() == {}


def ask(project: Project) -> None:
    verb(project, "audit", "it.app", "--why", "to be sure")
    project.trial.settled = False


def test_a_person_may_have_a_build_audited(project: Project) -> None:
    gate = gated(project, release=False)
    assert project.trial.once()
    assert audits(project) == []
    gate.touch()
    ask(project)
    assert project.trial.once()
    assert audits(project) == [("same", None)]
    # Had two asked at once, the second would have got an answer, too.
    project.trial.request("audit", "it.app")
    assert project.trial.once()
    assert project.trial.query("SELECT verb, answer FROM request ORDER BY id") == [
        ("audit", "its newest build is made again without a base, and compared"),
        ("audit", f"refused: {ALREADY}"),
    ]


NEEDY = """
{{ incrementalBases ? {{ }} }}:
{{
  app = derivation {{
    name = "app"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    outputs = [ "out" "intermediates" ];
    src = ./src;
    incrementalBase = incrementalBases.app or "";
    tool = derivation {{
      name = "tool"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
      requiredSystemFeatures = [ "kvm" ];
      args = [ "-euc" "[ ! -s {gate} ]; echo > $out\n:" ];
    }};
    args = [ "-euc" "mkdir $intermediates; echo > $out\n:" ];
  }};
}}
"""


def needy(project: Project, *, special: bool) -> Path:
    """A build from a base that is for release now, of which a part was lost that its clean twin
    needs, too; on builders that are `special` or not.
    """
    gate = project.trial.root / "gate/open"
    gate.parent.mkdir()
    gate.touch()
    with (project.trial.store.root / "conf/nix.conf").open("a") as file:
        file.write(f"extra-sandbox-paths = {gate.parent}\n")
    project.commit("release.nix", NEEDY.format(gate=gate))
    declare_special(project, caches=[])
    assert project.trial.once()
    project.edit(1, 5)
    assert project.trial.once()
    assert project.reasons()[-1][0] == "incremental", project.reasons()
    tool = str(project.trial.output("tool"))
    project.trial.collected = True
    project.trial.store.run("nix-store", "--delete", "--ignore-liveness", tool)
    gate.write_text("fail")
    declare_special(project, special=special, audit={"fraction": 0, "beforeRelease": True})
    return gate


def declare_special(
    project: Project, *, special: bool = True, caches: list[str] | None = None, **settings: object
) -> None:
    project.declare(**settings)
    document = json.loads(project.trial.config.read_text())
    document["builders"]["local"]["supportedFeatures"] = ["kvm"] if special else []
    if caches is not None:
        document["jobsets"]["it"]["caches"] = caches
    project.trial.document(document)


def test_where_what_the_clean_build_needs_fails_it_is_told_and_nothing_is_pushed(
    project: Project,
) -> None:
    gate = needy(project, special=True)
    project.trial.once()
    assert audits(project) == [("failed", "its build without a base needs tool: failed")]
    assert project.trial.conditions() == {
        ("jobset", "it", "not-audited"): "app is not pushed, since its audit came to nothing (its"
        " build without a base needs tool: failed): audit it again with `reconciler incremental"
        " audit`"
    }
    assert audited(project) not in cached(project)
    explained = verb(project, "explain", "it.app")
    assert (explained["audit"], explained["auditDetail"]) == audits(project)[0]
    gate.write_text("")
    ask(project)
    assert project.trial.once()
    assert audits(project) == [("same", None)]
    assert audited(project) in cached(project)
    assert project.trial.conditions() == {}


def test_where_no_builder_can_build_what_it_needs_the_audit_ends_after_a_while(
    project: Project,
) -> None:
    needy(project, special=False)
    project.trial.once()
    assert audits(project) == [("pending", None)]
    with closing(open_writer(project.trial.state_dir, now=0.0)) as database, database.transaction():
        database.execute("UPDATE audit SET asked_at = asked_at - ?", (UNSUPPORTED_GRACE,))
    project.trial.once()
    detail = "its build without a base needs tool: no builder can build it"
    assert audits(project) == [("failed", detail)]
    assert ("jobset", "it", "not-audited") in project.trial.conditions()
    assert audited(project) not in cached(project)


def test_intermediates_are_for_release_when_their_build_is(project: Project) -> None:
    """They would serve others, by whom nothing is audited."""
    gate = gated(project, release=True)
    with project.trial.running() as daemon:
        daemon.eventually(lambda: audits(project) == [("running", None)])
        daemon.eventually(lambda: in_force(project).get("other") in cached(project))
        daemon.eventually(lambda: len(project.bases()) == 2)
        first, second = project.trial.query("SELECT path FROM base ORDER BY id")
        assert first[0] in cached(project), "a full build needs no audit"
        assert second[0] not in cached(project)
        assert project.trial.value("SELECT 1 FROM push WHERE path = ?", second[0]) is None
        gate.touch()
        daemon.eventually(lambda: second[0] in cached(project))
        assert audits(project) == [("same", None)]


def test_the_next_build_starts_from_the_clean_one(project: Project) -> None:
    project.write("src/Makefile", STALE)
    project.commit("unrelated", "")
    project.declare(audit=ALL)
    project.run()
    project.commit("src/common.h", "#define A 2\n")
    project.run()
    assert project.result() == str(2 * UNITS)
    ((_, _, first), (_, _, second), (clean, depth, right)) = project.bases()
    assert first is not None
    assert second is not None
    assert (depth, right) == (0, None)
    project.declare(audit=NONE)
    project.edit(1, 5)
    assert project.compiled() == ["unit1.c"]
    assert project.result() == str(2 * (UNITS - 1 + 5))
    mode, base = project.trial.query("SELECT mode, base FROM build_base ORDER BY at DESC")[0]
    assert (mode, base) == ("incremental", clean)
