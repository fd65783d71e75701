"""What happens while `run --once` works, on a terminal: news scroll by, below them what runs.

The database is read when a tick shows it, in the daemon's thread; drawing happens in rich's
thread from what was read, so that clocks go on while nothing else happens.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct, field
from rich.console import Console
from rich.live import Live as Screen
from rich.text import Text

from reconciler.cli.run_lines import News
from reconciler.cli.text import BAD, BUSY, DIM, cut, lasting
from reconciler.database import observe, running
from reconciler.database.file import Database
from reconciler.database.running import LiveAttempt
from reconciler.work import package_name

BUILDS_SHOWN = 12
ESTIMATE_SECONDS = 2.0
"""How often what is left is counted: it reads every queued build."""


class Left(Struct, frozen=True, kw_only=True):
    """What is still to be built, in counts."""

    builds: int = 0
    seconds: float | None = None
    """Expected until the end, from what past builds took; None: too little is known."""


class Picture(Struct, frozen=True, kw_only=True):
    """What was read at one time."""

    builds: tuple[LiveAttempt, ...] = ()
    evaluating: tuple[tuple[str, float], ...] = ()
    left: Left = field(default_factory=Left)
    at: float = 0.0
    done: int = 0
    failed: int = 0
    pushes: tuple[tuple[str, int], ...] = ()
    failures: tuple[str, ...] = ()


class Live:
    """See the module's text."""

    def __init__(self, logs: Path, *, began: float) -> None:
        self._news = News(logs, began=began)
        self._began = began
        self._console = Console(highlight=False, no_color=bool(os.environ.get("NO_COLOR")) or None)
        self._picture = Picture()
        self._changes = -1
        self._counted_at = 0.0
        self._lock = threading.Lock()
        self._screen = Screen(
            console=self._console,
            get_renderable=self._draw,
            refresh_per_second=4,
            transient=True,
        )
        self._screen.start()

    def close(self) -> None:
        """Leave the terminal as it is."""
        self._screen.stop()

    def observe(self, database: Database, now: float) -> None:
        """Read what there is to be seen, and let the news scroll by."""
        if database.changes == self._changes:
            return
        self._changes = database.changes
        for line in self._news.since(database):
            self._console.print(Text(line.text, style=_style(line.color)), soft_wrap=True)
        left = self._picture.left
        if now - self._counted_at >= ESTIMATE_SECONDS:
            self._counted_at = now
            left = estimate(database)
        picture = read_picture(database, left, self._news, began=self._began, now=now)
        with self._lock:
            self._picture = picture

    def _draw(self) -> Text:
        with self._lock:
            picture = self._picture
        width = self._console.width
        room = max(self._console.height - 6, 3)
        lines = list(draw(picture, began=self._began, now=time.time(), room=room))
        drawn = Text()
        for place, (text, color) in enumerate(lines):
            drawn.append(("\n" if place else "") + cut(text, width), style=_style(color))
        return drawn


def _style(color: str | None) -> str:
    return "" if color is None else {DIM: "bright_black"}.get(color, color)


def read_picture(
    database: Database, left: Left, news: News, *, began: float, now: float
) -> Picture:
    """What is to be drawn until the next tick."""
    counts = database.one(
        "SELECT coalesce(sum(outcome = 'succeeded'), 0) AS done,"
        " coalesce(sum(outcome NOT IN ('succeeded', 'interrupted', 'infrastructure')), 0) AS bad"
        " FROM attempt WHERE id > ? AND outcome IS NOT NULL",
        (running.last_attempt(database, before=began),),
    )
    assert counts is not None
    queued = database.one(
        "SELECT count(*) FROM build WHERE state NOT IN ('succeeded', 'substituted')"
        " AND state = 'queued'"
    )
    assert queued is not None
    return Picture(
        builds=tuple(running.live_attempts(database)),
        evaluating=tuple(
            (row[0], row[1])
            for row in database.query(
                "SELECT s.name, e.started_at FROM evaluation e JOIN jobset s ON s.id = e.jobset"
                " WHERE e.state = 'running' ORDER BY e.id"
            )
        ),
        left=Left(builds=queued[0], seconds=left.seconds),
        at=now,
        done=counts["done"],
        failed=counts["bad"],
        pushes=tuple(news.open_pushes.items()),
        failures=tuple(news.last_failures),
    )


def estimate(database: Database) -> Left:
    """What is left, shared out among the slots that are taken now, as fast as each is."""
    known = observe.durations(database)
    builds, seconds, unknown = 0, 0.0, 0
    for (name, system), number in running.queued_by_name(database).items():
        builds += number
        took = known.get((package_name(name), system))
        if took is None:
            unknown += number
        else:
            seconds += took * number
    if not builds or unknown * 2 > builds:
        return Left(builds=builds)
    mean = seconds / (builds - unknown)
    speed = running.speed_in_use(database) or 1.0
    return Left(builds=builds, seconds=(seconds + mean * unknown) / speed)


def draw(
    picture: Picture, *, began: float, now: float, room: int
) -> Iterator[tuple[str, str | None]]:
    """Lines with their colours."""
    parts = [f"{picture.done} built"]
    if picture.failed:
        parts.append(f"{picture.failed} failed")
    parts += [f"{len(picture.builds)} building", f"{picture.left.builds} to go"]
    if picture.left.seconds is not None and picture.left.builds:
        remaining = picture.left.seconds - (now - picture.at)
        if remaining >= 1:
            parts.append(f"about {lasting(float(round(remaining)))} left")
    yield f"── {lasting(float(round(now - began)))} ── " + " · ".join(parts), BUSY
    for name, since in picture.evaluating:
        yield f"evaluating {name}  {lasting(float(round(now - since)))}", None
    shown = picture.builds[: min(room, BUILDS_SHOWN)]
    longest = max((len(each.name) for each in shown), default=0)
    for each in shown:
        took = lasting(float(round(now - each.started_at)))
        yield f"building   {each.name:<{longest}}  {took}  on {each.builder}", None
    if len(picture.builds) > len(shown):
        yield f"           … and {len(picture.builds) - len(shown)} more", DIM
    for name, number in picture.pushes:
        yield f"pushing    {name}  {number} to go", None
    for failure in picture.failures:
        yield f"failed     {failure}", BAD
