"""Which store paths a base may mention: those that its fingerprint stands for, and no others.

Objects name the compiler's headers, and programs their loader. Every build with the same
fingerprint has these among its inputs, so that what it makes refers to what is there. Of the
source, of an earlier base and of the outputs of an earlier build nobody can say that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from reconciler.incremental.fingerprint import accounted
from reconciler.model import StorePath
from reconciler.nix import basic_derivation
from reconciler.nix.basic_derivation import BasicDerivation


def unaccounted(
    derivation: BasicDerivation, mentioned: Collection[StorePath]
) -> frozenset[StorePath]:
    """Those of the paths that no build with the fingerprint of this derivation need have.

    Reads the derivations below it, in the store's folder, until all are found. NixError where one
    cannot be read. Blocking.
    """
    rest = set(mentioned)
    inputs, sources = accounted(derivation)
    rest -= sources
    todo, seen = deque(sorted(inputs)), set(inputs)
    while rest and todo:
        each = basic_derivation.read(todo.popleft())
        rest.difference_update(each.input_sources, (path for path, *_ in each.outputs.values()))
        todo.extend(sorted(each.input_derivations.keys() - seen))
        seen.update(each.input_derivations)
    return frozenset(rest)
