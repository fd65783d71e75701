"""A build whose derivation itself is sent, where the daemon takes that; else by its file's path.

Sent, a derivation need not be in the daemon's store, and what only we understand in it is left out:
features that ask for resources, for which Nix would refuse the build. A daemon that does not trust
us takes no derivation but content-addressed ones, since nothing proves to it that the output paths
are the right ones.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from reconciler.errors import NixError
from reconciler.model import StorePath
from reconciler.nix import basic_derivation, derivation
from reconciler.nix.basic_derivation import BasicDerivation
from reconciler.nix.connection import Connection
from reconciler.nix.logs import LogHandler
from reconciler.nix.protocol import BuildResult
from reconciler.resources import is_need

MISSING_FEATURES = "missing system features"
_REFUSALS = (MISSING_FEATURES, "is required to build")
"""Nix's words since 2.30, and before."""


def is_sent(peer: Connection, whole: BasicDerivation) -> bool:
    """Whether a daemon takes a derivation without its file. As Nix does, one that does not say
    whether it trusts us is taken at its best.
    """
    return peer.trusted is not False or whole.content_addressed


async def build(
    peer: Connection,
    whole: BasicDerivation,
    needed: Collection[StorePath],
    *,
    on_log: LogHandler,
) -> BuildResult:
    """Build all outputs; what is `needed` directly must be there already."""
    if not is_sent(peer, whole):
        try:
            result = await peer.build(whole.path, on_log=on_log)
        except NixError as error:  # which it is before Nix 2.30
            raise NixError(_explained(peer, whole, str(error))) from None
        return replace(result, message=_explained(peer, whole, result.message))
    lighter = basic_derivation.without_resources(whole)
    result = await peer.build_derivation(lighter, needed, on_log=on_log)
    if not result.status.success:
        return result
    return replace(result, outputs={name: StorePath(o[0]) for name, o in whole.outputs.items()})


def _explained(peer: Connection, whole: BasicDerivation, message: str) -> str:
    """What Nix said; of a refusal for the sake of resources, what can be done."""
    asked = [each for each in basic_derivation.features(whole) if is_need(each)]
    if not asked or not any(words in message for words in _REFUSALS):
        return message
    return (
        f"{MISSING_FEATURES}: {peer.endpoint} does not trust us, and refuses what its Nix knows"
        f" nothing of ({', '.join(asked)}). Name us in its trusted-users, list these in its"
        " system-features, or ask for resources by a rule of the jobset"
    )


def inputs(whole: BasicDerivation) -> frozenset[StorePath]:
    """What a derivation uses directly: its sources, and the outputs wanted of other derivations.

    NixError where a path among them, or of its own outputs, is known only after the build: Nix
    then builds another derivation, in which all paths are known, and makes that one here only.
    """
    unknown = [name for name, (path, _, _) in whole.outputs.items() if not path]
    found = set(whole.input_sources)
    for drv, names in whole.input_derivations.items():
        outputs = derivation.read(drv).outputs
        for name in names:
            path = outputs.get(name)
            if path is None:
                unknown.append(f"{name} of {drv}")
            else:
                found.add(path)
    if unknown:
        raise NixError(
            f"{whole.path} can be built on this machine only: where its outputs or inputs are is"
            f" not known before they are built ({', '.join(unknown)})"
        )
    return frozenset(found)
