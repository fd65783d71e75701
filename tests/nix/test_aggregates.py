"""Resolution of aggregates."""

from __future__ import annotations

from reconciler.model import DrvPath, EvaluatedJob, EvaluationFailure
from reconciler.nix.aggregates import resolve_aggregates
from reconciler.nix.rows import Aggregate


def aggregate(path: str, *names: str, drvs: tuple[str, ...] = (), globs: bool = False) -> Aggregate:
    job = EvaluatedJob(
        attr_path=tuple(path.split(".")),
        name="all",
        system="x86_64-linux",
        drv_path=DrvPath(f"{path}.drv"),
        outputs={},
    )
    return Aggregate(job=job, by_name=names, by_derivation=tuple(map(DrvPath, drvs)), globs=globs)


def resolve(*aggregates: Aggregate, failed: frozenset[str] = frozenset()) -> dict[str, object]:
    jobs = {name: DrvPath(f"{name}.drv") for name in ("top.a", "top.b", "other.a", "a")}
    rows = resolve_aggregates(aggregates, jobs=jobs, failed=failed)
    assert len(rows) == len(aggregates)
    return {
        row.attr: row.message if isinstance(row, EvaluationFailure) else row.constituents
        for row in rows
    }


def test_names_count_from_the_top_attribute_first() -> None:
    assert resolve(aggregate("top.x", "a")) == {"top.x": ("top.a",)}
    assert resolve(aggregate("top.x", "other.a")) == {"top.x": ("other.a",)}
    assert resolve(aggregate("x", "a")) == {"x": ("a",)}


def test_patterns_match_all_but_the_aggregate_itself() -> None:
    assert resolve(aggregate("top.x", "*", globs=True)) == {"top.x": ("top.a", "top.b")}
    assert resolve(aggregate("x", "other.*", "[ab]", globs=True)) == {"x": ("a", "other.a")}


def test_derivations_are_named_and_those_of_no_job_left_out() -> None:
    assert resolve(aggregate("x", drvs=("top.b.drv", "none.drv"))) == {"x": ("top.b",)}


def test_a_missing_one_costs_only_its_aggregate() -> None:
    rows = resolve(
        aggregate("x", "nowhere"),
        aggregate("y", "broken"),
        aggregate("top.z", "broken"),
        aggregate("ok", "a"),
        failed=frozenset({"broken", "top.broken"}),
    )
    assert rows == {
        "x": "its constituent 'nowhere' is not a job of this evaluation",
        "y": "its constituent 'broken' does not evaluate",
        "top.z": "its constituent 'broken' does not evaluate",
        "ok": ("a",),
    }


def test_cycles_cost_only_their_members() -> None:
    rows = resolve(
        aggregate("x", "y"),
        aggregate("y", "z"),
        aggregate("z", "x"),
        aggregate("u", "v"),
        aggregate("v", "u"),
        aggregate("w", "x", "a"),
        aggregate("self", "self", "a"),
    )
    assert rows.pop("w") == ("a", "x")
    assert rows.pop("self") == ("a",)
    message = "aggregates are constituents of each other: "
    assert {rows.pop(name) for name in "xyz"} == {message + "x, y, z"}
    assert {rows.pop(name) for name in "uv"} == {message + "u, v"}
    assert rows == {}
