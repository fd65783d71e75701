"""The contender: reconciles a document once, as `reconciler run --once` does.

    python -m bench.once CONFIG STATE_DIR [--processes]

`--processes` prints how many child processes it started.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Never

from reconciler import collector

_started = 0


def _count(event: str, _arguments: object) -> None:
    global _started  # noqa: PLW0603 - a hook cannot be removed, so it has no owner
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.forkpty"):
        _started += 1


def main() -> Never:
    collector.calm()  # as the command line does, before it loads the verb
    from reconciler import daemon  # noqa: PLC0415

    config, state_dir, *options = sys.argv[1:]
    if options:
        sys.addaudithook(_count)
    converged = daemon.run(
        config=Path(config),
        state_dir=Path(state_dir),
        environment=dict(os.environ),
        once=True,
        observe=lambda _database, _now: None,
    )
    if options:
        print(_started)
    sys.stdout.flush()
    os._exit(0 if converged else 1)  # as the command line does


if __name__ == "__main__":
    main()
