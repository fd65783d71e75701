"""Which base a build is shown that is several branches'."""

from __future__ import annotations

from msgspec import structs

from reconciler.bases import Trust
from reconciler.database import bases, incremental, mounts
from reconciler.database.incremental import BuildBase
from tests.cli.farm import Farm
from tests.database.test_incremental import MEANS, SLOT, WEB, chain


def test_all_branches_of_a_build_have_the_base_that_it_is_shown(farm: Farm) -> None:
    database = farm.database
    first, second, third = chain(database, "a", "b", "c")
    farm.derivations({"app-2": []})
    drv = farm.ids["app-2"]
    main = structs.replace(SLOT, branch="main", trust=Trust("source"))
    topic = structs.replace(main, branch="topic")
    fork = structs.replace(SLOT, branch="fork", trust=Trust(WEB))
    for at, (slot, base) in enumerate(((main, first), (topic, second), (fork, third))):
        choice = BuildBase(
            derivation=drv,
            canonical=farm.path("app-2"),
            fingerprint=MEANS,
            base=base,
            reason=f"from {base}",
            revision=None,
            hidden=True,
        )
        incremental.choose(database, slot, choice, now=float(at))
    found = mounts.base_of(database, drv)
    assert found is not None
    assert found.base == second, "the newest that a trusted branch has"
    mounts.agree(database, drv, found.base)
    told = {(each.base, each.reason) for each in bases.explain(database, drv)}
    assert told == {(second, f"from {second}")}
