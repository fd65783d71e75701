"""Whatever may concern incremental builds has a tick look at them; what does not, has it not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.bases import Fingerprint, Trust
from reconciler.database import due, evaluated, incremental, pushed
from reconciler.database.incremental import BuildBase, NewBase, Slot
from reconciler.model import CacheName, DrvPath, JobsetName, Outcome, StorePath
from tests.cli.farm import DOCUMENT, Farm
from tests.support.invariants import checked

WEB, MAIN = JobsetName("web"), CacheName("main")
MEANS = Fingerprint(digest="f1", parts={})
SLOT = Slot(jobset=WEB, job="app", system="x86_64-linux", branch=None, trust=Trust("web"))
CLEAN = "clean"


class Grown(Farm):
    """A farm with a build from a base, `app`, of two stages, that nothing is due of."""

    base: int
    evaluation_number: int

    def grow(self) -> None:
        self.declare()
        self.derivations({name: [] for name in ("fetch", "first", "app", CLEAN, "other")})
        self.base = self.add_base("old")
        choice = BuildBase(
            derivation=self.ids["app"],
            canonical=self.path(CLEAN),
            fingerprint=MEANS,
            base=self.base,
            reason="it is there",
            revision=None,
            leaves=self.ids["first"],
        )
        incremental.choose(self.database, SLOT, choice, now=self.now)
        self.evaluation_number = self.evaluation("web", {"app": "app", "other": "other"})
        self.settle()

    def add_base(self, name: str) -> int:
        new = NewBase(
            name=name,
            path=StorePath(f"/nix/store/{self.ids['fetch']:032}-fetch"),
            nar_hash=f"sha256-{name}",
            size=1,
            fingerprint=MEANS,
            canonical=self.path(CLEAN),
            built=self.path("app") if name == "new" else DrvPath(f"/nix/store/{name}.drv"),
            revision=None,
            parent=None,
        )
        return incremental.add_base(self.database, SLOT, new, now=self.now)

    def settle(self) -> None:
        newest = due.newest(self.database)
        assert newest is not None
        due.settle(self.database, newest)
        assert due.newest(self.database) is None

    def due(self) -> tuple[set[str], set[int]]:
        """Builds and bases."""
        rows = self.database.query("SELECT derivation, base FROM incremental_due")
        names = {number: name for name, number in self.ids.items()}
        builds = {names[row["derivation"]] for row in rows if row["derivation"] is not None}
        return builds, {row["base"] for row in rows if row["base"] is not None}

    def audit(self, difference: str | None = None) -> None:
        incremental.ask_audit(
            self.database, self.ids["app"], base=self.base, clean=self.path(CLEAN), now=self.now
        )
        incremental.end_audit(self.database, 1, difference=difference, now=self.now)

    def vouched(self) -> bool:
        (row,) = self.database.query("SELECT vouched FROM build_base")
        return bool(row[0])


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Grown]:
    made = Grown(tmp_path)
    made.grow()
    with checked(made.database):
        yield made


def failed(name: str) -> Callable[[Grown], object]:
    return lambda farm: farm.attempt(name, Outcome.FAILED)


def evaluated_again(farm: Grown) -> None:
    farm.evaluation("web", {"app": "app"})


def could_not_be_fetched(farm: Grown) -> None:
    farm.attempt("fetch", Outcome.INFRASTRUCTURE)


def chosen_anew(farm: Grown) -> None:
    full = BuildBase(
        derivation=farm.ids["app"],
        canonical=farm.path(CLEAN),
        fingerprint=MEANS,
        base=None,
        reason="for a change",
        revision=None,
    )
    incremental.choose(farm.database, SLOT, full, now=farm.now)


def there_again(farm: Grown) -> None:
    farm.declare({**DOCUMENT, "jobsets": {"web.next": DOCUMENT["jobsets"]["web.next"]}})
    assert farm.due() == (set(), set())
    farm.declare()


@pytest.mark.parametrize(
    "happens",
    [
        *(failed(name) for name in ("app", "first", CLEAN, "fetch")),
        could_not_be_fetched,
        evaluated_again,
        chosen_anew,
        there_again,
    ],
)
def test_what_may_concern_a_build_makes_it_due(
    farm: Grown, happens: Callable[[Grown], object]
) -> None:
    happens(farm)
    assert farm.due() == ({"app"}, set())


def test_what_concerns_no_incremental_build_makes_none_due(farm: Grown) -> None:
    farm.attempt("other")
    farm.evaluation("web.next", {"other": "other"})
    evaluated.end_evaluation(
        farm.database, farm.evaluation("web", {}, running=True), error="no", now=farm.now
    )
    assert farm.due() == (set(), set())


def test_what_changes_of_a_base_makes_it_due(farm: Grown) -> None:
    new = farm.add_base("new")
    assert farm.due() == (set(), {new})
    farm.settle()
    farm.audit()
    assert farm.due() == (set(), {new})  # it is vouched for
    farm.settle()
    incremental.quarantine(farm.database, new, reason="wrong", now=farm.now)
    assert farm.due() == ({"app"}, {new})  # what is built at its path in full is to leave another
    farm.settle()
    incremental.release(farm.database, [new], cause="reset", now=farm.now)
    assert farm.due() == (set(), {new})


def test_a_base_that_is_off_a_queue_is_due(farm: Grown) -> None:
    path = StorePath(f"/nix/store/{farm.ids['fetch']:032}-fetch")
    pushed.queue_pushes(farm.database, MAIN, roots=(), paths=[path], now=farm.now)
    assert farm.due() == (set(), set())
    with farm.database.transaction():
        farm.database.execute("DELETE FROM push")
    assert farm.due() == (set(), {farm.base})


def test_what_comes_while_a_tick_looks_is_for_the_next(farm: Grown) -> None:
    due.again(farm.database, [farm.ids["app"]])
    newest = due.newest(farm.database)
    assert newest is not None
    farm.add_base("new")
    due.settle(farm.database, newest)
    assert farm.due()[0] == set()
    assert due.any_base(farm.database)


def test_all_in_force_and_all_that_is_kept_can_be_had(farm: Grown) -> None:
    due.everything(farm.database)
    assert farm.due() == ({"app"}, {farm.base})
    farm.settle()
    incremental.release(farm.database, [farm.base], cause="reset", now=farm.now)
    farm.evaluation("web", {"other": "other"})
    farm.settle()
    due.everything(farm.database)
    assert farm.due() == (set(), set())


def test_a_build_is_vouched_for_while_its_audit_says_so(farm: Grown) -> None:
    assert not farm.vouched()
    farm.audit()
    assert farm.vouched()
    incremental.ask_audit(
        farm.database, farm.ids["app"], base=farm.base, clean=farm.path(CLEAN), now=farm.now
    )
    assert not farm.vouched()
    incremental.end_audit(farm.database, 1, difference="out differs", now=farm.now)
    assert not farm.vouched()


def test_a_build_that_was_audited_is_vouched_for_whoever_has_it_too(farm: Grown) -> None:
    farm.audit()
    other = Slot(
        jobset=JobsetName("web.next"), job="app", system="s", branch=None, trust=Trust("w")
    )
    again = BuildBase(
        derivation=farm.ids["app"],
        canonical=farm.path(CLEAN),
        fingerprint=MEANS,
        base=farm.base,
        reason="it is there",
        revision=None,
    )
    incremental.choose(farm.database, other, again, now=farm.now)
    rows = farm.database.query("SELECT vouched FROM build_base")
    assert [row[0] for row in rows] == [1, 1]


def test_an_audit_that_is_forgotten_vouches_for_nothing(farm: Grown) -> None:
    farm.audit()
    with farm.database.transaction():
        farm.database.execute("DELETE FROM audit")
    assert not farm.vouched()
    assert farm.due() == ({"app"}, set())
