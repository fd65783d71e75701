"""What the library writes of slot, fallback and bucket is what the reconciler reads."""

from __future__ import annotations

import pytest

from reconciler.incremental.policy import Policy, policy_of
from reconciler.model import DrvPath
from reconciler.nix import basic_derivation
from tests.incremental.support import LIB
from tests.incremental_lib.test_wrap import STDENV
from tests.support.private_store import PrivateStore

NAMED = Policy(slot="it, on a branch", fallback="it/main", bucket="builds")

BUILD_CACHE = f"""
(import {LIB}).buildCache {{
  cache-name = "it, on a branch"; master-cache = "it/main"; s3-bucket = "builds";
  cache-dirs = [ "dist" ];
}} ((import {STDENV}).mkDerivation {{ name = "it"; src = {STDENV}; }})
"""
PLAIN = f"""
(import {LIB}).incremental.derivation {{
  name = "it"; system = "x86_64-linux"; src = {STDENV}; build = ":"; install = ":";
  artifacts = [ "slot" "bucket x" ]; @more@
}}
"""
STRUCTURED = """
derivation {
  name = "it"; system = "x86_64-linux"; builder = "/bin/sh"; __structuredAttrs = true;
  incrementalPolicy = "slot it, on a branch\\nfallback it/main\\nbucket builds\\nstage one\\n";
}
"""


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (BUILD_CACHE, NAMED),
        (PLAIN.replace("@more@", 'slot = "it"; fallback = null;'), Policy(slot="it")),
        (PLAIN.replace("@more@", ""), Policy()),
        (STRUCTURED, NAMED),
        ('derivation { name = "it"; system = "x86_64-linux"; builder = "/bin/sh"; }', Policy()),
    ],
    ids=["buildCache", "slot", "nothing", "structured", "of-no-library"],
)
def test_names_are_read_as_they_were_written(
    store: PrivateStore, expression: str, expected: Policy
) -> None:
    (drv,) = store.instantiate(expression)
    assert policy_of(basic_derivation.read(DrvPath(drv.partition("!")[0]))) == expected
