"""What a build says of itself in `nix-support/`: failure, products, metrics.

The formats are Hydra's. Reads the outputs' files; a line that does not parse is passed over,
since a build that succeeded must not fail because of it. Writes nothing.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from reconciler.model import BuildProduct, Metric, StorePath

_MAX_BYTES = 1024 * 1024
"""Of each file: a build could write one without end."""


class Support(Struct, frozen=True, kw_only=True):
    """What was found in the outputs of one build."""

    failed: bool
    products: tuple[BuildProduct, ...]
    metrics: tuple[Metric, ...]


def read(outputs: Iterable[StorePath]) -> Support:
    """Read the `nix-support` of outputs that lie in a store on this machine."""
    failed = False
    products: list[BuildProduct] = []
    metrics: list[Metric] = []
    for output in outputs:
        failed = failed or says_failed(output)
        folder = Path(output) / "nix-support"
        # A link could lead out of the store.
        if folder.is_symlink() or not folder.is_dir():
            continue
        products += _products(_lines(folder / "hydra-build-products"))
        metrics += _metrics(_lines(folder / "hydra-metrics"))
    return Support(failed=failed, products=tuple(products), metrics=tuple(metrics))


def says_failed(output: StorePath) -> bool:
    """Whether an output that lies in a store on this machine says that its build failed."""
    marker = Path(output) / "nix-support" / "failed"
    return not marker.parent.is_symlink() and marker.is_file()


def _lines(path: Path) -> list[str]:
    if path.is_symlink() or not path.is_file():
        return []
    with path.open("rb") as file:
        return file.read(_MAX_BYTES).decode(errors="replace").splitlines()


def _products(lines: Iterable[str]) -> Iterator[BuildProduct]:
    """`TYPE SUBTYPE PATH [DEFAULT]`, the path quoted if it has blanks."""
    for line in lines:
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        if len(words) >= 3:
            yield BuildProduct(kind=words[0], subtype=words[1], path=words[2])


def _metrics(lines: Iterable[str]) -> Iterator[Metric]:
    """`NAME VALUE [UNIT]`."""
    for line in lines:
        words = line.split()
        if len(words) not in (2, 3):
            continue
        try:
            value = float(words[1])
        except ValueError:
            continue
        if math.isfinite(value):
            unit = words[2] if len(words) == 3 else None
            yield Metric(name=words[0], value=value, unit=unit)
