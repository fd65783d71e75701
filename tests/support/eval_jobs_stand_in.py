"""A stand-in for nix-eval-jobs: its arguments, its rules and its lines, over plain Nix.

One process of Nix for each attribute, and nothing shared with the package's own evaluator but the
expression it is given. What it prints is what nix-eval-jobs 2.34 prints for the same expression.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# A derivation, or the attributes of a set that is to be recursed into, or neither.
QUESTION = r"""
let
  root = @root@;
  value = builtins.foldl' (set: name: set.${name}) root (builtins.fromJSON @path@);
  isTop = @top@;
  plain = builtins.unsafeDiscardStringContext;
in
if !builtins.isAttrs value then
  { attrs = [ ]; }
else if value.type or "" == "derivation" then
  {
    inherit (value) name system;
    meta = value.meta or { };
    drvPath = plain value.drvPath;
    outputs = builtins.foldl' (
      outputs: name: outputs // { ${name} = plain value.${name}.outPath; }
    ) { } (value.outputs or [ "out" ]);
  }
else if isTop || value.recurseForDerivations or false then
  { attrs = builtins.attrNames value; }
else
  { attrs = [ ]; }
"""


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${") + '"'


def ask(options: list[str], expression: str, path: list[str]) -> dict[str, Any]:
    question = (
        QUESTION.replace("@path@", quoted(json.dumps(path)))
        .replace("@top@", "true" if not path else "false")
        .replace("@root@", expression)
    )
    answer = subprocess.run(
        [
            "nix-instantiate",
            *options,
            *("--eval", "--strict", "--json", "--read-write-mode", "--expr", question),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        return {"error": answer.stderr}
    row: dict[str, Any] = json.loads(answer.stdout)
    return row


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--extra-experimental-features")
    parser.add_argument("--option", nargs=2, action="append", default=[])
    parser.add_argument("--meta", action="store_true")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--max-memory-size", type=int)
    parser.add_argument("--gc-roots-dir", type=Path)
    parser.add_argument("--expr", action="store_true")
    parser.add_argument("expression")
    given = parser.parse_args()
    if not (given.meta and given.expr and given.gc_roots_dir.is_dir()):
        return 2
    options = ["--extra-experimental-features", given.extra_experimental_features]
    for name, value in given.option:
        options += ["--option", name, value]
    todo: list[list[str]] = [[]]
    while todo:
        path = todo.pop()
        row = ask(options, given.expression, path)
        if "attrs" in row:
            todo += [[*path, name] for name in row["attrs"]]
            continue
        if not path and "error" in row:
            # Its workers die of a broken root, and it with them.
            sys.stderr.write(f"error: worker error: {row['error']}\n")
            return 1
        attr = ".".join(f'"{name}"' if "." in name else name for name in path)
        sys.stdout.write(json.dumps({"attr": attr, "attrPath": path, **row}) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
