"""The ways by which bases reach expressions, on real sources: the same derivations everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from reconciler.incremental import inputs, replay
from reconciler.incremental.inputs import expression, reaches
from reconciler.incremental.replay import Evaluated
from reconciler.model import FlakeSource, GitSource, Protocol, Source
from reconciler.nix.expression import native_system
from reconciler.source import LockedSource
from tests.incremental.support import (
    ARG_FILE,
    BASE,
    GARNIX_FLAKE,
    LIB,
    OTHER,
    Evaluator,
    Repository,
    garnix_source,
)
from tests.nix.connection_daemons import older_nix
from tests.support.private_store import PrivateStore

APP = "packages.x86_64-linux.app"
ARG, GARNIX = Protocol.ARG, Protocol.GARNIX


@pytest.fixture(params=["built-in", "older", "stand-in"])
def any_evaluator(request: pytest.FixtureRequest, store: PrivateStore) -> Evaluator:
    nix = older_nix() if request.param == "older" else None
    return Evaluator(store, nix=nix, stand_in=request.param == "stand-in")


@pytest.fixture
def evaluator(store: PrivateStore) -> Evaluator:
    return Evaluator(store)


def of(job: str, base: inputs.JobBase = BASE) -> inputs.JobBase:
    return replace(base, job=job)


def script(locked: LockedSource, text: str, protocol: Protocol, *jobs: tuple[str, ...]) -> str:
    return replay.script(
        Evaluated(
            source=locked,
            jobs=jobs,
            system=native_system(),
            systems=None,
            texts={protocol: text},
            overlay=None,
        )
    )


# --- The text ----------------------------------------------------------------------------------


def test_the_text_is_the_same_for_the_same_bases() -> None:
    one = expression([of("a"), of("b", OTHER)])
    assert one == expression([of("b", OTHER), of("a")])
    assert one != expression([of("a", OTHER), of("b")])


def test_a_base_is_what_the_library_says_it_is(store: PrivateStore) -> None:
    (drv,) = store.instantiate(f"({expression([of('app')])}).app")
    (same,) = store.instantiate(
        f"(import {LIB}).incremental.baseFromHash"
        f' {{ name = "{BASE.name}"; narHash = "{BASE.nar_hash}"; }}'
    )
    assert drv == same


@pytest.mark.parametrize("name", ["a.b", 'quote"dollar${x}', "größe", "let"])
def test_any_job_may_have_a_base(store: PrivateStore, name: str) -> None:
    named = f"builtins.head (builtins.attrNames ({expression([of(name)])}))"
    told = store.run("nix", "eval", "--raw", "--expr", named).stdout
    assert told == name


def test_without_bases_it_is_an_empty_set(store: PrivateStore) -> None:
    assert store.run("nix", "eval", "--expr", expression([])).stdout.strip() == "{ }"


@pytest.mark.parametrize(
    ("protocols", "path", "reached"),
    [
        ([GARNIX], ("packages", "x86_64-linux", "app"), True),
        ([GARNIX], ("checks", "x86_64-linux", "a.b"), True),
        ([GARNIX], ("hydraJobs", "app", "x86_64-linux"), False),
        ([GARNIX], ("packages", "x86_64-linux"), False),
        ([GARNIX, Protocol.CACHE_NIX], ("hydraJobs", "app"), True),
        ([ARG], ("app",), True),
        ([], ("app",), False),
    ],
)
def test_not_every_job_is_reached(
    protocols: list[Protocol], path: tuple[str, ...], *, reached: bool
) -> None:
    assert reaches(protocols, path) is reached


async def test_very_many_bases_reach_an_evaluation(evaluator: Evaluator, tmp_path: Path) -> None:
    """More than fit into an argument of a command."""
    text = expression([of(f"job-number-{number}") for number in range(1500)] + [of("app")])
    assert len(text) > 2**17
    source = Repository(tmp_path / "source", release_nix=ARG_FILE)
    locked = await evaluator.lock(
        GitSource(url=source.url, ref="main", file="release.nix", args={"flavour": "plain"})
    )
    jobs = await evaluator.jobs(locked, await evaluator.give(text, ARG))
    assert evaluator.below(jobs["app"]) == ["app-intermediates.drv"]
    await evaluator.store.close()


# --- garnix ------------------------------------------------------------------------------------


async def test_a_flake_for_garnix_is_given_its_bases(
    any_evaluator: Evaluator, tmp_path: Path
) -> None:
    evaluator = any_evaluator
    source = garnix_source(tmp_path, evaluator.private)
    locked = await evaluator.lock(FlakeSource(url=f"git+{source.url}"))
    plain = await evaluator.jobs(locked)
    assert evaluator.variables(plain[APP])["before"].endswith("-none")
    # That bases may come changes nothing.
    assert await evaluator.jobs(locked, await evaluator.give(None, GARNIX)) == plain
    assert await evaluator.jobs(locked, await evaluator.give(expression([]), GARNIX)) == plain
    dotted, check = "packages.x86_64-linux.a.b", "checks.x86_64-linux.test"
    text = expression([of(APP), of(dotted), of(check, OTHER), of("elsewhere.unknown")])
    given = await evaluator.give(text, GARNIX)
    jobs = await evaluator.jobs(locked, given)
    assert jobs.keys() == plain.keys()
    changed = {name for name in jobs if jobs[name] != plain[name]}
    assert changed == {APP, dotted, check}
    assert evaluator.below(jobs[APP]) == ["app-intermediates.drv", "lib.drv"]
    # All else of the flake is as it was, so that the result can be.
    before, after = evaluator.variables(plain[APP]), evaluator.variables(jobs[APP])
    differing = {name for name in before if before[name] != after[name]}
    assert differing == {"before", "out", "intermediates"}
    assert after["version"] == source.git("rev-parse", "HEAD")[:7]
    wanted = [("packages", "x86_64-linux", "app"), ("packages", "x86_64-linux", "a.b")]
    again = evaluator.elsewhere(script(locked, text, GARNIX, *wanted))
    assert again == [jobs[APP], jobs[dotted]]
    await evaluator.store.close()


async def test_a_flake_that_knows_nothing_of_garnix_is_as_ever(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    job = 'derivation { name = "app"; system = "x86_64-linux"; builder = "/bin/sh"; }'
    flake = f"{{ outputs = {{ self }}: {{ packages.x86_64-linux.app = {job}; }}; }}"
    source = Repository(tmp_path / "source", flake_nix=flake)
    locked = await evaluator.lock(FlakeSource(url=f"git+{source.url}"))
    given = await evaluator.give(expression([of(APP)]), GARNIX)
    assert await evaluator.jobs(locked, given) == await evaluator.jobs(locked)
    await evaluator.store.close()


async def test_an_input_of_that_name_that_is_something_else_says_what_it_lacks(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    source = garnix_source(tmp_path, evaluator.private)
    wrong = GARNIX_FLAKE.replace("withCachesFor", "withBases")
    Repository(tmp_path / "wrong", flake_nix=wrong)
    flake = (source.folder / "flake.nix").read_text()
    source.commit(flake_nix=flake.replace(f"{tmp_path}/garnix", f"{tmp_path}/wrong"))
    evaluator.private.run("nix", "flake", "lock", str(source.folder))
    source.commit()
    locked = await evaluator.lock(FlakeSource(url=f"git+{source.url}"))
    given = await evaluator.give(expression([of(APP)]), GARNIX)
    failures = await evaluator.failures(locked, given)
    assert failures
    for message in failures.values():
        assert "the flake's input garnix-incrementalize has no lib.withCachesFor" in message
    await evaluator.store.close()


async def test_a_local_flake_that_changed_is_given_bases_too(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    source = garnix_source(tmp_path, evaluator.private)
    flake = (source.folder / "flake.nix").read_text()
    (source.folder / "flake.nix").write_text(flake.replace("self.shortRev", "self.narHash"))
    locked = await evaluator.lock(FlakeSource(url=f"git+{source.url}"))
    assert locked.store_path is not None
    jobs = await evaluator.jobs(locked, await evaluator.give(expression([of(APP)]), GARNIX))
    assert evaluator.below(jobs[APP]) == ["app-intermediates.drv", "lib.drv"]
    await evaluator.store.close()


async def test_a_flake_in_a_folder_is_given_bases_too(
    any_evaluator: Evaluator, tmp_path: Path
) -> None:
    evaluator = any_evaluator
    source = garnix_source(tmp_path, evaluator.private)
    (source.folder / "sub").mkdir()
    for name in ("flake.nix", "flake.lock"):
        source.git("mv", name, f"sub/{name}")
    source.commit()
    locked = await evaluator.lock(FlakeSource(url=f"git+{source.url}?dir=sub"))
    plain = await evaluator.jobs(locked)
    text = expression([of(APP)])
    jobs = await evaluator.jobs(locked, await evaluator.give(text, GARNIX))
    assert {name for name in jobs if jobs[name] != plain[name]} == {APP}
    path = ("packages", "x86_64-linux", "app")
    assert evaluator.elsewhere(script(locked, text, GARNIX, path)) == [jobs[APP]]
    await evaluator.store.close()


# --- Arguments ---------------------------------------------------------------------------------


async def test_a_function_is_given_its_bases(any_evaluator: Evaluator, tmp_path: Path) -> None:
    evaluator = any_evaluator
    source = Repository(tmp_path / "source", release_nix=ARG_FILE)
    args = {"flavour": "sour ${\"} ' $x"}
    declared: Source = GitSource(url=source.url, ref="main", file="release.nix", args=args)
    locked = await evaluator.lock(declared)
    plain = await evaluator.jobs(locked, await evaluator.give(None, ARG))
    assert evaluator.variables(plain["app"])["base"] == ""
    text = expression([of("app"), of("deep.app", OTHER)])
    jobs = await evaluator.jobs(locked, await evaluator.give(text, ARG))
    assert {name for name in jobs if jobs[name] != plain[name]} == {"app", "deep.app"}
    assert evaluator.below(jobs["app"]) == ["app-intermediates.drv"]
    assert evaluator.variables(jobs["app"])["flavour"] == args["flavour"]
    again = evaluator.elsewhere(script(locked, text, ARG, ("app",), ("deep", "app")))
    assert again == [jobs["app"], jobs["deep.app"]]
    await evaluator.store.close()
