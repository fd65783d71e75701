"""From a canonical evaluation to what the next one is given, and what came of it: on real Nix."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from reconciler.bases import Base, History, Trust
from reconciler.incremental import decisions
from reconciler.incremental.decisions import Decision, decide, took
from reconciler.incremental.fingerprint import fingerprint
from reconciler.incremental.inputs import JobBase
from reconciler.model import (
    DrvPath,
    EvaluatedJob,
    Incremental,
    Jobset,
    JobsetName,
    Protocol,
    StorePath,
)
from reconciler.nix import basic_derivation
from reconciler.trust import trust_of
from tests.support.jobsets import jobset
from tests.support.private_store import PrivateStore

NOW = 1000.0
LIB = Path(__file__).parents[2] / "lib"
JOBSET = replace(
    jobset(), incremental=Incremental(enable=True, protocols=(Protocol.ARG,)), branch="topic"
)


def job(store: PrivateStore, attr: str, *outputs: str, more: str = "") -> EvaluatedJob:
    names = " ".join(f'"{each}"' for each in outputs)
    (drv,) = store.instantiate(
        f'derivation {{ name = "{attr}"; system = "x86_64-linux"; builder = "/bin/sh"; '
        f"outputs = [ {names} ]; {more} }}"
    )
    return EvaluatedJob(
        attr_path=tuple(attr.split(".")),
        name=attr,
        system="x86_64-linux",
        drv_path=DrvPath(drv.partition("!")[0]),
        outputs=dict.fromkeys(outputs),
    )


def base_of(one: EvaluatedJob, *, trust: str = "tested") -> Base:
    return Base(
        id=7,
        job=one.attr,
        system=one.system,
        fingerprint=fingerprint(basic_derivation.read(one.drv_path)),
        branch="topic",
        trust=Trust(trust),
        commit="c1",
        depth=0,
        full_at=NOW - 10,
        created_at=NOW - 10,
    )


def decided(declared: Jobset, jobs: list[EvaluatedJob], bases: list[Base]) -> list[Decision]:
    return decide(declared, jobs, bases, History(), now=NOW)


def test_only_jobs_that_leave_intermediates_take_part(store: PrivateStore) -> None:
    app, plain = job(store, "app", "out", "intermediates"), job(store, "plain", "out")
    (found,) = decided(JOBSET, [app, plain], [base_of(app), base_of(plain)])
    assert (found.job, found.choice.base) == (app, base_of(app))
    assert found.choice.reason == (
        "starts from the newest build of branch topic (commit c1), a full one"
    )


def test_a_job_out_of_reach_says_how_to_reach_it(store: PrivateStore) -> None:
    app = job(store, "hydraJobs.app", "out", "intermediates")
    garnix = replace(JOBSET, incremental=Incremental(enable=True, protocols=(Protocol.GARNIX,)))
    (found,) = decided(garnix, [app], [base_of(app)])
    assert found.choice.base is None
    assert "`incremental.protocols` has others" in found.choice.reason


def test_branches_trust_each_other_and_nobody_else(store: PrivateStore) -> None:
    app = job(store, "app", "out", "intermediates")
    branch = replace(JOBSET, name=JobsetName("web@topic"), branch_of=JobsetName("web"))
    for trust, wanted in (("web", base_of(app, trust="web")), ("fork", None)):
        (found,) = decided(branch, [app], [base_of(app, trust=trust)])
        assert found.choice.base == wanted
    assert trust_of(JOBSET) == "tested"


def test_the_second_evaluation_is_given_what_was_chosen(store: PrivateStore) -> None:
    app, other = (job(store, each, "out", "intermediates") for each in ("app", "other"))
    found = decided(JOBSET, [app, other], [base_of(app)])
    known = {7: JobBase(job="", name="app-base", nar_hash=f"sha256-{'A' * 43}=")}
    text = decisions.text(found, known)
    assert text is not None
    names = store.run("nix", "eval", "--json", "--expr", f"builtins.attrNames ({text})").stdout
    assert names == '["app"]\n'
    # A base that is gone meanwhile is given to nobody.
    assert decisions.text(found, {}) is None
    assert decisions.text(decided(JOBSET, [other], []), known) is None


def test_who_starts_from_a_base_is_told_from_who_does_not(store: PrivateStore) -> None:
    make = f"(import {LIB}).incremental.baseFromHash"
    base = f'({make} {{ name = "app-base"; narHash = "sha256-{"A" * 43}="; }})'
    path = StorePath(
        store.run("nix", "eval", "--impure", "--raw", "--expr", f"{base}.outPath").stdout
    )
    chain = "let go = n: if n == 0 then base else derivation { name = toString n; "
    chain += 'system = "x86_64-linux"; builder = "/bin/sh"; below = go (n - 1); }; in go'
    (far,) = store.instantiate(f"let base = {base}; in {chain} 300")
    plain = job(store, "plain", "out").drv_path
    found = took([DrvPath(far), plain], [path])
    assert found == {far: frozenset({path}), plain: frozenset()}
