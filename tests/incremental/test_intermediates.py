"""Intermediates as bases in real stores: what is accepted, what is refused, and what keeps them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.incremental.intermediates import Kept, Refused, add_base
from reconciler.model import DrvPath, StorePath
from reconciler.nix import basic_derivation
from reconciler.nix.endpoint import local_endpoint
from reconciler.store import Store
from tests.support.private_store import PrivateStore

PLENTY = 2**30
BASES = Path(__file__).parents[2] / "lib/incremental/bases.nix"


class Built:
    """A store with the intermediates of one build."""

    def __init__(
        self, private: PrivateStore, script: str = "", *, let: str = "", variables: str = ""
    ) -> None:
        self.private = private
        self.store = Store(
            local_endpoint({**os.environ, **private.environment}), private.root / "roots"
        )
        self._let = let
        self.out, self.intermediates = self.build("app", script, variables)

    def build(self, name: str, script: str, variables: str = "") -> tuple[StorePath, StorePath]:
        text = f"""
          let {self._let} in derivation {{
            name = "{name}"; system = builtins.currentSystem; builder = "/bin/sh";
            PATH = "/usr/bin:/bin";
            outputs = [ "out" "intermediates" ];
            {variables}
            args = [ "-c" ''
              mkdir -p $intermediates/empty $intermediates/sub
              echo object of {name} > $intermediates/sub/a.o
              echo run > $intermediates/tool; chmod +x $intermediates/tool
              ln -s sub/a.o $intermediates/link
              echo it > $out
              {script}
              :
            '' ];
          }}
        """
        (drv,) = self.private.instantiate(text)
        drv = drv.partition("!")[0]
        self.drv = DrvPath(drv)
        self.private.run("nix-store", "--realise", drv)
        outputs = self.private.run("nix-store", "--query", "--outputs", drv).stdout.split()
        out = next(each for each in outputs if each.endswith(f"-{name}"))
        intermediates = next(each for each in outputs if each.endswith("-intermediates"))
        return StorePath(out), StorePath(intermediates)

    async def add(
        self, *, store: Store | None = None, max_size: int = PLENTY, name: str = "app-base"
    ) -> Kept | Refused:
        return await add_base(
            store or self.store,
            self.intermediates,
            derivation=basic_derivation.read(self.drv),
            name=name,
            max_size=max_size,
        )

    def alive(self) -> set[str]:
        return set(self.private.run("nix-store", "--gc", "--print-live").stdout.split())


async def test_a_base_is_what_the_fixed_output_of_its_hash_is(store: PrivateStore) -> None:
    built = Built(store)
    kept = await built.add()
    assert isinstance(kept, Kept)
    fixed = (
        f'((import {BASES}).baseFromHash {{ name = "{kept.name}"; narHash = "{kept.nar_hash}"; }})'
    )
    told = store.run("nix", "eval", "--impure", "--raw", "--expr", f"{fixed}.outPath")
    assert told.stdout == kept.path
    # It is had already: nothing is built, and its builder would fail.
    (drv,) = store.instantiate(fixed)
    assert store.run("nix-store", "--realise", drv).stdout.strip() == kept.path
    shown = store.run("diff", "--recursive", built.intermediates, kept.path)
    assert shown.stdout == ""
    info = await built.store.path_info(kept.path)
    assert info is not None
    assert (info.references, info.deriver, info.nar_size) == ((), None, kept.size)
    assert info.content_address is not None
    assert info.content_address.startswith("fixed:r:sha256:")
    # Once more is the same, and costs nothing.
    assert await built.add() == kept
    await built.store.close()


async def test_a_base_that_is_gone_fails_with_its_line(store: PrivateStore) -> None:
    fixed = (
        f'(import {BASES}).baseFromHash {{ name = "app-base"; narHash = "sha256-{"A" * 43}="; }}'
    )
    (drv,) = store.instantiate(fixed)
    failed = store.run("nix-store", "--realise", drv, check=False)
    assert failed.returncode != 0
    assert "base app-base is not available" in failed.stderr


async def test_what_its_builds_need_in_any_case_may_be_mentioned(store: PrivateStore) -> None:
    """As objects mention the compiler's headers, and programs their loader: also from far below."""
    below, above = (
        f"""derivation {{
          name = "{name}"; system = builtins.currentSystem; builder = "/bin/sh"; {more}
          args = [ "-c" "echo ${{./.}} $below > $out" ];
        }}"""
        for name, more in (("loader", ""), ("compiler", "below = loader;"))
    )
    built = Built(
        store,
        "read -r _ loader < $compiler; echo $compiler $loader > $intermediates/sub/a.o",
        let=f"loader = {below}; compiler = {above};",
        variables="inherit compiler;",
    )
    info = await built.store.path_info(built.intermediates)
    assert info is not None
    assert sorted(Path(each).name[33:] for each in info.references) == ["compiler", "loader"]
    kept = await built.add()
    assert isinstance(kept, Kept), kept
    added = await built.store.path_info(kept.path)
    assert added is not None
    assert added.references == ()
    await built.store.close()


@pytest.mark.parametrize("variable", ["src", "incrementalBase"])
async def test_what_the_next_build_may_not_have_is_refused(
    store: PrivateStore, variable: str
) -> None:
    """Neither itself nor what is known from it alone."""
    made = """derivation {
      name = "made"; system = builtins.currentSystem; builder = "/bin/sh";
      args = [ "-c" "echo it > $out" ];
    }"""
    built = Built(
        store,
        f"echo ${variable} > $intermediates/sub/a.o",
        variables=f"{variable} = {made};",
    )
    refused = await built.add()
    assert isinstance(refused, Refused)
    assert "-made, and a base may refer to nothing but" in refused.reason
    await built.store.close()


async def test_what_refers_to_an_output_is_refused(store: PrivateStore) -> None:
    built = Built(store, "echo $out > $intermediates/prefix.h")
    refused = await built.add()
    assert isinstance(refused, Refused)
    assert built.out in refused.reason
    assert "may refer to nothing but what its builds need" in refused.reason
    await built.store.close()


async def test_what_refers_to_itself_is_refused(store: PrivateStore) -> None:
    built = Built(store, "echo $intermediates > $intermediates/where")
    refused = await built.add()
    assert isinstance(refused, Refused)
    assert f"refer to {built.intermediates}, and" in refused.reason
    await built.store.close()


async def test_what_is_too_large_is_refused(store: PrivateStore) -> None:
    built = Built(store)
    refused = await built.add(max_size=10)
    assert isinstance(refused, Refused)
    assert "more than retention.maxSize allows (10B)" in refused.reason
    await built.store.close()


async def test_what_is_not_there_is_refused(store: PrivateStore) -> None:
    built = Built(store)
    store.run("nix-store", "--delete", built.out, built.intermediates)
    refused = await built.add()
    assert isinstance(refused, Refused)
    assert "are not in the store" in refused.reason
    await built.store.close()


@pytest.mark.parametrize(
    ("damage", "words"),
    [("changed", "are not what was built"), ("removed", "were lost")],
)
async def test_what_was_damaged_is_refused(store: PrivateStore, damage: str, words: str) -> None:
    built = Built(store)
    store.run("chmod", "-R", "u+w", built.intermediates)
    if damage == "changed":
        store.run("cp", built.out, f"{built.intermediates}/sub/a.o")
    else:
        store.run("mv", built.intermediates, f"{store.root}/elsewhere")
    refused = await built.add()
    assert isinstance(refused, Refused)
    assert words in refused.reason
    await built.store.close()


async def test_roots_are_those_of_the_bases_that_are_held(store: PrivateStore) -> None:
    built = Built(store)
    one, two = await built.add(), await built.add(name="other-base")
    assert isinstance(one, Kept)
    assert isinstance(two, Kept)
    await built.store.hold_bases([one.path, two.path])
    await built.store.close()
    store.run("nix-store", "--gc")
    assert built.alive() == {one.path, two.path}
    await built.store.hold_bases([two.path])
    assert built.store.held() == frozenset()
    await built.store.close()
    store.run("nix-store", "--gc")
    assert built.alive() == {two.path}


async def test_the_newest_output_keeps_no_old_base_alive(store: PrivateStore) -> None:
    """With Nix's defaults, which keep the derivations of what is alive."""
    built = Built(store)
    out, kept_bases = built.out, []
    for number in range(1, 5):
        kept = await built.add(name=f"base-{number}")
        assert isinstance(kept, Kept)
        kept_bases.append(kept.path)
        fixed = (
            f'incrementalBase = (import {BASES}).baseFromHash {{ name = "{kept.name}"; '
            f'narHash = "{kept.nar_hash}"; }};'
        )
        script = 'test "$(cat $incrementalBase/sub/a.o)" && grep . $incrementalBase/tool'
        out, built.intermediates = built.build(f"app-{number}", script, fixed)
    assert store.run("nix", "config", "show", "keep-derivations").stdout == "true\n"
    store.run("nix-store", "--add-root", str(store.root / "result"), "--realise", out)
    await built.store.close()
    store.run("nix-store", "--gc")
    alive = built.alive()
    assert out in alive
    assert alive.isdisjoint(kept_bases)
    assert not [each for each in alive if "base-1.drv" in each]
