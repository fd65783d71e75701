"""What is loaded to start: a user waits for it at every call, and a benchmark with him."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "attr",
    "boto3",
    "cryptography",
    "jsonschema",
    "reconciler.binary_cache",
    "reconciler.nix.ssh",
    "rich",
    "sqlite_utils",
    "urllib3",
    "watchdog",
    "yaml",
)
"""Each takes as long as a report, and is wanted by some only, or while something else is waited
for."""


@pytest.mark.parametrize(
    "modules",
    ["reconciler.cli.run, reconciler.daemon", "reconciler.cli.status", "reconciler.cli.why"],
)
def test_nothing_heavy_is_loaded_before_it_is_wanted(modules: str) -> None:
    program = f"import sys, {modules}; print(*sorted(sys.modules), sep='\\n')"
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    loaded = set(told.stdout.split())
    assert "reconciler.cli" in loaded
    assert loaded.isdisjoint(HEAVY), sorted(loaded.intersection(HEAVY))
