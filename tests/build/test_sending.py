"""Derivations that ask for resources, which Nix knows nothing of: built all the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.build import attempt
from reconciler.build.place import Here
from reconciler.model import DrvPath, Limits, Outcome, StorePath
from reconciler.nix import basic_derivation
from reconciler.nix.logs import ignore
from reconciler.nix.protocol import BuildResult, BuildStatus
from tests.build.test_remote import a_pair
from tests.nix.connection_daemons import Daemon, daemon, newer_nix, older_nix

PLAIN = 'requiredSystemFeatures = [ "big-parallel" "resource:memory=8GiB" ];'
STRUCTURED = f'__structuredAttrs = true; deep.er = [ "ä" 1 null ]; {PLAIN}'
EITHER = pytest.mark.parametrize("nix", [newer_nix, older_nix], ids=["newer", "older"])


def text(path: StorePath) -> str:
    return Path(path).read_text()


async def build_here(here: Daemon, drv: DrvPath) -> BuildResult:
    async with await here.connect() as connection:
        place = Here(connection)
        await place.prepare(drv)
        result = await place.build(drv, on_log=ignore)
        if result.status.success:
            found = await place.outputs(result)
            assert {name: info.path for name, info in found.items()} == result.outputs
        return result


@EITHER
@pytest.mark.parametrize("attributes", [PLAIN, STRUCTURED], ids=["plain", "structured"])
async def test_built_elsewhere(nix: Callable[[], Path], attributes: str) -> None:
    with a_pair(nix()) as pair:
        # With structured attributes the outputs' paths are in a script that Nix writes.
        script = "test ! -e .attrs.sh || { . ./.attrs.sh; out=${outputs[out]}; }; echo $out > $out"
        drv = pair.here.derivation(script, attributes=attributes)
        result, said = await pair.make(drv)
        assert result.status is BuildStatus.BUILT, (result.message, said)
        assert text(result.outputs["out"]).strip() == result.outputs["out"]


@EITHER
async def test_built_here_with_inputs(nix: Callable[[], Path]) -> None:
    with daemon(nix(), behind="socket") as here:
        base = await here.built("echo base > $out", name="base")
        drv = here.derivation(
            f"cat {base} > $out; echo $requiredSystemFeatures >> $out",
            attributes=f'{PLAIN} x = builtins.storePath "{base}";',
        )
        result = await build_here(here, drv)
        assert result.status is BuildStatus.BUILT, result.message
        assert text(result.outputs["out"]) == "base\nbig-parallel\n", (
            "what Nix does not know is left out"
        )
        again = await build_here(here, drv)
        assert again.status is BuildStatus.ALREADY_VALID
        assert again.outputs == result.outputs


@EITHER
async def test_a_daemon_that_does_not_trust_us_refuses_and_the_mend_is_told(
    nix: Callable[[], Path], tmp_path: Path
) -> None:
    digest = hashlib.sha256(b"contents\n").hexdigest()
    known = f'outputHashAlgo = "sha256"; outputHash = "{digest}"; {PLAIN}'
    with a_pair(nix()) as pair, pair.builder.behind_a_daemon(trusted_users="nobody"):
        drv = pair.here.derivation("echo > $out", attributes=PLAIN)
        order = attempt.Order(attempt=1, derivation=1, path=drv, limits=Limits)
        async with pair.place() as place:
            result = await attempt.run(order, place, tmp_path)
        assert result.outcome is Outcome.FAILED
        assert not result.builder_failed
        assert "does not trust us, and refuses what its Nix knows nothing of" in result.message
        assert "(resource:memory=8GiB). Name us in its trusted-users" in result.message
        fixed = pair.here.derivation("echo contents > $out", name="fixed", attributes=known)
        assert (await pair.make(fixed))[0].status is BuildStatus.BUILT, "no trust is needed"


def test_what_only_looks_like_a_resource_is_left_to_nix() -> None:
    with daemon(newer_nix(), behind="command") as here:
        attributes = 'requiredSystemFeatures = [ "resource:memory=lots" ];'
        whole = basic_derivation.read(here.derivation("echo > $out", attributes=attributes))
        assert basic_derivation.without_resources(whole) is whole
