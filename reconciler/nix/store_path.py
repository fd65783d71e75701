"""The store path that a content has, told without asking a store.

Source: the chapter "Complete Store Path Calculation" of the Nix manual.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from reconciler.model import StorePath
from reconciler.nix.hashes import from_base32, to_base32

_DIGEST = 20
"""Bytes of the digest in a store path."""


def store_dir_in(environment: Mapping[str, str]) -> str:
    """The store's folder, as Nix takes it from its variables."""
    return environment.get("NIX_STORE_DIR", "/nix/store")


def by_content(store_dir: str, name: str, nar_hash: bytes) -> StorePath:
    """Where a tree lies that is named by the SHA-256 of its NAR, and refers to nothing."""
    facts = f"source:sha256:{nar_hash.hex()}:{store_dir}:{name}"
    folded = bytearray(_DIGEST)
    for at, byte in enumerate(hashlib.sha256(facts.encode()).digest()):
        folded[at % _DIGEST] ^= byte
    return StorePath(f"{store_dir}/{to_base32(bytes(folded))}-{name}")


def digest_of(nar_hash: str) -> bytes:
    """The digest behind `sha256:` and Nix's base 32, as stores tell it."""
    return from_base32(nar_hash.removeprefix("sha256:"))


def digest_of_sri(text: str) -> bytes | None:
    """The SHA-256 behind `sha256-…`; None: the text is none."""
    try:
        digest = base64.b64decode(text.removeprefix("sha256-"), validate=True)
    except ValueError:
        return None
    return digest if len(digest) == 32 and sri(digest) == text else None


def sri(digest: bytes) -> str:
    """A SHA-256 as Nix expressions take it."""
    return f"sha256-{base64.b64encode(digest).decode()}"
