"""A cache that cannot be used says so as a condition of its own; builds and other caches go on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.binary_cache.servers import (
    Server,
    dav_server,
    netrc,
    nginx_server,
    s3_credentials,
    s3_server,
)
from tests.support.fault_proxy import Answer, Request, fault_proxy_beside
from tests.support.trial import Trial
from tests.system.conftest import a_trial
from tests.system.test_cache import REFERRING, keys

S3 = "s3://bucket/in?scheme=http&endpoint={}"
HTTP = "http://{}/bucket/in"
WRITES = ("PUT", "POST", "MKCOL", "MOVE")
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"


@dataclass
class Farm:
    """A trial, and servers for its caches."""

    trial: Trial
    s3: Server
    http: Server

    def declare(self, caches: dict[str, dict[str, Any]], expression: str = REFERRING) -> None:
        signing = {"signingKeyFile": str(self.trial.root / "key")}
        good = {"good": {"uri": f"file:{self.trial.root}/good", **signing}}
        self.trial.declare(
            {"it": {"source": self.trial.source("it", expression), "caches": ["good", *caches]}},
            caches={**good, **caches},
        )

    def file(self, name: str, text: str) -> str:
        """A file's path."""
        (self.trial.root / name).write_text(text)
        return str(self.trial.root / name)

    @property
    def s3_keys(self) -> str:
        return str(s3_credentials(self.trial.root / "s3-keys"))

    @property
    def http_keys(self) -> str:
        return str(netrc(self.trial.root / "netrc"))

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        where = ("--config", str(self.trial.config), "--state-dir", str(self.trial.state_dir))
        return self.trial.store.run(sys.executable, "-m", "reconciler", *where, *argv, check=False)

    def conditions(self) -> dict[str, tuple[str, str]]:
        """Of each cache: reason and message."""
        found = self.trial.conditions().items()
        return {name: (why, said) for (kind, name, why), said in found if kind == "cache"}

    def pushed(self) -> dict[str, set[str]]:
        """States of what is queued for each cache."""
        found: dict[str, set[str]] = {}
        for cache, state in self.trial.query(
            "SELECT DISTINCT c.name, p.state FROM push p JOIN cache c ON c.id = p.cache"
        ):
            found.setdefault(cache, set()).add(state)
        return found


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with ExitStack() as stack:
        trial = stack.enter_context(a_trial())
        keys(trial)
        (tmp_path / "bucket").mkdir()
        s3 = stack.enter_context(s3_server(tmp_path))
        yield Farm(trial, s3, stack.enter_context(dav_server(tmp_path)))


def test_each_is_told_with_its_mend_and_keeps_nothing_else_back(farm: Farm) -> None:
    trial = farm.trial
    in_store = trial.store.run("nix-store", "--add", str(trial.root / "key")).stdout.strip()
    (trial.root / "linked").symlink_to(in_store)
    s3, http = S3.format(farm.s3.address), HTTP.format(farm.http.address)
    folder = f"file:{trial.root}/other"

    def denying(body: bytes) -> Callable[[Request], Answer | None]:
        return lambda request: Answer(403, body=body) if request.method in WRITES else None

    with (
        fault_proxy_beside(farm.s3.address) as bucket,
        fault_proxy_beside(farm.http.address) as place,
        fault_proxy_beside(farm.http.address) as narrow,
    ):
        narrow.judge = lambda request: (
            Answer(413) if request.method == "PUT" and "/nar/" in request.path else None
        )
        bucket.judge, place.judge = denying(DENIED), denying(b"")
        farm.declare(
            {
                "no-bucket": {
                    "uri": s3.replace("bucket", "elsewhere"),
                    "credentialsFile": farm.s3_keys,
                },
                "wrong-id": {
                    "uri": s3.replace("/in?", "/a?"),
                    "credentialsFile": str(s3_credentials(trial.root / "a", key_id="WHO")),
                },
                "wrong-secret": {
                    "uri": s3.replace("/in?", "/b?"),
                    "credentialsFile": str(s3_credentials(trial.root / "b", secret="guess")),
                },
                "no-keys": {
                    "uri": s3.replace("/in?", "/c?"),
                    "credentialsFile": farm.file("hello", "hello\n"),
                },
                "wrong-password": {
                    "uri": http,
                    "credentialsFile": str(netrc(trial.root / "c", password="guess")),
                },
                "not-a-key": {
                    "uri": f"{folder}-1",
                    "signingKeyFile": farm.file("nonsense", "hello\n"),
                },
                "key-in-store": {
                    "uri": f"{folder}-2",
                    "signingKeyFile": str(trial.root / "linked"),
                },
                "no-key": {"uri": f"{folder}-3", "signingKeyFile": str(trial.root / "nowhere")},
                "in-the-way": {"uri": f"file:{farm.file('a-file', 'x')}"},
                "read-only": {"uri": "file:/proc/nix-cache"},
                "read-only-s3": {
                    "uri": S3.format(bucket.address),
                    "credentialsFile": farm.s3_keys,
                },
                "read-only-http": {
                    "uri": HTTP.format(place.address),
                    "credentialsFile": farm.http_keys,
                },
                "narrow": {
                    "uri": HTTP.format(narrow.address).replace("/in", "/d"),
                    "credentialsFile": farm.http_keys,
                },
                "in-the-clear": {"uri": http.replace("http:", "https:")},
                "nobody-there": {"uri": "ssh-ng://nobody@127.0.0.1:1"},
            }
        )
        ended = farm.run("run", "--once")
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    expected = {
        "no-bucket": "there is no bucket elsewhere at",
        "wrong-id": "does not know this key; mend credentialsFile",
        "wrong-secret": "the secret is not this key's; mend credentialsFile",
        "no-keys": "write a line [default], then aws_access_key_id",
        "wrong-password": "the credentials are not right: mend credentialsFile",
        "not-a-key": "holds no signing key of Nix; make one with",
        "key-in-store": "is in the Nix store, which everyone can read: keep it outside",
        "no-key": "signingKeyFile: ",
        "in-the-way": "cannot be written: Not a directory",
        "read-only": "name another folder",
        "read-only-s3": "denies access to the bucket bucket (Access Denied.)",
        "read-only-http": "the server denies access: allow our user there",
        "in-the-clear": "does not speak TLS: write http:",
        "nobody-there": "it turns connections away",
    }
    found = farm.conditions()
    assert found.keys() == expected.keys()
    for name, words in expected.items():
        assert words in found[name][1], name
        assert f"cache {name}: {found[name][0].replace('-', ' ')}: " in ended.stdout
        assert "guess" not in found[name][1]
    # What only some paths suffer from is no condition, and is told all the same.
    said = "cache narrow: [12] paths? could not be pushed, tried again: http://"
    assert len(re.findall(said, ended.stdout)) == 1
    last = " ".join(ended.stdout.partition("jobs succeeded")[2].split())
    assert re.search("cache narrow: http://.*too large for the server: raise its limit", last)
    expected["narrow"] = ""
    assert set(trial.builds().values()) == {"succeeded"}
    assert farm.pushed() == {"good": {"pushed"}, **{name: {"pending"} for name in expected}}
    told = {
        each["name"]: each for each in json.loads(farm.run("caches", "--json").stdout)["caches"]
    }
    assert told["good"]["verdict"] == "in-sync"
    assert {told[name]["verdict"] for name in expected} == {"failed"}


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """Give a folder a disk of its own that is full but for a little; what makes room there."""
    if os.geteuid() != 0:
        pytest.fail("this test mounts a file system, as root only can: run it as root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", folder], check=True)
    try:
        yield lambda: subprocess.run(
            ["mount", "-o", "remount,size=64m", folder], check=True, stdout=subprocess.DEVNULL
        ).check_returncode()
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("kind", ["s3", "http", "nginx"])
def test_a_server_whose_disk_is_full_gets_the_rest_when_it_has_room(
    farm: Farm, tmp_path: Path, kind: str
) -> None:
    trial, folder = farm.trial, tmp_path / "small"
    folder.mkdir()
    large = 'rec { large = job "large" "head -c 300000 /dev/urandom > $out";'
    with ExitStack() as stack:
        make_room = stack.enter_context(small_disk(folder))
        (folder / "bucket").mkdir()
        serve = {"s3": s3_server, "http": dav_server, "nginx": nginx_server}[kind]
        server = stack.enter_context(serve(folder))
        uri = (S3 if kind == "s3" else HTTP).format(server.address)
        settings = {"credentialsFile": farm.s3_keys if kind == "s3" else farm.http_keys}
        expression = REFERRING.replace("rec {", large)
        farm.declare({"full": {"uri": uri, **settings}}, expression)
        with trial.running() as daemon:
            daemon.eventually(
                lambda: trial.value("SELECT 1 FROM push WHERE failures > 0 AND error IS NOT NULL")
            )
            told = re.compile(f"cache full (unusable, )?[0-9]+ failing.*: {re.escape(uri)}: ")
            daemon.eventually(lambda: told.search(" ".join(farm.run("status").stdout.split())))
            daemon.eventually(lambda: set(trial.builds().values()) == {"succeeded"})
            daemon.eventually(lambda: farm.pushed().get("good") == {"pushed"})
            make_room()
            daemon.process.send_signal(signal.SIGHUP)
            daemon.eventually(lambda: farm.pushed()["full"] == {"pushed"})
        verified = farm.run("caches", "verify", "full", "--json")
        assert (verified.returncode, json.loads(verified.stdout)["findings"]) == (0, [])
