"""What the farm does just now, in one line for the service manager."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from reconciler.reconcile import Tick
from reconciler.reconcile.farm import Farm
from reconciler.status import counted

NAMES = 3
"""Named at most; of more, only the number is told."""


def activity(farm: Farm, tick: Tick) -> str:
    """The line. It changes with what is under way, not with time."""
    builds = Counter(each.builder for each in farm.running.values())
    parts = [
        f"building {', '.join(f'{number} on {name}' for name, number in sorted(builds.items()))}"
        if builds
        else "",
        _each("evaluating", [name for name, each in farm.progress.items() if each.busy]),
        _each("pushing to", farm.pushing),
    ]
    said = "; ".join(filter(None, parts)) or "idle"
    wrong = len(tick.plan.conditions)
    return f"{said} ({counted(wrong, 'problem')}: reconciler status)" if wrong else said


def _each(verb: str, names: Collection[str]) -> str:
    if len(names) > NAMES:
        return f"{verb} {len(names)}"
    return f"{verb} {', '.join(sorted(names))}" if names else ""
