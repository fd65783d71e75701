"""A whole reconciler under trial: private store, state directory, document and sources in one
folder; run until it converges in this process, or as a daemon in a child of its own.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler import daemon, reconcile
from reconciler.build.mounts import CACHES_VARIABLE
from reconciler.database import database_path, declared, open_writer
from reconciler.reconcile import Tick
from reconciler.reconcile.farm import Farm
from tests.support import invariants
from tests.support.private_store import PrivateStore

PROJECT = Path(__file__).parents[2]
SYSTEM = f"{platform.machine()}-linux"
DEADLINE = 120.0
"""Seconds after which a condition that does not come true is a failure."""

PREAMBLE = f"""
let
  job = name: script: with_ {{ }} name script;
  with_ = extra: name: script: derivation ({{
    inherit name;
    system = "{SYSTEM}";
    builder = "/bin/sh";
    args = [ "-euc" "${{script}}\n:" ];
    PATH = "/usr/bin:/bin";
  }} // extra);
  sleep = "exec sleep 3600";
in
"""
"""What expressions of tests begin with: `job NAME SCRIPT`.

A script ends with a command of the shell's own, or the shell would become the last program. Those
of coreutils close their output before they exit, at which Nix kills a builder that is still there.
"""


@dataclass
class Trial:
    """See the module's text."""

    root: Path
    store: PrivateStore
    environment: dict[str, str] = field(default_factory=dict)
    settled: bool = False
    """The last run converged and nothing was touched since: there must be nothing left to do."""
    within: tuple[str, ...] = ()
    """What the command of a daemon in a process of its own begins with."""
    collected: bool = False
    """The test removed store paths: a succeeded build may have lost its outputs."""

    @property
    def state_dir(self) -> Path:
        """Where the reconciler keeps its state."""
        return self.root / "state"

    @property
    def config(self) -> Path:
        """The document."""
        return self.root / "farm.json"

    @property
    def log(self) -> Path:
        """What daemons in processes of their own printed."""
        return self.root / "daemon.log"

    @property
    def env(self) -> dict[str, str]:
        """The variables that the reconciler and its children run with."""
        return {
            **os.environ,
            CACHES_VARIABLE: str(self.root / "compilers"),
            **self.store.environment,
            **self.environment,
        }

    # --- What is declared --------------------------------------------------------------------

    def source(self, name: str, expression: str) -> dict[str, Any]:
        """Write a jobset's expression to a folder of its own; what to declare as its source."""
        folder = self.root / "sources" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "release.nix").write_text(PREAMBLE + expression)
        self.settled = False
        return {"path": str(folder), "file": "release.nix"}

    def declare(self, jobsets: Mapping[str, Any], **rest: Any) -> None:
        """Write the document; `jobsets` maps names to an expression or to settings."""
        whole = {
            name: {"source": self.source(name, given)} if isinstance(given, str) else given
            for name, given in jobsets.items()
        }
        self.document({"jobsets": whole, "builders": {"local": {"maxJobs": 2}}, **rest})

    def document(self, document: Mapping[str, Any]) -> None:
        """Write the document as it is given; replaced at once, as a deployment does."""
        fresh = self.config.with_suffix(".new")
        fresh.write_text(json.dumps(document))
        fresh.replace(self.config)
        self.settled = False

    # --- Running -----------------------------------------------------------------------------

    def once(self) -> bool:
        """Run until it converges, in this process; every tick is checked."""
        seen: list[Farm] = []
        original = reconcile.tick

        def checked(farm: Farm, *, now: float) -> Tick:
            seen.append(farm)
            tick = original(farm, now=now)
            invariants.check_memory(farm)
            return tick

        reconcile.tick = checked
        try:
            self.settled = daemon.run(
                config=self.config,
                state_dir=self.state_dir,
                environment=self.env,
                once=True,
                observe=lambda _database, _now: None,
            )
        finally:
            reconcile.tick = original
        assert seen, "not one tick was looked at"
        return self.settled

    @contextmanager
    def running(self, *, wait: bool = True) -> Iterator[Daemon]:
        """A daemon in a process of its own, stopped at the end unless it is gone by then."""
        self.settled = False
        (self.state_dir / daemon.WAKE_SOCKET).unlink(missing_ok=True)  # of one that was killed
        with self.log.open("a") as log:
            program = (sys.executable, "-m", "tests.support.run_daemon")
            process = subprocess.Popen(
                [*self.within, *program, self.config, self.state_dir],
                env=self.env,
                cwd=PROJECT,
                stdout=log,
                stderr=log,
            )
        daemon_ = Daemon(self, process)
        try:
            if wait:
                daemon_.eventually((self.state_dir / daemon.WAKE_SOCKET).exists)
            yield daemon_
            if not daemon_.killed:
                daemon_.stop()
        finally:
            daemon_.kill()

    def request(self, verb: str, subject: str) -> None:
        """Ask something of the daemon, as a person."""
        with closing(open_writer(self.state_dir, now=time.time())) as database:
            declared.add_request(
                database, verb=verb, subject=subject, who="tester", why="", now=time.time()
            )
        self.settled = False

    def until_nothing_runs(self) -> None:
        """Wait until no process of this store is left; AssertionError if one stays."""
        until = time.monotonic() + DEADLINE
        while left := processes_with(str(self.store.root)):
            assert time.monotonic() < until, left

    # --- Looking -----------------------------------------------------------------------------

    def query(self, sql: str, *parameters: str | float) -> list[tuple[Any, ...]]:
        """Rows of the state's database; none before there is one."""
        path = database_path(self.state_dir)
        if not path.exists():
            return []
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
            try:
                return connection.execute(sql, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise

    def value(self, sql: str, *parameters: str | float) -> Any:
        """The first column of the first row; None if there is none."""
        rows = self.query(sql, *parameters)
        return rows[0][0] if rows else None

    def builds(self) -> dict[str, str]:
        """Every derivation's state by name."""
        return dict(
            self.query("SELECT d.name, b.state FROM build b JOIN derivation d ON d.id = derivation")
        )

    def attempts(self, name: str) -> list[str | None]:
        """The outcomes of a derivation's attempts, in order."""
        rows = self.query(
            "SELECT a.outcome FROM attempt a JOIN derivation d ON d.id = a.derivation"
            " WHERE d.name = ? ORDER BY a.id",
            name,
        )
        return [row[0] for row in rows]

    def message(self, name: str) -> str:
        """What the last attempt at a derivation said."""
        return str(
            self.value(
                "SELECT a.message FROM attempt a JOIN derivation d ON d.id = a.derivation"
                " WHERE d.name = ? ORDER BY a.id DESC",
                name,
            )
        )

    def output(self, name: str) -> Path:
        """Where a derivation's output is."""
        return Path(
            self.value(
                "SELECT o.path FROM output o JOIN derivation d ON d.id = o.derivation"
                " WHERE d.name = ? AND o.name = 'out' ORDER BY d.id DESC",
                name,
            )
        )

    def evaluations(self, jobset: str) -> list[tuple[str, str | None]]:
        """State and error of a jobset's evaluations, oldest first."""
        return [
            (row[0], row[1])
            for row in self.query(
                "SELECT e.state, e.error FROM evaluation e JOIN jobset j ON j.id = e.jobset"
                " WHERE j.name = ? ORDER BY e.id",
                jobset,
            )
        ]

    def conditions(self) -> dict[tuple[str, str, str], str]:
        """What is wrong: kind, name, reason to message."""
        return {
            (row[0], row[1], row[2]): row[3]
            for row in self.query("SELECT kind, name, reason, message FROM condition")
        }

    def dump(self) -> list[tuple[str, list[tuple[Any, ...]]]]:
        """Every row of every table."""
        tables = self.query("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        return [(name, self.query(f"SELECT * FROM {name}")) for (name,) in tables]


@dataclass
class Daemon:
    """A daemon that runs."""

    trial: Trial
    process: subprocess.Popen[bytes]
    killed: bool = False

    def eventually(self, predicate: Callable[[], object], *, deadline: float = DEADLINE) -> None:
        """Wait until the predicate is true; AssertionError if the daemon ends, or it is late."""
        until = time.monotonic() + deadline
        while not predicate():
            try:
                self.process.wait(timeout=0.02)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < until, f"waited in vain:\n{self._story()}"
            else:
                raise AssertionError(f"the daemon ended:\n{self._story()}")

    def _story(self) -> str:
        events = self.trial.query("SELECT kind, subject, before, after, cause FROM event")
        printed = self.trial.log.read_text()
        return "\n".join([*map(str, events), str(self.trial.conditions()), printed])

    def wake(self) -> None:
        """Say that there is something to do."""
        daemon_wake(self.trial.state_dir)

    def ask(self, verb: str, subject: str) -> str:
        """Make a request and give its answer."""
        self.trial.request(verb, subject)
        self.wake()
        newest = "SELECT answer FROM request ORDER BY id DESC"
        self.eventually(lambda: self.trial.value(newest) is not None)
        return str(self.trial.value(newest))

    def stop(self) -> None:
        """Ask it to end, and see that it does so cleanly."""
        self.process.terminate()
        assert self.process.wait(DEADLINE) == 0, self._story()

    def kill(self) -> None:
        """End it at once, if it is there."""
        self.killed = True
        self.process.kill()
        self.process.wait()


def daemon_wake(state_dir: Path) -> None:
    """Send to the socket of a state directory's daemon."""
    import socket  # noqa: PLC0415 - for this alone

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"wake", str(state_dir / daemon.WAKE_SOCKET))


def processes_with(text: str) -> list[str]:
    """The living processes whose command line or environment holds a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            known = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:  # gone, or not ours
            continue
        if state != "Z" and text.encode() in known:
            found.append(f"{folder.name}: {(folder / 'cmdline').read_bytes()!r}")
    return found
