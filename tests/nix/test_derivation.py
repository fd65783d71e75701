"""Derivation files as real Nix writes them, compared with what Nix itself reads in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from reconciler.errors import NixError
from reconciler.model import Derivation, DrvPath
from reconciler.nix import aterm, derivation
from tests.support.private_store import PrivateStore

FEATURES = "extra-experimental-features = ca-derivations dynamic-derivations impure-derivations\n"

EXPRESSION = r"""
let
  make = name: more: derivation ({ inherit name; system = "x86_64-linux"; builder = "/bin/sh"; } // more);
  leaf = make "leaf" { };
  several = make "several" { outputs = [ "out" "dev" "doc" ]; src = builtins.toFile "src" "\")],[("; };
  fixed = make "fixed" { outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; };
  floating = make "floating" { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  impure = make "impure" { __impure = true; };
  producer = make "producer.drv" { __contentAddressed = true; outputHashMode = "text"; outputHashAlgo = "sha256"; };
in [
  leaf several fixed floating impure producer
  (make "deferred" { inherit floating; })
  (make "dependant" { inherit leaf; a = several.dev; b = several.doc; c = fixed; })
  (make "featured" { requiredSystemFeatures = [ "kvm" "big-parallel" ]; preferLocalBuild = true; })
  (make "blank" { requiredSystemFeatures = " \n\tkvm\r "; preferLocalBuild = false; })
  (make "decoy" { args = [ "(\"requiredSystemFeatures\",\"decoy\")" "],[" ]; x = "(\"preferLocalBuild\",\"1\")"; })
  (make "structured" { __structuredAttrs = true; requiredSystemFeatures = [ "k\"v\\m" ]; preferLocalBuild = true; inherit leaf; })
  (make "plain-structured" { __structuredAttrs = true; other = "x"; })
  (make "dynamic" { inherit leaf; produced = builtins.outputOf producer.outPath "out"; })
]
"""  # noqa: E501 - Nix


@pytest.fixture(scope="module")
def store() -> Iterator[PrivateStore]:
    made = PrivateStore.create(settings=FEATURES)
    yield made
    made.destroy()


@pytest.fixture(scope="module")
def paths(store: PrivateStore) -> dict[str, DrvPath]:
    """The derivations of the expression, by name."""
    return {name_of(path): DrvPath(path) for path in store.instantiate(EXPRESSION)}


def name_of(path: str) -> str:
    return Path(path).name[33:].removesuffix(".drv")


def read_by_aterm(path: DrvPath, text: str) -> Derivation:
    """The same by the way for any term: what is quick about the text is spoilt by a version."""
    inner = text.removeprefix("Derive(")
    return derivation.parse(path, f'DrvWithVersion("xp-dyn-drv",{inner}')


def test_graph_is_what_nix_reads(store: PrivateStore, paths: dict[str, DrvPath]) -> None:
    shown = json.loads(store.run("nix", "derivation", "show", *paths.values()).stdout)
    by_nix: dict[str, Any] = {
        name_of(path): value for path, value in shown.get("derivations", shown).items()
    }
    assert by_nix.keys() == paths.keys()
    for name, path in paths.items():
        ours, theirs = derivation.read(path), by_nix[name]
        inputs = theirs["inputs"]["drvs"] if "inputs" in theirs else theirs["inputDrvs"]
        assert ours.path == path
        assert ours.name == theirs["name"] == name
        assert ours.system == theirs["system"]
        assert {Path(drv).name: [*outputs] for drv, outputs in ours.inputs.items()} == {
            Path(drv).name: wanted["outputs"] for drv, wanted in inputs.items()
        }
        assert ours.outputs.keys() == theirs["outputs"].keys()
        for output, made in theirs["outputs"].items():
            if "path" in made:  # Nix leaves a fixed one's out: its hash says it
                assert Path(ours.outputs[output] or "").name == Path(made["path"]).name
            else:
                assert (ours.outputs[output] is not None) == ("hash" in made)


def test_both_ways_read_the_same(paths: dict[str, DrvPath]) -> None:
    for name, path in paths.items():
        text = Path(path).read_text()
        if name != "dynamic":
            assert read_by_aterm(path, text) == derivation.parse(path, text)
            assert derivation.parse(path, text.encode()) == derivation.parse(path, text)


def test_options_of_a_builder(paths: dict[str, DrvPath]) -> None:
    read = {name: derivation.read(path) for name, path in paths.items()}
    ca = ("ca-derivations",)
    assert {name: drv.required_features for name, drv in read.items() if drv.required_features} == {
        "featured": ("kvm", "big-parallel"),
        "blank": ("kvm",),
        "structured": ('k"v\\m',),
        **dict.fromkeys(("floating", "impure", "producer.drv", "deferred", "dynamic"), ca),
    }
    assert {name for name, drv in read.items() if drv.prefer_local} == {"featured", "structured"}
    assert {name for name, drv in read.items() if drv.fixed_output} == {"fixed"}


def test_what_no_nix_of_ours_builds_says_why(paths: dict[str, DrvPath]) -> None:
    read = {name: derivation.read(path) for name, path in paths.items()}
    reasons = {name: drv.unsupported for name, drv in read.items() if drv.unsupported}
    assert reasons.keys() == {"dynamic", "impure"}
    assert "dynamic derivation" in reasons["dynamic"]
    assert "impure" in reasons["impure"]


PATH = DrvPath(f"/nix/store/{'0' * 32}-made-up.drv")
PLAIN = (
    'Derive([("out","/nix/store/x-out","","")],[("/nix/store/a.drv",["dev","out"]),'
    '("/nix/store/b.drv",["out"])],["/nix/store/s"],"x86_64-linux","/bin/sh",["-c"],'
    '[("name","made-up"),("requiredSystemFeatures","kvm")])'
)


def test_escapes_in_the_head() -> None:
    odd = PLAIN.replace("x86_64-linux", r"odd\"sys\\tem\n").replace("b.drv", r"b\t.drv")
    read = derivation.parse(PATH, odd)
    assert read.system == 'odd"sys\\tem\n'
    assert read.inputs == {"/nix/store/a.drv": ("dev", "out"), "/nix/store/b\t.drv": ("out",)}
    assert read.required_features == ("kvm",)


@pytest.mark.parametrize("length", range(0, len(PLAIN), 2))
def test_a_cut_file_is_refused_by_name(length: int) -> None:
    with pytest.raises(NixError, match=rf"^{PATH} is not a derivation that we can read: ") as error:
        derivation.parse(PATH, PLAIN[:length])
    assert len(str(error.value)) < 300


MALFORMED = {
    "nothing": "",
    "garbage": b"\xff\x00\x80",
    "another term": 'Other("x")',
    "a bare string": '"Derive"',
    "an unknown version": PLAIN.replace("Derive(", 'DrvWithVersion("xp-2040",'),
    "a part too few": 'Derive([],[],[],"s","b",[])',
    "more behind it": PLAIN + "x",
    "an output too short": PLAIN.replace(',"","")', ',"")'),
    "an output that is a string": PLAIN.replace('("out","/nix/store/x-out","","")', '"out"'),
    "an input without outputs": PLAIN.replace(',["out"]', ""),
    "an input with a number": PLAIN.replace('["out"]', "[1]"),
    "an input with a tuple": PLAIN.replace('["out"]', '[("out")]'),
    "inputs that run together": PLAIN.replace("),(", ")("),
    "structured attributes that are no JSON": PLAIN.replace(
        '("name","made-up")', '("__json","{preferLocalBuild")'
    ),
    "features that are no list": PLAIN.replace(
        '("name","made-up")', r'("__json","{\"requiredSystemFeatures\":\"kvm\"}")'
    ),
    "JSON that is a list": PLAIN.replace(
        '("name","made-up")', r'("__json","[\"preferLocalBuild\"]")'
    ),
    "JSON without end": PLAIN.replace(
        '("name","made-up")', '("__json","' + "[" * 100_000 + r'\"preferLocalBuild\"")'
    ),
    "lists without end": "Derive(" + "[" * 100_000,
    "tuples without end": "Derive(" + "(" * 100_000,
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_files_are_refused_by_name(text: str | bytes) -> None:
    with pytest.raises(NixError, match=f"^{PATH} is not a derivation that we can read: .+"):
        derivation.parse(PATH, text)


@given(some.integers(0, len(PLAIN) - 1), some.sampled_from('"\\[](),x'))
def test_a_flipped_character_never_makes_the_two_ways_differ(at: int, character: str) -> None:
    flipped = PLAIN[:at] + character + PLAIN[at + 1 :]
    try:
        by_aterm = read_by_aterm(PATH, flipped)
    except NixError:
        return  # the quick way does not look at what it does not need
    if flipped.startswith("Derive("):
        assert derivation.parse(PATH, flipped) == by_aterm


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    missing = DrvPath(str(tmp_path / "missing.drv"))
    with pytest.raises(NixError, match=f"cannot read the derivation {missing}: No such file"):
        derivation.read(missing)


@given(some.text())
def test_strings_are_read_as_nix_writes_them(value: str) -> None:
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    written = "".join(escapes.get(character, character) for character in value)
    assert aterm.parse(f'"{written}"') == value
