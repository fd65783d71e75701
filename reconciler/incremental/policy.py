"""What a derivation says of where its bases are kept and shared: its variable incrementalPolicy.

The library writes it (lib/incremental/policy.nix): a word and a value a line. What else it says is
for the build alone.
"""

from __future__ import annotations

from msgspec import Struct

from reconciler.incremental.fingerprint import variables
from reconciler.nix.basic_derivation import BasicDerivation

_VARIABLE = "incrementalPolicy"


class Policy(Struct, frozen=True, kw_only=True):
    """Names of a job's own choosing; None: there is none."""

    slot: str | None = None
    """Under which its bases are kept, in place of the job's own name."""
    fallback: str | None = None
    """Of the bases to start from where it has none itself."""
    bucket: str | None = None
    """The artifact store in which they are shared."""


def policy_of(derivation: BasicDerivation) -> Policy:
    """Read it; a derivation without the variable has none."""
    text = variables(derivation).get(_VARIABLE)
    if not isinstance(text, str):
        return Policy()
    found: dict[str, str] = {}
    for line in text.splitlines():
        word, _, value = line.partition(" ")
        found.setdefault(word, value)
    return Policy(
        slot=found.get("slot"), fallback=found.get("fallback"), bucket=found.get("bucket")
    )
