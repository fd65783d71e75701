"""Every line and branch of the pure modules is reached by their own tests, which need no Nix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.test_architecture import PROJECT, PURE_MODULES, files, module_of, name

TESTS = (
    "awaiting", "backoff", "bases", "branches", "errors", "expected_finish", "explain",
    "fair_share", "graph", "model", "occupancy", "plan", "problems", "prospects", "push_progress",
    "push_rules", "quantities", "quarantine", "resources", "scheduler", "status", "transitions",
    "trust", "work",
)  # fmt: skip
"""The tests of the pure modules: a new module's go here, too."""


def test_the_pure_modules_are_covered_line_by_line_and_branch_by_branch(tmp_path: Path) -> None:
    report = tmp_path / "coverage.json"
    told = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider",
            "--hypothesis-seed=0",  # the same examples each time, or a branch is met by chance
            "--cov=reconciler", "--cov-branch", f"--cov-report=json:{report}",
            *(f"tests/test_{each}.py" for each in TESTS),
        ],
        cwd=PROJECT,
        env={
            **os.environ,
            "COVERAGE_FILE": str(tmp_path / "coverage"),
            "RECONCILER_TEST_STORES": str(tmp_path),  # this session has its own locked
        },
        check=False,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    measured = json.loads(report.read_text())["files"]
    pure = {name(file) for file in files() if module_of(file) in PURE_MODULES}
    assert pure <= measured.keys(), f"not measured: {sorted(pure - measured.keys())}"
    missing = [
        f"{file}: lines {measured[file]['missing_lines']}, "
        f"branches {measured[file]['missing_branches']}"
        for file in sorted(pure)
        if measured[file]["missing_lines"] or measured[file]["missing_branches"]
    ]
    assert not missing, "not reached by the tests of pure modules:\n" + "\n".join(missing)
