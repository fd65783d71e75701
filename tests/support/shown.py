"""Nix's pre-build-hook for a trial, as an administrator installs it: the hook, and a read-only view
of the store.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.build.mounts import hook
from reconciler.places import Places
from tests.support.trial import Trial


def install(trial: Trial) -> Path:
    """Have the trial's Nix run the hook; the folder where the view is to be."""
    view, caches = trial.root / "view", trial.root / "compilers"
    view.mkdir()
    caches.mkdir(mode=0o2755)
    script = trial.root / "hook"
    answers = Places(trial.state_dir, trial.env).mounts
    script.write_text(hook(answers, store_view=view, compiler_caches=caches))
    script.chmod(0o755)
    with (trial.store.root / "conf/nix.conf").open("a") as file:
        file.write(f"pre-build-hook = {script}\n")
    return view


@contextmanager
def mounted(source: Path, place: Path, *, options: str) -> Iterator[None]:
    """Have a folder be seen at another place too."""
    if os.geteuid() != 0:
        pytest.fail("this test mounts a folder, as root only can: run it as root")
    subprocess.run(["mount", "-o", options, source, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)
