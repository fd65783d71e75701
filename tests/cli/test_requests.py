from __future__ import annotations

import socket

import pytest

from reconciler.database import StateLock, observe
from tests.cli.farm import DOCUMENT, Farm


def asked(farm: Farm) -> list[tuple[str, str, str]]:
    return [(each.verb, each.subject, each.why) for each in observe.open_requests(farm.database)]


@pytest.mark.parametrize("verb", ["trigger", "suspend", "resume", "retry", "cancel", "bump"])
def test_a_jobset_is_asked_for(good: Farm, verb: str) -> None:
    result = good.run(verb, "web", "--why", "release today")
    assert result.output == (
        f"asked: {verb} web\nThe daemon is not running: it sees to this when it is started.\n"
    )
    assert asked(good) == [(verb, "web", "release today")]


def test_who_asks_is_recorded_also_behind_sudo(good: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    found = good.json("retry", "web.site", "lib-1.0", schema="requests")
    assert {each["who"] for each in found["requests"]} == {"ann"}
    assert asked(good) == [("retry", "web.site", ""), ("retry", good.path("lib-1.0"), "")]


def test_the_daemon_is_woken(good: Farm) -> None:
    with (
        StateLock(good.state_dir),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
    ):
        listener.bind(str(good.state_dir / "wake"))
        assert good.run("trigger", "web").output == "asked: trigger web\n"
        listener.settimeout(10)
        assert listener.recv(64)


def test_all_or_none(good: Farm) -> None:
    assert "there is no jobset" in str(good.failure("trigger", "web", "nothing"))
    assert asked(good) == []


def test_what_cannot_be_asked_for(broken: Farm) -> None:
    assert "name its jobset: reconciler trigger web" in str(broken.failure("trigger", "web.site"))
    assert "name a jobset" in str(broken.failure("suspend", "lib-1.0"))
    assert "does not evaluate" in str(broken.failure("retry", "web.old"))
    assert "--why is longer" in str(broken.failure("retry", "web", "--why", "x" * 1001))
    broken.declare({**DOCUMENT, "jobsets": {"web": DOCUMENT["jobsets"]["web"]}})
    assert "declared no longer" in str(broken.failure("trigger", "web.next"))


def test_a_job_of_an_older_evaluation_is_asked_for_by_its_derivation(good: Farm) -> None:
    good.evaluation("web", {"other": "lib-1.0"})
    good.run("retry", "web.site")
    assert asked(good) == [("retry", good.path("site-1.0"), "")]
