"""A farm's state made by the functions that the daemon writes with: real SQLite, real logs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from reconciler import config
from reconciler.build.log import LogWriter
from reconciler.cli import cli
from reconciler.database import Database, built, declared, evaluated, ingest, open_writer, pushed
from reconciler.errors import ReconcilerError
from reconciler.model import (
    AttemptResult,
    BuilderName,
    BuildState,
    CacheName,
    Derivation,
    Desired,
    DrvPath,
    EvaluatedJob,
    EvaluationFailure,
    JobsetName,
    Outcome,
    OutputFact,
    PushState,
    StorePath,
)
from reconciler.transitions import Cause
from tests.test_architecture import PROJECT

SYSTEM = "x86_64-linux"
DOCUMENT: dict[str, Any] = {
    "jobsets": {
        "web": {"source": {"path": "/srv/web", "file": "release.nix"}, "caches": ["main"]},
        "web.next": {"source": {"path": "/srv/next", "file": "release.nix"}},
    },
    "builders": {"local": {"maxJobs": 2, "systems": [SYSTEM]}},
    "caches": {"main": {"uri": "file:///srv/cache"}},
}


@dataclass
class Farm:
    """A state directory with its document."""

    root: Path
    now: float = field(default_factory=lambda: time.time() - 600)
    ids: dict[str, int] = field(default_factory=dict)
    _numbers: int = 0

    def __post_init__(self) -> None:
        self.database: Database = open_writer(self.state_dir, now=self.now)

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    @property
    def config(self) -> Path:
        return self.root / "farm.yaml"

    @property
    def logs(self) -> Path:
        return self.state_dir / "logs"

    # --- Making it -----------------------------------------------------------------------------

    def declare(self, document: Mapping[str, Any] = DOCUMENT) -> Desired:
        """Write the document and put it in force."""
        self.config.write_text(yaml.safe_dump(dict(document)))
        desired = config.load(self.config)
        declared.adopt(self.database, desired, now=time.time())
        return desired

    def derivations(
        self, inputs: Mapping[str, Sequence[str]], *, system: str = SYSTEM, features: str = ""
    ) -> None:
        """Queue derivations, each with the names of those it needs."""
        rows = []
        for name in inputs:
            self._numbers += 1
            self.ids[name] = self._numbers
            fact = Derivation(
                path=self.path(name),
                name=name,
                system=system,
                outputs={"out": StorePath(f"/nix/store/{self._numbers:032}-{name}")},
                inputs={},
                required_features=tuple(features.split()),
            )
            rows.append((self._numbers, fact, BuildState.QUEUED))
        with self.database.transaction():
            ingest.add_derivations(self.database, rows, now=self.now)
            ingest.add_inputs(
                self.database,
                [(self.ids[n], self.ids[i], "out") for n, below in inputs.items() for i in below],
            )

    def path(self, name: str) -> DrvPath:
        return DrvPath(f"/nix/store/{'d' * 31}{self.ids[name] % 10}-{name}.drv")

    def evaluation(
        self,
        jobset: str,
        jobs: Mapping[str, str],
        *,
        errors: Mapping[str, str] | None = None,
        failed: str | None = None,
        running: bool = False,
    ) -> int:
        """Evaluate a jobset to jobs: attribute to derivation's name."""
        number = evaluated.begin_evaluation(
            self.database,
            JobsetName(jobset),
            fingerprint=f"f{self.now}",
            locked=f"/srv/{jobset}?narHash=sha256-{self._numbers}",
            cause="first evaluation",
            now=self.now,
        )
        evaluated.start_evaluation(self.database, number, now=self.now)
        with self.database.transaction():
            evaluated.add_jobs(
                self.database,
                number,
                [
                    (
                        EvaluatedJob(
                            attr_path=tuple(attr.split(".")),
                            name=drv,
                            system=SYSTEM,
                            drv_path=self.path(drv),
                            outputs={},
                            description=f"what {attr} is",
                        ),
                        self.ids[drv],
                    )
                    for attr, drv in jobs.items()
                ],
                [
                    EvaluationFailure(attr_path=(attr,), message=message)
                    for attr, message in (errors or {}).items()
                ],
            )
        if not running:
            evaluated.end_evaluation(self.database, number, error=failed, now=self.now + 2)
        return number

    def start(self, name: str) -> int:
        """Begin an attempt."""
        (attempt,) = built.begin_attempts(
            self.database, [(self.ids[name], BuilderName("local"))], now=self.now
        )
        return attempt

    def attempt(
        self,
        name: str,
        outcome: Outcome = Outcome.SUCCEEDED,
        *,
        message: str = "",
        log: bytes = b"",
        not_before: float = 0,
    ) -> int:
        """A whole attempt of four seconds."""
        number = self.start(name)
        writer = LogWriter(self.logs, number)
        writer.write(log)
        writer.close()
        self.end(number, name, outcome, message=message, log_bytes=len(log), not_before=not_before)
        return number

    def end(
        self,
        attempt: int,
        name: str,
        outcome: Outcome,
        *,
        message: str = "",
        log_bytes: int = 0,
        not_before: float = 0,
    ) -> None:
        """End an attempt that was begun."""
        path = StorePath(f"/nix/store/{self.ids[name]:032}-{name}")
        good = outcome is Outcome.SUCCEEDED
        started_at, self.now = self.now, self.now + 4
        built.end_attempt(
            self.database,
            attempt,
            self.ids[name],
            AttemptResult(
                outcome=outcome,
                message=message,
                started_at=started_at,
                finished_at=self.now,
                outputs={"out": OutputFact(path=path, size=2048)} if good else {},
                log_bytes=log_bytes,
            ),
            not_before=not_before,
        )

    def made(self, *, ago: float) -> None:
        """Have all been queued, and the document put in force, so many seconds ago."""
        at = time.time() - ago
        with self.database.transaction():
            self.database.execute("UPDATE build SET queued_at = ?", (at,))
            self.database.execute("UPDATE generation SET applied_at = ?", (at,))

    def seen(self, *, ago: float) -> None:
        """Have what was pushed been seen in its cache for the last time so many seconds ago."""
        with self.database.transaction():
            self.database.execute("UPDATE push SET checked_at = ?", (time.time() - ago,))

    def cancel(self, name: str) -> None:
        built.set_build_states(
            self.database,
            [(self.ids[name], BuildState.QUEUED, BuildState.CANCELLED)],
            cause=Cause.CANCELLED,
            now=self.now,
        )

    def push(self, name: str, *, pushed_bytes: int | None = None, error: str | None = None) -> None:
        """Queue a derivation's output for the cache; push it, or fail."""
        main, path = CacheName("main"), StorePath(f"/nix/store/{self.ids[name]:032}-{name}")
        pushed.queue_pushes(self.database, main, roots=[self.ids[name]], paths=[path], now=self.now)
        if pushed_bytes is None and error is None:
            return
        step = pushed.PushChange(
            path=path, before=PushState.PENDING, after=PushState.PUSHING, cause=Cause.STARTED
        )
        after = (
            pushed.PushChange(
                path=path,
                before=PushState.PUSHING,
                after=PushState.PUSHED,
                cause=Cause.SUCCEEDED,
                bytes=pushed_bytes,
            )
            if error is None
            else pushed.PushChange(
                path=path,
                before=PushState.PUSHING,
                after=PushState.PENDING,
                cause=Cause.INFRASTRUCTURE,
                error=error,
                not_before=time.time() + 300,
            )
        )
        pushed.set_push_states(self.database, main, [step], now=self.now)
        pushed.set_push_states(self.database, main, [after], now=self.now)

    # --- Using it ------------------------------------------------------------------------------

    @property
    def places(self) -> list[str]:
        return ["--config", str(self.config), "--state-dir", str(self.state_dir)]

    def run(self, *arguments: str) -> Result:
        """The command line in this process; its own errors are told from crashes."""
        result = CliRunner().invoke(cli, [*arguments, *self.places])
        crashed = result.exception
        if crashed is not None and not isinstance(crashed, SystemExit | ReconcilerError):
            raise crashed
        return result

    def failure(self, *arguments: str) -> ReconcilerError:
        """What the command line is refused with."""
        error = self.run(*arguments).exception
        assert isinstance(error, ReconcilerError), f"{arguments} was not refused"
        return error

    def json(self, *arguments: str, schema: str) -> Any:
        """The JSON of a verb, which its schema describes."""
        result = self.run(*arguments, "--json")
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        value = json.loads(result.stdout)
        check_schema(value, schema)
        return value

    def process(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command line as a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "reconciler", *arguments, *self.places],
            env={**os.environ, "PYTHONPATH": str(PROJECT), **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )

    def terminal(self, *arguments: str) -> str:
        """What is printed on a terminal of 80 columns, without its colours."""
        command = [sys.executable, "-m", "reconciler", *arguments, *self.places]
        ended = subprocess.run(
            ["script", "-qec", shlex.join(command), "/dev/null"],
            env={**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "80", "TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return click.unstyle(ended.stdout)


def check_schema(value: object, schema: str) -> None:
    """Assert that a value is what a schema describes."""
    text = (PROJECT / "schemas" / f"{schema}.schema.json").read_text()
    Draft202012Validator(json.loads(text)).validate(value)
