"""One attempt at one derivation: builds it over a kept connection, within its limits.

Every end is a value (`AttemptResult`), also that of a daemon that went away. Cancelling the task
stops the build: the connection closes, and its daemon ends what ran on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.build import failures
from reconciler.build import products as build_products
from reconciler.build.failures import Failure
from reconciler.build.log import LogWriter
from reconciler.errors import ConnectionLostError, NixError
from reconciler.model import (
    AttemptResult,
    DrvPath,
    Limits,
    Outcome,
    OutputFact,
)
from reconciler.nix.connection import Connection
from reconciler.nix.logs import BuildLog, LogRecord
from reconciler.nix.protocol import BuildResult, BuildStatus
from reconciler.quantities import format_duration, format_size

MESSAGE_BYTES = 16 * 1024
"""How much of Nix's message about a failure is kept; the log has the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be built, and within which limits."""

    attempt: int
    derivation: int
    path: DrvPath
    limits: Callable[[], Limits]
    """As they are when it is asked: who comes to want it later may allow more."""


_FOUND = (BuildStatus.ALREADY_VALID, BuildStatus.RESOLVES_TO_ALREADY_VALID)


class _Limit(Exception):  # noqa: N818 - a control flow within this module, never seen outside
    """A limit was reached."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class _Watch:
    """Feeds the log, and knows how long the build has been silent."""

    def __init__(self, writer: LogWriter, limits: Callable[[], Limits]) -> None:
        self.writer = writer
        self.heard_at = time.monotonic()
        self.too_long = asyncio.Event()
        self._limits = limits
        self._max_log = limits().max_log

    def hear(self, record: LogRecord) -> None:
        """Take one record of the protocol's log stream."""
        if isinstance(record, BuildLog):
            self.heard_at = time.monotonic()
            self.writer.write(record.data + b"\n" if record.line_ends else record.data)
            if self._too_long():
                self._max_log = self._limits().max_log
                if self._too_long():
                    self.too_long.set()

    def _too_long(self) -> bool:
        return self._max_log is not None and self.writer.bytes > self._max_log


async def run(order: Order, connection: Connection, logs: Path) -> AttemptResult:
    """Make the attempt. Only cancellation is raised."""
    started_at = time.time()
    failure: Failure | None = None
    message = ""
    outputs: Mapping[str, OutputFact] = {}
    support = build_products.Support(failed=False, products=(), metrics=())
    status: BuildStatus | None = None
    log_bytes = 0
    try:
        writer = LogWriter(logs, order.attempt)
        try:
            result = await _build(order, connection, writer)
            status = result.status
            failure = failures.of_result(status, result.message)
            if failure is None:
                outputs = await _output_facts(connection, result)
                support = build_products.read([fact.path for fact in outputs.values()])
                failure, message = _judge(order.limits(), outputs, support)
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
        products=support.products,
        metrics=support.metrics,
        log_bytes=log_bytes,
        substituted=outcome is Outcome.SUCCEEDED and status is BuildStatus.SUBSTITUTED,
        found=outcome is Outcome.SUCCEEDED and status in _FOUND,
    )


async def _build(order: Order, connection: Connection, writer: LogWriter) -> BuildResult:
    """Build, and stop when a limit is reached: Nix enforces none of them on a remote builder."""
    watch = _Watch(writer, order.limits)
    began = time.monotonic()
    build = asyncio.ensure_future(connection.build(order.path, on_log=watch.hear))
    too_long = asyncio.ensure_future(watch.too_long.wait())
    try:
        while True:
            now = time.monotonic()
            limits = order.limits()
            _check_time(limits, running=now - began, silent=now - watch.heard_at)
            done, _ = await asyncio.wait(
                (build, too_long),
                timeout=_patience(limits, running=now - began, silent=now - watch.heard_at),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if build in done:
                return build.result()
            if too_long in done:
                raise _Limit(
                    Failure.LOG_LIMIT,
                    f"wrote more log than maxLog allows ({format_size(limits.max_log or 0)})",
                )
    finally:
        for task in (build, too_long):
            task.cancel()
        await asyncio.gather(build, too_long, return_exceptions=True)


def _check_time(limits: Limits, *, running: float, silent: float) -> None:
    if limits.timeout is not None and running >= limits.timeout:
        raise _Limit(
            Failure.TIMED_OUT, f"ran longer than its timeout ({format_duration(limits.timeout)})"
        )
    if limits.max_silent is not None and silent >= limits.max_silent:
        raise _Limit(
            Failure.SILENT,
            f"printed nothing for longer than maxSilent ({format_duration(limits.max_silent)})",
        )


def _patience(limits: Limits, *, running: float, silent: float) -> float | None:
    """Seconds until a limit could be reached; None: never."""
    rest = []
    if limits.timeout is not None:
        rest.append(limits.timeout - running)
    if limits.max_silent is not None:
        rest.append(limits.max_silent - silent)
    return max(0.0, min(rest)) if rest else None


async def _output_facts(connection: Connection, result: BuildResult) -> dict[str, OutputFact]:
    facts = {}
    for name, path in result.outputs.items():
        info = await connection.query_path_info(path)
        if info is not None:
            facts[name] = OutputFact(path=path, size=info.nar_size)
    return facts


def _judge(
    limits: Limits, outputs: Mapping[str, OutputFact], support: build_products.Support
) -> tuple[Failure | None, str]:
    """What is wrong with a build that Nix calls good."""
    size = sum(fact.size for fact in outputs.values())
    if limits.max_output is not None and size > limits.max_output:
        return Failure.OUTPUT_LIMIT, (
            f"its outputs have {format_size(size)}, more than maxOutput allows"
            f" ({format_size(limits.max_output)})"
        )
    if support.failed:
        return Failure.BUILD, "the build itself says that it failed (nix-support/failed)"
    return None, ""
