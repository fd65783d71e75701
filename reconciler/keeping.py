"""What builds left becomes bases in the store, for later builds to start from.

Yields outcomes; when that is tried, and which bases are kept for how long, is decided elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from reconciler.database.bases import Left
from reconciler.database.incremental import NewBase
from reconciler.errors import NixError
from reconciler.incremental.intermediates import Refused, add_base
from reconciler.incremental.policy import policy_of
from reconciler.model import StorePath
from reconciler.nix import basic_derivation
from reconciler.outcomes import Kept
from reconciler.store import Store

_RECORD = "incremental"
"""A file that the library writes into intermediates (docs/incremental.md)."""
_UNUSABLE = "unusable "
_RECORD_READ = 64 * 1024
_TOLD = 500
"""Bytes that are read of it, and characters that are told: anybody's build may write there."""
_LONGEST = 190
"""Characters of a derivation's name: Nix allows 211 for that of a path."""


async def keep(left: Left, store: Store, *, max_size: int) -> Kept:
    """Add what a build left to the store by its content."""
    try:
        unusable = _confessed(left.intermediates)
        if unusable is not None:
            return Kept(left=left, refused=unusable)
        name = f"{left.name[:_LONGEST]}-intermediates"
        derivation = basic_derivation.read(left.path)
        policy = policy_of(derivation)
        kept = await add_base(
            store, left.intermediates, derivation=derivation, name=name, max_size=max_size
        )
    except (NixError, OSError) as error:
        return Kept(left=left, error=str(error))
    if isinstance(kept, Refused):
        return Kept(left=left, refused=kept.reason)
    base = NewBase(
        name=kept.name,
        path=kept.path,
        nar_hash=kept.nar_hash,
        size=kept.size,
        fingerprint=left.fingerprint,
        canonical=left.canonical,
        built=left.path,
        revision=left.revision,
        parent=left.parent,
        shared_slot=policy.slot,
        bucket=policy.bucket,
    )
    return Kept(left=left, base=base)


def _confessed(intermediates: StorePath) -> str | None:
    """Why they are of no use, if the library that saved them says so."""
    folder = Path(intermediates)
    record = folder / _RECORD
    if folder.is_symlink() or record.is_symlink() or not record.is_file():
        return None
    with record.open("rb") as file:
        lines = file.read(_RECORD_READ).decode("utf-8", errors="replace").split("\n")
    found = next((line for line in lines if line.startswith(_UNUSABLE)), None)
    return None if found is None else found.removeprefix(_UNUSABLE).strip()[:_TOLD]
