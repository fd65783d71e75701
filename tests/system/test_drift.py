"""What changes in a cache behind our back is found, and mended from the store or by building."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler.database import database_path
from reconciler.model import StorePath
from reconciler.upkeep import SAMPLE, SAMPLE_INTERVAL, WHOLE_INTERVAL
from tests.binary_cache import harm
from tests.binary_cache.servers import s3_credentials, s3_server
from tests.support.trial import Daemon, Trial
from tests.system.conftest import a_trial
from tests.system.test_cache import REFERRING, cache_of, cached, declare, keys, pushes, whole

AWAY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void look(const char *path) {
  const char *away = getenv("AWAY");
  if (away && path && !strcmp(path, away)) {
    close(open(getenv("SEEN"), O_CREAT | O_WRONLY, 0644));
    for (;;) pause();
  }
}
int stat64(const char *path, void *found) {
  look(path);
  return ((int (*)(const char *, void *)) dlsym(RTLD_NEXT, "stat64"))(path, found);
}
int stat(const char *path, void *found) {
  look(path);
  return ((int (*)(const char *, void *)) dlsym(RTLD_NEXT, "stat"))(path, found);
}
"""
"""Of a library that has the C library ask for a file in vain."""


def pass_time(trial: Trial, seconds: float) -> None:
    """Have everything in caches been looked at so much earlier."""
    with closing(sqlite3.connect(database_path(trial.state_dir), timeout=30)) as connection:
        for sql in (
            "UPDATE push SET checked_at = checked_at - ?",
            "UPDATE inspection SET at = at - ?",
        ):
            connection.execute(sql, (seconds,))
        connection.commit()
    trial.settled = False


def path(trial: Trial, name: str) -> StorePath:
    return StorePath(str(trial.output(name)))


def looks(trial: Trial) -> dict[str, tuple[int, int]]:
    """Of each scope the last inspection: paths looked at, and flawed ones."""
    rows = trial.query("SELECT scope, paths, flawed FROM inspection")
    return {scope: (paths, flawed) for scope, paths, flawed in rows}


@contextmanager
def looking(trial: Trial) -> Iterator[Daemon]:
    """A daemon that has looked into its cache, and found nothing."""
    pass_time(trial, SAMPLE_INTERVAL)
    with trial.running() as daemon:
        daemon.eventually(lambda: looks(trial) == {"sample": (3, 0)})
        yield daemon


def the_event(trial: Trial) -> str:
    return str(
        trial.value("SELECT after || ': ' || cause FROM event WHERE after LIKE '%pushed again'")
    )


@pytest.fixture
def pushed(trial: Trial) -> Trial:
    """REFERRING in a cache of files."""
    keys(trial)
    declare(trial, REFERRING)
    assert trial.once()
    assert looks(trial) == {}
    return trial


def test_what_vanished_is_pushed_again(pushed: Trial) -> None:
    harm.narinfo(cache_of(pushed), path(pushed, "library")).unlink()
    harm.nar(cache_of(pushed), path(pushed, "tool")).unlink()
    assert pushed.once()  # nobody looked yet
    assert cached(pushed) == {"tool", "program"}
    pass_time(pushed, SAMPLE_INTERVAL)
    assert pushed.once()
    assert looks(pushed) == {"sample": (3, 2)}
    assert cached(pushed) == {"tool", "program", "library"}
    assert harm.nar(cache_of(pushed), path(pushed, "tool")).exists()
    assert the_event(pushed).startswith("2 to be pushed again: lost from the cache: ")
    assert pushed.value("SELECT count(*) FROM attempt") == 3
    pass_time(pushed, SAMPLE_INTERVAL)
    assert pushed.once()
    assert looks(pushed) == {"sample": (3, 0)}


def test_a_folder_that_was_emptied_is_filled_again_by_the_next_start(pushed: Trial) -> None:
    shutil.rmtree(cache_of(pushed))
    assert pushed.once()
    assert looks(pushed) == {"whole": (3, 3)}
    assert cached(pushed) == {"tool", "program", "library"}
    assert pushed.value("SELECT count(*) FROM attempt") == 3
    assert pushed.once()
    assert looks(pushed) == {"whole": (3, 3)}, "it was looked at again"


def test_a_folder_that_does_not_answer_delays_no_start(pushed: Trial) -> None:
    """As on a server that is away: a look at the cache lasts for ever."""
    library, seen = pushed.root / "away.so", pushed.root / "seen"
    compiler = ["gcc", "-shared", "-fPIC", "-xc", "-", "-o", str(library)]
    subprocess.run(compiler, input=AWAY, text=True, check=True)
    pushed.environment = {
        "LD_PRELOAD": str(library),
        "AWAY": str(cache_of(pushed) / "nix-cache-info"),
        "SEEN": str(seen),
    }
    declare(pushed, REFERRING.strip().removesuffix("}") + 'other = job "other" "echo > $out"; }')
    with pushed.running() as daemon:
        daemon.eventually(lambda: pushed.builds().get("other") == "succeeded")
        daemon.eventually(seen.exists)
    pushed.environment = {}


def test_what_was_damaged_is_replaced_while_the_daemon_runs(pushed: Trial) -> None:
    nar = harm.nar(cache_of(pushed), path(pushed, "program"))
    good = nar.read_bytes()
    harm.flip(cache_of(pushed), path(pushed, "program"))
    harm.replace(cache_of(pushed), path(pushed, "library"), "Sig", "test-1:AAAA")
    pass_time(pushed, SAMPLE_INTERVAL)
    with pushed.running() as daemon:
        daemon.eventually(lambda: nar.read_bytes() == good)
        daemon.eventually(lambda: {state for _, state in pushes(pushed)} == {"pushed"})
    made = pushed.store.run("sh", "-c", f"nix key convert-secret-to-public < {pushed.root}/key")
    whole(pushed, made.stdout.strip())


def test_what_the_store_lost_too_is_built_again(pushed: Trial) -> None:
    pushed.collected = True
    with looking(pushed) as daemon:
        for name in ("program", "library"):
            harm.narinfo(cache_of(pushed), path(pushed, name)).unlink()
        pushed.store.run(
            *("nix-store", "--delete", "--ignore-liveness"),
            *(path(pushed, "program"), path(pushed, "library")),
        )
        pass_time(pushed, SAMPLE_INTERVAL)
        daemon.wake()
        daemon.eventually(lambda: cached(pushed) == {"tool", "program", "library"})
        daemon.eventually(lambda: {state for _, state in pushes(pushed)} == {"pushed"})
        daemon.eventually(lambda: pushed.value("SELECT count(*) FROM rebuild") == 0)
    assert pushed.attempts("library") == ["succeeded", "succeeded"]
    assert pushed.attempts("tool") == ["succeeded"]
    assert pushed.once()


def test_an_intermediate_that_both_lost_is_built_again(trial: Trial) -> None:
    trial.collected = True
    keys(trial)
    expression = """
      let part = job "part" "echo part > $out"; in
      { whole = job "whole" "cat ${part} > /dev/null; echo whole > $out"; }
    """
    declare(trial, expression, push="all")
    assert trial.once()
    assert cached(trial) == {"part", "whole"}
    harm.narinfo(cache_of(trial), path(trial, "part")).unlink()
    trial.store.run("nix-store", "--delete", path(trial, "part"))
    pass_time(trial, SAMPLE_INTERVAL)
    assert trial.once()
    assert cached(trial) == {"part", "whole"}
    assert trial.attempts("part") == ["succeeded", "succeeded"]
    assert trial.attempts("whole") == ["succeeded"]
    assert trial.value("SELECT count(*) FROM rebuild") == 0


def test_killed_before_it_is_built_again_it_is_built_by_the_next(pushed: Trial) -> None:
    pushed.collected = True
    with looking(pushed) as daemon:
        harm.narinfo(cache_of(pushed), path(pushed, "program")).unlink()
        pushed.store.run("nix-store", "--delete", "--ignore-liveness", path(pushed, "program"))
        pass_time(pushed, SAMPLE_INTERVAL)
        daemon.wake()
        daemon.eventually(lambda: pushed.value("SELECT count(*) FROM rebuild"))
        daemon.kill()
    pushed.until_nothing_runs()
    assert pushed.once()
    assert cached(pushed) == {"tool", "program", "library"}
    assert pushed.value("SELECT count(*) FROM rebuild") == 0


@pytest.fixture
def many(trial: Trial) -> Trial:
    """A few more in a cache than a sample has."""
    keys(trial)
    jobs = " ".join(f'j{n} = job "j{n}" "echo {n} > $out";' for n in range(SAMPLE + 7))
    trial.declare({"it": f"{{ {jobs} }}"})
    declare(trial, f"{{ {jobs} }}")
    assert trial.once()
    return trial


def test_where_all_of_a_sample_is_gone_the_rest_is_looked_at(many: Trial) -> None:
    for file in cache_of(many).glob("*.narinfo"):
        file.unlink()
    pass_time(many, SAMPLE_INTERVAL)
    assert many.once()
    assert len(cached(many)) == SAMPLE + 7
    assert many.value("SELECT count(*) FROM event WHERE after LIKE '%pushed again'") == 2
    assert list(looks(many)) == ["whole"]


def test_a_sample_is_bounded_and_goes_round_and_all_is_looked_at_in_a_day(many: Trial) -> None:
    trial, number = many, SAMPLE + 7
    _, *gone = cache_of(trial).glob("*.narinfo")
    for file in gone[:-7]:  # so that something of every sample is left
        file.unlink()
    pass_time(trial, SAMPLE_INTERVAL)
    assert trial.once()
    ((looked, first),) = looks(trial).values()
    assert looked == SAMPLE
    assert 0 < first < SAMPLE
    assert len(cached(trial)) == 8 + first
    pass_time(trial, SAMPLE_INTERVAL)
    assert trial.once()
    assert looks(trial) == {"sample": (SAMPLE, number - 8 - first)}
    assert len(cached(trial)) == number
    pass_time(trial, WHOLE_INTERVAL)
    assert trial.once()
    assert looks(trial)["whole"] == (number, 0)


def test_a_cache_that_does_not_answer_is_not_in_sync(pushed: Trial) -> None:
    folder = cache_of(pushed)
    folder.rename(folder.with_name("away"))
    folder.write_text("in the way")
    pass_time(pushed, SAMPLE_INTERVAL)
    assert pushed.once()
    ((kind, name, reason), message) = next(iter(pushed.conditions().items()))
    assert (kind, name, reason) == ("cache", "main", "not-inspected")
    assert str(folder) in message
    assert looks(pushed) == {}
    assert {state for _, state in pushes(pushed)} == {"pushed"}  # nothing is known to be lost
    folder.unlink()
    folder.with_name("away").rename(folder)
    assert pushed.once()
    assert pushed.conditions() == {}


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[tuple[Trial, Path, Callable[[], None]]]:
    """REFERRING in S3."""
    (tmp_path / "bucket").mkdir()
    with ExitStack() as stack:
        trial = stack.enter_context(a_trial())
        server = stack.enter_context(s3_server(tmp_path))
        keys(trial)
        settings: dict[str, Any] = {
            "uri": f"s3://bucket/in?endpoint={server.address}&scheme=http",
            "credentialsFile": str(s3_credentials(trial.root / "s3-keys")),
        }
        declare(trial, REFERRING, **settings)
        assert trial.once()
        yield trial, tmp_path / "bucket" / "in", server.refresh


def test_the_same_in_s3(bucket: tuple[Trial, Path, Callable[[], None]]) -> None:
    trial, folder, refresh = bucket
    before = {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    harm.narinfo(folder, path(trial, "library")).unlink()
    harm.flip(folder, path(trial, "program"))
    harm.nar(folder, path(trial, "tool")).unlink()
    refresh()
    pass_time(trial, SAMPLE_INTERVAL)
    assert trial.once()
    assert looks(trial) == {"sample": (3, 3)}
    assert before == {f.name: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
