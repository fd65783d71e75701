"""`reconciler incremental`, and what `why` and `status` tell of bases."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from reconciler.bases import Fingerprint, Trust
from reconciler.cli.text import width_of
from reconciler.database import incremental, observe
from reconciler.database.incremental import BuildBase, EvaluationInput, NewBase, Slot
from reconciler.incremental import recorded
from reconciler.model import DrvPath, Incremental, JobsetName, Outcome, Protocol, StorePath
from reconciler.source import LockedGit, LockedSource
from tests.cli.farm import SYSTEM, Farm
from tests.support.jobsets import jobset

SLOT = Slot(jobset=JobsetName("web"), job="site", system=SYSTEM, branch=None, trust=Trust("web"))
MEANS = Fingerprint(digest="f" * 64, parts={"the input gcc": "a" * 64, "the builder": "b" * 64})
REASON = "starts from the newest build (commit 111111111111), a full one"
LOG = b"compiling\nincremental: base b: 1 changed, 0 added, 0 deleted; restored 4 files\nlinking\n"


def leave(farm: Farm, name: str, *, parent: int | None, commit: str) -> int:
    """Have the build of a derivation leave a base."""
    new = NewBase(
        name="site-intermediates",
        path=StorePath(f"/nix/store/{farm.ids[name]:032}-site-intermediates"),
        nar_hash=f"sha256-{'A' * 43}=",
        size=3 * 2**20,
        fingerprint=MEANS,
        canonical=DrvPath(f"/nix/store/{'c' * 32}-site.drv"),
        built=farm.path(name),
        revision=commit * 40,
        parent=parent,
    )
    return incremental.add_base(farm.database, SLOT, new, now=farm.now)


def choose(farm: Farm, name: str, *, base: int | None, reason: str) -> None:
    choice = BuildBase(
        derivation=farm.ids[name],
        canonical=DrvPath(f"/nix/store/{'c' * 32}-site.drv"),
        fingerprint=MEANS,
        base=base,
        reason=reason,
        revision="2" * 40,
    )
    incremental.choose(farm.database, SLOT, choice, now=farm.now)


@pytest.fixture
def grown(farm: Farm) -> Farm:
    """A job that was built in full, then from what that left."""
    farm.derivations({"site-1.0": [], "site-1.1": [], "docs-1.0": []})
    farm.attempt("site-1.0")
    choose(farm, "site-1.0", base=None, reason="built in full: no earlier build of this job")
    first = leave(farm, "site-1.0", parent=None, commit="1")
    farm.attempt("site-1.1", log=LOG)
    choose(farm, "site-1.1", base=first, reason=REASON)
    leave(farm, "site-1.1", parent=first, commit="2")
    farm.attempt("docs-1.0")
    farm.evaluation("web", {"site": "site-1.1", "docs": "docs-1.0", "old.v1.0": "docs-1.0"})
    return farm


def test_status_shows_each_job_that_takes_part(grown: Farm) -> None:
    lines = grown.run("incremental", "status").output.splitlines()
    assert lines[0].split() == ["JOB", "BASES", "SIZE", "DEPTH", "NEWEST", "BUILDS"]
    assert lines[1].split()[:4] == ["web.site", "2", "6MiB", "1"]
    assert lines[1].endswith("1 from a base, 1 full")
    assert max(map(width_of, lines)) <= 80
    assert grown.run("incremental").output.splitlines() == lines
    (slot,) = grown.json("incremental", "status", "web", schema="incremental-status")["slots"]
    assert (slot["name"], slot["bases"], slot["incremental"], slot["full"]) == ("web.site", 2, 1, 1)
    assert grown.json("incremental", "status", "web.next", schema="incremental-status") == {
        "slots": [],
        "compilerCaches": [],
    }
    assert "No job takes part" in grown.run("incremental", "status", "web.next").output
    assert "is no jobset" in str(grown.failure("incremental", "status", "web.site"))


def test_bases_lists_them_with_what_became_of_each(grown: Farm) -> None:
    incremental.quarantine(grown.database, 2, reason="an audit: app differs", now=grown.now)
    incremental.release(grown.database, [1], cause="newer ones are kept", now=grown.now)
    head, second, first = grown.run("incremental", "bases", "web.site").output.splitlines()
    assert head.split() == ["BASE", "COMMIT", "DEPTH", "FROM", "SIZE", "AGE", "STATE"]
    assert second.split()[:4] == ["2", "2" * 12, "1", "1"]
    assert second.endswith("in quarantine: an audit: app differs")
    assert first.split()[:3] == ["1", "1" * 12, "0"]
    assert "let go " in first
    found = grown.json("incremental", "bases", "web.site", schema="incremental-bases")["bases"]
    assert [(each["id"], each["parent"], each["origin"]) for each in found] == [
        (2, 1, 1),
        (1, None, 1),
    ]
    assert found[0]["quarantine"] == "an audit: app differs"
    assert found[1]["releasedAt"] == grown.now


def test_on_a_terminal_the_state_of_a_base_is_told_in_full(grown: Farm) -> None:
    reason = " ".join(f"reason{number}" for number in range(9))
    incremental.quarantine(grown.database, 2, reason=reason, now=grown.now)
    lines = grown.terminal("incremental", "bases", "web.site").splitlines()
    whole = " ".join(line[lines[0].index("STATE") :].strip() for line in lines[1:])
    assert whole.startswith(f"in quarantine: {reason} ")
    assert all(len(line) <= 80 for line in lines)


def test_explain_tells_the_reason_the_line_and_what_the_build_said(grown: Farm) -> None:
    text = grown.run("incremental", "explain", "web.site").output
    assert "web.site (succeeded): starts from the newest build" in text
    assert "  base 1\n" in text
    assert "│ incremental: base b: 1 changed" in text
    assert "linking" not in text
    assert "the input gcc" in text
    found = grown.json("incremental", "explain", "web.site", schema="incremental-explain")
    assert (found["incremental"], found["base"], found["reason"]) == (True, 1, REASON)
    assert [each["id"] for each in found["line"]] == [1]
    assert found["said"] == [LOG.decode().splitlines()[1]]
    assert found["fingerprint"]["parts"] == MEANS.parts


def test_why_and_status_tell_it_in_one_line(grown: Farm) -> None:
    line = f"{REASON} (base 1, depth 0)"
    assert grown.run("why", "web.site").output.splitlines()[-1] == line
    assert grown.run("status", "web.site").output.splitlines()[-1] == f"  {line}"
    assert grown.json("why", "web.site", schema="why")["incremental"]["base"] == 1
    told = grown.json("status", "web.site", schema="status-job")["incremental"]
    assert told["reason"] == REASON
    assert grown.json("why", "web.docs", schema="why")["incremental"] is None
    assert "full" not in grown.run("why", "web.docs").output


@pytest.mark.parametrize("verb", ["bases", "explain", "reset", "replay", "audit"])
def test_what_is_no_job_that_takes_part_is_refused(grown: Farm, verb: str) -> None:
    assert "there is no jobset" in str(grown.failure("incremental", verb, "nothing"))
    said = str(grown.failure("incremental", verb, "web"))
    assert "is a jobset" in said or "is no job" in said
    assert "intermediates" in (said := str(grown.failure("incremental", verb, "web.docs"))) or (
        "incremental.enable" in said
    )


def test_what_nothing_was_recorded_of_cannot_be_repeated(grown: Farm) -> None:
    assert "no evaluation 1 is recorded" in str(grown.failure("incremental", "replay", "1"))
    huge = "9" * 30
    assert "there is no jobset" in str(grown.failure("incremental", "replay", huge))
    assert "is recorded no longer" in str(grown.failure("incremental", "replay", "web.site"))


def test_quarantine_and_reset_are_requests(grown: Farm) -> None:
    result = grown.run("incremental", "quarantine", "1", "--why", "wrong dates")
    assert result.output.startswith("asked: quarantine 1\n")
    made = grown.json("incremental", "reset", "web.site", schema="requests")
    assert [each["verb"] for each in made["requests"]] == ["reset"]
    asked = observe.open_requests(grown.database)
    assert [(each.verb, each.subject, each.why) for each in asked] == [
        ("quarantine", "1", "wrong dates"),
        ("reset", "web.site", ""),
    ]


def finish(farm: Farm, *, difference: str | None) -> None:
    """End the audit that is open."""
    ((audit,),) = farm.database.query("SELECT id FROM audit WHERE finished_at IS NULL")
    incremental.end_audit(farm.database, audit, difference=difference, now=farm.now)


def audited(farm: Farm, name: str = "site-1.1") -> None:
    """A build has what makes it auditable."""
    with farm.database.transaction():
        farm.database.execute(
            "INSERT INTO output(derivation, name, path) VALUES (?, 'intermediates', ?)",
            (farm.ids[name], f"/nix/store/{name}-intermediates"),
        )


def test_an_audit_is_a_request_and_tells_where_to_look(grown: Farm) -> None:
    audited(grown)
    lines = grown.run("incremental", "audit", "web.site", "--why", "release").output.splitlines()
    assert lines[0] == "asked: audit web.site"
    assert lines[-1] == "What comes of it: reconciler incremental explain web.site"
    assert f"{grown.path('site-1.1')}: {REASON}" in " ".join(lines)
    made = grown.json("incremental", "audit", "web.site", schema="requests")
    assert [(each["verb"], each["subject"]) for each in made["requests"]] == [("audit", "web.site")]
    asked = observe.open_requests(grown.database)
    assert [(each.verb, each.why) for each in asked] == [("audit", "release"), ("audit", "")]


def test_what_is_audited_already_is_answered_so(grown: Farm) -> None:
    audited(grown)
    build = grown.ids["site-1.1"]
    clean = DrvPath(f"/nix/store/{'c' * 32}-site.drv")
    incremental.ask_audit(grown.database, build, base=1, clean=clean, now=grown.now)
    assert "is being audited already" in str(grown.failure("incremental", "audit", "web.site"))
    finish(grown, difference=None)
    said = str(grown.failure("incremental", "audit", "web.site"))
    assert said == "web.site was audited already: it is what a build without a base comes to"
    incremental.ask_audit(grown.database, build, base=1, clean=clean, now=grown.now)
    finish(grown, difference="the output out differs")
    said = str(grown.failure("incremental", "audit", "web.site"))
    assert said.endswith("is built without a base: the output out differs")
    assert observe.open_requests(grown.database) == []


def test_only_what_started_from_a_base_and_was_built_is_audited(grown: Farm) -> None:
    said = str(grown.failure("incremental", "audit", "web.site"))
    assert said == "web.site starts from no base itself, but needs what does: audit that"
    grown.derivations({"site-1.2": []})
    grown.attempt("site-1.2", Outcome.FAILED)
    audited(grown, "site-1.2")
    choose(grown, "site-1.2", base=1, reason=REASON)
    said = str(grown.failure("incremental", "audit", "web.site"))
    assert said == "the newest build of web.site is failed: only what was built can be audited"
    choose(grown, "site-1.2", base=None, reason="built in full: for a change")
    said = str(grown.failure("incremental", "audit", "web.site"))
    assert said == (
        "the newest build of web.site started from no base, so there is nothing to audit"
    )


def test_replay_prints_a_script_of_what_was_recorded(grown: Farm) -> None:
    locked = LockedSource(
        locked="https://git.example.org/web?rev=1",
        origin=LockedGit({"url": "https://git.example.org/web", "rev": "2" * 40, "allRefs": True}),
        file="release.nix",
        args={"flavour": "plain"},
        revision="2" * 40,
    )
    protocols = Incremental(enable=True, protocols=(Protocol.ARG,))
    given = EvaluationInput(
        protocol=Protocol.ARG, reference="x", text="{ site = 1; }", revision="2"
    )
    incremental.give(grown.database, 1, [given], [1], now=grown.now)
    recorded.record(
        grown.database,
        1,
        locked=locked,
        jobset=replace(jobset(), incremental=protocols),
        jobs=[("site",)],
        others=[("docs",), ("old", "v1.0")],
    )
    found = grown.json("incremental", "replay", "web.site", schema="incremental-replay")
    assert (found["evaluation"], found["jobs"]) == (1, ["site"])
    assert grown.run("incremental", "replay", "1").output == found["script"]
    assert "{ site = 1; }" in found["script"]
    assert "flavour" in found["script"]
    canonical = grown.json("incremental", "replay", "web.docs", schema="incremental-replay")
    assert "site" not in canonical["script"]
    assert "-A docs" in canonical["script"]
    assert """-A 'old."v1.0"'""" in grown.run("incremental", "replay", "web.old.v1.0").output


@pytest.mark.parametrize("base", ["7", "one", "9" * 30])
def test_a_base_that_is_not_there_is_refused(grown: Farm, base: str) -> None:
    said = str(grown.failure("incremental", "quarantine", base, "--why", "x"))
    assert f"there is no base {base}" in said
    assert "--why is empty" in str(grown.failure("incremental", "quarantine", "1", "--why", " "))


def test_what_is_printed_fits_a_terminal(grown: Farm) -> None:
    for verb in ("bases", "explain"):
        lines = grown.run("incremental", verb, "web.site").output.splitlines()
        assert [each for each in lines if width_of(each) > 80 and "/nix/store/" not in each] == []
