"""A cache that was filled before anybody here knew is found to be full in a few questions."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from reconciler.reconcile import PUSH_BATCH
from tests.binary_cache.servers import dav_server, netrc
from tests.support.trial import Trial
from tests.system.siege import line
from tests.system.test_cache import declare, keys

FILES = 3 * PUSH_BATCH
MANY = f"""{{
  many = job "many" ''echo ${{builtins.concatStringsSep " " (builtins.genList
    (n: builtins.toFile "file-${{toString n}}" "content ${{toString n}}") {FILES})}} > $out'';
}}"""


def test_what_is_there_already_is_asked_for_all_at_once(trial: Trial, tmp_path: Path) -> None:
    keys(trial)
    chance = random.Random(0)  # noqa: S311 - nothing is left to it
    with (
        dav_server(tmp_path) as server,
        line(server.address, faults=(), placing="MOVE", chance=chance) as way,
    ):
        way.quiet = True
        assert way.proxy is not None
        declare(
            trial,
            MANY,
            uri=f"http://{way.proxy.address}/in",
            credentialsFile=str(netrc(trial.root / "netrc")),
        )
        assert trial.once()
        assert trial.value("SELECT count(*) FROM push WHERE state = 'pushed'") == FILES + 1
        assert len(way.placed) >= 2 * (FILES + 1)
        (tmp_path / "in" / f"{trial.output('many').name[:32]}.narinfo").unlink()
        server.refresh()
        shutil.rmtree(trial.state_dir)
        way.placed.clear()
        way.proxy.seen.clear()
        assert trial.once()
        assert trial.query("SELECT state, bytes > 0, count(*) FROM push GROUP BY 1, 2") == [
            ("pushed", 0, FILES),
            ("pushed", 1, 1),
        ]
        assert len(way.placed) == 2
        # One opening for all that is there, one for what has gone.
        opened = [each for _, each in way.proxy.seen if each.path.endswith("/nix-cache-info")]
        assert len(opened) == 2
