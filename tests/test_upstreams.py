"""What other people's caches have is asked for, remembered, and not pushed again."""

from __future__ import annotations

import http.server
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from reconciler.database import database_path
from reconciler.database.answers import ABSENT_FOR, KEPT_FOR, THERE_FOR
from reconciler.model import StorePath, Upstream
from reconciler.upstreams import Upstreams
from tests.binary_cache.support import declared_at
from tests.support.fault_proxy import Answer, fault_proxy
from tests.support.trial import Trial
from tests.system.conftest import a_trial
from tests.system.test_cache import REFERRING, cached, declare, keys, pushes


@dataclass
class Served:
    """A cache of somebody else's that has `library`, behind HTTP."""

    trial: Trial
    folder: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)
    server: http.server.ThreadingHTTPServer | None = None

    def start(self) -> None:
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_request(self, code: Any = "-", size: Any = "-") -> None:
                del code, size
                asked.append(f"{self.command} {self.path}")

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        where = ("127.0.0.1", 0)
        self.server = http.server.ThreadingHTTPServer(
            where, partial(Handler, directory=str(self.folder))
        )
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def declare(self, expression: str = REFERRING, **upstream: str) -> None:
        given = [{"url": self.url, **upstream}]
        declare(self.trial, expression, upstreams=given)

    def fill(self, *names: str, sign: str = "") -> None:
        """Have what was built under these names there, with Nix's own doing."""
        for name in names:
            self.trial.store.run(
                "nix", "copy", "--to", f"file://{self.folder}{sign}", str(self.trial.output(name))
            )

    def age(self, seconds: float) -> None:
        """All answers were given so much earlier."""
        with closing(sqlite3.connect(database_path(self.trial.state_dir))) as connection:
            connection.execute("UPDATE upstream_answer SET asked_at = asked_at - ?", (seconds,))
            connection.commit()


@pytest.fixture
def served() -> Iterator[Served]:
    with a_trial() as trial:
        keys(trial)
        trial.declare({"it": REFERRING})
        assert trial.once()
        made = Served(trial, trial.root / "upstream")
        made.fill("library")
        made.start()
        yield made
        made.stop()


def test_what_an_upstream_has_is_not_pushed(served: Served) -> None:
    served.declare()
    assert served.trial.once()
    assert cached(served.trial) == {"tool", "program"}
    assert pushes(served.trial) == {("tool", "pushed"), ("program", "pushed")}
    assert {line.split()[0] for line in served.asked} == {"HEAD"}
    served.asked.clear()
    served.declare(REFERRING.replace("rec {", 'rec { more = job "more" "echo ${library} > $out";'))
    assert served.trial.once()
    assert cached(served.trial) == {"tool", "program", "more"}
    assert len(served.asked) == 1  # for what is new; the other answers are known


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_with_a_key_only_what_is_signed_with_it_counts(served: Served, scheme: str) -> None:
    trial = served.trial
    secret = trial.store.run("nix", "key", "generate-secret", "--key-name", "up-1").stdout
    (trial.root / "up").write_text(secret)
    text = f"nix key convert-secret-to-public < {trial.root}/up"
    public = trial.store.run("sh", "-c", text).stdout.strip()
    served.fill("tool", sign=f"?secret-key={trial.root}/up")
    if scheme == "file":
        served.url = f"file://{served.folder}"
    served.declare(publicKey=public)
    assert trial.once()
    assert cached(trial) == {"library", "program"}


def test_an_upstream_that_does_not_answer_stops_nothing(served: Served) -> None:
    served.stop()
    served.declare()
    assert served.trial.once()
    assert cached(served.trial) == {"library", "tool", "program"}
    told = served.trial.query("SELECT cause FROM event WHERE after LIKE '%without asking%'")
    assert len(told) == 1
    assert served.url in told[0][0]
    assert served.trial.conditions() == {}


async def test_one_that_asks_for_a_pause_gets_it_and_holds_nothing_up() -> None:
    asked: list[float] = []
    path, upstreams = StorePath(f"/nix/store/{'a' * 32}-x"), Upstreams(None)
    async with fault_proxy("127.0.0.1:1") as proxy:  # which has nobody behind it to ask
        proxy.judge = lambda _: Answer(429, {"Retry-After": "30"})
        upstream = Upstream(url=f"http://{proxy.address}", public_key=None)
        cache = replace(declared_at("file:///nowhere"), upstreams=(upstream,))
        for _ in range(3):
            assert await upstreams.having(cache, {path: ()}) == frozenset()
            asked.append(len(proxy.seen))
    assert asked == [1, 1, 1]


def test_what_it_had_still_counts_while_it_does_not_answer(served: Served) -> None:
    served.declare()
    assert served.trial.once()
    served.age(THERE_FOR + 1)
    served.stop()
    served.declare(REFERRING.replace("rec {", 'rec { more = job "more" "echo ${library} > $out";'))
    assert served.trial.once()
    assert cached(served.trial) == {"tool", "program", "more"}
    served.age(KEPT_FOR)
    served.declare(REFERRING.replace("rec {", 'rec { last = job "last" "echo ${library} > $out";'))
    assert served.trial.once()
    assert cached(served.trial) == {"tool", "program", "more", "last", "library"}


def test_what_it_has_lost_is_pushed_in_its_stead(served: Served) -> None:
    served.declare()
    assert served.trial.once()
    for file in served.folder.glob("*.narinfo"):
        file.unlink()
    served.age(THERE_FOR + 1)
    served.declare(REFERRING.replace("rec {", 'rec { more = job "more" "echo ${library} > $out";'))
    assert served.trial.once()
    assert cached(served.trial) == {"tool", "program", "more", "library"}


def test_answers_expire(served: Served) -> None:
    served.declare()
    assert served.trial.once()
    number = served.trial.value("SELECT count(*) FROM upstream_answer")
    assert number == 3
    served.asked.clear()
    served.age(ABSENT_FOR + 1)  # what was absent is asked for again, what was there is not
    served.declare(REFERRING.replace("echo library", "echo new"))
    assert served.trial.once()
    assert not any("library" in line for line in served.asked)
    assert served.trial.value("SELECT count(*) FROM upstream_answer") > number
    served.age(KEPT_FOR + 1)
    served.declare(REFERRING.replace("echo library", "echo newer"))
    assert served.trial.once()
    assert served.trial.value("SELECT count(*) FROM upstream_answer") <= number
