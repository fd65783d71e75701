"""A clean twin of a derivation: the same but for one variable, so that its outputs are elsewhere.

The build of a derivation that was shown a base is at the path of everybody's clean build, where no
other can be made beside it to compare. Its twin is made by Nix, which knows how paths follow from
contents; nobody shows it anything.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from reconciler import process
from reconciler.errors import NixError
from reconciler.model import DrvPath, StorePath
from reconciler.nix import basic_derivation
from reconciler.nix.basic_derivation import BasicDerivation
from reconciler.nix.expression import nix_string
from reconciler.store import Store

TIMEOUT = 120.0
"""Seconds that Nix may take for one derivation."""
_VARIABLE = "incrementalAudit"
_STRUCTURED = "__json"


async def add_twin(
    drv: DrvPath, store: Store, *, environment: Mapping[str, str], scratch: Path
) -> DrvPath:
    """Add the twin of a derivation to the store, protected until the store's `release_protected`.

    NixError where it has none that can be compared, or Nix does not make it.
    """
    whole = basic_derivation.read(drv)
    if any(algorithm for _, algorithm, _ in whole.outputs.values()):
        raise NixError(f"{drv} is named by its contents: there is no twin to compare it with")
    try:
        text = expression(whole)
    except UnicodeEncodeError:
        raise NixError(f"{drv} has a variable that is no UTF-8") from None
    with tempfile.NamedTemporaryFile(dir=scratch, suffix=".nix") as file:
        file.write(text)
        file.flush()
        made = await process.run(["nix-instantiate", file.name], env=environment, timeout=TIMEOUT)
    if made.returncode != 0:
        raise NixError(f"Nix makes no twin of {drv}: {made.stderr.strip()}")
    # With "!" and the first output's name, where that is not `out`.
    twin = DrvPath(made.stdout.decode().strip().partition("!")[0])
    await store.protect([StorePath(twin)])
    if not await store.valid([StorePath(twin)]):
        raise NixError(f"{twin} was collected as soon as it was made")
    return twin


def expression(whole: BasicDerivation) -> bytes:
    """The twin as a Nix expression."""
    variables = {
        name: value
        for name, value in whole.environment.items()
        if name not in (*whole.outputs, "outputs", _STRUCTURED)
    }
    structured = whole.environment.get(_STRUCTURED)
    context = "".join(
        f"  {nix_string(path)} = {how};\n"
        for path, how in (
            *((path, _outputs(names)) for path, names in whole.input_derivations.items()),
            *((path, "{ path = true; }") for path in sorted(whole.input_sources)),
        )
    )
    lines = [
        f"  {nix_string(name)} = {nix_string(value)};\n"
        for name, value in sorted(variables.items())
    ]
    lines += [
        f"  args = [ {' '.join(map(nix_string, whole.arguments))} ];\n",
        f"  outputs = [ {' '.join(map(nix_string, _outputs_in_order(whole)))} ];\n",
        f'  {_VARIABLE} = builtins.appendContext "1" {{\n{context}  }};\n',
    ]
    if structured is not None:
        lines.append("  __structuredAttrs = true;\n")
        known = f'builtins.removeAttrs (builtins.fromJSON {nix_string(structured)}) [ "outputs" ]'
        return f"derivation ({known} // {{\n{''.join(lines)}}})\n".encode()
    return f"derivation {{\n{''.join(lines)}}}\n".encode()


def _outputs(names: tuple[str, ...]) -> str:
    return f"{{ outputs = [ {' '.join(map(nix_string, names))} ]; }}"


def _outputs_in_order(whole: BasicDerivation) -> list[str]:
    """As they were declared: the first is the one that is meant where none is named."""
    structured = whole.environment.get(_STRUCTURED)
    if structured is not None:
        declared = json.loads(structured).get("outputs", [])
    else:
        declared = whole.environment.get("outputs", "").split()
    return [*declared] if {*declared} == {*whole.outputs} else sorted(whole.outputs)
