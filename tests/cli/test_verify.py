"""`caches verify` on real caches that were pushed to by the real thing, and then harmed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from reconciler.binary_cache import Flaw
from reconciler.model import StorePath
from tests.binary_cache import harm
from tests.binary_cache.servers import dav_server, netrc, s3_credentials, s3_server
from tests.cli.farm import check_schema
from tests.support.trial import Trial
from tests.system.conftest import a_trial
from tests.system.test_cache import REFERRING, declare, keys


@dataclass
class Host:
    """A reconciler that pushed REFERRING to a cache, and that cache's files."""

    trial: Trial
    folder: Path
    refresh: Callable[[], None] = field(default=lambda: None)

    def path(self, name: str) -> StorePath:
        return StorePath(str(self.trial.output(name)))

    def verify(self, *flags: str, name: str = "main") -> subprocess.CompletedProcess[str]:
        self.refresh()
        where = ("--config", str(self.trial.config), "--state-dir", str(self.trial.state_dir))
        argv = (sys.executable, "-m", "reconciler", *where, "caches", "verify", name, *flags)
        return self.trial.store.run(*argv, check=False)

    def findings(self, *flags: str) -> tuple[int, set[tuple[str, str, bool]], Any]:
        """Exit status; name, flaw and whether it was mended; the whole."""
        ended = self.verify("--json", *flags)
        assert ended.stdout, ended.stderr
        value = json.loads(ended.stdout)
        check_schema(value, schema="caches-verify")
        found = {
            (Path(each["path"]).name.split("-", 1)[1], each["flaw"], each["healed"])
            for each in value["findings"]
        }
        return ended.returncode, found, value


@pytest.fixture(params=["file", "s3", "http"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    with ExitStack() as stack:
        trial = stack.enter_context(a_trial())
        keys(trial)
        match request.param:
            case "file":
                host = Host(trial, trial.root / "cache")
                declare(trial, REFERRING)
            case "s3":
                (tmp_path / "bucket").mkdir()
                server = stack.enter_context(s3_server(tmp_path))
                host = Host(trial, tmp_path / "bucket" / "in", server.refresh)
                uri = f"s3://bucket/in?endpoint={server.address}&scheme=http"
                credentials = s3_credentials(trial.root / "s3-keys")
                declare(trial, REFERRING, uri=uri, credentialsFile=str(credentials))
            case _:
                server = stack.enter_context(dav_server(tmp_path))
                host = Host(trial, tmp_path / "in", server.refresh)
                uri, credentials = f"http://{server.address}/in", netrc(trial.root / "netrc")
                declare(trial, REFERRING, uri=uri, credentialsFile=str(credentials))
        assert trial.once()
        yield host


def test_flaws_are_found_and_mended(host: Host) -> None:
    assert host.findings()[:2] == (0, set())
    before = {file.name: file.read_bytes() for file in host.folder.rglob("*") if file.is_file()}
    harm.flip(host.folder, host.path("library"))
    harm.nar(host.folder, host.path("tool")).unlink()
    harm.narinfo(host.folder, host.path("program")).unlink()
    assert host.findings()[:2] == (
        1,
        {
            ("library", "nar-damaged", False),
            ("tool", "nar-absent", False),
            ("program", "absent", False),
        },
    )
    status, found, _ = host.findings("--heal")
    assert (status, {healed for *_, healed in found}) == (0, {True})
    assert host.findings()[:2] == (0, set())
    after = {file.name: file.read_bytes() for file in host.folder.rglob("*") if file.is_file()}
    assert after == before
    assert host.trial.once()  # nothing is left to do


def test_references_and_signatures_are_mended(host: Host) -> None:
    harm.replace(host.folder, host.path("program"), "Sig", "test-1:AAAA")
    harm.narinfo(host.folder, host.path("library")).unlink()
    status, found, _ = host.findings()
    assert status == 1
    assert found == {
        ("program", "unsigned", False),
        ("program", "reference-absent", False),
        ("library", "absent", False),
    }
    assert host.findings("--heal")[0] == 0
    assert host.findings()[:2] == (0, set())


def test_what_others_pushed_is_judged_and_left_alone(host: Host) -> None:
    path = host.path("tool")
    text = harm.narinfo(host.folder, path).read_text()
    stranger = host.folder / f"{'0' * 32}.narinfo"
    stranger.write_text(text.replace(path.rpartition("/")[2], f"{'0' * 32}-stranger"))
    (host.folder / f"{'1' * 32}.narinfo").write_text("nonsense")
    status, found, whole = host.findings("--heal")
    if not whole["listed"]:  # HTTP
        assert (status, found) == (0, set())
        return
    assert status == 1
    assert found == {("stranger", "unsigned", False), ("x", "unreadable", False)}
    assert not any(each["ours"] for each in whole["findings"])
    stranger.write_text(
        "\n".join(
            f"Sig: other-1:{'A' * 86}==" if line.startswith("Sig:") else line
            for line in stranger.read_text().splitlines()
        )
    )
    assert {flaw for _, flaw, _ in host.findings()[1]} == {Flaw.UNREADABLE}


@pytest.mark.parametrize("host", ["file"], indirect=True)
def test_what_the_store_lost_too_is_told_and_built_again(host: Host) -> None:
    trial = host.trial
    trial.collected = True
    program = host.path("program")
    harm.narinfo(host.folder, program).unlink()
    trial.store.run("nix-store", "--delete", "--ignore-liveness", program)
    ended = host.verify("--heal")
    assert ended.returncode == 1
    maker = trial.value("SELECT path FROM derivation WHERE name = 'program'")
    assert f"build it again: nix-store --realise {maker}" in " ".join(ended.stdout.split())
    assert trial.once()
    assert host.findings()[:2] == (0, set())
    assert trial.attempts("program") == ["succeeded", "succeeded"]


@pytest.mark.parametrize("host", ["file"], indirect=True)
def test_a_cache_that_is_not_declared_or_does_not_answer(host: Host) -> None:
    ended = host.verify(name="mian")
    assert ended.returncode == 2
    assert 'did you mean "main"?' in ended.stderr
    gone = host.folder.rename(host.folder.with_name("gone"))
    host.folder.write_text("not a folder")
    ended = host.verify()
    assert ended.returncode == 1
    assert str(host.folder) in ended.stderr
    assert "Traceback" not in ended.stderr
    host.folder.unlink()
    gone.rename(host.folder)


@pytest.mark.parametrize("host", ["file"], indirect=True)
def test_a_sample_is_read_of_all_that_is_there(host: Host) -> None:
    for name in ("library", "tool", "program"):
        harm.flip(host.folder, host.path(name))
    status, found, value = host.findings("--sample", "2")
    assert (status, len(found), value["paths"], value["of"]) == (1, 2, 2, 3)
    assert "2 of 3 paths, at random, read" in host.verify("--sample", "2").stdout
    _, healed, _ = host.findings("--sample", "1", "--heal")
    assert [mended for *_, mended in healed] == [True]
    assert len(host.findings()[1]) == 2
    rows = host.trial.query("SELECT scope, paths FROM inspection")
    assert rows == [("sample", 1)]
    refused = host.verify("--sample", "0")
    assert refused.returncode == 2
    assert "0 is not in the range" in refused.stderr
    host.findings("--heal")
