"""Where the contenders work: private stores, and the sizes of a run."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.measure import FailedError, Run, python, timed
from tests.support.private_store import PrivateStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is done: in full, or for a quick look whose ratios are only roughly the same."""

    rounds: int
    layers: int
    """Of the layered graph, 50 derivations wide."""
    chain: int
    wide: int
    skew: float
    """Seconds of a step of the skewed graph's chain."""
    large: tuple[int, ...]
    """Thousands of derivations of the large graphs; the last is used for the state's rows."""
    paths: int
    """Pushed to a cache."""
    large_paths: tuple[int, int]
    """So many, each of so many MiB, pushed to caches."""
    synced: int
    """Paths that a cache has already."""
    simulated: tuple[int, ...]
    """Thousands of derivations of the simulated graphs."""
    git_rounds: int
    """Of the builds of git, which take minutes."""


FULL = Sizes(
    rounds=3,
    layers=20,
    chain=100,
    wide=100,
    skew=1.0,
    large=(20, 100),
    paths=1000,
    large_paths=(3, 300),
    synced=10_000,
    simulated=(1, 20, 250),
    git_rounds=3,
)
QUICK = Sizes(
    rounds=3,
    layers=4,
    chain=40,
    wide=40,
    skew=0.3,
    large=(10,),
    paths=200,
    large_paths=(2, 40),
    synced=1000,
    simulated=(1, 20),
    git_rounds=1,
)


def lay_apart(folder: Path) -> None:
    """Have ext4 put what is made in a folder elsewhere on the disk than what lies beside it.

    For minutes it looks, at each file that is made, past all that were just deleted in the same
    part of the disk: whoever comes next would pay for what others cleared away.
    """
    with suppress(FailedError):  # no ext4, no need
        timed(["chattr", "+T", str(folder)], os.environ)


def open_store(root: Path, settings: str = "") -> PrivateStore:
    """The store in a folder, made with further lines of its nix.conf if there is none."""
    if (root / "conf").exists():
        return PrivateStore(root)
    root.mkdir(parents=True, mode=0o755)
    return PrivateStore.create(root=root, settings=f"fsync-metadata = false\n{settings}")


@dataclass(frozen=True, slots=True)
class Lab:
    """A private store and a folder for everything else."""

    store: PrivateStore
    scratch: Path
    sizes: Sizes

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.store.environment}

    def run(self, *argv: str) -> Run:
        """Time a command in this store."""
        return timed(argv, self.environment)

    def folder(self) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(dir=self.scratch))

    def source(self, expression: Callable[[str], str]) -> Path:
        """A folder with an expression whose derivations nobody has built."""
        folder = self.folder()
        (folder / "default.nix").write_text(expression(str(time.time_ns())))
        return folder

    def instantiate(self, source: Path) -> list[str]:
        """The derivations of its jobs."""
        return [
            line
            for line in self.run("nix-instantiate", str(source)).output.split()
            if ".drv" in line
        ]

    def reconcile(self, source: Path) -> Run:
        """The whole reconciler, from nothing: `run --once` with a new state."""
        return self.run(*python("reconciler", *self.places(source), "run", "--once"))

    def places(
        self, source: Path, builders: Mapping[str, Mapping[str, object]] | None = None
    ) -> list[str]:
        """The options that make the reconciler build a source, with two slots unless told."""
        folder = self.folder()
        document = {
            "jobsets": {
                "bench": {
                    "source": {"path": str(source), "file": "default.nix"},
                    "evaluation": {"pure": False},
                }
            },
            "builders": builders or {"local": {"maxJobs": 2}},
        }
        (folder / "config.json").write_text(json.dumps(document))
        return ["--config", str(folder / "config.json"), "--state-dir", str(folder / "state")]
