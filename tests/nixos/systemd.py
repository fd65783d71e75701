"""The unit under real systemds, in a container. Not part of the ordinary suite: it takes root, and
what scripts/systemd-box.sh downloads. Run by `make test-systemd`.

RECONCILER_TEST_SYSTEMD_ROOT names where the container's Debian is kept, with one of the suite
testing beside it; RECONCILER_NIX_BIN, the programs of a Nix that lies in a prefix of its own, which
is shown to the container.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reconciler.database import database_path
from tests.nixos.support import PROJECT, command
from tests.support.trial import SYSTEM

SCRIPT = PROJECT / "scripts/systemd-box.sh"
ROOT = Path(os.environ["RECONCILER_TEST_SYSTEMD_ROOT"])
NIX = Path(os.environ["RECONCILER_NIX_BIN"]).parent
DEADLINE = 60.0
"""Seconds."""
HERE = Path("/opt/project/tests/nixos")
STATE = Path("/var/lib/nix-reconciler")

WRAPPER = """#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/site-packages:/opt/project
exec /opt/python/bin/python3 -P -m reconciler "$@"
"""
NIX_CONF = """
experimental-features = nix-command flakes
substituters =
sandbox = false
build-users-group = nixbld
build-hook =
"""
NIX_DAEMON = {
    "nix-daemon.socket": "[Socket]\nListenStream=/nix/var/nix/daemon-socket/socket\n",
    "nix-daemon.service": "[Service]\nExecStart=/opt/nix/bin/nix-daemon --daemon\n"
    "KillMode=process\n",
}
PREPARATION = f"""
ln -s {NIX} /opt/nix
chmod 755 /opt/reconciler/bin/reconciler
groupadd nixbld
for n in 1 2 3; do useradd -r -M -g nixbld -G nixbld nixbld$n; done
useradd -r -M -U -d /var/lib/nix-reconciler reconciler
mkdir -p /nix/store /srv/gate /etc/nix-reconciler
mkfifo -m 666 /srv/gate/begun /srv/gate/go
install -d -o reconciler -g reconciler -m 750 /srv/cache
(umask 077; /opt/nix/bin/nix key generate-secret --key-name test-1 >/srv/key)
systemctl start nix-daemon.socket
"""

JOB = """
{{ {name} = derivation {{
  name = "{name}"; system = "SYSTEM"; builder = "/bin/sh"; args = [ "-euc" ''
    {script}
  '' ];
}}; }}
""".replace("SYSTEM", SYSTEM)
LONG = JOB.format(
    name="long", script="echo on >/srv/gate/begun; read line </srv/gate/go; echo $line >$out"
)
"""Says that it has begun, to whoever reads that, and ends when it is told to go."""


def job(name: str) -> str:
    return JOB.format(name=name, script=f"echo {name} >$out")


class Box:
    """One container, with Nix, the program and the user, but without the unit so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = ""
        """Of systemd."""

    def up(self, root: Path) -> None:
        binds = {
            Path(sys.base_prefix): "/opt/python",
            Path(sysconfig.get_path("purelib")): "/opt/site-packages",
            PROJECT: "/opt/project",
            NIX: NIX,
        }
        pairs = [f"{here}={there}" for here, there in binds.items()]
        subprocess.run([SCRIPT, "up", self.folder, root, *pairs], check=True)
        self.write("/opt/reconciler/bin/reconciler", WRAPPER)
        self.write("/etc/nix/nix.conf", NIX_CONF)
        for name, text in NIX_DAEMON.items():
            self.write(f"/etc/systemd/system/{name}", text)
        self("sh", "-euc", PREPARATION)
        self.version = self("systemctl", "--version").split()[1]

    @property
    def refreshes(self) -> bool:
        """Whether a reload brings fresh credentials."""
        return int(self.version) >= 260

    def down(self) -> None:
        subprocess.run([SCRIPT, "down", self.folder], check=True)

    def run(self, *argv: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        return subprocess.run(
            [SCRIPT, "in", self.folder, "timeout", str(DEADLINE), *argv],
            check=False,
            input=given,
            capture_output=True,
            text=True,
        )

    def __call__(self, *argv: str, given: str = "") -> str:
        """Run one that has to succeed; what it printed."""
        done = self.run(*argv, given=given)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def write(self, file: str, text: str) -> None:
        script = 'mkdir -p "$(dirname "$1")"; cat >"$1.new"; mv "$1.new" "$1"'
        self("sh", "-euc", script, "sh", file, given=text)

    def eventually(self, predicate: Callable[[], object]) -> None:
        """Wait until it is so; each look takes as long as a process inside."""
        until = time.monotonic() + DEADLINE
        while not predicate():
            assert time.monotonic() < until, f"waited in vain:\n{self.journal()}"

    # --- The farm --------------------------------------------------------------------------------

    def switch(self, jobs: dict[str, str], **settings: Any) -> None:
        """Put the units and the document of a farm in place, as a switch of NixOS does."""
        for name, expression in jobs.items():
            self.write(f"/srv/{name}/release.nix", expression)
        jobsets = {
            name: {"source": {"path": f"/srv/{name}", "file": "release.nix"}, "caches": ["main"]}
            for name in jobs
        }
        cache = {"uri": "file:///srv/cache", "signingKeyFile": "/srv/key"}
        whole = {
            "jobsets": jobsets,
            "builders": {"local": {"maxJobs": 2}},
            "caches": {"main": cache},
            **settings,
        }
        asked = command("machines", settings=[whole], systemd=self.version, here=HERE)
        (machine,) = json.loads(self(f"/opt/nix/bin/{asked[0]}", *asked[1:]))
        for name, text in machine["units"].items():
            self.write(f"/etc/systemd/system/{name}", text)
        self.link(machine["document"])

    def link(self, document: str) -> None:
        """Have the document be another one."""
        link = "/etc/nix-reconciler/config.json"
        self("sh", "-euc", 'ln -s "$1" "$2.new"; mv -T "$2.new" "$2"', "sh", document, link)
        self("systemctl", "daemon-reload")

    def override(self, text: str) -> None:
        """A drop-in, such as systemd.services.reconciler.serviceConfig gives."""
        self.write("/etc/systemd/system/reconciler.service.d/test.conf", f"[Service]\n{text}\n")
        self("systemctl", "daemon-reload")

    def show(self, name: str, *, unit: str = "reconciler") -> str:
        return self("systemctl", "show", unit, "--value", "-p", name).strip()

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", "reconciler").stdout

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.reconciler("status", "--json").stdout)
        return found

    def reconciler(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.run("/opt/reconciler/bin/reconciler", *argv)

    def attempts(self, name: str) -> list[str | None]:
        """The outcomes of a derivation's attempts, in order."""
        script = (
            "import json, sqlite3, sys; print(json.dumps(sqlite3.connect("
            f"'file:{database_path(STATE)}?mode=ro', uri=True).execute("
            "'SELECT a.outcome FROM attempt a JOIN derivation d ON d.id = a.derivation"
            " WHERE d.name = ? ORDER BY a.id', sys.argv[1:]).fetchall()))"
        )
        python = ("env", "LD_LIBRARY_PATH=/opt/python/lib", "/opt/python/bin/python3")
        return [row[0] for row in json.loads(self(*python, "-c", script, name))]

    def built(self, *names: str) -> bool:
        return all(self.attempts(name)[-1:] == ["succeeded"] for name in names)

    def begun(self) -> None:
        """Wait until the long build has begun."""
        assert self("cat", "/srv/gate/begun") == "on\n"

    def go(self) -> None:
        """Have the long build end."""
        self("sh", "-c", "echo gone >/srv/gate/go")


@pytest.fixture(scope="session", params=["", "testing"], ids=["own", "testing"])
def root(request: pytest.FixtureRequest) -> Path:
    """The container's Debian: this machine's, and one with a systemd that refreshes credentials."""
    suite = request.param
    folder = ROOT.with_name(f"{ROOT.name}-{suite}") if suite else ROOT
    subprocess.run([SCRIPT, "root", folder, *suite.split()], check=True)
    return folder


@pytest.fixture
def box(root: Path) -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="systemd-box-") as folder:
        made = Box(Path(folder))
        try:
            made.up(root)
            yield made
        finally:
            made.down()


def test_it_starts_as_a_service_that_notifies(box: Box) -> None:
    box.switch({"one": job("one")})
    box("systemctl", "start", "reconciler")
    assert [box.show(name) for name in ("Type", "ActiveState", "NRestarts")] == [
        "notify",
        "active",
        "0",
    ]
    box.eventually(lambda: box.built("one"))
    box.eventually(lambda: box.show("StatusText") == "idle")
    assert box.reconciler("status").returncode == 0


def test_a_document_that_never_was_good_fails_the_start(box: Box) -> None:
    box.switch({"one": job("one")})
    box.write("/srv/bad.json", '{"jobsets": {"one": {"sauce": 1}}}')
    box.link("/srv/bad.json")
    assert box.run("systemctl", "start", "reconciler").returncode != 0
    assert "sauce" in box.journal()


def test_a_reload_takes_up_a_changed_document_while_a_build_goes_on(box: Box) -> None:
    box.switch({"long": LONG, "stays": job("one"), "goes": job("two")})
    box("systemctl", "start", "reconciler")
    box.begun()
    box.eventually(lambda: box.built("one", "two"))
    process = box.show("MainPID")
    box.switch({"long": LONG, "stays": job("one"), "comes": job("three")})
    box("systemctl", "reload", "reconciler")
    assert {each["name"]: each["summary"] for each in box.status()["jobsets"]}.keys() >= {"comes"}
    box.eventually(lambda: box.built("three"))
    assert box.attempts("long") == [None]
    assert (box.show("MainPID"), box.show("ActiveState")) == (process, "active")
    box.go()
    box.eventually(lambda: box.built("long"))
    assert box.attempts("long") == box.attempts("one") == ["succeeded"]
    pruned = re.findall("^jobset (.*) is declared no longer: pruned", box.journal(), re.MULTILINE)
    assert pruned == ["goes"]


def test_a_bad_document_fails_the_reload_and_leaves_the_daemon_alone(box: Box) -> None:
    box.switch({"long": LONG})
    box("systemctl", "start", "reconciler")
    box.begun()
    process = box.show("MainPID")
    box.write("/srv/bad.json", '{"jobsets": {"one": {"sauce": 1}}}')
    box.link("/srv/bad.json")
    assert box.run("systemctl", "reload", "reconciler").returncode != 0
    assert (box.show("MainPID"), box.show("ActiveState")) == (process, "active")
    box.eventually(lambda: "document" in box.reconciler("status").stdout)
    box.eventually(lambda: "problem" in box.show("StatusText"))
    assert "sauce" in box.journal()
    box.go()
    box.eventually(lambda: box.built("long"))


def test_a_daemon_that_hangs_is_started_anew(box: Box) -> None:
    box.switch({"long": LONG})
    box.override("WatchdogSec=3s\nRestartSec=0")
    box("systemctl", "start", "reconciler")
    box.begun()
    box("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "reconciler")
    box.begun()  # once more
    assert box.show("NRestarts") == "1"
    box.go()
    box.eventually(lambda: box.built("long"))
    assert box.attempts("long") == ["interrupted", "succeeded"]
    assert "Watchdog timeout" in box.journal()
    box.eventually(lambda: box.show("ActiveState") == "active")
    assert box.show("NRestarts") == "1"


def test_a_stop_lets_a_build_come_to_its_end(box: Box) -> None:
    box.switch({"long": LONG})
    box.override("WatchdogSec=3s")
    box("systemctl", "start", "reconciler")
    box.begun()
    box("systemctl", "stop", "--no-block", "reconciler")
    box.eventually(lambda: box.show("StatusText") == "stopping: 1 build may still end")
    assert box.show("ActiveState") == "deactivating"
    box.go()
    box.eventually(lambda: box.show("ActiveState") == "inactive")
    assert box.show("Result") == "success"
    assert box.attempts("long") == ["succeeded"]


def test_a_stop_hands_back_a_build_that_takes_too_long(box: Box) -> None:
    box.switch({"long": LONG})
    box.override("Environment=RECONCILER_STOP_AFTER=100ms")
    box("systemctl", "start", "reconciler")
    box.begun()
    box("systemctl", "stop", "reconciler")
    assert (box.show("Result"), box.show("ActiveState")) == ("success", "inactive")
    assert box.attempts("long") == ["interrupted"]
    box.eventually(lambda: box.run("pgrep", "-u", "nixbld1").returncode != 0)
    box("systemctl", "start", "reconciler")
    box.begun()
    box.go()
    box.eventually(lambda: box.built("long"))
    assert box.attempts("long") == ["interrupted", "succeeded"]


def test_a_secret_that_is_missing_keeps_only_its_cache_waiting(box: Box) -> None:
    box("mv", "/srv/key", "/srv/elsewhere")
    box.switch({"one": job("one")})
    box("systemctl", "start", "reconciler", "reconciler-secrets.path")
    box.eventually(lambda: box.built("one"))
    (cache,) = box.status()["caches"]
    (condition,) = cache["conditions"]
    assert condition["reason"] == "secret-missing"
    assert "signingKeyFile: its file did not exist" in condition["message"]
    assert "1 pending" in cache["summary"]
    box("mv", "/srv/elsewhere", "/srv/key")
    box.eventually(lambda: box.status()["caches"][0]["summary"] == "in sync")
    assert box.attempts("one") == ["succeeded"]


def rotate(box: Box, name: str, file: str = "/srv/key") -> None:
    """Put another key in the place of one, as tools do it."""
    script = """
        umask 077; /opt/nix/bin/nix key generate-secret --key-name "$1" >"$2.next"
        mv "$2.next" "$2"
    """
    box("sh", "-euc", script, "sh", name, file)


def given(box: Box) -> str:
    """The key that the daemon has."""
    return box("cat", "/run/credentials/reconciler.service/caches.main.signingKeyFile")


def test_a_rotated_key_signs_what_is_pushed_from_then_on(box: Box) -> None:
    box.switch({"one": job("one")})
    box("systemctl", "start", "reconciler", "reconciler-secrets.path")
    box.eventually(lambda: box.status()["caches"][0]["summary"] == "in sync")
    process = box.show("MainPID")
    for name in ("next-1", "next-2"):
        rotate(box, name)
        box.eventually(lambda: box.show("ActiveState") == "active" and given(box) == key(box))
        box.write("/srv/one/release.nix", job(name))
        box.eventually(partial(box.built, name))
        box.eventually(lambda: box.status()["caches"][0]["summary"] == "in sync")
        narinfo = box("sh", "-euc", f"cat $(grep -l -- '-{name}$' /srv/cache/*.narinfo)")
        assert f"Sig: {name}:" in narinfo
    assert (box.show("MainPID") == process) is box.refreshes


def key(box: Box) -> str:
    return box("cat", "/srv/key")


def test_a_build_goes_on_while_a_secret_is_rotated(box: Box) -> None:
    """Where only a restart brings it, the restart waits for the build."""
    box.switch({"long": LONG})
    box("systemctl", "start", "reconciler", "reconciler-secrets.path")
    box.begun()
    process = box.show("MainPID")
    rotate(box, "next-1")
    if box.refreshes:
        box.eventually(lambda: given(box) == key(box))
        assert box.attempts("long") == [None]
    else:
        box.eventually(lambda: box.show("StatusText") == "stopping: 1 build may still end")
    assert box.show("MainPID") == process
    box.go()
    box.eventually(lambda: box.built("long"))
    box.eventually(lambda: box.show("ActiveState") == "active" and given(box) == key(box))
    assert box.attempts("long") == ["succeeded"]


def test_secrets_below_a_link_are_rotated_with_it(box: Box) -> None:
    """The path unit does not see that; a look by the timer, or at a switch, does."""
    for folder in ("/srv/secrets.1", "/srv/secrets.2"):
        box("mkdir", folder)
        rotate(box, "linked-1", f"{folder}/key")
    box("ln", "-s", "/srv/secrets.1", "/srv/secrets")
    cache = {"uri": "file:///srv/cache", "signingKeyFile": "/srv/secrets/key"}
    box.switch({"one": job("one")}, caches={"main": cache})
    box("systemctl", "start", "reconciler")
    box.eventually(lambda: box.built("one"))
    process, invocation = box.show("MainPID"), box.show("InvocationID")
    box("systemctl", "start", "reconciler-secrets")
    assert (box.show("MainPID"), given(box)) == (process, box("cat", "/srv/secrets.1/key"))
    box("ln", "-sfn", "/srv/secrets.2", "/srv/secrets")
    box("systemctl", "start", "reconciler-secrets")
    assert given(box) == box("cat", "/srv/secrets.2/key")
    assert (box.show("InvocationID") == invocation) is box.refreshes


def test_secrets_rotated_again_and_again_are_still_noticed(box: Box) -> None:
    """Units that start too often are given up by systemd, unless told otherwise."""
    box.switch({"one": job("one")})
    box("systemctl", "start", "reconciler", "reconciler-secrets.path")
    for number in range(12):
        rotate(box, f"next-{number}")
        box.eventually(lambda: box.show("ActiveState") == "active" and given(box) == key(box))
        box.eventually(lambda: box.show("ActiveState", unit="reconciler-secrets") == "inactive")


def test_the_unit_is_hardened(box: Box) -> None:
    box.switch({"one": job("one")})
    asked = box("systemd-analyze", "security", "--no-pager", "reconciler.service")
    (exposure,) = re.findall(r"Overall exposure level for .*: ([0-9.]+)", asked)
    assert float(exposure) <= 2.0, asked
