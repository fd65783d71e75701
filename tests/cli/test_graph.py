from __future__ import annotations

import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from reconciler.model import Outcome
from tests.cli.farm import Farm


@pytest.fixture
def diamond(farm: Farm) -> Farm:
    farm.derivations({"base-1": [], "left-1": ["base-1"], "right<&-1": ["base-1"]})
    farm.derivations({"top-1": ["left-1", "right<&-1"]})
    farm.attempt("base-1")
    farm.attempt("left-1", Outcome.FAILED, message="no")
    farm.evaluation("web", {"top": "top-1"}, errors={"old": "error"})
    return farm


def test_text(diamond: Farm) -> None:
    assert diamond.run("graph", "web.top").stdout == (
        "top-1  dependency-failed\n"
        "├─ left-1  failed\n"
        "│  └─ base-1  succeeded\n"
        "└─ right<&-1  queued\n"
        "   └─ base-1  succeeded\n"
    )


def test_what_was_unfolded_is_not_unfolded_again(diamond: Farm) -> None:
    diamond.derivations({"deep-1": []})
    diamond.derivations({"roof-1": ["top-1", "left-1"]})
    assert "left-1  failed  (see above)" in diamond.run("graph", "roof-1").stdout


def test_json_and_depth(diamond: Farm) -> None:
    found = diamond.json("graph", "web.top", "--depth", "1", schema="graph")
    assert sorted(each["name"] for each in found["nodes"]) == ["left-1", "right<&-1", "top-1"]
    assert found["complete"]
    found = diamond.json("graph", "web.top", "--limit", "2", schema="graph")
    assert not found["complete"]
    assert len(found["nodes"]) == 2
    assert "only the nearest 2" in diamond.run("graph", "web.top", "--limit", "2").stderr


def test_svg_is_well_formed_and_points_to_the_right(diamond: Farm) -> None:
    drawing = ElementTree.fromstring(diamond.run("graph", "web.top", "--format", "svg").stdout)  # noqa: S314 - our own
    space = "{http://www.w3.org/2000/svg}"
    left = {
        (box.findtext(f"{space}text") or ""): float(box.find(f"{space}rect").get("x", "nan"))  # type: ignore[union-attr]
        for box in drawing.iter(f"{space}g")
    }
    assert left["top-1"] < left["left-1"] == left["right<&-1"] < left["base-1"]
    assert len(list(drawing.iter(f"{space}path"))) == 4


def test_dot(diamond: Farm) -> None:
    text = diamond.run("graph", "web.top", "--format", "dot").stdout
    top, left = diamond.ids["top-1"], diamond.ids["left-1"]
    assert f"  n{top} -> n{left};" in text
    assert f'  n{left} [label="left-1\\nfailed", fillcolor="#ffcdd2"];' in text
    dot = shutil.which("dot")
    if dot is not None:
        subprocess.run([dot, "-Tsvg"], input=text, text=True, check=True, capture_output=True)


def test_what_has_no_graph(diamond: Farm) -> None:
    assert "is a jobset" in str(diamond.failure("graph", "web"))
    assert "does not evaluate" in str(diamond.failure("graph", "web.old"))
