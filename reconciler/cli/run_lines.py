"""What happens while `run` works, as plain lines: for a journal, a CI log, a pipe.

Shown the daemon's own database after every tick; reads only, and nothing where nothing changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import click
from msgspec import Struct
from msgspec.structs import replace

from reconciler.cli.log_text import tail
from reconciler.cli.text import BAD, BUSY, DIM, GOOD, harmless, lasting, one_line
from reconciler.database import lookup, running
from reconciler.database.evaluated import INTERRUPTED
from reconciler.database.file import Database
from reconciler.database.running import EndedAttempt, Event
from reconciler.model import BuildState, Outcome
from reconciler.status import counted, gist

LOG_LINES = 10
"""Of a failed build's log."""

TOLD = ("evaluation", "document", "jobset", "cache", "builder", "request", "artifact-store")
"""Kinds of events that have lines."""


class Weight(Enum):
    """A line's priority, as syslog numbers it."""

    ERROR = 3
    WARNING = 4
    INFO = 6


class Line(Struct, frozen=True):
    """One line, with its colour, as it was phrased: see `harmless`."""

    weight: Weight
    text: str
    color: str | None = None

    @property
    def harmless(self) -> Line:
        """For people: whatever names it tells, it is one line that does nothing to a terminal."""
        return replace(self, text=harmless(self.text).replace("\n", " "))

    def styled(self) -> str:
        """For a terminal."""
        return click.style(self.text, fg=self.color) if self.color else self.text


class News:
    """Phrases what happened since it was asked last."""

    def __init__(self, logs: Path, *, began: float) -> None:
        self._logs = logs
        self._began = began
        self._changes = -1
        self._event: int | None = None
        self._attempt = 0
        self._live: set[int] = set()
        self._open_pushes: dict[str, int] = {}
        self._pushing: set[str] = set()
        self._failing: set[str] | None = None
        """Caches of which it was told that pushing fails, while it does; None: nobody asked yet."""
        self.last_failures: list[str] = []

    def since(self, database: Database) -> list[Line]:
        """The lines; what happened before `run` began is no news."""
        if database.changes == self._changes:
            return []
        self._changes = database.changes
        if self._event is None:
            self._event = running.last_event(database, before=self._began)
            self._attempt = running.last_attempt(database, before=self._began)
        lines = [
            line for event in self._new_events(database) for line in _event_lines(database, event)
        ]
        for ended in self._new_attempts(database):
            lines += self._attempt_lines(database, ended)
        lines += self._push_lines(database)
        return [line.harmless for line in lines]

    def _new_events(self, database: Database) -> list[Event]:
        assert self._event is not None
        found = running.events(
            database,
            after=self._event,
            kinds=TOLD,
        )
        self._event = max(self._event, running.last_event(database))
        return found

    def _new_attempts(self, database: Database) -> list[EndedAttempt]:
        ended = running.ended_attempts(database, after=self._attempt, among=self._live)
        self._attempt = max(self._attempt, running.last_attempt(database))
        self._live = {each.attempt for each in running.live_attempts(database)}
        return ended

    def _attempt_lines(self, database: Database, ended: EndedAttempt) -> Iterator[Line]:
        took = lasting(ended.finished_at - ended.started_at)
        match ended.state:
            case _ if ended.outcome is Outcome.INTERRUPTED:
                yield Line(Weight.WARNING, f"interrupted {ended.name}", BUSY)
            case _ if ended.outcome is Outcome.INFRASTRUCTURE:
                pause = ended.not_before - ended.finished_at
                wait = "at once" if pause < 1 else f"in {lasting(pause)}"
                yield Line(
                    Weight.WARNING,
                    f"no luck with {ended.name} on {ended.builder}, tried again {wait}: "
                    f"{one_line(gist(ended.message))}",
                    BUSY,
                )
            case BuildState.SUBSTITUTED:
                yield Line(Weight.INFO, f"fetched {ended.name} in {took}")
            case BuildState.CANCELLED:
                yield Line(Weight.WARNING, f"stopped {ended.name} after {took}", BUSY)
            case state if state.good:
                yield Line(Weight.INFO, f"built {ended.name} in {took} on {ended.builder}")
            case _:
                yield from self._failure(database, ended, took)

    def _failure(self, database: Database, ended: EndedAttempt, took: str) -> Iterator[Line]:
        name = lookup.log_name(database, ended.derivation)
        kind = "" if ended.outcome is Outcome.FAILED else f" ({ended.outcome})"
        head = f"FAILED {ended.name}{kind} after {took} on {ended.builder}"
        said = one_line(gist(ended.message))
        self.last_failures = [*self.last_failures, f"{ended.name}: {said}"][-3:]
        yield Line(Weight.ERROR, f"{head}: {said}", BAD)
        for line in tail(self._logs, ended.attempt, LOG_LINES):
            yield Line(Weight.ERROR, f"    {line}", DIM)
        yield Line(Weight.ERROR, f"  see all: reconciler log {name}")

    def _push_lines(self, database: Database) -> Iterator[Line]:
        rows = database.query(
            "SELECT c.name, count(*) AS open, sum(p.failures > 0) AS failing,"
            " max(p.error) AS error,"
            " EXISTS (SELECT 1 FROM condition WHERE kind = 'cache' AND name = c.name) AS told"
            " FROM push p INDEXED BY push_open JOIN cache c ON c.id = p.cache"
            " WHERE p.state <> 'pushed' AND p.state <> 'failed' GROUP BY c.id"
        )
        failing = {row["name"] for row in rows if row["failing"]}
        self._failing = failing if self._failing is None else self._failing & failing
        for row in rows:
            # What is wrong with the cache as a whole is told as its condition; and while a path is
            # sent once more, nobody knows of an error.
            name, error = row["name"], row["error"]
            if name in failing - self._failing and error is not None and not row["told"]:
                self._failing.add(name)
                paths, said = counted(row["failing"], "path"), one_line(gist(error))
                text = f"cache {name}: {paths} could not be pushed, tried again: {said}"
                yield Line(Weight.WARNING, text, BUSY)
        now = {row["name"]: row["open"] for row in rows}
        self._pushing.update(now)
        self._open_pushes = now
        # Between two builds a queue is empty again and again: that is no news.
        done = sorted(self._pushing - now.keys())
        if done and not running.has_live_builds(database):
            self._pushing -= set(done)
            for name in done:
                yield Line(Weight.INFO, f"cache {name} has all that was queued for it")

    @property
    def open_pushes(self) -> dict[str, int]:
        """Paths on each cache's queue, when it was asked last."""
        return self._open_pushes


def _event_lines(database: Database, event: Event) -> Iterator[Line]:
    """An event for people; builds are told with their attempts."""
    subject, after = harmless(event.subject), event.after or ""
    if event.cause == "condition":
        kind = event.kind.replace("-", " ")
        if event.after is None:
            over = (event.before or "").replace("-", " ")
            yield Line(Weight.INFO, f"{kind} {subject}: {over} is over", GOOD)
        elif event.after != "evaluation-failed":  # told with the evaluation
            message = running.condition_message(database, event)
            said = "" if message is None else f": {one_line(gist(message))}"
            head = f"{kind} {subject}: {after.replace('-', ' ')}{said}"
            yield Line(Weight.ERROR, head, BAD)
        return
    match event.kind:
        case "evaluation":
            yield from _evaluation_lines(database, event)
        case "document":
            yield Line(Weight.INFO, f"document {subject} is in force")
        case "request":
            who, _, why = one_line(event.cause).partition(": ")
            reason = f" ({why})" if why else ""
            yield Line(Weight.INFO, f"{who} asked: {subject}{reason}: {one_line(after)}")
        case _ if after == "pruned":
            yield Line(Weight.INFO, f"{event.kind} {subject} is declared no longer: pruned")
        case _ if after == "declared":
            yield Line(Weight.INFO, f"{event.kind} {subject} is declared")
        case _:
            return


def _evaluation_lines(database: Database, event: Event) -> Iterator[Line]:
    found = running.evaluation(database, event.subject)
    if found is None:  # forgotten meanwhile
        return
    name = f"{harmless(found.jobset)} #{found.id}"
    took = lasting((found.finished_at or event.at) - found.started_at)
    match event.after:
        case "running":
            yield Line(Weight.INFO, f"evaluating {name} ({one_line(found.cause)})")
        case "succeeded":
            verb = "does" if found.errors == 1 else "do"
            broken = f", {found.errors} that {verb} not evaluate" if found.errors else ""
            text = f"evaluated {name} in {took}: {counted(found.jobs, 'job')}{broken}"
            yield Line(Weight.INFO, text, BUSY if broken else None)
        case "failed" if found.error == INTERRUPTED:
            yield Line(Weight.WARNING, f"interrupted the evaluation of {name}", BUSY)
        case "failed":
            yield Line(Weight.ERROR, f"FAILED to evaluate {name} after {took}", BAD)
            for line in harmless(found.error or "").splitlines()[-LOG_LINES:]:
                yield Line(Weight.ERROR, f"    {line}", DIM)
            yield Line(Weight.ERROR, f"  see all: reconciler status {harmless(found.jobset)}")
        case _:
            return


class Lines:
    """Prints the news."""

    def __init__(self, logs: Path, *, began: float) -> None:
        self._news = News(logs, began=began)
        # systemd sets it where stdout is its journal, which reads a priority off each line.
        self._journal = "JOURNAL_STREAM" in os.environ

    def observe(self, database: Database, now: float) -> None:
        """See the module's text."""
        del now
        for line in self._news.since(database):
            if self._journal:
                click.echo(f"<{line.weight.value}>{line.text}")
            else:
                click.echo(line.styled())
