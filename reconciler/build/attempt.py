"""One attempt at one derivation: has it built at a place, within its limits.

Every end is a value (`AttemptResult`), also that of a daemon that went away. Cancelling the task
stops the build: its connection closes, and the daemon there ends what ran on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from reconciler.build import failures
from reconciler.build import products as build_products
from reconciler.build.failures import Failure
from reconciler.build.log import LogWriter
from reconciler.build.mounts import Mount
from reconciler.build.place import Place
from reconciler.errors import ConnectionLostError, NixError, UsageError
from reconciler.model import (
    AttemptResult,
    DrvPath,
    Limits,
    Outcome,
    OutputFact,
)
from reconciler.nix.logs import BuildLog, LogRecord
from reconciler.nix.protocol import BuildResult, BuildStatus
from reconciler.quantities import format_duration, format_size

MESSAGE_BYTES = 16 * 1024
"""How much of Nix's message about a failure is kept; the log has the rest."""


class Order(Struct, frozen=True, kw_only=True):
    """What is to be built, and within which limits."""

    attempt: int
    derivation: int
    path: DrvPath
    mount: Mount | None = None
    """What it is to be shown."""
    limits: Callable[[], Limits]
    """As they are when it is asked: who comes to want it later may allow more."""


_FOUND = (BuildStatus.ALREADY_VALID, BuildStatus.RESOLVES_TO_ALREADY_VALID)


class _Limit(Exception):  # noqa: N818 - a control flow within this module, never seen outside
    """A limit was reached."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class _Watch:
    """Feeds the log, and ends the attempt by its `deadline` when a limit is reached."""

    def __init__(
        self, writer: LogWriter, limits: Callable[[], Limits], deadline: asyncio.Timeout
    ) -> None:
        self.reached: _Limit | None = None
        self._writer = writer
        self._limits = limits
        self._deadline = deadline
        self._max_log = limits().max_log
        self._began = self._heard_at = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def hear(self, record: LogRecord) -> None:
        """Take one record of the protocol's log stream."""
        if isinstance(record, BuildLog):
            self._heard_at = time.monotonic()
            self._writer.write(record.data + b"\n" if record.line_ends else record.data)
            if self._too_long():
                self._max_log = self._limits().max_log
                if self._too_long():
                    self._end(
                        Failure.LOG_LIMIT,
                        f"wrote more log than maxLog allows ({format_size(self._max_log or 0)})",
                    )

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _too_long(self) -> bool:
        return self._max_log is not None and self._writer.bytes > self._max_log

    def _look(self) -> None:
        """End what has run or been silent for too long; look again when that could be so."""
        limits, now = self._limits(), time.monotonic()
        running, silent = now - self._began, now - self._heard_at
        rest = []
        if limits.timeout is not None:
            rest.append(limits.timeout - running)
            if running >= limits.timeout:
                took = format_duration(limits.timeout)
                self._end(Failure.TIMED_OUT, f"ran longer than its timeout ({took})")
                return
        if limits.max_silent is not None:
            rest.append(limits.max_silent - silent)
            if silent >= limits.max_silent:
                took = format_duration(limits.max_silent)
                self._end(Failure.SILENT, f"printed nothing for longer than maxSilent ({took})")
                return
        if rest:
            self._timer = asyncio.get_running_loop().call_later(min(rest), self._look)

    def _end(self, failure: Failure, message: str) -> None:
        self.reached = _Limit(failure, message)
        self._deadline.reschedule(0)


async def run(order: Order, place: Place, logs: Path) -> AttemptResult:
    """Make the attempt. Only cancellation is raised."""
    started_at = time.time()
    failure: Failure | None = None
    message = ""
    outputs: Mapping[str, OutputFact] = {}
    realisations: Mapping[str, str] = {}
    support = build_products.Support(failed=False, products=(), metrics=())
    status: BuildStatus | None = None
    log_bytes = 0
    building = 0.0
    try:
        writer = LogWriter(logs, order.attempt)
        try:
            await place.prepare(order.path)
            began = time.monotonic()
            result = await _build(order, place, writer)
            building = time.monotonic() - began
            status, realisations = result.status, result.realisations
            failure = failures.of_result(status, result.message)
            if failure is None:
                made = await place.outputs(result)
                outputs = {
                    name: OutputFact(path=info.path, size=info.nar_size)
                    for name, info in made.items()
                }
                failure, message = _too_large(order.limits(), outputs)
                if failure is None:
                    await place.bring(made)
                    support = build_products.read([fact.path for fact in outputs.values()])
                    failure, message = _confessed(support)
            else:
                message = failures.told(failure, result.message)
        finally:
            log_bytes = writer.bytes
            writer.close()
    except _Limit as limit:
        failure, message = limit.failure, str(limit)
    except ConnectionLostError as error:
        failure, message = Failure.UNREACHABLE, str(error)
    except NixError as error:
        failure = failures.of_refusal(str(error))
        message = failures.told(failure, str(error))
    except OSError as error:
        failure, message = Failure.MACHINE, f"cannot write the build's log: {error}"
    outcome = Outcome.SUCCEEDED if failure is None else failure.outcome
    return AttemptResult(
        outcome=outcome,
        message=message[:MESSAGE_BYTES],
        started_at=started_at,
        finished_at=time.time(),
        outputs=outputs,
        realisations=realisations if outcome is Outcome.SUCCEEDED else {},
        products=support.products,
        metrics=support.metrics,
        log_bytes=log_bytes,
        building=building,
        substituted=outcome is Outcome.SUCCEEDED and status is BuildStatus.SUBSTITUTED,
        found=outcome is Outcome.SUCCEEDED and status in _FOUND,
        builder_failed=failure is not None and failure.of_builder,
    )


def unreachable(error: Exception, *, started_at: float) -> AttemptResult:
    """An attempt that came to nothing because its place could not be reached."""
    return AttemptResult(
        outcome=Failure.UNREACHABLE.outcome,
        message=str(error)[:MESSAGE_BYTES],
        started_at=started_at,
        finished_at=time.time(),
        builder_failed=True,
        builder_unfit=isinstance(error, UsageError)
        or (isinstance(error, ConnectionLostError) and not error.passing),
    )


async def _build(order: Order, place: Place, writer: LogWriter) -> BuildResult:
    """Build, and stop when a limit is reached: Nix enforces none of them on a remote builder."""
    watch: _Watch | None = None
    try:
        async with asyncio.timeout(None) as deadline:
            watch = _Watch(writer, order.limits, deadline)
            return await place.build(order.path, on_log=watch.hear)
    except TimeoutError:
        if watch is None or watch.reached is None:
            raise
        raise watch.reached from None
    finally:
        if watch is not None:
            watch.stop()


def _too_large(limits: Limits, outputs: Mapping[str, OutputFact]) -> tuple[Failure | None, str]:
    """What is wrong with the size of outputs, before they are brought here."""
    size = sum(fact.size for fact in outputs.values())
    if limits.max_output is not None and size > limits.max_output:
        return Failure.OUTPUT_LIMIT, (
            f"its outputs have {format_size(size)}, more than maxOutput allows"
            f" ({format_size(limits.max_output)})"
        )
    return None, ""


def _confessed(support: build_products.Support) -> tuple[Failure | None, str]:
    """What a build that Nix calls good says of itself."""
    if support.failed:
        return Failure.BUILD, "the build itself says that it failed (nix-support/failed)"
    return None, ""
