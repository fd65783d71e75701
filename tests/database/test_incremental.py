"""What is recorded of incremental builds: lineage, quarantine, retention, and what verbs show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from reconciler.bases import Fingerprint, Trust
from reconciler.database import (
    Database,
    bases,
    collected,
    evaluated,
    incremental,
    kept_bases,
    open_memory,
)
from reconciler.database.branches import set_branches
from reconciler.database.incremental import BuildBase, EvaluationInput, NewBase, Slot
from reconciler.model import DrvPath, Incremental, JobsetName, Outcome, Protocol, StorePath
from tests.cli.farm import DOCUMENT, Farm

WEB = JobsetName("web")
MEANS = Fingerprint(digest="f1", parts={"the input gcc-13": "1"})
SLOT = Slot(jobset=WEB, job="app", system="x86_64-linux", branch=None, trust=Trust("web"))
KEEP = Incremental(enable=True, per_slot=2, max_size=1000)


def new(name: str, *, parent: int | None = None, size: int = 100, path: str = "") -> NewBase:
    return NewBase(
        name=f"{name}-intermediates",
        path=StorePath(path or f"/nix/store/{name}"),
        nar_hash=f"sha256-{name}",
        size=size,
        fingerprint=MEANS,
        canonical=DrvPath(f"/nix/store/canonical-{name}.drv"),
        built=DrvPath(f"/nix/store/{name}.drv"),
        revision=f"commit-{name}",
        parent=parent,
    )


def add(database: Database, name: str, *, at: float = 1.0, slot: Slot = SLOT, **more: Any) -> int:
    return incremental.add_base(database, slot, new(name, **more), now=at)


def chain(database: Database, *names: str, start: int | None = None) -> list[int]:
    found = []
    for at, name in enumerate(names, start=1):
        start = add(database, name, parent=start, at=float(at))
        found.append(start)
    return found


# --- Lineage -----------------------------------------------------------------------------------


def test_a_chain_knows_its_depth_its_full_build_and_its_age(farm: Farm) -> None:
    first, second, third = chain(farm.database, "a", "b", "c")
    found = bases.stored(farm.database, [third, first, 99])
    assert [each.base.id for each in found] == [third, first]
    assert (found[0].base.depth, found[0].parent, found[0].origin) == (2, second, first)
    assert (found[0].base.full_at, found[0].base.created_at) == (1.0, 3.0)
    assert (found[1].base.depth, found[1].parent, found[1].origin) == (0, None, first)
    assert [each.base.id for each in bases.ancestry(farm.database, third)] == [third, second, first]
    assert found[0].slot == SLOT
    assert found[0].base.fingerprint == MEANS


def test_the_same_build_leaves_one_base_however_often_it_is_recorded(farm: Farm) -> None:
    """As after a kill between adding and reporting."""
    first = add(farm.database, "a", at=1.0)
    incremental.release(farm.database, [first], cause="retention", now=2.0)
    assert bases.candidates(farm.database, WEB) == []
    assert add(farm.database, "a", at=3.0, path="/nix/store/again") == first
    (found,) = bases.stored(farm.database, [first])
    assert (found.path, found.released_at, found.base.created_at) == ("/nix/store/again", None, 1.0)


def test_branches_of_one_source_serve_each_other_and_no_others(farm: Farm) -> None:
    database = farm.database
    add(database, "a")
    add(database, "b", slot=Slot(**{**_fields(SLOT), "jobset": JobsetName("web.next")}))
    assert [each.commit for each in bases.candidates(database, WEB)] == ["commit-a"]
    with database.transaction():
        database.execute(
            "UPDATE jobset SET branch = 'next', pattern = (SELECT id FROM jobset WHERE name = ?)"
            " WHERE name = 'web.next'",
            (WEB,),
        )
    for name in (WEB, JobsetName("web.next")):
        found = {each.commit for each in bases.candidates(database, name)}
        assert found == {"commit-a", "commit-b"}


def _fields(slot: Slot) -> dict[str, Any]:
    return {name: getattr(slot, name) for name in slot.__struct_fields__}


# --- Quarantine --------------------------------------------------------------------------------


def test_quarantine_takes_all_that_descend_and_nothing_else(farm: Farm) -> None:
    database = farm.database
    first, second, third = chain(database, "a", "b", "c")
    side = add(database, "d", parent=second)
    other = add(database, "e", parent=first)
    found = incremental.quarantine(database, second, reason="its audit differed", now=9.0)
    assert found == [second, third, side]
    assert bases.descendants(database, second) == found
    reasons = {each.id: each.quarantined for each in bases.candidates(database, WEB)}
    assert reasons == {
        first: None,
        second: "its audit differed",
        third: f"it goes back to base {second}: its audit differed",
        side: f"it goes back to base {second}: its audit differed",
        other: None,
    }
    # Once is enough, and the reason stays.
    assert incremental.quarantine(database, first, reason="again", now=10.0) == [first, other]
    assert incremental.quarantine(database, first, reason="again", now=11.0) == []


def same(name: str, content: str, *, parent: int | None = None) -> NewBase:
    return structs.replace(new(name, parent=parent), nar_hash=f"sha256-{content}")


def quarantined(database: Database, *numbers: int) -> list[str | None]:
    return [each.base.quarantined for each in bases.stored(database, numbers)]


def test_what_is_of_the_same_content_is_wrong_together_wherever_it_is(farm: Farm) -> None:
    database = farm.database
    first, second = chain(database, "a", "b")
    other = structs.replace(SLOT, job="lib")
    elsewhere = Slot(**{**_fields(SLOT), "jobset": JobsetName("web.next"), "trust": "web.next"})
    alike = incremental.add_base(database, other, same("c", "a"), now=3.0)
    far = incremental.add_base(database, elsewhere, same("d", "a"), now=3.0)
    below = incremental.add_base(database, elsewhere, new("e", parent=far), now=4.0)
    stays = add(database, "f", slot=other)
    found = incremental.quarantine(database, first, reason="wrong", now=5.0)
    assert found == [first, second, alike, far, below]
    why = f"it is the same as base {first}: wrong"
    assert quarantined(database, alike, far, below, stays) == [
        why, why, f"it goes back to base {far}: {why}", None
    ]  # fmt: skip
    late = incremental.add_base(database, other, same("g", "a"), now=6.0)
    assert quarantined(database, late) == [why]


def test_what_only_descends_from_something_wrong_says_nothing_of_its_content(farm: Farm) -> None:
    """A clean build may leave the same."""
    database = farm.database
    first, second, third = chain(database, "a", "b", "c")
    clean = incremental.add_base(database, SLOT, same("d", "b"), now=4.0)
    assert incremental.quarantine(database, first, reason="wrong", now=5.0) == [
        first, second, third
    ]  # fmt: skip
    late = incremental.add_base(database, SLOT, same("e", "c"), now=6.0)
    assert quarantined(database, clean, late) == [None, None]
    # What was found wrong by itself stays that, whatever it came from.
    other, worse = chain(database, "x", "y")
    incremental.quarantine(database, worse, reason="worse", now=7.0)
    incremental.quarantine(database, other, reason="bad", now=8.0)
    last = incremental.add_base(database, SLOT, same("z", "y"), now=9.0)
    assert quarantined(database, last) == [f"it is the same as base {worse}: worse"]


def test_an_untrusted_branch_has_nothing_of_others_found_wrong(farm: Farm) -> None:
    """It may leave just what they did."""
    database = farm.database
    fork = structs.replace(SLOT, branch="fork", trust=Trust(WEB))
    common = structs.replace(SLOT, branch="main", trust=Trust("source"))
    ours = incremental.add_base(database, common, new("a"), now=1.0)
    theirs, again = (
        incremental.add_base(database, fork, same(name, "a"), now=2.0) for name in ("b", "c")
    )
    assert incremental.quarantine(database, theirs, reason="made up", now=3.0) == [theirs, again]
    late = incremental.add_base(database, common, same("d", "a"), now=4.0)
    assert quarantined(database, ours, late) == [None, None]
    last = incremental.add_base(database, fork, same("e", "a"), now=4.0)
    assert quarantined(database, last) == [f"it is the same as base {theirs}: made up"]
    incremental.quarantine(database, ours, reason="wrong", now=5.0)
    assert None not in quarantined(database, ours, late)
    # What is found out of a trusted one holds of all.
    other = structs.replace(fork, job="other")
    found = incremental.add_base(database, other, same("f", "a"), now=6.0)
    assert None not in quarantined(database, found)


def test_what_was_built_while_its_base_turned_out_wrong_is_wrong(farm: Farm) -> None:
    (first,) = chain(farm.database, "a")
    incremental.quarantine(farm.database, first, reason="wrong", now=2.0)
    second = add(farm.database, "b", parent=first, at=3.0)
    (found,) = bases.stored(farm.database, [second])
    assert found.base.quarantined == f"it goes back to base {first}: wrong"


def test_quarantine_reaches_over_what_was_let_go(farm: Farm) -> None:
    database = farm.database
    first, second, third = chain(database, "a", "b", "c")
    incremental.release(database, [first, second], cause="retention", now=4.0)
    incremental.forget_released(database, before=5.0)
    assert incremental.quarantine(database, first, reason="wrong", now=6.0) == [
        first, second, third
    ]  # fmt: skip


def test_what_was_let_go_is_forgotten_when_nothing_descends_from_it(farm: Farm) -> None:
    database = farm.database
    numbers = chain(database, "a", "b", "c")
    incremental.release(database, numbers, cause="retention", now=4.0)
    incremental.forget_released(database, before=4.0)
    assert len(bases.of_jobset(database, WEB)) == 3
    incremental.forget_released(database, before=4.1)
    assert bases.of_jobset(database, WEB) == []
    assert database.query("SELECT * FROM fingerprint") == []


# --- Retention ---------------------------------------------------------------------------------


def test_the_newest_of_each_job_are_kept(farm: Farm) -> None:
    database = farm.database
    first, second, third = chain(database, "a", "b", "c")
    other = add(database, "o", slot=Slot(**{**_fields(SLOT), "job": "lib"}), at=0.5)
    assert kept_bases.superfluous(database, WEB, KEEP) == [first]
    incremental.release(database, [first], cause="retention", now=4.0)
    assert kept_bases.superfluous(database, WEB, KEEP) == []
    assert kept_bases.held_paths(database) == {
        "/nix/store/b", "/nix/store/c", "/nix/store/o"
    }  # fmt: skip
    assert {each.base.id for each in bases.of_jobset(database, WEB)} == {
        first, second, third, other
    }  # fmt: skip


def test_the_newest_of_all_jobs_go_before_older_ones_where_room_is_short(farm: Farm) -> None:
    database = farm.database
    first, second = (add(database, name, size=300, at=at) for name, at in (("a", 1.0), ("b", 2.0)))
    lib = Slot(**{**_fields(SLOT), "job": "lib"})
    other = add(database, "o", size=600, slot=lib, at=0.1)
    assert kept_bases.superfluous(database, WEB, KEEP) == [first]
    assert {second, other} == {each.id for each in bases.candidates(database, WEB)} - {first}


def test_what_two_builds_left_alike_takes_room_once(farm: Farm) -> None:
    database = farm.database
    for name in ("a", "b"):
        add(database, name, size=800, path="/nix/store/same")
    assert kept_bases.superfluous(database, WEB, KEEP) == []
    assert len(bases.with_path(database, StorePath("/nix/store/same"))) == 2


def test_quarantined_ones_go_first(farm: Farm) -> None:
    database = farm.database
    first, _, third = chain(database, "a", "b", "c")
    incremental.quarantine(database, third, reason="wrong", now=4.0)
    assert kept_bases.superfluous(database, WEB, KEEP) == [third]
    assert first in {each.id for each in bases.candidates(database, WEB)}


def test_what_builds_may_still_want_is_kept(farm: Farm) -> None:
    database = farm.database
    first, _, third = chain(database, "a", "b", "c")
    farm.derivations({"app-1": []})
    evaluation = farm.evaluation("web", {"app": "app-1"})
    incremental.give(database, evaluation, [], [first], now=5.0)
    assert kept_bases.superfluous(database, WEB, KEEP) == []
    nothing = Incremental(enable=True, per_slot=1, max_size=1)
    assert first not in kept_bases.superfluous(database, WEB, nothing)
    assert third in kept_bases.superfluous(database, WEB, nothing)
    farm.attempt("app-1")
    assert kept_bases.superfluous(database, WEB, KEEP) == [first]


def test_an_evaluation_under_way_keeps_what_it_was_given(farm: Farm) -> None:
    (first,) = chain(farm.database, "a")
    evaluation = farm.evaluation("web", {}, running=True)
    incremental.give(farm.database, evaluation, [], [first], now=5.0)
    nothing = Incremental(enable=True, per_slot=1, max_size=1)
    assert kept_bases.superfluous(farm.database, WEB, nothing) == []
    evaluated.end_evaluation(farm.database, evaluation, error="gone", now=6.0)
    assert kept_bases.superfluous(farm.database, WEB, nothing) == [first]


def test_a_jobset_that_is_gone_lets_its_bases_go(farm: Farm) -> None:
    (first,) = chain(farm.database, "a")
    web = {**DOCUMENT["jobsets"]["web"], "incremental": {"enable": True}}
    both = {**DOCUMENT, "jobsets": {**DOCUMENT["jobsets"], "web": web}}
    assert kept_bases.unneeded(farm.database, farm.declare(both)) == {}
    assert kept_bases.unneeded(farm.database, farm.declare()) == {first: kept_bases.DISABLED}
    rest = {**DOCUMENT, "jobsets": {"web.next": DOCUMENT["jobsets"]["web.next"]}}
    evaluation = farm.evaluation("web", {}, running=True)
    incremental.give(farm.database, evaluation, [], [first], now=5.0)
    assert kept_bases.unneeded(farm.database, farm.declare(rest)) == {}
    evaluated.end_evaluation(farm.database, evaluation, error="gone", now=6.0)
    assert kept_bases.unneeded(farm.database, farm.declare(rest)) == {first: kept_bases.UNDECLARED}
    assert kept_bases.unneeded(farm.database, farm.declare(both)) == {}


def test_what_is_not_to_be_kept_has_a_reason(farm: Farm) -> None:
    found = chain(farm.database, "a", "b", "c")
    web = {**DOCUMENT["jobsets"]["web"], "incremental": {"enable": True}}
    web["incremental"]["retention"] = {"perSlot": 2}
    both = {**DOCUMENT, "jobsets": {**DOCUMENT["jobsets"], "web": web}}
    wanted = kept_bases.unneeded(farm.database, farm.declare(both))
    assert wanted == {found[0]: "newer ones are kept"}


@pytest.fixture(scope="module")
def empty() -> Iterator[Database]:
    database = open_memory(now=0.0)
    with database.transaction():
        database.execute("INSERT INTO generation VALUES (1, '', '{}', 0)")
        database.execute("INSERT INTO jobset(name, generation) VALUES ('web', 1)")
    yield database
    database.close()


@given(
    sizes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400)), max_size=12),
    per_slot=st.integers(1, 3),
    max_size=st.integers(1, 1500),
)
@settings(deadline=None)
def test_what_is_kept_has_room(
    empty: Database, sizes: list[tuple[int, int]], per_slot: int, max_size: int
) -> None:
    database = empty
    with database.transaction():
        database.execute("DELETE FROM incremental_slot")
    facts = {}
    for number, (job, size) in enumerate(sizes):
        slot = Slot(**{**_fields(SLOT), "job": str(job)})
        facts[add(database, f"b{number}", size=size, slot=slot, at=float(number))] = (job, size)
    keep = Incremental(per_slot=per_slot, max_size=max_size)
    dropped = kept_bases.superfluous(database, WEB, keep)
    kept = [each for each in facts if each not in dropped]
    assert sum(facts[each][1] for each in kept) <= max_size
    for job in range(4):
        of_job = [each for each in facts if facts[each][0] == job]
        assert len([each for each in kept if each in of_job]) <= per_slot
        # Nothing is dropped without need.
        if sum(size for _, size in facts.values()) <= max_size:
            assert [each for each in of_job if each in kept] == of_job[-per_slot:]
    incremental.release(database, dropped, cause="retention", now=99.0)
    assert kept_bases.superfluous(database, WEB, keep) == []


# --- Evaluations, builds and audits ------------------------------------------------------------


def test_an_evaluation_remembers_what_it_was_given_last(farm: Farm) -> None:
    database = farm.database
    first, second = chain(database, "a", "b")
    evaluation = farm.evaluation("web", {}, running=True)
    for text, given_bases in (("one", [first, second]), ("two", [second])):
        given_input = EvaluationInput(
            protocol=Protocol.GARNIX, reference=f"path:{text}", text=text, revision="c1"
        )
        incremental.give(database, evaluation, [given_input], given_bases, now=7.0)
        assert bases.inputs(database, evaluation) == [given_input]
    assert [each.used_at for each in bases.stored(database, [first, second])] == [7.0, 7.0]
    evaluated.end_evaluation(database, evaluation, error="gone", now=8.0)
    evaluated.forget_evaluations(database, [evaluation], now=9.0)
    assert bases.inputs(database, evaluation) == []


def test_a_build_tells_what_it_started_from_and_why(farm: Farm) -> None:
    database = farm.database
    (first,) = chain(database, "a")
    farm.derivations({"app-2": [], "lib-2": []})
    app = BuildBase(
        derivation=farm.ids["app-2"],
        canonical=DrvPath("/nix/store/c.drv"),
        fingerprint=MEANS,
        base=first,
        reason="starts from the newest build, a full one",
        revision="c2",
    )
    incremental.choose(database, SLOT, app, now=3.0)
    (found,) = bases.explain(database, farm.ids["app-2"])
    assert (found.incremental, found.base, found.reason) == (True, first, app.reason)
    assert (found.path, found.canonical) == (farm.path("app-2"), app.canonical)
    assert (found.fingerprint, found.audit) == (MEANS, None)
    assert bases.explain(database, farm.ids["lib-2"]) == []
    (slot,) = bases.slots(database, WEB)
    assert (slot.bases, slot.size, slot.incremental, slot.full) == (1, 100, 1, 0)
    assert bases.slots(database) == [slot]
    assert bases.slots(database, JobsetName("web.next")) == []


def test_an_audit_that_agrees_vouches_for_what_its_build_left(farm: Farm) -> None:
    database = farm.database
    first, _ = chain(database, "a", "b")
    farm.derivations({"app-2": []})
    made = incremental.add_base(
        database,
        SLOT,
        NewBase(**{**_of(new("b2", parent=first)), "built": farm.path("app-2")}),
        now=4.0,
    )
    clean = DrvPath("/nix/store/clean.drv")
    for _ in range(2):
        incremental.ask_audit(database, farm.ids["app-2"], base=first, clean=clean, now=5.0)
    (audit,) = bases.open_audits(database)
    assert (audit.path, audit.clean, audit.base, audit.running) == (
        farm.path("app-2"), clean, first, False
    )  # fmt: skip
    incremental.start_audit(database, audit.id)
    assert bases.open_audits(database)[0].running
    assert incremental.end_audit(database, audit.id, difference=None, now=6.0) == []
    assert bases.open_audits(database) == []
    (found,) = bases.stored(database, [made])
    assert found.audited_at == 6.0
    assert bases.stored(database, [first])[0].audited_at is None


def test_an_audit_that_differs_puts_the_line_into_quarantine(farm: Farm) -> None:
    database = farm.database
    first, second = chain(database, "a", "b")
    farm.derivations({"app-2": []})
    start(farm, "app-2", SLOT, base=first)
    clean = DrvPath("/nix/store/clean.drv")
    incremental.ask_audit(database, farm.ids["app-2"], base=first, clean=clean, now=5.0)
    (audit,) = bases.open_audits(database)
    incremental.fail_audit(database, audit.id, why="the clean build failed", now=6.0)
    assert bases.open_audits(database) == []
    incremental.ask_audit(database, farm.ids["app-2"], base=first, clean=clean, now=7.0)
    found = incremental.end_audit(database, audit.id, difference="out differs", now=8.0)
    assert found == [first, second]
    assert {each.quarantined for each in bases.candidates(database, WEB)} == {
        "an audit: out differs",
        f"it goes back to base {first}: an audit: out differs",
    }


def test_what_an_untrusted_branch_comes_to_says_nothing_of_others_bases(farm: Farm) -> None:
    database = farm.database
    (base,) = chain(database, "a")
    fork = Slot(**{**_fields(SLOT), "trust": Trust("web@refs/pull/1/head")})
    farm.derivations({"app-2": [], "app-3": [], "clean": []})
    clean = farm.path("clean")
    start(farm, "app-2", fork, base=base)
    incremental.ask_audit(database, farm.ids["app-2"], base=base, clean=clean, now=5.0)
    assert incremental.end_audit(database, 1, difference="out differs", now=8.0) == []
    farm.attempt("clean")
    start(farm, "app-3", fork, base=base)
    farm.attempt("app-3", Outcome.FAILED)
    assert bases.suspects(database) == {}
    start(farm, "app-3", SLOT, base=base)  # where others build the same it does
    assert bases.suspects(database) == {base: "app"}


@pytest.mark.parametrize("difference", [None, "out differs"])
def test_what_is_kept_only_after_its_audit_is_what_that_found(
    farm: Farm, difference: str | None
) -> None:
    database = farm.database
    (base,) = chain(database, "a")
    fork = Slot(**{**_fields(SLOT), "trust": Trust("web@fork")})
    farm.derivations({"app-2": []})
    start(farm, "app-2", fork, base=base)
    clean = DrvPath("/nix/store/clean.drv")
    incremental.ask_audit(database, farm.ids["app-2"], base=base, clean=clean, now=5.0)
    incremental.end_audit(database, 1, difference=difference, now=8.0)
    late = structs.replace(new("late", parent=base), built=farm.path("app-2"))
    (stored,) = bases.stored(database, [incremental.add_base(database, fork, late, now=9.0)])
    found = None if difference is None else "an audit: out differs"
    assert stored.base.quarantined == found
    assert stored.audited_at == (8.0 if difference is None else None)


def test_what_builds_may_start_from_stays_in_caches(farm: Farm) -> None:
    database = farm.database
    first, _, third = chain(database, "a", "b", "c")
    incremental.release(database, [first], cause="reset", now=4.0)
    incremental.quarantine(database, third, reason="wrong", now=4.0)
    assert collected.wanted(database) == ["/nix/store/b"]


def test_untrusted_branches_have_the_room_that_others_leave(farm: Farm) -> None:
    database = farm.database
    branches = {JobsetName("web@main"): "main", JobsetName("web@fork"): "fork"}
    set_branches(database, WEB, branches, now=1.0)
    fork = Slot(
        jobset=JobsetName("web@fork"), job="app", system="s", branch="fork", trust=Trust("web@fork")
    )
    main = Slot(
        jobset=JobsetName("web@main"), job="app", system="s", branch="main", trust=Trust("web")
    )
    ours = [add(database, name, slot=main, size=400, at=1.0) for name in ("a", "b")]
    theirs = add(database, "c", slot=fork, size=400, at=2.0)
    assert kept_bases.superfluous(database, main.jobset, KEEP) == [theirs]
    incremental.release(database, ours[:1], cause="reset", now=3.0)
    assert kept_bases.superfluous(database, main.jobset, KEEP) == []


def start(
    farm: Farm, name: str, slot: Slot, *, base: int, canonical: DrvPath | None = None
) -> None:
    """Have a build start from a base."""
    clean = farm.path("clean") if "clean" in farm.ids else DrvPath("/nix/store/clean.drv")
    choice = BuildBase(
        derivation=farm.ids[name],
        canonical=canonical or clean,
        fingerprint=MEANS,
        base=base,
        reason="it is there",
        revision=None,
    )
    incremental.choose(farm.database, slot, choice, now=3.0)


def _of(made: NewBase) -> dict[str, Any]:
    return {name: getattr(made, name) for name in made.__struct_fields__}


def test_what_others_build_is_not_held_against_what_a_fork_makes_up(farm: Farm) -> None:
    database = farm.database
    (base,) = chain(database, "a")
    fork = structs.replace(SLOT, branch="fork", trust=Trust(WEB))
    common = structs.replace(SLOT, branch="main", trust=Trust("source"))
    farm.derivations({"app-2": [], "app-3": []})
    made_up = DrvPath("/nix/store/made-up.drv")
    for name in ("app-2", "app-3"):
        start(farm, name, fork, base=base, canonical=made_up)
        incremental.ask_audit(database, farm.ids[name], base=base, clean=made_up, now=5.0)
    early, late = bases.open_audits(database)
    incremental.end_audit(database, early.id, difference=None, now=6.0)
    assert not incremental.drop_void(database, late.id), "as long as nobody says otherwise"
    for name in ("app-2", "app-3"):
        start(farm, name, common, base=base)
        start(farm, name, fork, base=base, canonical=made_up)
        (known,) = bases.explain(database, farm.ids[name])
        assert (known.slot, known.audit) == (common, None if name == "app-2" else "pending")
    assert incremental.drop_void(database, late.id)
    assert bases.open_audits(database) == []
    start(farm, "app-2", fork, base=base)
    assert len(bases.explain(database, farm.ids["app-2"])) == 2, "what is true it may say"
