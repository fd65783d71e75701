"""The yardstick: builds a graph over the worker protocol with no state, no log, no root.

What is left when everything that makes a reconciler is taken away: two connections to
`nix-daemon --stdio`, one thread each, and a queue of what is ready, in the order in which it
became ready. Nothing of the reconciler is used but the reader of derivation files.

    python -m bench.bare_loop SLOTS DRV...
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from typing import IO

from reconciler.model import DrvPath
from reconciler.nix import derivation

_WORD = struct.Struct("<Q")
_LAST, _ERROR = 0x616C7473, 0x63787470
_NEXT, _START, _STOP, _RESULT = 0x6F6C6D67, 0x53545254, 0x53544F50, 0x52534C54
_SET_OPTIONS, _BUILD = 19, 46


def _string(text: str) -> bytes:
    raw = text.encode()
    return _WORD.pack(len(raw)) + raw + bytes(-len(raw) % 8)


class Daemon:
    """One `nix-daemon --stdio`, spoken to without any care."""

    def __init__(self) -> None:
        process = subprocess.Popen(
            ["nix-daemon", "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "NIX_REMOTE": "local"},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._to: IO[bytes] = process.stdin
        self._from: IO[bytes] = process.stdout
        self._send(_WORD.pack(0x6E697863) + _WORD.pack(1 << 8 | 35))
        assert self._word() == 0x6478696F
        self._word()
        self._send(bytes(16))
        self._string()  # Nix's version
        self._word()  # whether it trusts us
        self._log()
        words = [0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 1]
        options = b"".join(map(_WORD.pack, [_SET_OPTIONS, *words, 1]))
        self._send(options + _string("build-hook") + _string(""))
        self._log()

    def build(self, drv: str) -> None:
        self._send(
            _WORD.pack(_BUILD) + _WORD.pack(1) + _string(f"{drv}!*") + _WORD.pack(0),
        )
        self._log()
        assert self._word() == 1
        self._string()
        status, message = self._word(), self._string()
        for _ in range(4):  # times built, is deterministic, start, stop
            self._word()
        for _ in range(self._word()):
            self._string()
            self._string()
        if status > 2:
            raise SystemExit(f"{drv}: {message.decode()}")

    def close(self) -> None:
        self._to.close()
        self._process.wait()

    def _send(self, data: bytes) -> None:
        self._to.write(data)
        self._to.flush()

    def _word(self) -> int:
        return int(_WORD.unpack(self._from.read(8))[0])

    def _string(self) -> bytes:
        size = self._word()
        return self._from.read(size + -size % 8)[:size]

    def _log(self) -> None:
        while (tag := self._word()) != _LAST:
            if tag == _NEXT:
                self._string()
            elif tag == _STOP:
                self._word()
            elif tag == _START:
                for read in (self._word, self._word, self._word, self._string):
                    read()
                self._fields()
                self._word()
            elif tag == _RESULT:
                self._word()
                self._word()
                self._fields()
            else:
                raise SystemExit(f"the daemon said {tag:x}")

    def _fields(self) -> None:
        for _ in range(self._word()):
            if self._word():
                self._string()
            else:
                self._word()


class Queue:
    """What is ready, for threads to take from."""

    def __init__(self, roots: list[str]) -> None:
        self._needs: dict[str, set[str]] = {}
        self._above: dict[str, list[str]] = {}
        todo = list(roots)
        while todo:
            drv = todo.pop()
            if drv not in self._needs:
                self._needs[drv] = {str(each) for each in derivation.read(DrvPath(drv)).inputs}
                for each in self._needs[drv]:
                    self._above.setdefault(each, []).append(drv)
                todo += self._needs[drv]
        self._ready = [drv for drv, inputs in self._needs.items() if not inputs]
        self._left = len(self._needs)
        self._changed = threading.Condition()

    def take(self) -> str | None:
        """The next; None when all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or not self._left)
            return self._ready.pop(0) if self._left else None

    def done(self, drv: str) -> None:
        with self._changed:
            self._left -= 1
            for each in self._above.get(drv, ()):
                self._needs[each].discard(drv)
                if not self._needs[each]:
                    self._ready.append(each)
            self._changed.notify_all()


def work(queue: Queue) -> None:
    """One slot."""
    daemon = Daemon()
    while (drv := queue.take()) is not None:
        daemon.build(drv)
        queue.done(drv)
    daemon.close()


def main(slots: int, roots: list[str]) -> None:
    queue = Queue(roots)
    threads = [threading.Thread(target=work, args=(queue,)) for _ in range(slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
