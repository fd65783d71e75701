"""Tells the service manager how the daemon is doing, in the way of sd_notify(3).

A message is one datagram of `NAME=value` lines to the socket that systemd names in the
environment; where it names none, nothing is said. Decides nothing: what is so is known elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

from reconciler.errors import UsageError

VARIABLES = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})
"""Meant for one process: whoever it starts in turn must not have them."""

PATIENCE = 5.0
"""Seconds for which a manager may be too busy to take a message."""


class ServiceManager:
    """See the module's text."""

    def __init__(self, address: str | None = None, *, watchdog: float | None = None) -> None:
        """UsageError for an address that is none of systemd's."""
        self._address = None if address is None else _socket_address(address)
        self.watchdog = watchdog
        """Seconds without a sign of life after which the manager kills us; None: it never does."""
        self._alive_at = float("-inf")
        self._status: str | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> ServiceManager:
        """The one that the environment names."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = ours and microseconds.isdecimal() and int(microseconds) > 0
        return cls(
            environment.get("NOTIFY_SOCKET") or None,
            watchdog=int(microseconds) / 1e6 if watched else None,
        )

    def ready(self) -> None:
        """Say that it has started, or that what `reloading` began is done."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that the configuration is being read again."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that it is about to end."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Say that it is alive, unless that was said just now."""
        if self.watchdog is None or time.monotonic() < self._alive_at + self.watchdog / 8:
            return
        self._alive_at = time.monotonic()
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Say what it does, in one line, unless that was said last."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # A manager that is gone or stuck is no reason to stop building: if it misses what it has
        # to hear, it acts on that.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.settimeout(PATIENCE)
            out.sendto(message.encode(), self._address)


def _socket_address(text: str) -> bytes:
    """An @ in front stands for the zero byte of an abstract socket's name."""
    raw = os.fsencode(text)
    if raw[:1] not in (b"/", b"@") or len(raw) == 1:
        raise UsageError(
            f"NOTIFY_SOCKET={text} is no socket of systemd's: unset it, or name an absolute path"
        )
    return b"\0" + raw[1:] if raw.startswith(b"@") else raw
