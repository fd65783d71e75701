from __future__ import annotations

import pytest

from reconciler.model import Outcome
from tests.cli.farm import Farm


@pytest.fixture
def evolved(farm: Farm) -> Farm:
    """Two evaluations: of each kind of difference one job."""
    farm.derivations({"a-1": [], "b-1": [], "c-1": [], "d-1": [], "e-1": []})
    for name in ("a-1", "d-1", "e-1"):
        farm.attempt(name)
    for name in ("b-1", "c-1"):
        farm.attempt(name, Outcome.FAILED, message="no")
    farm.evaluation(
        "web", {"same": "a-1", "fixed": "b-1", "still": "c-1", "gone": "d-1", "worse": "e-1"}
    )
    farm.derivations({"b-2": [], "e-2": [], "new-1": []})
    farm.attempt("b-2")
    farm.attempt("e-2", Outcome.FAILED, message="no")
    farm.attempt("new-1")
    farm.evaluation(
        "web", {"same": "a-1", "fixed": "b-2", "still": "c-1", "worse": "e-2", "new": "new-1"}
    )
    return farm


def test_the_last_two(evolved: Farm) -> None:
    result = evolved.run("diff", "web")
    assert result.exit_code == 0, result.output
    lines = [line.split(None, 2) for line in result.output.splitlines()]
    assert ["~", "fixed", "changed    newly fixed"] in lines
    assert ["still", "unchanged", "still failing (failed)"] in lines
    assert ["~", "worse", "changed    newly failing (failed)"] in lines
    assert ["-", "gone", "removed"] in lines
    assert ["+", "new", "added      succeeded"] in lines
    assert (
        "1 added, 1 removed, 2 changed; 1 newly failing, 1 still failing, 1 newly fixed"
        in result.output
    )
    found = evolved.json("diff", "web", schema="diff")
    assert [each["attr"] for each in found["jobs"]] == ["fixed", "gone", "new", "still", "worse"]
    assert (found["from"]["id"], found["to"]["id"]) == (1, 2)


def test_chosen_ones(evolved: Farm) -> None:
    assert "No job differs" not in evolved.run("diff", "web", "--from", "1", "--to", "2").output
    assert evolved.run("diff", "web", "--from", "2", "--to", "1").output.startswith("web #2 → #1")
    first = evolved.run("diff", "web", "--to", "1").output
    assert "web #1 is the first evaluation that is kept" in first
    assert evolved.json("diff", "web", "--to", "1", schema="diff")["from"] is None
    assert "evaluation 7 of web is not kept; kept are 2, 1" in str(
        evolved.failure("diff", "web", "--from", "7")
    )


def test_without_differences(good: Farm) -> None:
    good.evaluation("web", {"site": "site-1.0"})
    assert "No job differs, and none fails." in good.run("diff", "web").output


def test_what_cannot_be_compared(good: Farm) -> None:
    assert "is no jobset" in str(good.failure("diff", "web.site"))


def test_a_jobset_without_evaluations(farm: Farm) -> None:
    assert "no evaluation" in str(farm.failure("diff", "web"))
