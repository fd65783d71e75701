"""What no kept evaluation needs leaves a cache that is ours, and nothing else does."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.database import database_path
from reconciler.upkeep import MARK_INTERVAL
from tests.binary_cache.servers import s3_credentials, s3_server
from tests.cli.farm import check_schema
from tests.support.trial import Trial
from tests.system.conftest import a_trial
from tests.system.test_cache import keys, pushes, whole

OLD = """
rec {
  common = job "common" "echo common > $out";
  old-part = job "old-part" "echo old > $out";
  old = job "old" "echo ${common} ${old-part} > $out";
}
"""
NEW = 'rec { common = job "common" "echo common > $out"; new = job "new" "echo ${common} > $out"; }'
DAY = 86400.0


@dataclass
class Place:
    """A cache that is ours, and its files."""

    trial: Trial
    folder: Path
    settings: dict[str, Any]

    def declare(self, **jobsets: str) -> None:
        self.trial.declare(
            {
                name: {"source": self.trial.source(name, text), "caches": ["main"], "keep": 1}
                for name, text in jobsets.items()
            },
            caches={
                "main": {
                    "signingKeyFile": str(self.trial.root / "key"),
                    "gc": True,
                    "gracePeriod": "7d",
                    **self.settings,
                }
            },
        )

    def names(self) -> set[str]:
        found = set()
        for narinfo in self.folder.glob("*.narinfo"):
            (path,) = [x for x in narinfo.read_text().splitlines() if x.startswith("StorePath")]
            found.add(Path(path).name.split("-", 1)[1])
        return found

    def nars(self) -> set[str]:
        return {f"nar/{file.name}" for file in (self.folder / "nar").iterdir()}

    def urls(self) -> set[str]:
        return {
            line.removeprefix("URL: ")
            for narinfo in self.folder.glob("*.narinfo")
            for line in narinfo.read_text().splitlines()
            if line.startswith("URL: ")
        }

    def days_pass(self, days: float) -> None:
        """What was found to be unneeded was so that much earlier; and it is time to look again."""
        with closing(sqlite3.connect(database_path(self.trial.state_dir), timeout=30)) as database:
            database.execute("UPDATE push SET unwanted_at = unwanted_at - ?", (days * DAY,))
            database.execute("UPDATE cache SET marked_at = marked_at - ?", (MARK_INTERVAL,))
            database.commit()
        self.trial.settled = False

    def gc(self) -> Any:
        where = ("--config", str(self.trial.config), "--state-dir", str(self.trial.state_dir))
        argv = (sys.executable, "-m", "reconciler", *where, "gc", "--dry-run", "--json")
        value = json.loads(self.trial.store.run(*argv).stdout)
        check_schema(value, schema="gc")
        return value["unneeded"]


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        trial = stack.enter_context(a_trial())
        keys(trial)
        if request.param == "file":
            folder = trial.root / "cache"
            yield Place(trial, folder, {"uri": f"file:{folder}"})
        else:
            (tmp_path / "bucket").mkdir()
            server = stack.enter_context(s3_server(tmp_path))
            settings = {
                "uri": f"s3://bucket/in?endpoint={server.address}&scheme=http",
                "credentialsFile": str(s3_credentials(trial.root / "s3-keys")),
            }
            yield Place(trial, tmp_path / "bucket" / "in", settings)


def test_what_is_needed_no_more_goes_after_a_while(place: Place) -> None:
    trial = place.trial
    place.declare(it=OLD)
    assert trial.once()
    everything = {"common", "old-part", "old"}
    assert place.names() == everything
    place.declare(it=NEW)
    assert trial.once()
    place.days_pass(0)
    assert trial.once()
    assert place.names() == everything | {"new"}
    (unneeded,) = place.gc()
    assert (unneeded["cache"], unneeded["paths"], unneeded["due"]) == ("main", 2, 0)
    place.days_pass(6.9)
    assert trial.once()
    assert place.names() == everything | {"new"}
    place.days_pass(0.2)
    where = ("--config", str(trial.config), "--state-dir", str(trial.state_dir))
    ahead = trial.store.run(sys.executable, "-m", "reconciler", *where, "plan").stdout
    assert "- delete paths from cache main" in ahead
    assert place.gc()[0]["due"] == 2
    assert trial.once()
    assert place.names() == {"common", "new"}
    assert place.nars() == place.urls()
    assert pushes(trial) == {("common", "pushed"), ("new", "pushed")}
    assert place.gc() == []


def test_what_another_jobset_needs_stays(place: Place) -> None:
    place.declare(it=OLD, other=OLD)
    assert place.trial.once()
    place.declare(it=NEW, other=OLD)
    assert place.trial.once()
    place.days_pass(0)
    assert place.trial.once()
    assert place.gc() == []
    place.declare(it=NEW)  # the other is declared no longer
    assert place.trial.once()
    place.days_pass(0)
    assert place.trial.once()
    place.days_pass(8)
    assert place.trial.once()
    assert place.names() == {"common", "new"}


def test_what_is_wanted_again_in_time_stays_and_later_is_pushed_again(place: Place) -> None:
    place.declare(it=OLD)
    assert place.trial.once()
    place.declare(it=NEW)
    assert place.trial.once()
    place.days_pass(0)
    assert place.trial.once()
    place.days_pass(8)
    place.declare(it=OLD)
    assert place.trial.once()
    assert {"old", "old-part", "common"} <= place.names()
    place.days_pass(8)
    place.declare(it=NEW)
    assert place.trial.once()
    for days in (0.0, 8.0):
        place.days_pass(days)
        assert place.trial.once()
    assert place.names() == {"common", "new"}
    place.declare(it=OLD)
    assert place.trial.once()
    assert {"old", "old-part", "common"} <= place.names()


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_what_others_pushed_keeps_what_it_refers_to(place: Place) -> None:
    trial = place.trial
    place.declare(it=OLD)
    assert trial.once()
    text = trial.store.run("nix-store", "--query", "--references", str(trial.output("old"))).stdout
    assert "old-part" in text
    stranger = (place.folder / f"{trial.output('old').name[:32]}.narinfo").read_text()
    stranger = stranger.replace(trial.output("old").name, f"{'0' * 32}-stranger")
    (place.folder / f"{'0' * 32}.narinfo").write_text(stranger)
    place.declare(it=NEW)
    assert trial.once()
    for days in (0.0, 8.0):
        place.days_pass(days)
        assert trial.once()
    assert place.names() == {"common", "new", "old-part", "stranger"}
    assert place.nars() == place.urls()  # a NAR that two share stays


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_killed_while_it_deletes_the_next_ends_it(place: Place) -> None:
    trial = place.trial
    made = trial.store.run("sh", "-c", f"nix key convert-secret-to-public < {trial.root}/key")
    jobs = " ".join(f'j{n} = job "j{n}" "echo {n} > $out";' for n in range(150))
    place.declare(it=f"{{ {jobs} }}")
    assert trial.once()
    place.declare(it=NEW)
    assert trial.once()
    place.days_pass(0)
    assert trial.once()
    place.days_pass(8)
    with trial.running(wait=False) as daemon:
        daemon.eventually(lambda: ("j1", "pushed") not in pushes(trial))
        daemon.kill()
    trial.until_nothing_runs()
    whole(trial, made.stdout.strip())
    for nar in (place.folder / "nar").iterdir():
        os.utime(nar, (0, 0))
    place.days_pass(0)
    assert trial.once()
    assert place.names() == {"common", "new"}
    assert place.nars() == place.urls()
    assert pushes(trial) == {("common", "pushed"), ("new", "pushed")}


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_a_cache_that_is_not_ours_alone_is_left_as_it_is(place: Place) -> None:
    place.settings["gc"] = False
    place.declare(it=OLD)
    assert place.trial.once()
    place.declare(it=NEW)
    assert place.trial.once()
    place.days_pass(8)
    assert place.trial.once()
    assert "old" in place.names()
    assert place.gc() == []


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_nothing_is_deleted_while_what_is_wanted_is_not_there(place: Place) -> None:
    place.declare(it=OLD)
    assert place.trial.once()
    place.declare(it=NEW)
    assert place.trial.once()
    place.days_pass(0)
    assert place.trial.once()
    lost = place.folder / f"{place.trial.output('new').name[:32]}.narinfo"
    text = lost.read_text()
    lost.unlink()
    place.days_pass(8)
    assert place.trial.once()
    assert "old" in place.names()
    (message,) = place.trial.conditions().values()
    assert "nothing is deleted until it is again" in message
    lost.write_text(text)
    place.trial.settled = False
