"""Twins of derivations, made by a real Nix."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from reconciler.errors import NixError
from reconciler.incremental.clean import add_twin
from reconciler.model import DrvPath
from reconciler.nix import basic_derivation
from reconciler.nix.basic_derivation import BasicDerivation
from reconciler.nix.endpoint import local_endpoint
from reconciler.store import Store
from tests.support.private_store import PrivateStore

BELOW = """
let
  below = derivation {
    name = "below"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    outputs = [ "out" "dev" ]; args = [ "-c" "echo o >$out; echo d >$dev\\n:" ];
  };
  source = builtins.toFile "source" "text";
in
"""
PLAIN = """derivation {
  name = "app"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  outputs = [ "lib" "out" ]; inherit source; odd = "a\\n\\"b\\" \\${c} \\\\ \\t é";
  needs = "${below.dev}"; where = placeholder "lib";
  args = [ "-euc" "echo \\"$odd\\" >$out; cat $needs $source >$lib\\n:" ];
}"""
STRUCTURED = """derivation {
  name = "app"; system = builtins.currentSystem; builder = "/bin/sh";
  __structuredAttrs = true; outputs = [ "out" "lib" ];
  list = [ 1 true null { a = "b"; } ]; needs = [ below ]; inherit source;
  args = [ "-c" ". $NIX_ATTRS_SH_FILE; echo >\\${outputs[out]}; echo >\\${outputs[lib]}\\n:" ];
}"""
NAMED_BY_CONTENTS = """derivation {
  name = "fixed"; system = builtins.currentSystem; builder = "/bin/sh";
  outputHashMode = "recursive"; outputHashAlgo = "sha256";
  outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
}"""


@asynccontextmanager
async def twin_of(
    store: PrivateStore, expression: str
) -> AsyncIterator[tuple[BasicDerivation, BasicDerivation]]:
    """A derivation and its twin, while that is protected."""
    (drv,) = store.instantiate(BELOW + expression)
    environment = {**os.environ, **store.environment}
    ours = Store(local_endpoint(environment), store.root / "roots")
    try:
        path = DrvPath(drv.partition("!")[0])
        twin = await add_twin(path, ours, environment=environment, scratch=store.root)
        yield basic_derivation.read(path), basic_derivation.read(twin)
    finally:
        await ours.close()


@pytest.mark.parametrize("expression", [PLAIN, STRUCTURED])
async def test_it_differs_by_one_variable_and_where_its_outputs_are(
    store: PrivateStore, expression: str
) -> None:
    async with twin_of(store, expression) as (whole, twin):
        assert twin.input_derivations == whole.input_derivations
        assert twin.input_sources == whole.input_sources
        assert (twin.builder, twin.arguments) == (whole.builder, whole.arguments)
        assert twin.system == whole.system
        assert twin.outputs.keys() == whole.outputs.keys()
        paths = [path for path, _, _ in (*twin.outputs.values(), *whole.outputs.values())]
        assert len({*paths}) == 2 * len(whole.outputs)
        own, others = variables(whole), variables(twin)
        assert others.pop("incrementalAudit") == "1"
        assert others == own
        built = store.run("nix-store", "--realise", twin.path, whole.path, check=False)
        assert built.returncode == 0, built.stderr


def variables(whole: BasicDerivation) -> dict[str, object]:
    """All but the paths of the outputs."""
    found: dict[str, object] = {
        name: value for name, value in whole.environment.items() if name not in whole.outputs
    }
    structured = found.pop("__json", None)
    if isinstance(structured, str):
        found |= json.loads(structured)
    return found


async def test_what_is_named_by_its_contents_has_none(store: PrivateStore) -> None:
    with pytest.raises(NixError, match="is named by its contents"):
        async with twin_of(store, NAMED_BY_CONTENTS):
            pass


async def test_it_is_made_again_as_the_same(store: PrivateStore) -> None:
    async with twin_of(store, PLAIN) as (_, first), twin_of(store, PLAIN) as (_, second):
        assert first.path == second.path
