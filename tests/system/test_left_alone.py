"""A cache's server that asks to be left alone is, by all that is queued for it; builds go on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.binary_cache.servers import dav_server, netrc, s3_credentials, s3_server
from tests.support.fault_proxy import Answer, Fault, FaultProxy, Request, fault_proxy_beside
from tests.support.trial import Trial
from tests.system.conftest import a_trial
from tests.system.test_cache import REFERRING, declare, keys, pushes
from tests.system.test_drift import looks, pass_time

ASKED = ("cache", "main", "asked-to-wait")
UNTIL = "its server asks to be left alone until [0-9:]{8} UTC"
MORE = REFERRING.replace("rec {", 'rec { more = job "more" "echo more > $out";')


@dataclass
class Far:
    """A cache at the end of a line that may be spoilt."""

    trial: Trial
    proxy: FaultProxy
    settings: dict[str, Any]

    def declare(self, expression: str = REFERRING) -> None:
        declare(self.trial, expression, **self.settings)

    def says(self, answer: Fault | None) -> None:
        """What the server answers from now on; None: as it is."""
        self.proxy.judge = lambda _: answer

    @property
    def asked(self) -> int:
        """Requests so far."""
        return len(self.proxy.seen)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        where = ("--config", str(self.trial.config), "--state-dir", str(self.trial.state_dir))
        program = (sys.executable, "-m", "reconciler", *where)
        return self.trial.store.run(*program, *argv, check=False)


@pytest.fixture(params=["s3", "http"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Far]:
    with ExitStack() as stack:
        trial = stack.enter_context(a_trial())
        keys(trial)
        (tmp_path / "bucket").mkdir()
        if request.param == "s3":
            server, keys_ = s3_server(tmp_path), s3_credentials(trial.root / "s3-keys")
            uri = "s3://bucket/in?scheme=http&endpoint={}"
        else:
            server, keys_ = dav_server(tmp_path), netrc(trial.root / "netrc")
            uri = "http://{}/bucket/in"
        running = stack.enter_context(server)
        proxy = stack.enter_context(fault_proxy_beside(running.address))
        settings = {"uri": uri.format(proxy.address), "credentialsFile": str(keys_)}
        made = Far(trial, proxy, settings)
        made.declare()
        yield made


@pytest.mark.parametrize("status", [429, 503])
def test_once_ends_and_says_who_asked(far: Far, status: int) -> None:
    far.says(Answer(status, {"Retry-After": "1800"}))
    ended = far.run("run", "--once")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    flat = " ".join(ended.stdout.split())
    assert re.search(f"cache main: {UNTIL}", flat.partition("jobset: ")[2]), ended.stdout
    assert far.asked == 1, "it is not asked again and again"
    assert set(far.trial.builds().values()) == {"succeeded"}
    assert {state for _, state in pushes(far.trial)} == {"pending"}
    assert far.trial.conditions().keys() == {ASKED}
    for verb in ("status", "caches"):
        assert re.search(UNTIL, " ".join(far.run(verb).stdout.split())), verb
    assert re.search(UNTIL, " ".join(far.run("why", "it.library").stdout.split()))
    far.says(None)
    assert far.run("run", "--once").returncode == 0, "who runs it again has it tried again"
    assert far.trial.conditions() == {}


def test_the_daemon_leaves_it_alone_with_all_that_is_queued_later(far: Far) -> None:
    trial = far.trial
    far.says(Answer(429, {"Retry-After": "1800"}))
    with trial.running() as daemon:
        daemon.eventually(lambda: ASKED in trial.conditions())
        # What was under way at that time may have asked as well.
        daemon.eventually(lambda: {state for _, state in pushes(trial)} == {"pending"})
        asked = far.asked
        far.declare(MORE)
        daemon.eventually(lambda: ("more", "pending") in pushes(trial))
        daemon.ask("trigger", "it")  # which is answered by a later tick
        assert far.asked == asked
        assert trial.conditions().keys() == {ASKED}
        far.says(None)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.eventually(lambda: {state for _, state in pushes(trial)} == {"pushed"})
        daemon.eventually(lambda: trial.conditions() == {})


def at_first(number: int, answer: Fault) -> Callable[[Request], Fault | None]:
    """A judge."""
    left = iter([answer] * number)
    return lambda _: next(left, None)


def test_after_a_short_pause_it_goes_on_by_itself(far: Far) -> None:
    far.proxy.judge = at_first(6, Answer(503, {"Retry-After": "1"}))
    assert far.trial.once()
    assert {state for _, state in pushes(far.trial)} == {"pushed"}
    began, ended = far.trial.query(
        "SELECT before, after FROM event WHERE kind = 'cache' AND cause = 'condition' ORDER BY id"
    )
    assert (began, ended) == ((None, "asked-to-wait"), ("asked-to-wait", None))


def test_an_inspection_is_told_as_well(far: Far) -> None:
    trial = far.trial
    assert trial.once()
    far.says(Answer(503, {"Retry-After": "1800"}))
    pass_time(trial, 86400)
    asked = far.asked
    assert trial.once()
    assert far.asked == asked + 1
    assert trial.conditions().keys() == {ASKED}
    assert looks(trial) == {}
    far.says(None)
    assert trial.once()
    assert trial.conditions() == {}
    assert looks(trial)["whole"][1] == 0


def test_it_may_ask_when_it_is_sent_a_log(far: Far) -> None:
    loud = 'rec { loud = job "loud" "echo said; echo x > $out"; }'
    declare(far.trial, loud, logs=True, **far.settings)
    said = Answer(429, {"Retry-After": "1800"})
    far.proxy.judge = lambda request: said if "/log/" in request.path else None
    ended = far.run("run", "--once")
    assert ended.returncode == 1
    assert far.trial.conditions().keys() == {ASKED}
    assert {state for _, state in pushes(far.trial)} == {"pushed"}
    far.says(None)
    assert far.run("run", "--once").returncode == 0
    assert far.trial.query("SELECT state FROM companion") == [("pushed",)]


def test_what_failed_is_tried_again_in_one_batch_after_a_pause_of_its_own(far: Far) -> None:
    far.says(Answer(400))  # it asks for nothing, and would answer the same at once
    trial = far.trial
    trial.declare({"it": REFERRING})
    assert trial.once()
    far.declare()  # all of it is pushed as one batch
    failed = "SELECT min(failures), max(failures), count(DISTINCT not_before) FROM push"
    began = time.time()
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.query(failed)[0][:2] == (2, 2))
        ((at, number),) = trial.query("SELECT max(not_before), count(*) FROM push")
        ended = time.time()
    assert number == 3
    # The first pause was of 2.5 s and more; the second is of 5 s and more, 10 s at most.
    assert began + 2.5 + 5 <= at <= ended + 10
    assert trial.query(failed)[0][2] == 1


def test_another_address_is_not_left_alone_for_it(far: Far) -> None:
    trial = far.trial
    far.says(Answer(503, {"Retry-After": "1800"}))
    with trial.running() as daemon:
        daemon.eventually(lambda: ASKED in trial.conditions())
        declare(trial, REFERRING, uri=f"file:{trial.root / 'near'}")
        daemon.eventually(lambda: {state for _, state in pushes(trial)} == {"pushed"})
        daemon.eventually(lambda: trial.conditions() == {})
