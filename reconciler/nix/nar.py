"""Where a NAR (Nix archive) ends, found while it streams by.

The worker protocol sends a NAR without its length, so its structure must be followed to know
where the next answer begins. Nothing of the contents is kept, judged or written here.

Source: the "Nix Archive (NAR) format" chapter of the Nix manual.
"""

from __future__ import annotations

from reconciler.errors import NixError

_WORD_SIZE = 8
_MAGIC = b"nix-archive-1"
_WITH_VALUE = frozenset((b"type", b"contents", b"executable", b"target", b"name"))
_PLAIN = frozenset((b"entry", b"node", b"(", b")"))
_LONGEST_KEYWORD = len(_MAGIC)


class NarScanner:
    """Counts the parentheses of one archive; `feed` it the bytes as they come."""

    def __init__(self) -> None:
        self.finished = False
        self._partial = b""
        self._skip = 0
        self._depth = 0
        self._started = False
        self._value_next = False

    def feed(self, data: bytes) -> int:
        """How many of `data` belong to the archive: all of them until it is `finished`.

        Raises NixError where the bytes cannot be a NAR.
        """
        carried = len(self._partial)
        data = self._partial + data if carried else data
        at = 0
        while not self.finished:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                if self._skip:
                    break
            token = self._token_end(data, at)
            if token is None:
                break
            at = token
        if self.finished:
            self._partial = b""
            return at - carried
        self._partial = data[at:]
        return len(data) - carried

    def _token_end(self, data: bytes, at: int) -> int | None:
        """Read the token at `at`; where the next begins, or None if it has not all arrived."""
        start = at + _WORD_SIZE
        if start > len(data):
            return None
        length = int.from_bytes(data[at:start], "little")
        if self._value_next:
            self._value_next = False
            self._skip = length + -length % _WORD_SIZE
            return start
        if length > _LONGEST_KEYWORD:
            raise NixError(f"not a Nix archive: a keyword of {length} bytes")
        end = start + length
        if end + -length % _WORD_SIZE > len(data):
            return None
        self._keyword(data[start:end])
        return end + -length % _WORD_SIZE

    def _keyword(self, keyword: bytes) -> None:
        if not self._started:
            if keyword != _MAGIC:
                raise NixError(f"not a Nix archive: it begins with {keyword!r}")
            self._started = True
        elif keyword in _WITH_VALUE and self._depth:
            self._value_next = True
        elif keyword in _PLAIN and (self._depth or keyword == b"("):
            self._depth += {b"(": 1, b")": -1}.get(keyword, 0)
            self.finished = self._depth == 0
        else:
            raise NixError(f"not a Nix archive: {keyword!r} has no place in it")
