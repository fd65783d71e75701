from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from reconciler.build.log import LogWriter
from reconciler.cli.log_text import LONGEST_LINE, Follower, Lines
from reconciler.model import Outcome
from tests.cli.farm import Farm
from tests.test_architecture import PROJECT


def test_the_log_is_made_harmless(good: Farm) -> None:
    result = good.run("log", "web.site")
    assert result.exit_code == 0
    assert result.stdout == "linking\ndone \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\n"
    assert "attempt 1: succeeded after 4s on local" in result.stderr
    found = good.json("log", "web.site", schema="log")
    assert found["lines"][0] == "linking"


def test_every_attempt_is_kept(farm: Farm) -> None:
    farm.derivations({"site-1.0": []})
    farm.evaluation("web", {"site": "site-1.0"})
    farm.attempt("site-1.0", Outcome.INFRASTRUCTURE, message="lost", log=b"first\n")
    farm.attempt("site-1.0", log=b"second\n")
    assert farm.run("log", "web.site").stdout == "second\n"
    assert farm.run("log", "web.site", "--attempt", "1").stdout == "first\n"
    assert "there were 2 attempts" in str(farm.failure("log", "web.site", "--attempt", "3"))


@pytest.mark.parametrize("name", ["web.site", "site-1.0", "path", "file"])
def test_a_derivation_is_found_by_each_of_its_names(good: Farm, name: str) -> None:
    path = good.path("site-1.0")
    known = {"path": path, "file": path.rpartition("/")[2]}
    assert good.run("log", known.get(name, name)).stdout.startswith("linking")


def test_where_there_is_none_it_says_where_to_look(broken: Farm) -> None:
    said = str(broken.failure("log", "web.site"))
    assert "web.site was not built: it needs lib-1.0, which failed" in said
    assert said.endswith("See: reconciler log lib-1.0")
    assert "`reconciler why web.old`" in str(broken.failure("log", "web.old"))
    assert "is a jobset" in str(broken.failure("log", "web"))


def test_what_waits_has_no_log_yet(waiting: Farm) -> None:
    assert "See: reconciler why web.site" in str(waiting.failure("log", "web.site"))


def test_an_attempt_without_output_says_why_it_ended(farm: Farm) -> None:
    farm.derivations({"site-1.0": []})
    farm.evaluation("web", {"site": "site-1.0"})
    farm.attempt("site-1.0", Outcome.FAILED, message="cannot build:\nno such builder")
    result = farm.run("log", "web.site")
    assert result.stdout == ""
    assert "failed after 4s on local: cannot build:" in result.stderr


def test_follow_ends_with_the_attempt(waiting: Farm) -> None:
    writer = LogWriter(waiting.logs, 1)
    writer.write(b"one\nhal")
    command = [sys.executable, "-m", "reconciler", "log", "-f", "lib-1.0", *waiting.places]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT
    ) as process:
        guard = threading.Timer(30, process.kill)
        guard.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        writer.write(b"f\nlast")
        writer.close()
        waiting.end(1, "lib-1.0", Outcome.SUCCEEDED)
        rest, verdict = process.communicate()
        guard.cancel()
    assert rest == "half\nlast\n"
    assert "attempt 1: succeeded" in verdict
    assert process.returncode == 0


def test_follow_and_json_exclude_each_other(good: Farm) -> None:
    assert good.failure("log", "web.site", "-f", "--json").exit_status == 2


def test_a_line_without_end_is_shown_in_pieces() -> None:
    lines = Lines()
    assert lines.feed(b"x" * (LONGEST_LINE + 1)) == ["x" * (LONGEST_LINE + 1)]
    assert lines.feed("ä".encode()[:1]) == []
    assert lines.feed("ä".encode()[1:] + b"\n") == ["ä"]
    assert lines.end() == []


def test_a_follower_goes_on_in_the_compressed_log(good: Farm) -> None:
    writer = LogWriter(good.logs, 99)
    follower = Follower(good.logs, 99)
    writer.write(b"a\nb")
    assert follower.more() == ["a"]
    writer.close()
    assert follower.more() == []
    assert follower.rest() == ["b"]
    assert Follower(good.logs, 100).rest() == []
