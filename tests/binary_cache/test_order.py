from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.binary_cache.order import first_absent, hold_back, reference_levels
from reconciler.errors import CacheError
from reconciler.model import PathInfo, StorePath


def info(name: str, *references: str) -> PathInfo:
    return PathInfo(
        path=StorePath(name),
        deriver=None,
        nar_hash="",
        nar_size=0,
        references=tuple(StorePath(each) for each in references),
    )


@st.composite
def closures(draw: st.DrawFn) -> list[PathInfo]:
    """Paths in any order, each referring to some of lower number, to itself, or outside."""
    count = draw(st.integers(0, 20))
    infos = []
    for number in range(count):
        lower = draw(st.sets(st.integers(0, number), max_size=4))
        outside = draw(st.sets(st.sampled_from(["x", "y"])))
        infos.append(info(f"p{number}", *(f"p{each}" for each in lower), *outside))
    return draw(st.permutations(infos))


@given(closures())
def test_references_lie_in_earlier_levels(infos: list[PathInfo]) -> None:
    levels = reference_levels(infos)
    assert sorted(each.path for level in levels for each in level) == sorted(
        each.path for each in infos
    )
    number = {each.path: at for at, level in enumerate(levels) for each in level}
    for each in infos:
        inside = [ref for ref in each.references if ref in number and ref != each.path]
        assert number[each.path] == max((number[ref] + 1 for ref in inside), default=0)


@given(closures(), st.sets(st.sampled_from(["x", "y"])))
def test_exactly_the_paths_whose_closure_is_available_are_let_through(
    infos: list[PathInfo], outside: set[str]
) -> None:
    available = {StorePath(each) for each in outside}
    ready, waiting = hold_back(reference_levels(infos), available)
    there = set(available)
    for each in ready:
        assert first_absent(each, there) is None, "in an order that can be followed"
        there.add(each.path)
    assert {each.path for each in ready} | waiting.keys() == {each.path for each in infos}
    for path, lacks in waiting.items():
        assert path not in there
        assert lacks not in there


def test_a_circle_is_refused() -> None:
    with pytest.raises(CacheError, match="refer to each other"):
        reference_levels([info("a", "b"), info("b", "a")])
