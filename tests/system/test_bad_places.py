"""What keeps the daemon from starting: one clear message each, the right exit status, no harm."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from reconciler.database import database_path
from tests.support.shown import mounted
from tests.support.trial import PROJECT, Trial

ONE = '{ one = job "one" "echo one > $out"; }'


def start(trial: Trial, *options: str, **changes: str) -> tuple[int, str]:
    """Run until it converges; exit status and the one line it printed."""
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.support.run_daemon",
            trial.config,
            trial.state_dir,
            "--once",
            *options,
        ],
        env={**trial.env, **changes},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ended.stderr + ended.stdout
    assert ended.stderr == ""
    return ended.returncode, ended.stdout


def test_a_state_directory_that_cannot_be_made(trial: Trial) -> None:
    trial.declare({"one": ONE})
    trial.state_dir.write_text("a file in its place")
    status, said = start(trial)
    assert status == 4
    assert str(trial.state_dir) in said
    assert "--state-dir" in said


def test_a_state_directory_that_is_read_only(trial: Trial) -> None:
    """Owned by somebody else, as for root nothing is read-only."""
    trial.declare({"one": ONE})
    assert trial.once()
    before = trial.dump()
    if os.geteuid() == 0:
        status, said = start(trial, "--as-nobody")
    else:
        trial.state_dir.chmod(0o555)
        (trial.state_dir / "lock").chmod(0o444)
        status, said = start(trial)
        trial.state_dir.chmod(0o755)
    assert status == 4
    assert str(trial.state_dir) in said
    assert "--state-dir" in said
    assert trial.dump() == before


def test_a_state_directory_on_a_read_only_file_system(trial: Trial) -> None:
    trial.declare({"one": ONE})
    assert trial.once()
    before = trial.dump()
    with mounted(trial.state_dir, trial.state_dir, options="bind,ro"):
        status, said = start(trial)
        assert status == 4
        assert f"{trial.state_dir}: Read-only file system. Mount it writable" in said
        assert trial.dump() == before


def test_a_second_daemon(trial: Trial) -> None:
    trial.declare({"one": ONE})
    with trial.running() as daemon:
        status, said = start(trial)
        assert status == 4
        assert f"process {daemon.process.pid}" in said
        daemon.eventually(lambda: trial.builds() == {"one": "succeeded"})


def test_garbage_in_place_of_the_database(trial: Trial) -> None:
    trial.declare({"one": ONE})
    trial.state_dir.mkdir()
    garbage = b"this is no database\n" * 1000
    database_path(trial.state_dir).write_bytes(garbage)
    status, said = start(trial)
    assert status == 4
    assert "not a usable database" in said
    assert "Move it away" in said
    assert database_path(trial.state_dir).read_bytes() == garbage
    database_path(trial.state_dir).unlink()


def test_a_database_that_is_deleted_under_a_daemon(trial: Trial) -> None:
    trial.declare({"one": ONE})
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.builds() == {"one": "succeeded"})
        for file in trial.state_dir.glob("reconciler.db*"):
            file.unlink()
        daemon.wake()
        assert daemon.process.wait(60) == 4
        daemon.killed = True
    assert "was deleted or replaced while it was in use" in trial.log.read_text()
    assert trial.once()
    assert trial.builds() == {"one": "substituted"}


def test_a_database_from_the_future(trial: Trial) -> None:
    trial.declare({"one": ONE})
    assert trial.once()
    with closing(sqlite3.connect(database_path(trial.state_dir))) as connection:
        ((table,),) = connection.execute(
            "SELECT name FROM sqlite_schema WHERE name LIKE '%migrations%' AND type = 'table'"
        ).fetchall()
        connection.execute(
            f"INSERT INTO {table} (migration_set, name, applied_at)"
            " VALUES ('reconciler', 'm900_later', 'later')"
        )
        connection.commit()
    before = trial.dump()
    status, said = start(trial)
    assert status == 4
    assert "newer version" in said
    assert "m900_later" in said
    assert trial.dump() == before
    trial.settled = False


def path_without_nix() -> str:
    return os.pathsep.join(
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not (Path(folder) / "nix").exists()
    )


def test_no_nix(trial: Trial) -> None:
    trial.declare({"one": ONE})
    status, said = start(trial, PATH=path_without_nix())
    assert status == 4
    assert "there is no nix on PATH: install Nix 2.24 or later" in said
    assert trial.builds() == {}


def test_too_old_a_nix(trial: Trial) -> None:
    trial.declare({"one": ONE})
    folder = trial.root / "bin"
    folder.mkdir()
    for name, line in (("nix", "nix (Nix) 2.18.1"), ("nix-daemon", "too old")):
        (folder / name).write_text(f"#!/bin/sh\necho '{line}'\n")
        (folder / name).chmod(0o755)
    status, said = start(trial, PATH=f"{folder}{os.pathsep}{path_without_nix()}")
    assert status == 4
    assert "2.18.1 is too old" in said
    assert "2.24" in said


def test_a_nix_daemon_that_is_not_there(trial: Trial) -> None:
    trial.declare({"one": ONE})
    status, said = start(trial, NIX_REMOTE=f"unix://{trial.root}/nowhere")
    assert status == 4
    assert f"cannot reach the Nix daemon at {trial.root}/nowhere: No such file" in said
    assert "is nix-daemon running?" in said


def test_a_nix_with_a_broken_configuration(trial: Trial) -> None:
    trial.declare({"one": ONE})
    with (trial.store.root / "conf/nix.conf").open("a") as file:
        file.write("this is no setting\n")
    status, said = start(trial)
    assert status == 4
    assert "this is no setting" in said


def test_a_document_that_is_not_there_or_wrong(trial: Trial) -> None:
    status, said = start(trial)
    assert status == 2
    assert str(trial.config) in said
    trial.config.write_text("jobsets: {a: {source: {flake: 7}}}\n")
    status, said = start(trial)
    assert status == 2
    assert "jobsets.a.source.flake" in said
    assert (
        not database_path(trial.state_dir).exists()
        or trial.value("SELECT count(*) FROM generation") == 0
    )


def test_a_daemon_that_is_gone_leaves_no_lock(trial: Trial) -> None:
    trial.declare({"one": ONE})
    with trial.running() as daemon:
        daemon.eventually(lambda: trial.builds() == {"one": "succeeded"})
        daemon.kill()
        assert trial.once()


def test_a_state_directory_that_is_lost_costs_no_build(trial: Trial) -> None:
    trial.declare({"one": ONE})
    assert trial.once()
    shutil.rmtree(trial.state_dir)
    assert trial.once()
    assert trial.builds() == {"one": "substituted"}
