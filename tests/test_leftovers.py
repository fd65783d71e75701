"""Folders that serve no declared jobset: which they are, and that nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler import leftovers
from reconciler.build.mounts import CACHES_VARIABLE, domain_folder
from reconciler.database import evaluated, mounts
from reconciler.leftovers import Kind
from reconciler.model import Outcome
from reconciler.places import Places
from tests.cli.farm import DOCUMENT, Farm
from tests.support.invariants import checked

REST = {**DOCUMENT, "jobsets": {"web.next": DOCUMENT["jobsets"]["web.next"]}}


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path)
    made.declare()
    with checked(made.database):
        yield made


@pytest.fixture
def places(farm: Farm) -> Places:
    """With folders of both jobsets, and one of a name that never was declared here."""
    found = Places(farm.state_dir, {CACHES_VARIABLE: str(farm.root / "compilers")})
    for name in ("web", "web.next", "others"):
        for folder in (found.overlays / name, farm.root / "compilers" / domain_folder(name)):
            folder.mkdir(parents=True)
            (folder / "file").write_text("x" * 100)
    return found


def test_only_what_is_of_a_jobset_that_is_gone_is_found(farm: Farm, places: Places) -> None:
    assert leftovers.find(farm.database, farm.declare(), places) == []
    found = leftovers.find(farm.database, farm.declare(REST), places)
    assert [(each.kind, each.jobset, each.size()) for each in found] == [
        (Kind.OVERLAY, "web", 100),
        (Kind.COMPILER_CACHE, "web", 100),
    ]
    leftovers.remove_all(found)
    assert sorted(each.name for each in places.overlays.iterdir()) == ["others", "web.next"]
    names = sorted(each.name for each in (farm.root / "compilers").iterdir())
    assert names == sorted(map(domain_folder, ("others", "web.next")))
    assert leftovers.find(farm.database, farm.declare(REST), places) == []


def test_what_was_cut_off_is_gone_on_with(farm: Farm, places: Places) -> None:
    folder = farm.root / "compilers" / domain_folder("web")
    begun = folder.with_name(f".going-{folder.name}")
    (begun / "deep").mkdir(parents=True)
    leftovers.remove_all(leftovers.find(farm.database, farm.declare(REST), places))
    assert not folder.exists()
    assert not begun.exists()


def test_what_cannot_be_removed_is_told_and_links_are_not_followed(
    farm: Farm, places: Places
) -> None:
    elsewhere = farm.root / "elsewhere"
    (places.overlays / "web").rename(elsewhere)
    (places.overlays / "web").symlink_to(elsewhere)
    (found,) = leftovers.find(farm.database, farm.declare(REST), places)
    found.path.with_name(f".going-{found.path.name}").write_text("in the way")
    told = leftovers.remove(found)
    assert told is not None
    assert str(found.path) in told
    assert found.path.exists()
    assert (elsewhere / "file").exists()


def test_they_are_in_use_while_something_goes_on_that_may_need_them(farm: Farm) -> None:
    farm.derivations({"site-1.0": []})
    assert not leftovers.in_use(farm.database, farm.declare(REST))
    attempt = farm.start("site-1.0")
    mounts.begin(farm.database, attempt, kind="compiler-cache")
    assert leftovers.in_use(farm.database, farm.declare(REST))
    farm.end(attempt, "site-1.0", Outcome.SUCCEEDED)
    assert not leftovers.in_use(farm.database, farm.declare(REST))
    both = farm.declare()
    number = farm.evaluation("web", {}, running=True)
    assert not leftovers.in_use(farm.database, both), "it is declared"
    assert leftovers.in_use(farm.database, farm.declare(REST))
    evaluated.end_evaluation(farm.database, number, error="stopped", now=farm.now)
    assert not leftovers.in_use(farm.database, farm.declare(REST))


def test_scratch_is_what_lies_there(places: Places) -> None:
    assert leftovers.scratch(places) == []
    places.scratch.mkdir()
    assert leftovers.scratch(places) == []
    (places.mounts / "x.drv.shown").mkdir(parents=True)
    assert [each.path for each in leftovers.scratch(places)] == [places.mounts]
