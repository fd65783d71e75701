"""What is measured of a large state, each in a process of its own: the parent times it.

    python -m bench.state_child ingest STATE_DIR ROOTS      an empty state takes a graph in
    python -m bench.state_child more STATE_DIR ROOTS        until the scheduler can decide as well
    python -m bench.state_child show ROOTS                  `nix derivation show -r`, decoded
    python -m bench.state_child load STATE_DIR              until the scheduler can decide
    python -m bench.state_child select STATE_DIR            nodes and edges, as rows
    python -m bench.state_child tick STATE_DIR TIMES        over what does not change
    python -m bench.state_child finish STATE_DIR            declares everything built

ROOTS is a file with a derivation a line. Each prints the seconds of what counts as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from reconciler import collector, config, reconcile
from reconciler.database import Database, evaluated, observe, open_writer
from reconciler.ingest import Ingest
from reconciler.model import Desired, DrvPath, EvaluatedJob, JobsetName
from reconciler.outcomes import Discovered
from reconciler.places import Places
from reconciler.reconcile import collect
from reconciler.reconcile.farm import Farm, Progress
from reconciler.reconcile.opening import open_farm, open_store
from reconciler.source import LockedSource, LockedTree

JOBSET = JobsetName("large")
NOW = 1_700_000_000.0


def _desired(state_dir: Path) -> Desired:
    """One jobset and one builder that takes nothing: what is queued stays queued."""
    document = {
        "jobsets": {JOBSET: {"source": {"path": str(state_dir), "file": "default.nix"}}},
        "builders": {"local": {"maxJobs": 2, "drain": True}},
    }
    return config.parse(json.dumps(document).encode(), name="bench")


def _farm(state_dir: Path) -> Farm:
    collector.calm()
    database = open_writer(state_dir, now=NOW)
    environment = dict(os.environ)
    places = Places(state_dir=state_dir, environment=environment)
    systems = frozenset(["x86_64-linux", "aarch64-linux"])
    store = open_store(places)
    return open_farm(database, _desired(state_dir), systems, places, store, wake=lambda: None)


def _jobs(roots: Path) -> list[EvaluatedJob]:
    return [
        EvaluatedJob(
            attr_path=(f"j{number}",), name="job", system="", drv_path=DrvPath(line), outputs={}
        )
        for number, line in enumerate(roots.read_text().split())
    ]


def _evaluation(database: Database, fingerprint: str) -> int:
    number = evaluated.begin_evaluation(
        database, JOBSET, fingerprint=fingerprint, locked="bench", cause="bench", now=NOW
    )
    evaluated.start_evaluation(database, number, now=NOW)
    return number


async def ingest(state_dir: Path, roots: Path, *, decide: bool = False) -> float:
    """From an evaluation's rows to what is committed, or to a scheduler that can decide."""
    farm = _farm(state_dir)
    _load(farm)
    jobs = _jobs(roots)
    number = _evaluation(farm.database, str(roots))
    began = time.perf_counter()
    ingest = Ingest(farm.database, farm.store)
    batch = await ingest.add(number, jobs, (), in_graph=farm.work.ids.keys(), now=NOW)
    if decide:
        collect.collect(farm, Discovered(jobset=JOBSET, evaluation=number, batch=batch), now=NOW)
        farm.work.scheduler.assignments(farm.slots(now=NOW), now=NOW)
    seconds = time.perf_counter() - began
    evaluated.end_evaluation(farm.database, number, error=None, now=NOW)
    await farm.executor.stop()
    farm.database.close()
    return seconds


def show(roots: Path) -> float:
    began = time.perf_counter()
    shown = subprocess.run(
        ["nix", "derivation", "show", "--recursive", "--stdin"],
        stdin=roots.open(),
        capture_output=True,
        check=True,
    )
    assert json.loads(shown.stdout)
    return time.perf_counter() - began


def _load(farm: Farm) -> None:
    farm.work.join(observe.live_builds(farm.database))
    farm.adopt(farm.desired, now=NOW)
    farm.work.scheduler.assignments(farm.slots(now=NOW), now=NOW)


def load(state_dir: Path) -> float:
    farm = _farm(state_dir)
    began = time.perf_counter()
    _load(farm)
    return time.perf_counter() - began


def select(state_dir: Path) -> float:
    database = open_writer(state_dir, now=NOW)
    began = time.perf_counter()
    plain = database.connection
    plain.row_factory = None
    nodes = plain.execute(
        "SELECT * FROM build b JOIN derivation d ON d.id = b.derivation"
    ).fetchall()
    edges = plain.execute("SELECT derivation, input FROM input").fetchall()
    seconds = time.perf_counter() - began
    assert nodes
    assert edges
    return seconds


def tick(state_dir: Path, times: int) -> float:
    farm = _farm(state_dir)
    _load(farm)
    # As after a poll that found nothing new.
    stored = observe.jobsets(farm.database)[JOBSET]
    tree = LockedTree(store_path="bench", nar_hash="bench")
    locked = LockedSource(locked="bench", origin=tree)
    farm.progress[JOBSET] = Progress(polled_at=time.time(), locked=locked)
    wanted = reconcile.fingerprint(farm.desired.jobsets[JOBSET], locked.fingerprint)
    if stored.evaluations[0].fingerprint != wanted:
        with farm.database.transaction():
            farm.database.execute("UPDATE evaluation SET fingerprint = ?", (wanted,))
    reconcile.tick(farm, now=time.time())
    took = []
    for _ in range(times):
        began = time.perf_counter()
        done = reconcile.tick(farm, now=time.time())
        took.append(time.perf_counter() - began)
        assert not done.plan.actions, done.plan.actions
    return statistics.median(took)


def finish(state_dir: Path) -> float:
    database = open_writer(state_dir, now=NOW)
    with database.transaction():
        database.execute("UPDATE build SET state = 'succeeded', finished_at = ?", (NOW,))
    database.close()
    return 0.0


def main() -> None:
    verb, *arguments = sys.argv[1:]
    paths = [Path(each) for each in arguments]
    match verb:
        case "ingest":
            seconds = asyncio.run(ingest(*paths))
        case "more":
            seconds = asyncio.run(ingest(*paths, decide=True))
        case "show":
            seconds = show(*paths)
        case "load":
            seconds = load(*paths)
        case "select":
            seconds = select(*paths)
        case "tick":
            seconds = tick(paths[0], int(arguments[1]))
        case "finish":
            seconds = finish(*paths)
        case _:
            raise SystemExit(__doc__)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
