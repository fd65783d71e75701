"""Runs the daemon as `reconciler run` does.

`python -m tests.support.run_daemon CONFIG STATE [--once] [--as-nobody]`; how long builds may go on
when it is told to stop is in RECONCILER_STOP_AFTER, in seconds. RECONCILER_TEST_SETTINGS has
numbers of the program's that are others in a test: `reconciler.MODULE:NAME=NUMBER …`.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from reconciler import daemon
from reconciler.errors import ReconcilerError


def main() -> int:
    config, state_dir = map(Path, sys.argv[1:3])
    for setting in os.environ.get("RECONCILER_TEST_SETTINGS", "").split():
        place, _, number = setting.partition("=")
        module, name = place.split(":")
        known = getattr(import_module(module), name)
        setattr(import_module(module), name, type(known)(number))
    if "--as-nobody" in sys.argv:  # for root nothing is read-only
        os.seteuid(65534)
    try:
        converged = daemon.run(
            config=config,
            state_dir=state_dir,
            environment=os.environ,
            once="--once" in sys.argv,
            observe=lambda _database, _now: None,
            stop_after=float(os.environ.get("RECONCILER_STOP_AFTER", "0")),
        )
    except ReconcilerError as error:
        sys.stdout.write(f"error: {error}\n")
        return error.exit_status
    return 0 if converged else 1


if __name__ == "__main__":
    sys.exit(main())
