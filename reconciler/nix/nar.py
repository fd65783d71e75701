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


class NotNarError(NixError):
    """Bytes that cannot be a NAR: `word` stands where a keyword's length belongs, and `end` is how
    many of the bytes last fed lead up to and through it.
    """

    def __init__(self, message: str, *, word: int, end: int) -> None:
        super().__init__(f"not a Nix archive: {message}")
        self.word = word
        self.end = end


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

        Raises NotNarError.
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
            token = self._token_end(data, at, carried)
            if token is None:
                break
            at = token
        if self.finished:
            self._partial = b""
            return at - carried
        self._partial = data[at:]
        return len(data) - carried

    def _token_end(self, data: bytes, at: int, carried: int) -> int | None:
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
            raise NotNarError(
                f"it has a keyword of {length} bytes", word=length, end=start - carried
            )
        end = start + length
        if end + -length % _WORD_SIZE > len(data):
            return None
        keyword = data[start:end]
        if not self._accept(keyword):
            raise NotNarError(f"{keyword!r} has no place here", word=length, end=start - carried)
        return end + -length % _WORD_SIZE

    def _accept(self, keyword: bytes) -> bool:
        """Go on by a keyword; whether it may stand here."""
        if not self._started:
            self._started = keyword == _MAGIC
            return self._started
        if not self._depth:
            self._depth = 1
            return keyword == b"("
        self._value_next = keyword in _WITH_VALUE
        self._depth += {b"(": 1, b")": -1}.get(keyword, 0)
        self.finished = self._depth == 0
        return self._value_next or keyword in _PLAIN
