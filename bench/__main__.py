"""Measures the reconciler beside Nix, and prints the table of targets.

    python -m bench [--quick] [--only N,…] [--json FILE]

Nix must be on PATH. Every contender works in the same private store; each round builds
derivations that nobody has built. `--quick` measures smaller graphs: its ratios are a hint, not
what the targets are about. The stores are kept between runs, below the folder for tests' stores
(RECONCILER_TEST_STORES), since evaluating a graph of 100,000 derivations takes a minute.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import shutil
import sys
import time
from pathlib import Path

import reconciler
from bench import builds, caches, farm, incremental, scheduling, state
from bench.lab import FULL, QUICK, Lab, lay_apart, open_store
from bench.measure import FailedError, Row, table
from tests.support.private_store import stores_root

GROUPS = (
    ((1, 2), builds.layered),
    ((3,), builds.chain),
    ((4,), builds.broad),
    ((5,), builds.skewed),
    ((6,), state.ingest),
    ((7,), state.tick),
    ((8,), state.more),
    ((9,), state.load),
    ((10,), caches.push),
    ((11,), builds.processes),
    ((12,), state.status),
    ((13,), scheduling.orders),
    ((14,), scheduling.cost),
    ((15,), scheduling.fairness),
    ((16,), caches.push_large),
    ((17, 18, 20), caches.push_far),
    ((19,), caches.sync),
    ((21,), farm.makespan),
    ((22, 23, 24, 25, 26, 27, 28, 29), incremental.builds),
)
RESULTS = Path(__file__).parent / "results"


def _lab(*, quick: bool) -> Lab:
    root = stores_root().parent / "nix-reconciler-bench"
    store = open_store(root / "store")
    scratch = root / f"scratch-{os.getpid()}"
    scratch.mkdir()
    lay_apart(scratch)
    return Lab(store, scratch, QUICK if quick else FULL)


def _measure(lab: Lab, only: set[int] | None) -> tuple[list[Row], bool]:
    """The rows, each printed as soon as it is there; whether any could not be measured."""
    rows: list[Row] = []
    failed = False
    for numbers, measure in GROUPS:
        if only is not None and only.isdisjoint(numbers):
            continue
        try:
            for row in measure(lab):
                rows.append(row)
                print(list(table([row]))[-1], flush=True)
        except FailedError as error:
            failed = True
            print(f"{numbers}: {error}", file=sys.stderr, flush=True)
    return rows, failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller graphs: a hint in minutes")
    parser.add_argument("--only", metavar="N,…", help="the rows to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results are written")
    options = parser.parse_args()
    only = {int(each) for each in options.only.split(",")} if options.only else None
    compileall.compile_dir(Path(reconciler.__file__).parent, quiet=1)  # as installing it does
    kind = "quick" if options.quick else "full"
    lab = _lab(quick=options.quick)
    print(f"{kind} run: medians of {lab.sizes.rounds} interleaved rounds", flush=True)
    try:
        rows, failed = _measure(lab, only)
    finally:
        shutil.rmtree(lab.scratch)
    target = options.json or RESULTS / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"kind": kind, "rows": [row.as_json() for row in rows]}, indent=2))
    print("\n" + "\n".join(table(rows)) + f"\n\nwritten to {target}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
