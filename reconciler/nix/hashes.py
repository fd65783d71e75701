"""The spelling of hashes: Nix's own base 32, as in store paths and narinfo files.

Pure conversions; nothing is hashed here. Digits are `0123456789abcdfghijklmnpqrsvwxyz` (no e, o,
u, t) and come last byte first, which makes them differ from every other base 32.
"""

from __future__ import annotations

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"


def to_base32(digest: bytes) -> str:
    """Nix's base 32 of a digest."""
    number = int.from_bytes(digest, "little")
    length = (len(digest) * 8 + 4) // 5
    return "".join(DIGITS[number >> 5 * place & 31] for place in reversed(range(length)))


def from_base32(text: str) -> bytes:
    """The digest behind Nix's base 32; ValueError where the text is none."""
    number = 0
    for character in text:
        number = number << 5 | DIGITS.index(character)
    try:
        return number.to_bytes(len(text) * 5 // 8, "little")
    except OverflowError:
        raise ValueError(f"{text!r} is not base 32 of whole bytes") from None
