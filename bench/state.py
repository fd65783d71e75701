"""Rows 6 to 9 and 12: a large state, taken in, loaded, looked over and shown."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import graphs
from bench.lab import Lab
from bench.measure import Row, Run, Took, compare, interleaved, python, timed

INPUTS = 8
TARGETS = {20: (1 / 2.2, 1 / 2.6), 100: (1 / 2.8, 1 / 3.3)}
"""Thousands of derivations to target and stretch of the ingest."""


def _roots(lab: Lab, thousands: int, top: str = "") -> Path:
    """The jobs of a large graph, made once for a store: evaluating it takes a minute.

    It has a hundred layers, of which `top` makes the last one new: one hundredth.
    """
    path = lab.store.root / f"large-{thousands}{top}"
    if not path.exists():
        source = lab.folder()
        graph = graphs.large(layers=100, width=thousands * 10, inputs=INPUTS, top=top)
        (source / "default.nix").write_text(graph)
        path.write_text("\n".join(lab.instantiate(source)))
    return path


def _child(lab: Lab, *arguments: str | Path) -> Run:
    """The measured part, as the child timed it; its peak is the process's."""
    run = timed(python("bench.state_child", *map(str, arguments)), lab.environment)
    return Run(float(json.loads(run.output.splitlines()[-1])), run.peak)


def _seconds(name: str, runs: Sequence[Run]) -> Took:
    return name, [run.seconds for run in runs]


def _megabytes(name: str, runs: Sequence[Run]) -> Took:
    return f"{name} MiB", [run.peak / 2**20 for run in runs]


def ingest(lab: Lab) -> Iterator[Row]:
    """Row 6."""
    for thousands in lab.sizes.large:
        roots = _roots(lab, thousands)
        runs = interleaved(
            {
                "ours": functools.partial(_ingest, lab, "ingest", roots),
                "show": functools.partial(_child, lab, "show", roots),
            },
            lab.sizes.rounds,
        )
        target, stretch = TARGETS.get(thousands, TARGETS[20])
        yield compare(
            6,
            f"ingest of {thousands}k into SQLite / nix derivation show -r + json",
            _seconds("ours", runs["ours"]),
            _seconds("show", runs["show"]),
            target=target,
            stretch=stretch,
        )
    yield compare(
        6,
        f"ingest of {thousands}k: peak memory / show, both with all they import",
        _megabytes("ours", runs["ours"]),
        _megabytes("show", runs["show"]),
        target=1 / 3,
        stretch=1 / 5,
    )


def _ingest(lab: Lab, verb: str, roots: Path) -> Run:
    return _child(lab, verb, lab.folder(), roots)


def _loaded(lab: Lab) -> Path:
    """A state with the largest graph, all of it queued."""
    state = lab.folder()
    _child(lab, "ingest", state, _roots(lab, lab.sizes.large[-1]))
    return state


def _copy(lab: Lab, state: Path) -> Path:
    copy = lab.folder()
    shutil.copytree(state, copy, dirs_exist_ok=True)
    return copy


def _python(lab: Lab, modules: str) -> Run:
    return timed([sys.executable, "-c", f"import {modules}"], lab.environment)


def tick(lab: Lab) -> Iterator[Row]:
    """Row 7."""
    queued = _loaded(lab)
    built = _copy(lab, queued)
    _child(lab, "finish", built)
    runs = interleaved(
        {
            "queued": lambda: _child(lab, "tick", queued, "20"),
            "built": lambda: _child(lab, "tick", built, "20"),
            "python": lambda: _python(lab, "sqlite3, json"),
        },
        lab.sizes.rounds,
    )
    for name in ("queued", "built"):
        yield compare(
            7,
            f"tick over an unchanged {lab.sizes.large[-1]}k state, all {name} / python starts",
            _seconds("ours", runs[name]),
            _seconds("python", runs["python"]),
            target=2,
            stretch=1.3,
        )


def more(lab: Lab) -> Iterator[Row]:
    """Row 8."""
    thousands = lab.sizes.large[-1]
    roots, new = _roots(lab, thousands), _roots(lab, thousands, "-new")
    state = _loaded(lab)
    runs = interleaved(
        {
            "ours": lambda: _child(lab, "more", _copy(lab, state), new),
            "full": functools.partial(_ingest, lab, "more", roots),
        },
        lab.sizes.rounds,
    )
    yield compare(
        8,
        f"1 % new of {thousands}k / full ingest, both until the scheduler can decide",
        _seconds("ours", runs["ours"]),
        _seconds("full", runs["full"]),
        target=0.08,
        stretch=0.05,
    )


def load(lab: Lab) -> Iterator[Row]:
    """Row 9."""
    state = _loaded(lab)
    runs = interleaved(
        {
            "ours": lambda: _child(lab, "load", state),
            "select": lambda: _child(lab, "select", state),
        },
        lab.sizes.rounds,
    )
    yield compare(
        9,
        f"load and priorities of {lab.sizes.large[-1]}k / SELECT of nodes and edges",
        _seconds("ours", runs["ours"]),
        _seconds("SELECT", runs["select"]),
        target=2,
        stretch=1.5,
    )


def status(lab: Lab) -> Iterator[Row]:
    """Row 12."""
    state = _loaded(lab)
    command = python("reconciler", "--state-dir", str(state), "status")
    runs = interleaved(
        {
            # 3: in progress.
            "ours": lambda: timed(command, lab.environment, expected=3),
            "python": lambda: _python(lab, "click, sqlite3"),
        },
        max(lab.sizes.rounds, 5),
    )
    yield compare(
        12,
        f"reconciler status on a {lab.sizes.large[-1]}k state / python starts with click",
        _seconds("ours", runs["ours"]),
        _seconds("python", runs["python"]),
        target=3,
        stretch=2,
    )
