"""`run`, `plan` and the rest on real Nix: what they print is what happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
import pytest
import yaml

from reconciler import config
from reconciler.model import JobsetName
from tests.cli.farm import check_schema
from tests.support.private_store import PrivateStore
from tests.support.trial import PREAMBLE
from tests.test_architecture import PROJECT

EXPRESSION = """
rec {
  lib = job "lib" "echo compiling; echo > $out";
  bad = with_ { inherit lib; } "bad" "seq 1 12; exit 3";
  top = with_ { inherit bad; } "top" "echo > $out";
  fine = with_ { inherit lib; } "fine" "echo > $out";
}
"""


@dataclass
class Host:
    """A store, a document, a state directory and the command line as a process."""

    store: PrivateStore

    @property
    def root(self) -> Path:
        return self.store.root

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            **self.store.environment,
            "PYTHONPATH": str(PROJECT),
            "RECONCILER_CONFIG": str(self.root / "farm.yaml"),
            "RECONCILER_STATE_DIR": str(self.root / "farm"),
        }

    def declare(self, **expressions: str) -> None:
        jobsets = {}
        for name, expression in expressions.items():
            folder = self.root / "sources" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "release.nix").write_text(PREAMBLE + expression)
            source = {"path": str(folder), "file": "release.nix"}
            jobsets[name] = {"source": source, "caches": ["main"]}
        document = {
            "jobsets": jobsets,
            "builders": {"local": {"maxJobs": 2}},
            "caches": {"main": {"uri": f"file://{self.root}/cache-out"}},
        }
        (self.root / "farm.yaml").write_text(yaml.safe_dump(document))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "reconciler", *arguments]

    def run(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def json(self, *arguments: str, schema: str, status: int = 0) -> dict[str, object]:
        value: dict[str, object] = json.loads(self.run(*arguments, "--json", status=status))
        check_schema(value, schema)
        return value

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[str]]:
        """The daemon, from when it has the document in force until it is told to stop."""
        with subprocess.Popen(
            self.command("run"), env=self.environment, stdout=subprocess.PIPE, text=True
        ) as process:
            guard = threading.Timer(60, process.kill)
            guard.start()
            try:
                yield process
                process.send_signal(signal.SIGTERM)
                process.communicate()
                assert process.returncode == 0
            finally:
                process.kill()
                guard.cancel()


def lines_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """What the daemon prints up to a line."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line.rstrip("\n"))
        if text in line:
            return seen
    raise AssertionError(f"the daemon ended without {text!r}: {seen}")


@pytest.fixture
def host(store: PrivateStore) -> Host:
    # Two processes that make Nix's database at once may find it busy: that is not tested here.
    store.run("nix-store", "--init")
    return Host(store)


def test_from_plan_to_done(host: Host) -> None:
    host.declare(web=EXPRESSION)
    plan = host.run("plan")
    assert "+ jobset web\n" in plan
    assert "+ evaluate web  (first evaluation)" in plan
    host.json("plan", schema="plan")
    assert not (host.root / "farm").exists(), "plan changed something"

    printed = host.run("run", "--once", status=1).splitlines()
    assert any(
        line.startswith("evaluated web #1 in ") and line.endswith(": 4 jobs") for line in printed
    )
    assert any(line.startswith("built lib in ") for line in printed)
    failed = next(
        place for place, line in enumerate(printed) if line.startswith("FAILED bad after")
    )
    assert printed[failed].endswith("builder failed with exit code 3")
    assert printed[failed + 1 : failed + 12] == [
        *(f"    {number}" for number in range(3, 13)),
        "  see all: reconciler log web.bad",
    ]
    summary = " ".join(" ".join(printed).split())
    assert (
        "1 jobset: 2 of 4 succeeded, 1 failed, 1 dependency-failed; cache main is in sync."
        in summary
    )
    assert "Not there: web.bad, web.top. See: reconciler status" in summary

    assert host.run("log", "web.bad").startswith("1\n2\n")
    assert "it needs bad, which failed" in host.run("why", "web.top")
    status = host.json("status", schema="status", status=1)
    assert status["verdict"] == "failed"
    assert "Nothing to do" in host.run("plan")
    assert host.json("plan", schema="plan")["nothingToDo"] is True

    again = host.run("run", "--once", status=1).splitlines()
    assert not [line for line in again if line.startswith(("built", "FAILED"))]


def test_a_change_and_a_removal_are_planned_and_then_so(host: Host) -> None:
    host.declare(web='{ a = job "a" "echo > $out"; }', old='{ b = job "b" "echo > $out"; }')
    assert "2 jobs succeeded" in host.run("run", "--once")
    host.declare(web='{ a = job "a" "echo 2 > $out"; }')
    plan = host.run("plan")
    assert "- jobset old  (what is queued for it alone is withdrawn" in plan
    assert "+ evaluate web  (source changed)" in plan
    assert "differs and is not in force yet" in host.run("status", status=3)
    printed = host.run("run", "--once")
    assert "jobset old is declared no longer: pruned" in printed
    assert "-  old" in host.run("status")
    assert "~  a  changed" in host.run("diff", "web")
    events = len(host.run("events", "--limit", "0").splitlines())
    dry = host.json("gc", "--older-than", "0s", "--dry-run", schema="gc")
    assert dry["forgotten"] == {
        "jobsets": 1,
        "caches": 0,
        "evaluations": 1,
        "builds": 1,
        "attempts": 1,
        "events": events,
        "requests": 0,
    }
    assert "-  old" in host.run("status")
    forgot = host.run("gc", "--older-than", "0s")
    assert "Forgot 1 pruned jobset, 1 evaluation, 1 build, 1 log" in forgot
    assert "Nothing to forget" in host.run("gc")
    assert "old" not in host.run("status")
    assert "reconciler log" in host.run("status", "web.a")
    assert "Nothing to do" in host.run("plan")


def test_an_evaluation_that_fails(host: Host) -> None:
    host.declare(web="{ a = ")
    printed = host.run("run", "--once", status=1)
    assert "FAILED to evaluate web #1" in printed
    assert "syntax error" in printed
    assert "syntax error" in host.run("status", "web", status=1)


def test_nobody_waits_for_a_builder_when_all_is_done_once(host: Host) -> None:
    host.declare(web='{ far = with_ { system = "riscv64-linux"; } "far" "echo > $out"; }')
    printed = " ".join(host.run("run", "--once", status=1).split())
    assert "0 of 1 succeeded, 1 unsupported" in printed
    assert "Not there: web.far." in printed
    # A daemon would wait for somebody to declare one.
    assert "waiting for a builder" in host.run("status", status=3)


def test_the_daemon_hears_requests(host: Host) -> None:
    host.declare(web=EXPRESSION)
    with host.daemon() as daemon:
        lines_until(daemon, "FAILED bad after")
        assert "is in use" not in host.run("doctor")
        assert host.run("retry", "web.bad", "--why", "again").strip() == "asked: retry web.bad"
        seen = lines_until(daemon, "FAILED bad after")
        assert any("asked: retry web.bad (again): 1 build is" in line for line in seen), seen
        refused = subprocess.run(
            host.command("gc"), env=host.environment, capture_output=True, text=True, check=False
        )
        assert refused.returncode == 4
        assert "another reconciler" in refused.stderr
    assert JobsetName("web") in host.run("status", status=1)


def test_a_plan_tells_what_is_declared_in_vain(host: Host) -> None:
    host.declare()
    done = subprocess.run(
        host.command("plan"), env=host.environment, capture_output=True, text=True, check=True
    )
    assert done.stderr.count("warning: ") == 1
    assert "caches.main: it is declared, but no jobset pushes to it; name it" in done.stderr
    assert "+ cache main\n" in done.stdout
    (warning,) = config.check(host.root / "farm.yaml").warnings
    found = host.json("plan", schema="plan")["warnings"]
    assert found == [msgspec.to_builtins(warning)]


def test_a_plan_tells_what_keeps_jobsets_from_it(host: Host) -> None:
    host.declare(empty="{ }", gone="{ }")
    (host.root / "sources/gone/release.nix").unlink()
    (host.root / "sources/gone").rmdir()
    planned = host.run("plan").splitlines()
    assert (
        f"! jobset gone: source unavailable: there is no folder '{host.root}/sources/gone'"
        in planned
    )
    assert planned[-1].startswith("Plan: ")
    host.run("run", "--once", status=1)
    *wrong, last = host.run("plan").splitlines()
    assert last == "Nothing to do now."
    assert sorted(line.split(": ")[1] for line in wrong) == [
        "evaluation failed", "source unavailable",
    ]  # fmt: skip


def test_run_refuses_a_bad_document(host: Host) -> None:
    (host.root / "farm.yaml").write_text("jobsets: 1")
    assert host.run("run", "--once", status=2) == ""
    assert host.run("check", status=2) == ""
    found = host.json("check", schema="check", status=2)
    assert found["valid"] is False
    host.declare(web="{ }")
    assert "is valid: 1 jobset, 1 builder, 1 cache" in host.run("check")
    assert host.json("check", schema="check")["jobsets"] == 1


def test_the_doctor_finds_what_is_wrong(host: Host) -> None:
    host.declare(web="{ }")
    text = host.run("doctor")
    assert "✓ Nix: 2." in text
    assert "answers" in text
    document = yaml.safe_load((host.root / "farm.yaml").read_text())
    document["caches"]["main"]["signingKeyFile"] = str(host.root / "missing")
    document["builders"] = {}
    (host.root / "farm.yaml").write_text(yaml.safe_dump(document))
    (host.root / "farm").mkdir()
    (host.root / "farm" / "reconciler.db").write_text("garbage " * 1000)
    findings = host.json("doctor", schema="doctor", status=1)["findings"]
    assert isinstance(findings, list)
    bad = {each["name"] for each in findings if each["verdict"] == "bad"}
    assert bad == {"database", "cache main, signing key"}
    assert {each["name"] for each in findings if each["verdict"] == "warning"} >= {"builders"}


def test_the_live_view_ends_with_plain_text(host: Host) -> None:
    host.declare(web=EXPRESSION)
    done = subprocess.run(
        ["script", "-qec", " ".join(host.command("run", "--once")), "/dev/null"],
        env={**host.environment, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert "FAILED bad after" in done.stdout
    assert "see all: reconciler log web.bad" in done.stdout
    assert "to go" in done.stdout
    assert "Done in" in done.stdout
    end = done.stdout[done.stdout.index("Done in") - len("x ") :]
    assert all(len(click.unstyle(line)) <= 80 for line in end.splitlines())
