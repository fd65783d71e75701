from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import pytest

from reconciler.database import StateLock, declared
from reconciler.errors import StateError
from reconciler.model import JobsetName, Outcome
from reconciler.status import UNSUPPORTED_GRACE
from tests.cli.farm import DOCUMENT, SYSTEM, Farm
from tests.test_architecture import PROJECT


def test_in_sync(good: Farm) -> None:
    result = good.run("status")
    assert result.exit_code == 0, result.output
    assert "✓  web       in sync  1 job succeeded" in result.output
    assert "✓  cache main  in sync" in result.output
    found = good.json("status", schema="status")
    assert found["verdict"] == "in-sync"
    assert found["document"]["drift"] == "same"
    assert found["problems"] == []


def test_failures_point_to_their_root_cause(broken: Farm) -> None:
    result = broken.run("status")
    assert result.exit_code == 1, result.output
    assert "web.site  dependency-failed  needs lib-1.0" in result.output
    assert "web.old   evaluation-error   error: attribute 'gone' missing" in result.output
    assert "1 of 3 succeeded, 1 dependency-failed, 1 evaluation-error" in result.output
    found = broken.json("status", schema="status")
    by_attr = {each["attr"]: each for each in found["problems"]}
    assert by_attr["site"]["cause"] == "lib-1.0"
    assert by_attr["old"]["state"] == "evaluation-error"
    (web, following) = found["jobsets"]
    assert web["jobs"] == {"succeeded": 1, "dependency-failed": 1, "evaluation-error": 1}
    assert following["jobs"] == {"succeeded": 1}
    # Neither the library's dependant nor the site can be reached any more.
    assert found["builds"] == {"failed": 1, "queued": 0}


def test_a_failed_job_shows_why(farm: Farm) -> None:
    farm.derivations({"site-1.0": []})
    farm.attempt("site-1.0", Outcome.TIMED_OUT, message="timed out after 4h\nsecond line")
    farm.evaluation("web", {"site": "site-1.0"})
    assert "web.site  failed  timed out after 4h\n" in farm.run("status").output


def test_in_progress(waiting: Farm) -> None:
    result = waiting.run("status")
    assert result.exit_code == 3, result.output
    assert "1 building, 3 to go" in result.output
    assert "not running: nothing goes on until it is" in result.output


def test_the_daemon_is_seen(good: Farm) -> None:
    with StateLock(good.state_dir):
        assert f"running, process {os.getpid()}" in good.run("status").output
        assert good.json("status", schema="status")["daemon"] == os.getpid()


def test_without_a_state_nothing_can_be_told(tmp_path: Path) -> None:
    farm = Farm(tmp_path)
    farm.database.close()
    assert "no document was put in force" in str(farm.failure("status"))
    (farm.state_dir / "reconciler.db").unlink()
    error = farm.failure("status")
    assert isinstance(error, StateError)
    assert error.exit_status == 4
    assert "there is no state" in str(error)


def test_a_jobset_that_was_never_evaluated_is_in_progress(farm: Farm) -> None:
    result = farm.run("status")
    assert result.exit_code == 3
    assert "not evaluated yet" in result.output


def test_on_a_terminal_a_condition_is_told_up_to_its_mend(farm: Farm) -> None:
    said = " ".join(f"word{number}" for number in range(50))
    declared.set_conditions(farm.database, "jobset", {("web", "out-of-luck"): said}, now=1.0)
    lines = farm.terminal("status").splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("jobset web: out of luck"))
    assert all(len(line) <= 80 for line in lines)
    whole = " ".join(line.strip() for line in lines[begin : begin + 9])
    assert whole.startswith(f"jobset web: out of luck: {said}")


def test_a_failed_evaluation_is_told_with_its_condition(farm: Farm) -> None:
    farm.evaluation("web", {}, failed="error: syntax\nline two\nthree\nfour\nfive\nsix")
    declared.set_conditions(
        farm.database,
        "jobset",
        {("web", "evaluation-failed"): "error: syntax\nline two\nthree\nfour\nfive\nsix"},
        now=time.time(),
    )
    result = farm.run("status")
    assert result.exit_code == 1
    assert "jobset web: evaluation failed: error: syntax" in result.output
    assert "2 more lines" in result.output


def test_suspended_and_disabled_jobsets_are_left_out(broken: Farm) -> None:
    declared.suspend(
        broken.database, JobsetName("web"), who="ann", why="server\x1b[2J down", now=time.time()
    )
    result = broken.run("status")
    assert result.exit_code == 0, result.output
    assert "suspended by ann" in result.output
    detail = broken.run("status", "web").output
    assert "server down" in detail
    document = {
        **DOCUMENT,
        "jobsets": {"web.next": {**DOCUMENT["jobsets"]["web.next"], "enabled": False}},
    }
    broken.declare(document)
    assert "disabled" in broken.run("status").output


def test_a_pruned_jobset_is_shown_as_gone(good: Farm) -> None:
    good.declare({**DOCUMENT, "jobsets": {"web": DOCUMENT["jobsets"]["web"]}})
    result = good.run("status")
    assert "-  web.next           pruned" in result.output
    assert result.exit_code == 0


def test_pushes_pending_and_failing(good: Farm) -> None:
    good.push("lib-1.0")
    result = good.run("status")
    assert result.exit_code == 3
    assert "cache main  1 pending" in result.output
    good.derivations({"late-1.0": []})
    good.attempt("late-1.0")
    good.push("late-1.0", error="disk full")
    result = good.run("status")
    assert result.exit_code == 1
    assert "cache main  1 failing, 1 pending: disk full" in result.output


def test_a_changed_document_is_seen_through_a_link(good: Farm) -> None:
    assert "differs" not in good.run("status").output
    other = good.root / "other.yaml"
    other.write_text(good.config.read_text().replace("/srv/web", "/srv/elsewhere"))
    link = good.root / "link"
    os.utime(other, (0, 0))
    link.symlink_to(other)
    link.replace(good.config)
    result = good.run("status")
    assert "differs and is not in force yet" in result.output
    assert result.exit_code == 3
    other.write_text("jobsets: 1")
    result = good.run("status")
    assert "is not valid now" in result.output
    assert result.output.endswith("jobs succeeded · the document is not valid\n")
    assert result.exit_code == 1
    assert all(len(line) <= 80 or "/" in line for line in good.terminal("status").splitlines())
    other.unlink()
    assert "not compared with its file" in good.run("status").output


def unsupported(farm: Farm, *, since: float) -> None:
    """A job that no builder can build, and one that needs it, for so many seconds already."""
    farm.derivations({"arm-1.0": []}, system="aarch64-linux")
    farm.derivations({"site-1.0": ["arm-1.0"]})
    farm.evaluation("web", {"site": "site-1.0", "arm": "arm-1.0"})
    farm.evaluation("web.next", {})
    farm.made(ago=since)


def test_what_no_builder_can_build_waits_for_one_for_a_while(farm: Farm) -> None:
    unsupported(farm, since=UNSUPPORTED_GRACE - 600)
    result = farm.run("status")
    assert result.exit_code == 3
    assert "web.arm  waiting  no builder can build it: local builds for" in result.output
    assert "What waits for a builder counts as failed in " in result.output
    assert "waiting for builds, waiting for a builder" in result.output
    assert farm.run("status", "web.arm").exit_code == 3
    assert farm.run("status", "web.site").exit_code == 3
    found = farm.json("status", schema="status")
    (stuck,) = found["stuck"]
    assert (stuck["derivation"], stuck["state"]) == ("arm-1.0", "waiting")
    assert 0 < stuck["failsAt"] - time.time() <= 600
    assert found["verdict"] == "in-progress"


def test_a_new_document_begins_the_wait_anew(farm: Farm) -> None:
    unsupported(farm, since=UNSUPPORTED_GRACE + 1)
    assert farm.run("status").exit_code == 1
    farm.declare({**DOCUMENT, "builders": {"local": {"maxJobs": 3, "systems": [SYSTEM]}}})
    assert farm.run("status").exit_code == 3


def test_a_build_that_no_builder_can_build_is_a_failure_in_the_end(farm: Farm) -> None:
    unsupported(farm, since=UNSUPPORTED_GRACE + 1)
    result = farm.run("status")
    assert result.exit_code == 1
    assert "web.arm   unsupported" in result.output
    assert "web.site  dependency-failed  needs arm-1.0" in result.output
    found = farm.json("status", schema="status")
    assert "not for aarch64-linux" in found["stuck"][0]["message"]


def test_infrastructure_failures_count_once_the_attempts_are_used_up(farm: Farm) -> None:
    farm.derivations({"site-1.0": []})
    farm.evaluation("web", {"site": "site-1.0"})
    farm.evaluation("web.next", {})
    for _ in range(2):
        farm.attempt("site-1.0", Outcome.INFRASTRUCTURE, message="disk full", not_before=1)
    assert farm.run("status").exit_code == 3
    farm.attempt(
        "site-1.0", Outcome.INFRASTRUCTURE, message="disk full", not_before=time.time() + 60
    )
    result = farm.run("status")
    assert result.exit_code == 1
    assert "3 attempts failed: disk full" in result.output


def test_one_line(broken: Farm) -> None:
    lines = broken.run("status", "--oneline").output.splitlines()
    assert lines == ["failed: 2 jobsets, 2 of 4 succeeded, 1 dependency-failed, 1 evaluation-error"]


def test_a_jobset_in_detail(broken: Farm) -> None:
    result = broken.run("status", "web")
    assert result.exit_code == 1
    assert "/srv/web/release.nix" in result.output
    assert "docs  succeeded" in result.output
    found = broken.json("status", "web", schema="status-jobset")
    assert [each["attr"] for each in found["jobList"]] == ["site", "old", "docs"]


def test_a_job_in_detail(good: Farm) -> None:
    result = good.run("status", "web.site")
    assert result.exit_code == 0, result.output
    assert "what site is" in result.output
    assert "main: pushed" in result.output
    assert "2KiB" in result.output
    found = good.json("status", "web.site", schema="status-job")
    assert found["attempts"][0]["outcome"] == "succeeded"


def test_a_job_that_failed_or_does_not_evaluate(broken: Farm) -> None:
    assert broken.run("status", "web.site").exit_code == 1
    assert broken.json("status", "web.site", schema="status-job")["cause"] == "lib-1.0"
    assert "attribute 'gone' missing" in broken.run("status", "web.old").output
    found = broken.json("status", "web.old", schema="status-job")
    assert found["derivation"] is None
    result = broken.run("status", "lib-1.0")
    assert "failed: builder failed with exit code 2" in result.output


def test_a_job_that_waits(waiting: Farm) -> None:
    assert waiting.run("status", "web.site").exit_code == 3


def test_a_jobset_name_with_a_dot_is_found(good: Farm) -> None:
    assert "web.next.lib" in good.run("status", "web.next.lib").output


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("wob", "there is no jobset, job or derivation wob; did you mean web?"),
        ("web.sites", "jobset web has no job sites; did you mean web.site?"),
        ("web.zz", "jobset web has no job zz; its jobs are web.site"),
        ("nothing.drv", "no derivation nothing.drv is known"),
    ],
)
def test_unknown_names(good: Farm, subject: str, said: str) -> None:
    error = good.failure("status", subject)
    assert said in str(error)
    assert error.exit_status == 2


def test_several_derivations_of_one_name(farm: Farm) -> None:
    farm.derivations({"lib-1.0": []})
    farm.derivations({"lib-1.0": []})
    error = farm.failure("status", "lib-1.0")
    assert "2 derivations are called lib-1.0" in str(error)
    name = farm.path("lib-1.0").rpartition("/")[2]
    farm.evaluation("web", {"lib": "lib-1.0"})
    assert "it is the job" not in farm.run("status", name).output
    assert "job         web.lib" in farm.run("status", name).output


def test_watch_takes_nothing_besides(farm: Farm) -> None:
    assert farm.failure("status", "--watch", "--json").exit_status == 2


def test_names_from_outside_reach_no_terminal_as_they_are(farm: Farm) -> None:
    farm.derivations({"site-1.0": []})
    farm.evaluation("web", {"site": "site-1.0"}, errors={"a\x1b[2J": "b\x1b]0;title\x07c\x9b31m"})
    output = farm.run("status").output + farm.run("status", "web").output
    assert not set(click.unstyle(output)) & set("\x1b\x07\x9b")


def test_more_problems_than_are_shown(farm: Farm) -> None:
    farm.evaluation("web", {}, errors={f"a{number}": "error: no" for number in range(12)})
    output = farm.run("status").output
    assert "… and 2 more: reconciler status web" in output
    assert SYSTEM not in output


def test_watching_without_a_terminal_prints_what_changes(broken: Farm) -> None:
    command = [sys.executable, "-m", "reconciler", "status", "--watch", *broken.places]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        guard = threading.Timer(30, process.kill)
        guard.start()
        assert process.stdout is not None
        assert process.stdout.readline().startswith("failed: 2 jobsets, 2 of 4 succeeded")
        broken.evaluation("web", {"docs": "docs-1.0"})
        assert process.stdout.readline().startswith("in sync: 2 jobsets, 2 jobs succeeded")
        process.send_signal(signal.SIGINT)
        process.communicate()
        guard.cancel()
    assert process.returncode == 130
