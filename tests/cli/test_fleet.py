from __future__ import annotations

import time
from typing import Any

from reconciler.database import declared
from reconciler.status import UNSEEN_GRACE
from tests.cli.farm import DOCUMENT, Farm


def test_builders(waiting: Farm) -> None:
    declared.set_conditions(
        waiting.database, "builder", {("local", "quarantined"): "3 lost"}, now=time.time()
    )
    text = waiting.run("builders").output
    assert "✗  local    quarantined  1/2" in text
    assert "3 lost" in text
    assert "lib-1.0   local" in text
    (local,) = waiting.json("builders", schema="builders")["builders"]
    assert [each["name"] for each in local["builds"]] == ["lib-1.0"]


def test_a_drained_builder_and_none_at_all(farm: Farm) -> None:
    farm.declare({**DOCUMENT, "builders": {"local": {"maxJobs": 1, "drain": True}}})
    assert "drained" in farm.run("builders").output
    assert "builder local  drained" in farm.run("status").output
    farm.declare({**DOCUMENT, "builders": {}})
    assert "No builder is declared" in farm.run("builders").output


def test_caches(good: Farm) -> None:
    text = good.run("caches").output
    assert "✓ main  in sync" in text
    assert "1 path, 1000B sent" in text
    (main,) = good.json("caches", schema="caches")["caches"]
    assert main["contents"]["pushed"] == 1


def test_a_cache_that_nobody_looked_into_for_days_is_not_known_to_be_in_sync(good: Farm) -> None:
    good.seen(ago=UNSEEN_GRACE - 60)
    assert "✓ main  in sync" in good.run("caches").output
    good.seen(ago=UNSEEN_GRACE + 60)
    text = good.run("caches").output
    assert "? main  not looked into for too long" in text
    assert "all seen  within 2d" in text
    assert good.run("status").exit_code == 4
    assert good.json("status", schema="status")["caches"][0]["unseen"]


def test_a_failing_cache_says_why_and_when(good: Farm) -> None:
    good.push("lib-1.0", error="no space\nleft")
    text = good.run("caches").output
    assert "failing   no space left" in text
    assert "next try  in" in text


def test_on_a_terminal_what_is_wrong_with_a_cache_is_told_in_full(good: Farm) -> None:
    reason = " ".join(f"reason{number}" for number in range(20))
    good.push("lib-1.0", error=reason)
    lines = good.terminal("caches").splitlines()
    assert max(len(line) for line in lines) <= 80
    begin = next(number for number, line in enumerate(lines) if "failing   reason0" in line)
    told = " ".join(line.strip() for line in lines[begin : begin + 3])
    assert told.removeprefix("failing   ").startswith(reason)


def test_a_pruned_cache_and_none_at_all(farm: Farm) -> None:
    bare: dict[str, Any] = {"jobsets": {}, "builders": {}, "caches": {}}
    farm.declare(bare)
    assert "- main  pruned" in farm.run("caches").output
    assert "-  cache main" in farm.run("status").output
