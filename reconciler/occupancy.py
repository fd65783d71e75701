"""What runs on each builder, and when it is expected to be done. Pure; reads no clock."""

from __future__ import annotations

from reconciler.model import Builder, BuilderName


class Occupancy:
    """See the module's text."""

    def __init__(self) -> None:
        self._running: dict[BuilderName, dict[int, tuple[float, float]]] = {}
        self._places: dict[int, BuilderName] = {}

    def start(self, build: int, builder: BuilderName, *, weight: float, now: float) -> None:
        """Note that a build runs; `weight` are the seconds that a builder of speed 1 takes."""
        self._places[build] = builder
        self._running.setdefault(builder, {})[build] = (now, weight)

    def end(self, build: int) -> None:
        """Note that it does so no longer; others are not known here."""
        builder = self._places.pop(build, None)
        if builder is not None:
            del self._running[builder][build]

    def remaining(self, builder: Builder, *, now: float) -> list[float]:
        """In how many seconds each build there is expected to be done.

        One that is overdue is given as long again as it took so far: what takes longer than ever
        mostly takes much longer.
        """
        found = []
        for started, weight in self._running.get(builder.name, {}).values():
            passed = max(0.0, now - started)
            left = weight / builder.speed_factor - passed
            found.append(left if left > 0 else passed)
        return found
