"""What is sent to a cache: counted, and held to so many bytes a second; and the pause it asked for.

Arithmetic only: whoever sends waits by itself. Safe for many threads at once.
"""

from __future__ import annotations

import threading

_PIECE = 256 * 1024
_LEAST_PIECE = 4 * 1024
_PIECES = 8
"""Pieces a second, where a limit is low: a line that rests for seconds would be taken for dead."""


class Traffic:
    """All transfers to one cache together. `limit` in bytes a second; None: as fast as it goes."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.sent = 0
        """Bytes so far, those of attempts that failed included."""
        self._free_at = 0.0
        self._left_alone_until = 0.0
        self._lock = threading.Lock()

    @property
    def piece(self) -> int:
        """How many bytes to send in one go."""
        if self.limit is None:
            return _PIECE
        return min(_PIECE, max(_LEAST_PIECE, self.limit // _PIECES))

    def admit(self, amount: int, *, now: float) -> float:
        """Count bytes that are about to be sent; how long to wait before, in seconds.

        Each byte waits for its own turn, so a pause saves nothing up, and what follows a pause is
        no burst. `now` in seconds of a clock that never goes back.
        """
        with self._lock:
            self.sent += amount
            if self.limit is None:
                return 0.0
            self._free_at = max(self._free_at, now) + amount / self.limit
            return self._free_at - now

    def leave_alone(self, *, until: float) -> None:
        """Note that the server asks for a pause; in seconds since the epoch."""
        with self._lock:
            self._left_alone_until = max(self._left_alone_until, until)

    def take_pause(self) -> float:
        """Until when, as it said since this was asked last; 0: it said nothing."""
        with self._lock:
            until, self._left_alone_until = self._left_alone_until, 0.0
            return until
