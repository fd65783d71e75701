"""Signing realisations: Nix's word for where an output of a content-addressed derivation is.

A reader that wants signatures takes none without: of a content-addressed path the contents vouch
for themselves, but not for being what a derivation makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter

from reconciler.binary_cache.signing import SecretKey

FOLDER = "realisations/"


def in_order(objects: Mapping[str, bytes]) -> list[str]:
    """The names of realisations, and of whatever else, those first that others depend on: a store
    takes none before them.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, content in objects.items():
        needed = []
        if name.startswith(FOLDER):
            needed = list(json.loads(content).get("dependentRealisations") or ())
        sorter.add(name, *(f"{FOLDER}{each}.doi" for each in needed))
    return [name for name in sorter.static_order() if name in objects]


def signed(content: bytes, keys: Iterable[SecretKey]) -> bytes:
    """A realisation with our signatures beside those that it has.

    Signed is the object without its signatures, as Nix writes it: no spaces, keys in their order.
    """
    value = json.loads(content)
    there = value.pop("signatures", [])
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    value["signatures"] = sorted({*there, *(key.sign(text) for key in keys)})
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
