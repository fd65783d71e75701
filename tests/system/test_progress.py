"""How far a push is, as others see it while the daemon is at it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.binary_cache.servers import dav_server, netrc
from tests.cli.farm import check_schema
from tests.support.trial import Trial
from tests.system.test_cache import declare, keys

LARGE = '{ large = job "large" "head -c 4000000 /dev/urandom > $out"; }'


def shown(trial: Trial, verb: str) -> Any:
    where = ("--config", str(trial.config), "--state-dir", str(trial.state_dir))
    argv = (sys.executable, "-m", "reconciler", *where, verb, "--json")
    value = json.loads(trial.store.run(*argv, check=False).stdout)
    check_schema(value, schema=verb)
    return value["caches"][0]


def slowly(trial: Trial, address: str, *, bandwidth: str) -> None:
    """Have a large output pushed to a web server."""
    declare(
        trial,
        LARGE,
        uri=f"http://{address}/in",
        credentialsFile=str(netrc(trial.root / "netrc")),
        bandwidth=bandwidth,
    )


def test_progress_is_seen_while_the_daemon_sends(trial: Trial, tmp_path: Path) -> None:
    keys(trial)
    with dav_server(tmp_path) as server:
        slowly(trial, server.address, bandwidth="100KiB")
        with trial.running() as daemon:
            daemon.eventually(lambda: trial.value("SELECT batch_sent FROM push_progress"))
            for verb in ("caches", "status"):
                cache = shown(trial, verb)
                assert cache["verdict"] == "in-progress"
                progress = cache["progress"]
                assert (progress["sentPaths"], progress["leftPaths"]) == (0, 1)
                assert 0 < progress["sentBytes"] < 4_000_000
                assert 0 < progress["leftBytes"] < 4_000_000
                assert progress["rate"] > 0
                assert progress["estimate"] > 0
                assert "left)" in cache["summary"]
            daemon.kill()
        trial.until_nothing_runs()
        declare(
            trial,
            LARGE,
            uri=f"http://{server.address}/in",
            credentialsFile=str(netrc(trial.root / "netrc")),
        )
        assert trial.once()
        assert shown(trial, "caches")["progress"] is None
        assert shown(trial, "status")["summary"] == "in sync"


def test_told_to_stop_it_ends_the_batch_under_way(trial: Trial, tmp_path: Path) -> None:
    keys(trial)
    trial.environment["RECONCILER_STOP_AFTER"] = "3600"
    with dav_server(tmp_path) as server:
        slowly(trial, server.address, bandwidth="800KiB")
        with trial.running() as daemon:
            daemon.eventually(lambda: trial.query("SELECT state FROM push") == [("pushing",)])
            daemon.stop()
        assert trial.query("SELECT state, failures FROM push") == [("pushed", 0)]
