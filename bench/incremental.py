"""Rows 22 to 29: incremental builds of git, the program, by the whole reconciler.

Each round begins with nobody having built anything: the same source is built in full by a plain
derivation and by an incremental one, and then three commits by the latter. What is timed is a
`run --once`; how much of it the build itself took stands beside it.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from bench import debian_source
from bench.git_project import UNITS, GitProject, Took
from bench.lab import Lab, open_store
from bench.measure import FailedError, Row, compare, timed

UNIT, UNRELATED, HEADER = "revision.c", "README.md", "git-compat-util.h"
GENERATIONS = 10
LEAVES = ("add", "am", "apply", "archive", "blame", "branch", "bundle", "clean", "clone", "commit")
"""Commands of git: one is in one program, and what the library of all has is in each."""
INCREMENTAL: Mapping[str, object] = {
    "enable": True,
    "audit": {"fraction": 0},
    "retention": {"perSlot": GENERATIONS},
}
"""Else one build in twenty would be made twice. All generations are kept."""


class Kind(StrEnum):
    """What a build is of."""

    FIRST = "first build, which keeps what it made"
    UNIT = "one .c file changed"
    UNRELATED = "a file changed that nothing is made of"
    HEADER = "a header changed that all include"


@dataclass(frozen=True, slots=True)
class Target:
    """What is allowed of a plain full build."""

    number: int
    at_most: float
    stretch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A way to start from what an earlier build left."""

    name: str
    targets: Mapping[Kind, Target]
    """In the order in which they are built."""
    settings: Mapping[str, object] = field(default_factory=dict)
    job: str = "incremental"
    skips: bool = True
    """Whether the build tool does not even begin what need not be compiled."""


PURE = Strategy(
    name="pure",
    targets={
        Kind.FIRST: Target(25, 1.1, 1.03),
        Kind.UNIT: Target(22, 0.15, 0.1),
        Kind.UNRELATED: Target(23, 0.12, 0.08),
        Kind.HEADER: Target(24, 1.1, 1.0),
    },
)
HIDDEN = Strategy(
    name="hidden",
    settings={"strategy": "hidden"},
    targets={
        Kind.FIRST: Target(28, 1.1, 1.03),
        Kind.UNIT: Target(28, 0.15, 0.1),
        Kind.UNRELATED: Target(28, 0.12, 0.08),
    },
)
COMPILER_CACHE = Strategy(
    name="compiler-cache",
    settings={"strategy": "compiler-cache"},
    job="cached",
    skips=False,
    targets={
        Kind.FIRST: Target(29, 1.25, 1.1),
        Kind.UNIT: Target(29, 0.25, 0.15),
        Kind.UNRELATED: Target(29, 0.25, 0.15),
    },
)
STRATEGIES = (PURE, HIDDEN, COMPILER_CACHE)
Measured = Mapping[Kind, list[Took]]
"""Round by round."""


class Bench:
    """The store, the sources, and the projects in them."""

    def __init__(self, lab: Lab) -> None:
        self._builds = lab.folder()
        self.store = open_store(lab.scratch / "git-store", f"build-dir = {self._builds}\n")
        self.environment = {**os.environ, **self.store.environment}
        self._lab = lab
        self._archive = debian_source.fetched("git", lab.store.root.parent / "sources")

        self._view = lab.folder()
        # What a build clears away would be paid for by the next one, see `lay_apart`.
        timed(["mount", "-t", "tmpfs", "-o", "mode=755", "builds", str(self._builds)], os.environ)
        timed(["mount", "-o", "bind,ro", str(self.store.store_dir), str(self._view)], os.environ)

    def close(self) -> None:
        for each in (self._view, self._builds):
            timed(["umount", str(each)], os.environ)
        self.store.destroy()

    def project(self, job: str, incremental: Mapping[str, object]) -> GitProject:
        """One that nobody has built."""
        made = GitProject(
            self._lab.folder(),
            self.store,
            self.environment,
            archive=self._archive,
            job=job,
            incremental=incremental,
        )
        if "strategy" in incremental:
            caches = self._lab.folder()  # what a round kept would serve the next one's first build
            caches.chmod(0o2755)
            made.install_hook(store_view=self._view, compiler_caches=caches)
        return made


@contextmanager
def _bench(lab: Lab) -> Iterator[Bench]:
    if not Path("/usr/include/zlib.h").exists():
        raise FailedError("git needs zlib: install Debian's zlib1g-dev")
    if os.geteuid() != 0:
        raise FailedError("hidden bases need a mount, as root only can make it: run it as root")
    with closing(Bench(lab)) as bench:
        yield bench


def builds(lab: Lab) -> Iterator[Row]:
    """Rows 22 to 29."""
    with _bench(lab) as bench:
        plain: list[Took] = []
        measured: Mapping[str, Measured] = {
            each.name: {kind: [] for kind in each.targets} for each in STRATEGIES
        }
        newest: dict[str, GitProject] = {}
        for number in range(lab.sizes.git_rounds):
            turns = [None, *STRATEGIES]
            first = number % len(turns)
            for turn in [*turns[first:], *turns[:first]]:
                if turn is None:
                    plain.append(_full(bench.project("plain", {})))
                else:
                    newest[turn.name] = _commits(bench, turn, measured[turn.name])
        for each in STRATEGIES:
            for kind, target in each.targets.items():
                yield _row(each, kind, target, measured[each.name][kind], plain)
        yield from _kept(bench, newest[PURE.name])


def _full(project: GitProject) -> Took:
    took = project.reconcile()
    if took.units < UNITS:
        raise FailedError(f"a full build compiled {took.units} units of more than {UNITS}")
    return took


def _commits(bench: Bench, strategy: Strategy, measured: Measured) -> GitProject:
    """A project, its first build, and one after each kind of change."""
    project = bench.project(strategy.job, {**INCREMENTAL, **strategy.settings})
    for kind in strategy.targets:
        match kind:
            case Kind.FIRST:
                took = _full(project)
            case Kind.UNIT:
                took = _changed(project, strategy, UNIT, "extern int benched;\nint benched;\n", 1)
            case Kind.UNRELATED:
                took = _changed(project, strategy, UNRELATED, "Benched.\n", 0)
            case Kind.HEADER:
                project.change(HEADER, "#define BENCHED 1\n")
                took = _full(project)
            case _:
                assert_never(kind)
        measured[kind].append(took)
    return project


def _changed(project: GitProject, strategy: Strategy, name: str, text: str, units: int) -> Took:
    project.change(name, text)
    took = project.reconcile()
    if strategy.skips and took.units != units:
        raise FailedError(f"{strategy.name}: {name} changed, {took.units} units were compiled")
    return took


# --- Rows --------------------------------------------------------------------------------------


def _row(
    strategy: Strategy, kind: Kind, target: Target, ours: Sequence[Took], plain: Sequence[Took]
) -> Row:
    row = compare(
        target.number,
        f"git, {strategy.name}: {kind} / plain",
        ("ours", [each.seconds for each in ours]),
        ("plain", [each.seconds for each in plain]),
        target=target.at_most,
        stretch=target.stretch,
    )
    alone = {
        f"{name} alone": statistics.median(each.build for each in took)
        for name, took in (("its build", ours), ("the plain one", plain))
    }
    return replace(row, seconds={**row.seconds, **alone})


def _kept(bench: Bench, project: GitProject) -> Iterator[Row]:
    """Rows 26 and 27, by a chain of builds."""
    for name in LEAVES[:GENERATIONS]:
        project.change(f"builtin/{name}.c", f"extern int again_{name};\nint again_{name} = 1;\n")
        project.reconcile()
    paths = project.bases()[-GENERATIONS:]
    if len(paths) < GENERATIONS:
        raise FailedError(f"{len(paths)} bases are kept, not {GENERATIONS}")
    ours = ("ours", project.keeping()[-GENERATIONS:])
    nix = [
        timed(["nix", "store", "add", "--name", f"again-{number}", path], bench.environment)
        for number, path in enumerate(paths)
    ]
    yield compare(
        26,
        "git: a build's end to its base in the store / nix store add",
        ours,
        ("nix", [each.seconds for each in nix]),
        target=2.5,
        stretch=1.5,
    )
    second = ("allowed", [1.0] * GENERATIONS)
    yield compare(26, "git: the same / 1 s", ours, second, target=1, stretch=0.5)
    bench.store.run("nix-store", "--optimise")
    one, all_of_them = disk(paths[:1]), disk(paths)
    yield Row(
        number=27,
        check=f"git: disk of {GENERATIONS} optimised bases, a command changed in each / one",
        target=2.5,
        stretch=2.0,
        ratio=all_of_them / one,
        rounds=[all_of_them / one],
        seconds={"MB of one": one / 1e6, f"MB of {GENERATIONS}": all_of_them / 1e6},
    )


def disk(paths: Sequence[str]) -> int:
    """Bytes of the disk that folders take, what they share counted once."""
    blocks = {}
    for path in paths:
        for each in [Path(path), *Path(path).rglob("*")]:
            found = each.lstat()
            blocks[found.st_ino] = found.st_blocks * 512
    return sum(blocks.values())
