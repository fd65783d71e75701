"""What `run` prints of each thing that can happen, and what its live view shows."""

from __future__ import annotations

import time

import pytest

from reconciler.cli.log_text import WIDEST
from reconciler.cli.run_lines import Lines, News
from reconciler.cli.run_live import Left, Picture, draw, estimate, read_picture
from reconciler.database import built, declared
from reconciler.database.evaluated import INTERRUPTED
from reconciler.model import Outcome
from tests.cli.farm import DOCUMENT, Farm


@pytest.fixture
def news(farm: Farm) -> News:
    """News of a farm from now on."""
    made = News(farm.logs, began=farm.now)
    made.since(farm.database)
    return made


def told(news: News, farm: Farm) -> list[str]:
    return [line.text for line in news.since(farm.database)]


def test_attempts_of_every_outcome(farm: Farm, news: News) -> None:
    farm.derivations({name: [] for name in ("good", "bad", "slow", "lost", "cut", "off")})
    assert told(news, farm) == []
    farm.attempt("good")
    farm.attempt("bad", Outcome.FAILED, message="exit code 1", log=b"\x1b[31mno\x1b[0m\n")
    farm.attempt("slow", Outcome.TIMED_OUT, message="after 4h")
    farm.attempt("lost", Outcome.INFRASTRUCTURE, message="disk full", not_before=farm.now + 34)
    farm.attempt("cut", Outcome.INTERRUPTED)
    farm.attempt("off", Outcome.CANCELLED)
    assert told(news, farm) == [
        "built good in 4s on local",
        "FAILED bad after 4s on local: exit code 1",
        "    no",
        "  see all: reconciler log bad",
        "FAILED slow (timed-out) after 4s on local: after 4h",
        "  see all: reconciler log slow",
        "no luck with lost on local, tried again in 30s: disk full",
        "interrupted cut",
        "stopped off after 4s",
    ]
    assert news.last_failures == ["bad: exit code 1", "slow: after 4h"]
    assert told(news, farm) == []


def test_names_and_long_lines_reach_no_terminal_as_they_are(farm: Farm, news: News) -> None:
    farm.derivations({"bad": []})
    farm.evaluation("web", {"new\nline\x1b]0;title\x07": "bad"})
    told(news, farm)
    farm.attempt("bad", Outcome.FAILED, message="exit code 1", log=b"x" * 100_000 + b"\nend\n")
    assert told(news, farm) == [
        "FAILED bad after 4s on local: exit code 1",
        "    " + "x" * (WIDEST - 1) + "…",
        "    end",
        "  see all: reconciler log web.new line",
    ]


def test_an_attempt_that_was_under_way(farm: Farm, news: News) -> None:
    farm.derivations({"a": []})
    attempt = farm.start("a")
    assert told(news, farm) == []
    farm.end(attempt, "a", Outcome.SUCCEEDED)
    assert told(news, farm) == ["built a in 4s on local"]


def test_what_was_before_is_no_news(good: Farm) -> None:
    assert told(News(good.logs, began=time.time()), good) == []


def test_documents_jobsets_conditions_and_requests(farm: Farm, news: News) -> None:
    farm.declare({**DOCUMENT, "jobsets": {"web": DOCUMENT["jobsets"]["web"]}})
    now = time.time()
    conditions = {
        ("web", "source-unavailable"): "no such folder\nmore",
        ("web", "evaluation-failed"): "x",
    }
    declared.set_conditions(farm.database, "jobset", conditions, now=now)
    declared.set_conditions(farm.database, "cache", {("main", "unusable"): "no"}, now=now)
    declared.set_conditions(farm.database, "cache", {}, now=now)
    missing = {("a-b", "secret-missing"): "x"}
    declared.set_conditions(farm.database, "artifact-store", missing, now=now)
    declared.set_conditions(farm.database, "artifact-store", {}, now=now)
    request = declared.add_request(
        farm.database, verb="retry", subject="web", who="ann", why="now", now=now
    )
    declared.answer_request(farm.database, request, answer="3 builds are tried again", now=now)
    lines = told(news, farm)
    assert lines[0].startswith("document ")
    assert lines[1:] == [
        "jobset web.next is declared no longer: pruned",
        "jobset web: source unavailable: no such folder",
        "cache main: unusable",
        "cache main: unusable is over",
        "artifact store a-b: secret missing",
        "artifact store a-b: secret missing is over",
        "ann asked: retry web (now): 3 builds are tried again",
    ]


def test_evaluations(farm: Farm, news: News) -> None:
    farm.derivations({"a": []})
    number = farm.evaluation("web", {"a": "a"}, errors={"b": "error"})
    farm.evaluation("web.next", {}, failed="error: one\ntwo")
    lines = told(news, farm)
    assert f"evaluated web #{number} in 2s: 2 jobs, 1 that does not evaluate" in lines
    assert "FAILED to evaluate web.next #2 after 2s" in lines
    assert lines[-3:] == ["    error: one", "    two", "  see all: reconciler status web.next"]
    cut_off = farm.evaluation("web.next", {}, failed=INTERRUPTED)
    assert f"interrupted the evaluation of web.next #{cut_off}" in told(news, farm)


def test_a_cache_is_told_of_once_all_is_there(farm: Farm, news: News) -> None:
    farm.derivations({"a": []})
    farm.attempt("a")
    farm.push("a")
    told(news, farm)
    assert news.open_pushes == {"main": 1}
    farm.push("a", pushed_bytes=5)
    assert told(news, farm) == ["cache main has all that was queued for it"]


def test_what_cannot_be_pushed_is_told_once_and_where_no_condition_says_it(
    farm: Farm, news: News
) -> None:
    farm.derivations({"a": [], "b": []})
    farm.attempt("a")
    farm.attempt("b")
    told(news, farm)
    farm.push("a", error="no room left\nthere")
    line = "cache main: 1 path could not be pushed, tried again: no room left"
    assert told(news, farm) == [line]
    farm.push("b")
    assert told(news, farm) == []
    farm.push("a", pushed_bytes=5)
    farm.push("b", pushed_bytes=5)
    assert told(news, farm) == ["cache main has all that was queued for it"]
    unusable = {("main", "unusable"): "no"}
    declared.set_conditions(farm.database, "cache", unusable, now=time.time())
    farm.derivations({"c": []})
    farm.attempt("c")
    farm.push("c", error="no")
    assert "cache main: unusable: no" in told(news, farm)
    assert not any("could not be pushed" in each for each in told(news, farm))


def test_a_journal_gets_priorities(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    lines = Lines(farm.logs, began=farm.now)
    farm.derivations({"bad": []})
    farm.attempt("bad", Outcome.FAILED, message="no")
    lines.observe(farm.database, 0)
    printed = capsys.readouterr().out.splitlines()
    assert "<3>FAILED bad after 4s on local: no" in printed
    assert any(line.startswith("<6>") for line in printed)


def test_the_picture_of_what_goes_on(waiting: Farm) -> None:
    news = News(waiting.logs, began=waiting.now - 1)
    waiting.attempt("ready-1.0", Outcome.FAILED, message="exit code 1")
    waiting.derivations({"a": []})
    waiting.push("other-1.0")
    news.since(waiting.database)
    with waiting.database.transaction():
        for name in ("other", "site"):
            built.set_duration(waiting.database, name=name, system="x86_64-linux", seconds=30)
    left = estimate(waiting.database)
    assert left == Left(builds=3, seconds=90.0)
    began, now = waiting.now - 100, waiting.now + 10
    picture = read_picture(waiting.database, left, news, began=began, now=now)
    lines = [text for text, _ in draw(picture, began=began, now=now + 5, room=10)]
    assert lines[0] == ("── 1m55s ── 0 built · 1 failed · 1 building · 3 to go · about 1m25s left")
    assert lines[1].startswith("building   lib-1.0  ")
    assert lines[-2:] == ["pushing    main  1 to go", "failed     ready-1.0: exit code 1"]


def test_without_known_durations_nothing_is_promised(waiting: Farm) -> None:
    assert estimate(waiting.database) == Left(builds=3, seconds=None)
    picture = Picture(evaluating=(("web", 1.0),), left=Left(builds=2))
    lines = [text for text, _ in draw(picture, began=0, now=11, room=3)]
    assert lines == ["── 11s ── 0 built · 0 building · 2 to go", "evaluating web  10s"]
