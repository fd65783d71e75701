"""The module's Nix functions, evaluated on the recording library."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]


def command(
    attribute: str,
    *,
    candidates: list[str] | None = None,
    settings: list[dict[str, Any]] | None = None,
    expression: str = "{ }",
    systemd: str = "260",
    here: Path = HERE,
) -> list[str]:
    """What prints one attribute of evaluation.nix, which is `here`, as JSON."""
    return [
        "nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode",
        str(here / "evaluation.nix"), "-A", attribute,
        "--argstr", "candidates", json.dumps(candidates or []),
        "--argstr", "settings", json.dumps(settings or []),
        "--argstr", "expression", expression,
        "--argstr", "systemd", systemd,
    ]  # fmt: skip


def evaluate(
    attribute: str,
    *,
    candidates: list[str] | None = None,
    settings: list[dict[str, Any]] | None = None,
    expression: str = "{ }",
) -> Any:
    """One attribute of evaluation.nix."""
    asked = subprocess.run(
        command(attribute, candidates=candidates, settings=settings, expression=expression),
        check=False,
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


def document(settings: dict[str, Any]) -> Any:
    """What the module makes of settings: document, secrets, refusals, warnings."""
    (rendered,) = evaluate("rendered", settings=[settings])
    return rendered
