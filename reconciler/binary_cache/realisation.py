"""Signing realisations: Nix's word for where an output of a content-addressed derivation is.

A reader that wants signatures takes none without: of a content-addressed path the contents vouch
for themselves, but not for being what a derivation makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from reconciler.binary_cache.signing import SecretKey

FOLDER = "realisations/"


def signed(content: bytes, keys: Iterable[SecretKey]) -> bytes:
    """A realisation with our signatures beside those that it has.

    Signed is the object without its signatures, as Nix writes it: no spaces, keys in their order.
    """
    value = json.loads(content)
    there = value.pop("signatures", [])
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    value["signatures"] = sorted({*there, *(key.sign(text) for key in keys)})
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
