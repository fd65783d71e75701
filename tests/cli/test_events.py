from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

from reconciler.cli.events import KINDS
from reconciler.database import declared
from tests.cli.farm import Farm, check_schema
from tests.test_architecture import PROJECT


def test_the_story_in_order(good: Farm) -> None:
    lines = good.run("events", "--kind", "build").output.splitlines()
    assert [line.split()[3:5] for line in lines] == [
        ["lib-1.0", "building"],
        ["lib-1.0", "succeeded"],
        ["site-1.0", "building"],
        ["site-1.0", "succeeded"],
    ]
    assert len(good.run("events", "--limit", "1").output.splitlines()) == 1
    assert len(good.run("events", "site*").output.splitlines()) == 2
    assert good.run("events", "--since", "1ms", "--kind", "build").output == ""


def test_one_json_object_a_line(good: Farm) -> None:
    lines = good.run("events", "--json", "--limit", "0").output.splitlines()
    assert len(lines) > 8
    for line in lines:
        check_schema(json.loads(line), "events")


def test_conditions_that_begin_and_end(good: Farm) -> None:
    now = time.time()
    declared.set_conditions(good.database, "cache", {("main", "unusable"): "no"}, now=now)
    declared.set_conditions(good.database, "cache", {}, now=now)
    lines = good.run("events", "main", "--limit", "2").output.splitlines()
    assert lines[0].endswith("cache       main  unusable")
    assert lines[1].endswith("cache       main  unusable is over")


def test_on_a_terminal_an_event_is_told_in_full(good: Farm) -> None:
    now = time.time()
    request = declared.add_request(
        good.database, verb="retry", subject="web", who="ann", why="", now=now
    )
    answer = " ".join(f"word{number}" for number in range(20))
    declared.answer_request(good.database, request, answer=answer, now=now)
    first, *below = good.terminal("events", "--kind", "request").splitlines()
    assert first.partition("  ")[2].startswith("request     retry web  word0 word1")
    assert len(below) > 1
    assert all(len(line) <= 80 for line in (first, *below))
    assert " ".join([first.partition("web  ")[2], *map(str.strip, below)]) == f"{answer}  (ann)"


def test_every_kind_of_the_schema_can_be_asked_for(good: Farm) -> None:
    schema = json.loads((PROJECT / "schemas/events.schema.json").read_text())
    described = schema["properties"]["kind"]["description"]
    assert set(described.removeprefix("Of what: ").rstrip(".").split(", ")) == set(KINDS)
    for kind in KINDS:
        assert good.run("events", "--kind", kind).exit_code == 0


def test_a_bad_age(good: Farm) -> None:
    assert "--since 5 minutes" in str(good.failure("events", "--since", "5 minutes"))


def test_follow(good: Farm) -> None:
    command = [sys.executable, "-m", "reconciler", "events", "-f", "--limit", "1", *good.places]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        guard = threading.Timer(30, process.kill)
        guard.start()
        assert process.stdout is not None
        assert "web.next" in process.stdout.readline()
        declared.set_conditions(
            good.database, "cache", {("main", "unusable"): "no"}, now=time.time()
        )
        assert "unusable" in process.stdout.readline()
        process.kill()
        guard.cancel()
