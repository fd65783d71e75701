"""The layers of the package: imports only downwards, and a pure core.

A new module goes into LAYERS, and into the table of README's section "Architecture" (test_readme).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "reconciler"

SHELL: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"daemon", "preview"},
    {"reconcile"},
]
EFFECTS: list[set[str]] = [
    {"executor"},
    {"caching"},
    {
        "collecting",
        "companions",
        "evaluating",
        "fetching",
        "inspecting",
        "keeping",
        "listing",
        "polling",
        "rooting",
    },
    {"sharing"},
    {"auditing", "pushing"},
    {"outcomes", "upstreams"},
    {"incremental"},
    {"checkout"},
    {"ingest", "leftovers", "store"},
    {"build"},
    {"binary_cache", "database"},
    {"nix"},
    {"mirror"},
    {"source"},
    {"config"},
    {"collector", "notify", "places", "process", "secrets", "watch"},
]
PURE: list[set[str]] = [
    {"explain"},
    {"status"},
    {"plan"},
    {"work"},
    {"scheduler", "upkeep"},
    {"fair_share", "fleet", "prospects", "trust"},
    {"bases", "branches", "graph", "occupancy", "quarantine", "transitions"},
    {"model"},
    {"push_rules", "resources"},
    {"states"},
    {"push_progress"},
    {"problems", "quantities"},
    {"backoff", "errors"},
]
LAYERS = SHELL + EFFECTS + PURE
"""From the top down. A module imports from levels below its own, not from its own or above; a
package is one module here."""

ALLOWED_IN_PURE = frozenset(
    {
        "__future__", "abc", "bisect", "collections", "difflib", "enum", "fnmatch",
        "fractions", "functools", "heapq", "itertools", "json", "math", "msgspec", "operator", "re",
        "string", "typing",
    }
)  # fmt: skip
"""What the pure modules may import besides each other: nothing that reads, writes, waits or tells
the time."""

FORBIDDEN_CALLS_IN_PURE = frozenset({"open", "print", "input", "eval", "exec", "__import__"})

LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
PURE_MODULES = frozenset().union(*PURE)


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str | None:
    """The table's name of a file: its package's where it lies in one; None for reconciler's own."""
    first = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if first == "__init__" else first


def modules() -> set[str]:
    return {module for file in files() if (module := module_of(file)) is not None}


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Each import of a file with its line: in full, as `from a.b import c` gives `a.b.c`."""
    package = ("reconciler", *file.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(file.read_bytes())):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package[: len(package) - level + 1] if level else ()
                prefix = ".".join((*base, *filter(None, [module])))
                yield from ((node.lineno, f"{prefix}.{alias.name}") for alias in names)
            case _:
                pass


def name(file: Path) -> str:
    return str(file.relative_to(PROJECT))


@pytest.mark.parametrize("file", files(), ids=name)
def test_imports_point_downwards(file: Path) -> None:
    module = module_of(file)
    assert module is None or module in LEVEL, f"put {module} into LAYERS of {Path(__file__).name}"
    for line, imported in imports(file):
        top, _, rest = imported.partition(".")
        target = rest.split(".")[0]
        if top != "reconciler" or target == module or target not in modules():
            continue
        assert module is not None, f"{name(file)}:{line}: the package's own file imports {target}"
        assert LEVEL[target] > LEVEL[module], (
            f"{name(file)}:{line}: {module} imports {target}, which is not below it"
        )


@pytest.mark.parametrize("file", files(), ids=name)
def test_pure_modules_reach_nothing_outside(file: Path) -> None:
    if module_of(file) not in PURE_MODULES:
        return
    for line, imported in imports(file):
        top = imported.split(".")[0]
        assert top in ALLOWED_IN_PURE | {"reconciler"}, (
            f"{name(file)}:{line}: imports {top}; a pure module is given what it needs to know"
        )
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS_IN_PURE, (
                f"{name(file)}:{node.lineno}: calls {node.func.id}; a pure module only computes"
            )


@pytest.mark.parametrize("file", files(), ids=name)
def test_a_module_says_what_it_is_for_and_stays_small(file: Path) -> None:
    source = file.read_text()
    assert ast.get_docstring(ast.parse(source)), f"{name(file)} has no docstring"
    lines = source.count("\n")
    assert lines <= 500, f"{name(file)} has {lines} lines: split it by responsibility"
