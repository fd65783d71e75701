"""Nix expressions of the graphs that are measured. A salt makes all derivations of a round new."""

from __future__ import annotations

import random

PRELUDE = """
let
  salt = "%s";
  node = name: command: inputs: derivation {
    inherit name salt inputs;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" command ];
  };
  step = name: node name "echo $name $salt > $out";
in
"""


def _lists(layers: list[list[tuple[str, list[str]]]]) -> str:
    bindings = [
        f'  {name} = step "{name}" [ {" ".join(inputs)} ];'
        for layer in layers
        for name, inputs in layer
    ]
    top = " ".join(name for name, _ in layers[-1])
    return "let\n" + "\n".join(bindings) + f"\nin {{ inherit {top}; }}\n"


def layered(salt: str, *, layers: int, width: int, inputs: int) -> str:
    """Layers of equal width, each derivation with `inputs` of the layer below."""
    chance = random.Random(1)
    graph: list[list[tuple[str, list[str]]]] = []
    for number in range(layers):
        below = [name for name, _ in graph[-1]] if graph else []
        graph.append(
            [
                (
                    f"l{number}n{index}",
                    # The one straight below, so that the top layer needs everything.
                    sorted({below[index], *chance.sample(below, inputs - 1)}) if below else [],
                )
                for index in range(width)
            ]
        )
    return PRELUDE % salt + _lists(graph)


def chain(salt: str, *, length: int) -> str:
    """Each needs the one before."""
    graph = [[(f"c{n}", [f"c{n - 1}"] if n else [])] for n in range(length)]
    return PRELUDE % salt + _lists(graph)


def wide(salt: str, *, width: int) -> str:
    """None needs another."""
    return PRELUDE % salt + _lists([[(f"w{n}", list[str]()) for n in range(width)]])


def diamond(salt: str, *, width: int) -> str:
    """One below, many in the middle, one on top of them."""
    middle = [(f"m{n}", ["bottom"]) for n in range(width)]
    graph = [[("bottom", list[str]())], middle, [("top", [name for name, _ in middle])]]
    return PRELUDE % salt + _lists(graph)


def skewed(salt: str, *, steps: int, leaves: int, second: float) -> str:
    """A chain of long builds beside many short ones: who starts the chain late ends late."""
    sleep = "/usr/bin/sleep"
    chain_steps = "\n".join(
        f'  s{n} = node "step-{n}" "{sleep} {second}; echo $salt > $out" '
        f"[ {f's{n - 1}' if n else ''} ];"
        for n in range(steps)
    )
    short = "\n".join(
        f'  f{n} = node "leaf-{n}" "{sleep} {second / 4}; echo $salt > $out" [ ];'
        for n in range(leaves)
    )
    names = " ".join(f"f{n}" for n in range(leaves))
    return PRELUDE % salt + f"let\n{chain_steps}\n{short}\nin {{ inherit s{steps - 1} {names}; }}\n"


def large(*, layers: int, width: int, inputs: int, top: str) -> str:
    """A graph of `layers * width` derivations, made inside Nix; `top` salts its last layer only."""
    return f"""
let
  node = name: inputs: derivation {{
    inherit name inputs;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" "echo $name > $out" ];
  }};
  modulo = n: n - n / {width} * {width};
  pick = below: i: k: builtins.elemAt below (modulo (i + k * (6 * i + 13)));
  layer = salt: number: below: builtins.genList (i:
    node "n${{toString number}}-${{toString i}}${{salt}}"
      (if below == [ ] then [ ] else builtins.genList (k: pick below i k) {inputs})) {width};
  below = builtins.foldl' (below: number: layer "" number below) [ ]
    (builtins.genList (n: n) {layers - 1});
  last = layer "{top}" {layers - 1} below;
in
builtins.listToAttrs (builtins.genList (i: {{
  name = "j${{toString i}}";
  value = builtins.elemAt last i;
}}) {width})
"""
