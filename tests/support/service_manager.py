"""Stands where systemd stands: a real datagram socket, and what a service said to it."""

from __future__ import annotations

import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE = 60.0
"""Seconds."""


class Manager:
    """What was said, in order; each message is a tuple of its lines."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.heard: list[tuple[str, ...]] = []
        self.service: subprocess.Popen[bytes] | None = None
        """Who is to speak: without it, there is nothing to wait for."""

    def next(self) -> tuple[str, ...]:
        """Wait for a message; AssertionError if none comes."""
        end = time.monotonic() + DEADLINE
        while not select.select([self._listener], [], [], 0.1)[0]:
            assert time.monotonic() < end, f"nothing came after {self.heard}"
            assert self.service is None or self.service.poll() is None, "the service ended"
        self.heard.append(tuple(self._listener.recv(4096).decode().split("\n")))
        return self.heard[-1]

    def until(self, line: str) -> list[tuple[str, ...]]:
        """Wait for a message with a line that starts so; what came until then, that included."""
        start, end = len(self.heard), time.monotonic() + DEADLINE
        while not any(each.startswith(line) for each in self.next()):
            assert time.monotonic() < end, f"no {line} among {self.heard[start:]}"
        return self.heard[start:]

    def waiting(self) -> list[tuple[str, ...]]:
        """What has come and was not looked at yet."""
        self._listener.setblocking(False)
        found = []
        try:
            while True:
                found.append(tuple(self._listener.recv(4096).decode().split("\n")))
        except BlockingIOError:
            self.heard += found
            return found


@contextmanager
def service_manager(address: Path | str) -> Iterator[Manager]:
    """One that listens at a path, or (a text that starts with @) in the abstract namespace."""
    text = str(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + text[1:] if text.startswith("@") else text)
        yield Manager(listener)
