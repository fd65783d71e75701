"""Rows 22 to 29: incremental builds of git, the program, by the whole reconciler.

Each round begins with nobody having built anything: the same source is built in full by a plain
derivation and by an incremental one, and then three commits by the latter. What is timed is a
`run --once`; how much of it the build itself took stands beside it.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import debian_source
from bench.git_project import UNITS, GitProject, Took
from bench.lab import Lab
from bench.measure import FailedError, Row, compare, timed
from tests.support.private_store import PrivateStore

UNIT, UNRELATED, HEADER = "revision.c", "README.md", "git-compat-util.h"
GENERATIONS = 10
INCREMENTAL: Mapping[str, object] = {
    "enable": True,
    "audit": {"fraction": 0},
    "retention": {"perSlot": GENERATIONS},
}
"""Else one build in twenty would be made twice. All generations are kept."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to start from what an earlier build left."""

    name: str
    number: int | None
    """Of its row; None: the rows of its own."""
    settings: Mapping[str, object] = field(default_factory=dict)
    skips: bool = True
    """Whether what need not be compiled is not even begun."""


PURE = Strategy("pure", None)
OTHERS = (Strategy("hidden", 28, {"strategy": "hidden"}),)


@dataclass(slots=True)
class Measured:
    """What each kind of change took, round by round."""

    first: list[Took] = field(default_factory=list)
    unit: list[Took] = field(default_factory=list)
    unrelated: list[Took] = field(default_factory=list)
    header: list[Took] = field(default_factory=list)


class Bench:
    """The store, the sources, and the projects in them."""

    def __init__(self, lab: Lab) -> None:
        root = lab.scratch / "git-store"
        root.mkdir(mode=0o755)
        self.store = PrivateStore.create(root=root, settings="fsync-metadata = false\n")
        self.environment = {**os.environ, **self.store.environment}
        self._lab = lab
        self._archive = debian_source.fetched("git", lab.store.root.parent / "sources")

        self._view, self._caches = lab.folder(), lab.folder()
        self._caches.chmod(0o2755)
        timed(["mount", "-o", "bind,ro", str(self.store.store_dir), str(self._view)], os.environ)

    def close(self) -> None:
        timed(["umount", str(self._view)], os.environ)
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
            made.install_hook(store_view=self._view, compiler_caches=self._caches)
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
        strategies = [PURE, *(each for each in OTHERS if _served(bench, each))]
        plain: list[Took] = []
        measured = {each.name: Measured() for each in strategies}
        for number in range(lab.sizes.git_rounds):
            last = None
            turns: list[Strategy | None] = [None, *strategies]
            turns = turns[number % len(turns) :] + turns[: number % len(turns)]
            for turn in turns:
                if turn is None:
                    plain.append(_full(bench.project("plain", {})))
                else:
                    project = bench.project("incremental", {**INCREMENTAL, **turn.settings})
                    _changes(project, turn, measured[turn.name])
                    last = project if turn is PURE else last
        yield from _rows(plain, measured)
        assert last is not None
        yield from _kept(bench, last)


def _served(bench: Bench, strategy: Strategy) -> bool:
    """Whether the reconciler takes it; what it says where it does not."""
    project = bench.project("incremental", {**INCREMENTAL, **strategy.settings})
    refusal = project.refusal()
    if refusal:
        print(f"strategy {strategy.name}: {refusal}", file=sys.stderr, flush=True)
    return not refusal


def _full(project: GitProject) -> Took:
    took = project.reconcile()
    if took.units < UNITS:
        raise FailedError(f"a full build compiled {took.units} units of more than {UNITS}")
    return took


def _changes(project: GitProject, strategy: Strategy, measured: Measured) -> None:
    """The first build, and one after each kind of change."""
    measured.first.append(_full(project))
    for name, text, units, where in (
        (UNIT, "extern int benched;\nint benched = 1;\n", 1, measured.unit),
        (UNRELATED, "Benched.\n", 0, measured.unrelated),
    ):
        project.change(name, text)
        took = project.reconcile()
        if strategy.skips and took.units != units:
            raise FailedError(f"{strategy.name}: {name} changed, {took.units} units were compiled")
        where.append(took)
    if strategy is PURE:
        project.change(HEADER, "#define BENCHED 1\n")
        measured.header.append(_full(project))


# --- Rows --------------------------------------------------------------------------------------


def _rows(plain: Sequence[Took], measured: Mapping[str, Measured]) -> Iterator[Row]:
    pure = measured[PURE.name]
    for number, check, took, target, stretch in (
        (22, "one .c file changed", pure.unit, 0.15, 0.1),
        (23, "a file changed that nothing is made of", pure.unrelated, 0.12, 0.08),
        (24, "a header changed that all include", pure.header, 1.1, 1.0),
        (25, "first build, intermediates kept", pure.first, 1.1, 1.03),
    ):
        yield _row(number, check, took, plain, target=target, stretch=stretch)
    for each in OTHERS:
        if each.name in measured:
            found = measured[each.name]
            for check, took, target, stretch in (
                ("one .c file changed", found.unit, 0.15, 0.1),
                ("an unrelated file", found.unrelated, 0.12, 0.08),
                ("first build", found.first, 1.1, 1.03),
            ):
                name = f"{each.name}: {check}"
                assert each.number is not None
                yield _row(each.number, name, took, plain, target=target, stretch=stretch)


def _row(
    number: int,
    check: str,
    ours: Sequence[Took],
    plain: Sequence[Took],
    *,
    target: float,
    stretch: float,
) -> Row:
    row = compare(
        number,
        f"git: {check} / plain full build",
        ("ours", [each.seconds for each in ours]),
        ("full", [each.seconds for each in plain]),
        target=target,
        stretch=stretch,
    )
    alone = {
        f"{name} alone": statistics.median(each.build for each in took)
        for name, took in (("its build", ours), ("the full build", plain))
    }
    return replace(row, seconds={**row.seconds, **alone})


def _kept(bench: Bench, project: GitProject) -> Iterator[Row]:
    """Rows 26 and 27, by a chain of builds."""
    for number in range(GENERATIONS):
        project.change(UNIT, f"extern int again{number};\nint again{number} = 1;\n")
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
    one, all_of_them = _disk(paths[:1]), _disk(paths)
    yield Row(
        number=27,
        check=f"git: disk of {GENERATIONS} optimised bases / of one",
        target=2.5,
        stretch=2.0,
        ratio=all_of_them / one,
        rounds=[all_of_them / one],
        seconds={"MB of one": one / 1e6, f"MB of {GENERATIONS}": all_of_them / 1e6},
    )


def _disk(paths: Sequence[str]) -> int:
    """Bytes of the disk that folders take, what they share counted once."""
    blocks = {}
    for path in paths:
        for each in [Path(path), *Path(path).rglob("*")]:
            found = each.lstat()
            blocks[found.st_ino] = found.st_blocks * 512
    return sum(blocks.values())
