"""Public host keys as people write them. Pure.

A key is a type and, in base64, the fields of RFC 4253, section 6.6: each with its length before it,
the first of them the type again. So it can be told of a text whether all of it is there.
"""

from __future__ import annotations

import base64
import binascii

_ED25519 = ("ssh-ed25519", 32)
"""The type whose key has one size (RFC 8709), in bytes."""


def canonical(text: str) -> str | None:
    """A key as known_hosts has it, without the comment; None: it is none, or a part of one.

    Given as in a `.pub` file, or that in base64 as in `nix.buildMachines`.
    """
    words = text.split()
    if len(words) == 1:
        words = _decoded(words[0]).decode(errors="replace").split()
    if len(words) < 2:
        return None
    kind, key = words[:2]
    fields = _fields(_decoded(key))
    if len(fields) < 2 or fields[0] != kind.encode() or not all(fields):
        return None
    if kind == _ED25519[0] and [len(each) for each in fields[1:]] != [_ED25519[1]]:
        return None
    return f"{kind} {key}"


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _fields(blob: bytes) -> list[bytes]:
    """The fields, of which the last is empty if something is missing at the end."""
    found = []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        whole = len(blob) >= 4 + size
        found.append(blob[4 : 4 + size] if whole else b"")
        blob = blob[4 + size :]
    return found
