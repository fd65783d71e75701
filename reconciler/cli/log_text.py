"""Build logs as harmless text: the last lines, all of it, and while it grows."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from reconciler.build.log import live_path, read
from reconciler.cli.text import cut, harmless

LONGEST_LINE = 64 * 1024
"""Characters after which a line that does not end is printed as far as it goes."""

WIDEST = 400
"""Columns that are shown of each of the last lines."""


class Lines:
    """Bytes in, harmless lines out. Bytes that are no UTF-8 are replaced."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete by this."""
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        if len(self._rest) > LONGEST_LINE:
            lines.append(self._rest)
            self._rest = ""
        return [harmless(line.removesuffix("\r")) for line in lines]

    def end(self) -> list[str]:
        """What is left without a line end."""
        rest = self._rest + self._decoder.decode(b"", final=True)
        self._rest = ""
        return [harmless(rest)] if rest else []


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """All lines."""
    lines = Lines()
    for chunk in chunks:
        yield from lines.feed(chunk)
    yield from lines.end()


def tail(logs: Path, attempt: int, count: int) -> list[str]:
    """The last lines, as far as a few rows of a terminal hold them; none where no log was kept, or
    this user may not read it.
    """
    try:
        last = deque(lines_of(read(logs, attempt)), maxlen=count)
    except OSError:
        return []
    return [cut(line, WIDEST) for line in last]


class Follower:
    """Reads a log that grows, from its beginning."""

    def __init__(self, logs: Path, attempt: int) -> None:
        self._logs = logs
        self._attempt = attempt
        self._position = 0
        self._lines = Lines()

    def more(self) -> list[str]:
        """What came since the last call, as far as its lines are complete."""
        try:
            with live_path(self._logs, self._attempt).open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return []
        self._position += len(data)
        return self._lines.feed(data)

    def rest(self) -> list[str]:
        """All that is left once the attempt has ended, its log compressed or not."""
        found: list[str] = []
        skipped = 0
        try:
            for chunk in read(self._logs, self._attempt):
                fresh = chunk[max(0, self._position - skipped) :]
                skipped += len(chunk)
                found += self._lines.feed(fresh)
        except FileNotFoundError:
            pass
        return [*found, *self._lines.end()]
