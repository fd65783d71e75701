"""What goes into a cache beside paths: the logs of builds, and realisations; as Nix reads them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.database import database_path
from reconciler.upkeep import MARK_INTERVAL
from tests.nix.connection_daemons import newer_nix, older_nix
from tests.support.private_store import PrivateStore
from tests.support.trial import Trial
from tests.system.test_cache import cache_of, cached, declare, keys
from tests.system.test_graphs import experimental

TALKING = """
rec {
  part = job "part" "echo I am part; echo part > $out";
  whole = job "whole" "echo I am whole; echo ${part} > $out";
  silent = job "silent" "echo silent > $out";
}
"""
CONTENT_ADDRESSED = """
let
  found = name: script: with_ {
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  } name script;
in rec {
  below = found "below" "echo I am below; echo below > $out";
  above = found "above" "echo I am above; echo ${below} > $out";
}
"""


def derivation(trial: Trial, name: str) -> str:
    return str(trial.value("SELECT path FROM derivation WHERE name = ? ORDER BY id DESC", name))


def logs(trial: Trial) -> dict[str, str]:
    """The logs in the cache by the names of their derivations."""
    return {
        file.name.split("-", 1)[1].removesuffix(".drv"): file.read_text()
        for file in (cache_of(trial) / "log").glob("*")
    }


def elsewhere(
    trial: Trial, *argv: str, nix: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader of the cache who has nothing but what it gives."""
    trial.store.destroy()
    trial.store.root.mkdir()
    PrivateStore.create(
        root=trial.store.root, settings="extra-experimental-features = ca-derivations\n"
    )
    trial.collected, trial.settled = True, False
    path = os.environ["PATH"] if nix is None else f"{nix}:{os.environ['PATH']}"
    return trial.store.run("env", f"PATH={path}", *argv, check=False)


def test_nix_finds_the_logs_of_what_was_pushed(trial: Trial) -> None:
    keys(trial)
    declare(trial, TALKING, logs=True)
    assert trial.once()
    assert logs(trial) == {"part": "I am part\n", "whole": "I am whole\n"}
    whole, output = derivation(trial, "whole"), str(trial.output("whole"))
    cache = f"file://{cache_of(trial)}"
    found = trial.store.run("nix", "log", "--store", cache, whole)
    assert found.stdout == "I am whole\n"
    fetch = ("nix", "log", "--option", "substituters", cache)
    assert elsewhere(trial, *fetch, whole).stdout == "I am whole\n"
    assert trial.store.run(*fetch, output).stdout == "I am whole\n"


def test_logs_go_where_they_are_wanted_alone(trial: Trial) -> None:
    keys(trial)
    declare(trial, TALKING)
    assert trial.once()
    assert logs(trial) == {}
    declare(trial, TALKING, logs=True)
    assert trial.once()
    assert logs(trial) == {"part": "I am part\n", "whole": "I am whole\n"}
    before = trial.dump()
    assert trial.once()
    assert trial.dump() == before


def test_the_log_of_what_failed_goes_where_all_does(trial: Trial) -> None:
    keys(trial)
    expression = """
      let part = job "part" "echo I am part; echo part > $out"; in
      { broken = job "broken" "echo I break on ${part}; false"; }
    """
    declare(trial, expression, logs=True)
    assert trial.once()
    assert logs(trial) == {}
    declare(trial, expression.replace("on ", "upon "), logs=True, push="all")
    assert trial.once()
    assert logs(trial).keys() == {"part", "broken"}
    assert logs(trial)["broken"].startswith("I break upon ")
    found = trial.store.run(
        "nix", "log", "--store", f"file://{cache_of(trial)}", derivation(trial, "broken")
    )
    assert found.stdout == logs(trial)["broken"]


def test_a_log_that_cannot_be_sent_waits_and_is_told(trial: Trial) -> None:
    keys(trial)
    declare(trial, TALKING, logs=True)
    cache_of(trial).mkdir()
    (cache_of(trial) / "log").write_text("in the way")
    with trial.running() as daemon:
        daemon.eventually(
            lambda: trial.value("SELECT count(*) FROM companion WHERE failures > 0") == 2
        )
        daemon.kill()
    assert cached(trial) == {"part", "whole", "silent"}
    (cache_of(trial) / "log").unlink()
    assert trial.once()
    assert logs(trial) == {"part": "I am part\n", "whole": "I am whole\n"}


def test_logs_go_with_their_paths(trial: Trial) -> None:
    keys(trial)
    ours = {"gc": True, "gracePeriod": "7d", "logs": True}
    declare(trial, TALKING, **ours)
    keep_one(trial)
    assert trial.once()
    whole = trial.source("it", "")  # what is declared next is of the same jobset
    assert whole
    declare(trial, '{ part = job "part" "echo I am part; echo part > $out"; }', **ours)
    keep_one(trial)
    assert trial.once()
    for days in (0.0, 8.0):
        pass_days(trial, days)
        assert trial.once()
    assert cached(trial) == {"part"}
    assert logs(trial) == {"part": "I am part\n"}
    assert trial.value("SELECT count(*) FROM companion") == 1


def keep_one(trial: Trial) -> None:
    document = json.loads(trial.config.read_text())
    document["jobsets"]["it"]["keep"] = 1
    trial.document(document)


def pass_days(trial: Trial, days: float) -> None:
    with closing(sqlite3.connect(database_path(trial.state_dir), timeout=30)) as database:
        database.execute("UPDATE push SET unwanted_at = unwanted_at - ?", (days * 86400,))
        database.execute("UPDATE cache SET marked_at = marked_at - ?", (MARK_INTERVAL,))
        database.commit()
    trial.settled = False


@pytest.mark.parametrize("reader", ["newer", "older"])
@pytest.mark.parametrize("maker", ["newer", "older"])
def test_content_addressed_outputs_are_substituted_by_their_derivations(
    trial: Trial, maker: str, reader: str
) -> None:
    nix = {"newer": newer_nix(), "older": older_nix()}
    trial.environment["PATH"] = f"{nix[maker]}:{os.environ['PATH']}"
    experimental(trial, "ca-derivations")
    public = keys(trial)
    declare(trial, CONTENT_ADDRESSED, logs=True)
    assert trial.once()
    assert cached(trial) == {"below", "above"}
    realisations = [
        json.loads(file.read_text()) for file in (cache_of(trial) / "realisations").glob("*.doi")
    ]
    assert len(realisations) == 2
    assert all(each["signatures"][0].startswith("test-1:") for each in realisations)
    assert logs(trial) == {"below": "I am below\n", "above": "I am above\n"}
    output = trial.output("above")
    source = trial.root / "sources/it/release.nix"
    fetched = elsewhere(
        trial,
        *("nix-build", str(source), "-A", "above", "--no-out-link", "--max-jobs", "0"),
        *("--option", "substituters", f"file://{cache_of(trial)}"),
        *("--option", "trusted-public-keys", public),
        nix=nix[reader],
    )
    assert fetched.stdout.strip() == str(output), fetched.stderr
    assert output.read_text().strip().endswith("-below")
