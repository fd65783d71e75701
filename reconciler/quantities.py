"""Durations, sizes and hours as people write them: "1h30m", "4GiB", "20:05:09 UTC".

Pure: text to number and back. Knows nothing of the document they stand in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from reconciler.errors import UsageError

# `fractions` is imported where it is used: whoever only prints a duration (`status`) need not wait
# for the decimal numbers that it brings with it.

_MILLISECONDS: Mapping[str, int] = {
    "w": 604_800_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
}
_BYTES: Mapping[str, int] = {
    "B": 1,
    "kB": 10**3,
    "KiB": 2**10,
    "MB": 10**6,
    "MiB": 2**20,
    "GB": 10**9,
    "GiB": 2**30,
    "TB": 10**12,
    "TiB": 2**40,
}
_LONGEST = 100 * 365 * 86400
"""A hundred years: more is a slip, and seconds as float stay exact to the millisecond."""
_LARGEST = 2**63 - 1
"""SQLite's and Nix's largest integer."""

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,6})?"
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|[wdhms])")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_SIZE = re.compile(rf"({_NUMBER})({'|'.join(_BYTES)})")
_LOOSE = re.compile(rf"({_NUMBER})\s*([A-Za-z]*)")
_LOOSE_SECONDS: Mapping[str, str] = {
    "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "min": "m", "mins": "m", "minute": "m", "minutes": "m",
    "hr": "h", "hrs": "h", "hour": "h", "hours": "h",
    "day": "d", "days": "d", "week": "w", "weeks": "w",
}  # fmt: skip
_LOOSE_BYTES: Mapping[str, str] = {
    **{name.lower(): name for name in _BYTES},
    "byte": "B", "bytes": "B",
    "k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB",
}  # fmt: skip


class QuantityError(UsageError):
    """A text that is no duration or size. `message` says what is wrong, `mend` what to write."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(f"{message}; {mend}")
        self.message = message
        self.mend = mend


def duration(text: str) -> float:
    """Read the seconds of a text such as "5m", "1h30m", "1.5h" or "250ms".

    Units are w, d, h, m, s and ms, each at most once, the larger before the smaller.
    """
    from fractions import Fraction  # noqa: PLC0415

    if not _DURATION.fullmatch(text):
        raise QuantityError("is not a duration", _mend_duration(text))
    parts = _DURATION_PART.findall(text)
    order = [list(_MILLISECONDS).index(unit) for _, unit in parts]
    if order != sorted(set(order)):
        raise QuantityError(
            "is not a duration: each unit once, the larger first", 'write it like "1h30m"'
        )
    seconds = sum(Fraction(number) * _MILLISECONDS[unit] for number, unit in parts) / Fraction(1000)
    if seconds > _LONGEST:
        raise QuantityError("is longer than a hundred years", "write a shorter duration")
    return float(seconds)


def size(text: str) -> int:
    """Read the bytes of a text such as "64MiB", "1.5GiB" or "500MB"; a part of a byte is dropped.

    Units are B, KiB, MiB, GiB and TiB (powers of 1024), kB, MB, GB and TB (powers of 1000).
    """
    from fractions import Fraction  # noqa: PLC0415

    found = _SIZE.fullmatch(text)
    if found is None:
        raise QuantityError("is not a size", _mend_size(text))
    number, unit = found.groups()
    count = int(Fraction(number) * _BYTES[unit])
    if count > _LARGEST:
        raise QuantityError("is more bytes than Nix can count", "write a smaller size")
    return count


def format_duration(seconds: float) -> str:
    """Print a duration by its two largest units, rounded ("2d3h", "5m30s", "1.4s", "250ms").

    `duration` takes every result for which `seconds` is not negative.
    """
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 0.9995:
        return f"{round(seconds * 1000)}ms" if seconds else "0s"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    if (whole := round(seconds)) < 60:
        return f"{whole}s"
    if whole < 3600:
        return _pair(whole, per_large=60, large="m", small="s")
    if (minutes := round(seconds / 60)) < 1440:
        return _pair(minutes, per_large=60, large="h", small="m")
    return _pair(round(seconds / 3600), per_large=24, large="d", small="h")


def time_of_day(at: float) -> str:
    """Print a time that is near by its hour ("20:05:09 UTC"); `at` in seconds since the epoch."""
    minutes, seconds = divmod(int(at) % 86_400, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02} UTC"


def format_size(count: int) -> str:
    """Print bytes in powers of 1024 with at most one decimal ("4GiB", "1.5MiB", "512B").

    `size` takes every result for which `count` is not negative.
    """
    if count < 0:
        return "-" + format_size(-count)
    for unit, bytes_each in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        # What would round up to 1024 of this unit belongs to the next larger one.
        if count >= bytes_each * (1 - 0.05 / 1024):
            return f"{count / bytes_each:.1f}".removesuffix(".0") + unit
    return f"{count}B"


def _pair(count: int, *, per_large: int, large: str, small: str) -> str:
    """Print `count` of the small unit as large and small ones, a zero left out."""
    high, low = divmod(count, per_large)
    return f"{high}{large}" + (f"{low}{small}" if low else "")


def _mend_duration(text: str) -> str:
    """Guess what was meant by a text that is no duration."""
    if clock := re.fullmatch(r"([0-9]{1,9}):([0-9]{1,2})", text):
        return f'write "{clock[1]}h{clock[2]}m" or "{clock[1]}m{clock[2]}s"'
    found = _LOOSE.fullmatch(text.strip())
    if found and not found[2]:
        return f'write it with a unit: "{found[1]}s", "{found[1]}m" or "{found[1]}h"'
    if found and (unit := _LOOSE_SECONDS.get(found[2].lower(), found[2].lower())) in _MILLISECONDS:
        return f'write "{found[1]}{unit}"'
    return 'write numbers with units w, d, h, m, s or ms, such as "5m" or "1h30m"'


def _mend_size(text: str) -> str:
    """Guess what was meant by a text that is no size."""
    found = _LOOSE.fullmatch(text.strip())
    if found and not found[2]:
        return f'write it with a unit: "{found[1]}B", "{found[1]}MiB" or "{found[1]}GiB"'
    if found and (unit := _LOOSE_BYTES.get(found[2].lower())):
        return f'write "{found[1]}{unit}"'
    return f'write a number with a unit of {", ".join(_BYTES)}, such as "4GiB"'
