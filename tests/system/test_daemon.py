"""The daemon in a process of its own: what wakes it, and what people may ask of it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.repositories import Repository
from tests.support.trial import PREAMBLE, Trial, processes_with
from tests.system.test_graphs import DIAMOND

ONE = '{ one = job "one" "echo one > $out"; }'


def good(trial: Trial, *names: str) -> bool:
    builds = trial.builds()
    return all(builds.get(name) in ("succeeded", "substituted") for name in names)


# --- What it notices by itself -------------------------------------------------------------------


def test_an_edit_of_a_watched_source_builds_what_changed(trial: Trial) -> None:
    trial.declare({"diamond": DIAMOND})
    with trial.running() as daemon:
        daemon.eventually(lambda: good(trial, "top"))
        trial.source("diamond", DIAMOND.replace("echo right", "echo RIGHT"))
        daemon.eventually(lambda: len(trial.attempts("top")) == 2 and good(trial, "top"))
    assert len(trial.attempts("right")) == 2
    assert len(trial.attempts("left")) == 1
    cause = trial.value("SELECT cause FROM evaluation ORDER BY id DESC")
    assert cause == "source changed"


def test_a_source_that_does_not_exist_yet_is_noticed_when_it_comes(trial: Trial) -> None:
    source = {"path": str(trial.root / "later"), "file": "release.nix"}
    trial.declare({"later": {"source": source}, "one": ONE})
    with trial.running() as daemon:
        unavailable = ("jobset", "later", "source-unavailable")
        daemon.eventually(lambda: unavailable in trial.conditions() and good(trial, "one"))
        prepared = trial.source("prepared", '{ two = job "two" "touch $out"; }')
        Path(prepared["path"]).rename(trial.root / "later")
        daemon.eventually(lambda: good(trial, "two"))
        assert trial.conditions() == {}
        release = trial.root / "later/release.nix"
        release.write_text(release.read_text().replace('"two"', '"three"'))
        daemon.eventually(lambda: good(trial, "three"))


def test_two_jobsets_of_one_folder_both_hear_of_a_change(trial: Trial) -> None:
    source = trial.source("shared", ONE)
    trial.declare({"a": {"source": source}, "b": {"source": source}})
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.evaluations("a") == trial.evaluations("b") == [DONE])
        trial.declare({"b": {"source": source}})
        daemon.eventually(lambda: trial.evaluations("a") == [("superseded", None)])
        trial.source("shared", '{ two = job "two" "echo > $out"; }')
        daemon.eventually(lambda: good(trial, "two"))


DONE = ("succeeded", None)


def test_a_document_behind_a_swapped_link_is_noticed(trial: Trial) -> None:
    """As /etc/static of NixOS: no file changes, a link above the document points elsewhere."""
    for generation, name in (("one", "one"), ("two", "two")):
        source = trial.source(name, f'{{ {name} = job "{name}" "touch $out"; }}')
        folder = trial.root / f"generation-{generation}/reconciler"
        folder.mkdir(parents=True)
        (folder / "farm.json").write_text(
            json.dumps({"jobsets": {name: {"source": source}}, "builders": {"local": {}}})
        )
    static = trial.root / "etc/static"
    static.parent.mkdir()
    static.symlink_to("../generation-one")
    trial.config.symlink_to("etc/static/reconciler/farm.json")
    with trial.running() as daemon:
        daemon.eventually(lambda: good(trial, "one"))
        fresh = trial.root / "etc/static.new"
        fresh.symlink_to("../generation-two")
        fresh.rename(static)
        daemon.eventually(lambda: good(trial, "two"))
    assert trial.value("SELECT removed_at FROM jobset WHERE name = 'one'") is not None


def test_an_invalid_document_leaves_the_last_good_one_in_force(trial: Trial) -> None:
    trial.declare({"one": ONE})
    right = trial.config.read_text()
    key = ("document", str(trial.config), "invalid")
    with trial.running() as daemon:
        daemon.eventually(lambda: good(trial, "one"))
        trial.document({"jobsets": {"one": {"sauce": 1}}})
        daemon.eventually(lambda: key in trial.conditions())
        assert "sauce" in trial.conditions()[key]
        # The old one is in force: its source is still watched.
        trial.source("one", '{ two = job "two" "echo > $out"; }')
        daemon.eventually(lambda: good(trial, "two"))
        trial.config.write_text(right)
        daemon.eventually(lambda: key not in trial.conditions())
    trial.config.write_text("jobsets: [")
    with trial.running() as daemon:
        daemon.eventually(lambda: key in trial.conditions())
        trial.source("one", '{ three = job "three" "echo > $out"; }')
        daemon.eventually(lambda: good(trial, "three"))
    assert trial.value("SELECT count(*) FROM generation") == 1


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_git_source_is_polled_and_one_that_is_not_there_costs_itself(trial: Trial) -> None:
    folder = Path(trial.source("repository", ONE)["path"])
    git(folder, "init", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    source = {"git": {"url": f"file://{folder}", "ref": "main"}, "file": "release.nix"}
    lost = {"git": {"url": f"file://{trial.root}/nowhere", "ref": "main"}, "file": "release.nix"}
    trial.declare(
        {
            "polled": {"source": source, "interval": "1s"},
            "asked": {"source": source, "interval": None},
            "lost": {"source": lost},
        }
    )
    with trial.running() as daemon:
        daemon.eventually(lambda: good(trial, "one") and trial.evaluations("asked") == [DONE])
        condition = ("jobset", "lost", "source-unavailable")
        daemon.eventually(lambda: condition in trial.conditions())
        assert "nowhere" in trial.conditions()[condition]
        assert list(trial.conditions()) == [condition]
        trial.source("repository", '{ two = job "two" "echo > $out"; }')
        git(folder, "commit", "-a", "-m", "second")
        daemon.eventually(lambda: good(trial, "two"))
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.strip()
        locked = "SELECT locked FROM evaluation ORDER BY id DESC"
        assert head in str(trial.value(locked))
        assert len(trial.evaluations("asked")) == 1
        assert not daemon.ask("trigger", "asked").startswith("refused")
        daemon.eventually(lambda: len(trial.evaluations("asked")) == 2)
        daemon.eventually(lambda: trial.evaluations("asked")[-1] == DONE)


# --- What people ask -----------------------------------------------------------------------------

PATIENT = """
rec {{
  gate = job "gate" "test -e {gate}";
  long = job "long" "echo on; exec sleep 5151";
  above = job "above" "cat ${{long}} > $out";
  beside = job "beside" "echo > $out";
}}
"""


def test_cancel_stops_a_build_and_retry_reopens_it(trial: Trial) -> None:
    trial.declare({"it": '{ long = job "long" "echo on; exec sleep 5151"; }'})
    with trial.running() as daemon:
        daemon.eventually(lambda: processes_with("5151"))
        asked = time.time()
        assert daemon.ask("cancel", "it.long").startswith("1 build cancelled; ")
        daemon.eventually(lambda: trial.builds() == {"long": "cancelled"})
        daemon.eventually(lambda: not processes_with("5151"))
        assert trial.attempts("long") == ["cancelled"]
        ((message, ended),) = trial.query("SELECT message, finished_at FROM attempt")
        assert message == "stopped on request: `reconciler retry` reopens it"
        assert ended > asked
        # A new evaluation does not bring back what a person cancelled.
        daemon.ask("trigger", "it")
        daemon.eventually(
            lambda: [s for s, _ in trial.evaluations("it")] == ["superseded", "succeeded"]
        )
        assert trial.builds() == {"long": "cancelled"}
        assert daemon.ask("retry", "it.long") == "1 build is tried again"
        daemon.eventually(lambda: processes_with("5151"))
    assert processes_with("5151") == []
    assert trial.attempts("long") == ["cancelled", "interrupted"]


def test_cancel_takes_what_is_queued_off_the_queue(trial: Trial) -> None:
    expression = """
    rec {
      first = job "first" "echo on; exec sleep 5252";
      second = job "second" "cat ${first} > $out";
    }
    """
    trial.declare({"it": expression}, builders={"local": {"maxJobs": 1}})
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.builds().get("first") == "building")
        daemon.eventually(lambda: trial.evaluations("it") == [DONE])
        daemon.ask("cancel", "it.second")
        assert trial.builds() == {"first": "building", "second": "cancelled"}
        assert "nothing to cancel" in daemon.ask("cancel", "it.second")
        assert daemon.ask("cancel", "it.nothing").startswith("refused")


def test_retry_reopens_all_that_a_failure_failed(trial: Trial) -> None:
    flag = trial.root / "flag"
    # What a build depends on besides its inputs is what makes a retry worth while.
    with (trial.store.root / "conf/nix.conf").open("a") as file:
        file.write(f"extra-sandbox-paths = {trial.root}/outside\n")
    (trial.root / "outside").mkdir()
    flag = trial.root / "outside/flag"
    trial.declare(
        {
            "it": f"""
            rec {{
              shaky = job "shaky" "test -e {flag} && echo > $out";
              above = job "above" "cat ${{shaky}} > $out";
              top = job "top" "cat ${{above}} > $out";
            }}
            """
        }
    )
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.builds().get("shaky") == "failed")
        assert "nothing to retry" not in daemon.ask("retry", "it.top")
        daemon.eventually(lambda: trial.attempts("shaky") == ["failed", "failed"])
        flag.touch()
        daemon.ask("retry", "it")
        daemon.eventually(lambda: good(trial, "shaky", "above", "top"))
        assert "nothing to retry" in daemon.ask("retry", "it")
    assert trial.attempts("shaky") == ["failed", "failed", "succeeded"]


def test_an_evaluation_that_is_cut_off_is_no_verdict_on_the_source(trial: Trial) -> None:
    trial.declare({"one": ONE})
    trial.state_dir.mkdir(exist_ok=True)
    in_the_way = trial.state_dir / "gcroots"
    in_the_way.write_text("a file where GC roots are to be made")
    with trial.running() as daemon:
        daemon.eventually(lambda: ("jobset", "one", "evaluation-interrupted") in trial.conditions())
        in_the_way.unlink()
        daemon.ask("trigger", "one")
        daemon.eventually(lambda: good(trial, "one"))
        daemon.eventually(lambda: trial.conditions() == {})


def test_a_revision_that_cannot_be_fetched_is_asked_for_again(trial: Trial) -> None:
    elsewhere = Repository.create(trial.root / "elsewhere")
    revision = elsewhere.commit("release.nix", PREAMBLE + ONE)
    here = Repository.create(trial.root / "here")
    here.commit("release.nix", "{ }")
    source = {"git": {"url": here.url, "ref": revision}, "file": "release.nix"}
    trial.declare({"pinned": {"source": source}})
    with trial.running() as daemon:
        condition = ("jobset", "pinned", "evaluation-interrupted")
        daemon.eventually(lambda: condition in trial.conditions())
        assert f"{revision} cannot be fetched" in trial.conditions()[condition]
        here.git("fetch", "-q", elsewhere.url, "main")
        daemon.ask("trigger", "pinned")
        daemon.eventually(lambda: good(trial, "one"))
        daemon.eventually(lambda: trial.conditions() == {})


def test_suspend_starts_nothing_until_resume(trial: Trial) -> None:
    trial.declare({"it": ONE})
    with trial.running() as daemon:
        daemon.eventually(lambda: good(trial, "one"))
        daemon.ask("suspend", "it")
        assert trial.query("SELECT suspended_by FROM jobset") == [("tester",)]
        trial.source("it", '{ two = job "two" "echo > $out"; }')
        # Answered after what the change would have caused, had it caused anything.
        daemon.ask("trigger", "it")
        assert len(trial.evaluations("it")) == 1
        daemon.ask("resume", "it")
        daemon.eventually(lambda: good(trial, "two"))
        assert daemon.ask("suspend", "nothing").startswith("refused")


def test_what_is_asked_of_a_suspended_jobset_says_that_it_waits(trial: Trial) -> None:
    trial.declare({"one": '{ bad = job "bad" "exit 1"; }', "one.off": ONE})
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.builds().get("bad") == "failed")
        assert daemon.ask("resume", "one") == "nothing to resume: it is not suspended"
        daemon.ask("suspend", "one")
        later = ", once one is resumed: it is suspended"
        assert daemon.ask("trigger", "one") == f"its source is looked at and evaluated{later}"
        assert daemon.ask("retry", "one.bad") == f"1 build is tried again{later}"
        assert daemon.ask("bump", "one.bad").endswith(f"goes first{later}")
        assert daemon.ask("trigger", "one.off") == "its source is looked at and evaluated"
        assert daemon.ask("resume", "one") == "resumed"
        daemon.eventually(lambda: trial.attempts("bad") == ["failed", "failed"])


def test_suspension_outlives_the_daemon(trial: Trial) -> None:
    trial.declare({"it": ONE})
    assert trial.once()
    trial.request("suspend", "it")
    trial.source("it", '{ two = job "two" "echo > $out"; }')
    assert trial.once()
    assert trial.once()
    assert trial.builds() == {"one": "succeeded"}
    trial.request("resume", "it")
    assert trial.once()
    assert trial.builds() == {"one": "succeeded", "two": "succeeded"}


def test_bump_goes_first(trial: Trial) -> None:
    jobs = " ".join(f'j{n} = job "j{n}" "echo > $out";' for n in range(8))
    trial.declare({"it": f"{{ {jobs} }}"}, builders={})
    assert trial.once()
    trial.request("bump", "it.j6")
    trial.declare({"it": f"{{ {jobs} }}"}, builders={"local": {"maxJobs": 1}})
    assert trial.once()
    first = trial.value(
        "SELECT d.name FROM attempt a JOIN derivation d ON d.id = a.derivation ORDER BY a.id"
    )
    assert first == "j6"
    # The hurry ends with what it was for.
    assert trial.value("SELECT count(*) FROM build WHERE bumped_at IS NOT NULL") == 0


def test_a_bump_ends_with_its_build_however_that_ends(trial: Trial) -> None:
    jobs = '{ bad = job "bad" "exit 1"; on = job "on" "exec sleep 5454"; }'
    trial.declare({"it": jobs}, builders={})
    bumped = (
        "SELECT d.name FROM build b JOIN derivation d ON d.id = b.derivation"
        " WHERE bumped_at IS NOT NULL ORDER BY d.name"
    )
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.evaluations("it") == [DONE])
        assert daemon.ask("bump", "it").startswith("2 builds")
        assert trial.query(bumped) == [("bad",), ("on",)]
        trial.declare({"it": jobs})
        daemon.eventually(lambda: trial.builds() == {"bad": "failed", "on": "building"})
        assert trial.query(bumped) == [("on",)]
        daemon.ask("cancel", "it.on")
        daemon.eventually(lambda: trial.builds() == {"bad": "failed", "on": "cancelled"})
        assert trial.query(bumped) == []


# --- Stopping and pruning ------------------------------------------------------------------------


def test_a_stop_ends_what_runs_and_the_next_start_goes_on(trial: Trial) -> None:
    with (trial.store.root / "conf/nix.conf").open("a") as file:
        file.write(f"extra-sandbox-paths = {trial.root}/outside\n")
    (trial.root / "outside").mkdir()
    flag = trial.root / "outside/flag"
    script = f"echo on; test -e {flag} || exec sleep 5353; echo done > $out"
    trial.declare({"it": f'{{ long = job "long" "{script}"; }}'})
    with trial.running() as daemon:
        daemon.eventually(lambda: processes_with("5353"))
    assert processes_with("5353") == []
    assert trial.builds() == {"long": "queued"}
    flag.touch()
    assert trial.once()
    assert trial.attempts("long") == ["interrupted", "succeeded"]


def test_a_removed_jobset_stops_what_nothing_else_needs(trial: Trial) -> None:
    shared = 'base = job "base" "echo > $out";'
    trial.declare(
        {
            "keeps": f"{{ {shared} }}",
            "goes": f"""
            rec {{
              {shared}
              long = job "long" "cat ${{base}}; exec sleep 5454";
              above = job "above" "cat ${{long}} > $out";
            }}
            """,
        }
    )
    with trial.running() as daemon:
        daemon.eventually(lambda: processes_with("5454"))
        trial.declare({"keeps": f"{{ {shared} }}"})
        daemon.eventually(lambda: trial.builds().get("above") == "cancelled")
        daemon.eventually(lambda: trial.builds()["long"] == "cancelled")
        daemon.eventually(lambda: not processes_with("5454"))
    assert trial.attempts("long") == ["cancelled"]
    assert trial.builds()["base"] == "succeeded"


def test_a_jobset_removed_while_it_is_evaluated_can_come_back(trial: Trial) -> None:
    slow = (
        "let f = n: if n < 2 then n else f (n - 1) + f (n - 2); in "
        '{ a = job "a${toString (f 60)}" "echo > $out"; }'
    )
    trial.declare({"slow": slow, "one": ONE})
    with trial.running() as daemon:
        daemon.eventually(lambda: [s for s, _ in trial.evaluations("slow")] == ["running"])
        trial.declare({"one": ONE})
        daemon.eventually(lambda: [s for s, _ in trial.evaluations("slow")] == ["failed"])
        daemon.eventually(lambda: good(trial, "one"))
        trial.declare({"slow": slow, "one": ONE})
        daemon.eventually(
            lambda: [s for s, _ in trial.evaluations("slow")] == ["failed", "running"]
        )


@pytest.mark.parametrize("max_jobs", [1, 3])
def test_no_more_is_built_at_once_than_the_builder_takes(trial: Trial, max_jobs: int) -> None:
    jobs = " ".join(f'j{n} = job "j{n}" "echo > $out; exec sleep 5555";' for n in range(5))
    trial.declare({"it": f"{{ {jobs} }}"}, builders={"local": {"maxJobs": max_jobs}})
    live = "SELECT count(*) FROM attempt WHERE finished_at IS NULL"
    with trial.running() as daemon:
        daemon.eventually(lambda: [s for s, _ in trial.evaluations("it")] == ["succeeded"])
        daemon.eventually(lambda: len(processes_with("sleep\x005555")) >= max_jobs)
        assert trial.value(live) == max_jobs
