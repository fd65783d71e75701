"""Graphs with durations that exist only in memory, for the simulator: seeded, so always the same.

What a derivation takes is lognormal, as build times are: most take seconds, few take hours. What
past builds say of it is that, more or less.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.graph import Platform
from reconciler.model import JobsetName

SYSTEM = "x86_64-linux"
PLAIN = Platform(SYSTEM)
PARALLEL = Platform(SYSTEM, frozenset({"big-parallel"}))
VIRTUAL = Platform(SYSTEM, frozenset({"kvm"}))

MEDIAN, SPREAD, LONGEST = 20.0, 1.3, 4 * 3600.0
"""Of what a derivation takes: the median's seconds, the logarithm's deviation, the most."""
DOUBT = 0.25
"""The logarithm's deviation of what past builds say from what it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Derivations 0, 1, 2, …, each after all its inputs."""

    inputs: Sequence[tuple[int, ...]]
    seconds: Sequence[float]
    """What each takes on a builder of speed 1."""
    expected: Sequence[float | None]
    """What past builds say of it; None: it was never built."""
    platforms: Sequence[Platform]
    ranks: Sequence[int]
    """Where each stands by name, which says nothing of how urgent it is."""
    jobs: Mapping[JobsetName, tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.inputs)


def lognormal(chance: random.Random, *, median: float = MEDIAN, spread: float = SPREAD) -> float:
    return min(median * math.exp(chance.gauss(0, spread)), LONGEST)


def workload(
    inputs: Sequence[tuple[int, ...]],
    seconds: Sequence[float],
    *,
    seed: int,
    jobsets: int = 1,
    platforms: Sequence[Platform] | None = None,
    known: float = 1.0,
) -> Workload:
    """Fill in the rest: jobs are what nothing needs, dealt to the jobsets in turn.

    `known` is the part of the derivations that were built before.
    """
    chance = random.Random(seed)
    ranks = [*range(len(inputs))]
    chance.shuffle(ranks)
    needed = {each for some in inputs for each in some}
    jobs = [each for each in range(len(inputs)) if each not in needed]
    return Workload(
        inputs=inputs,
        seconds=seconds,
        expected=[
            each * math.exp(chance.gauss(0, DOUBT)) if chance.random() < known else None
            for each in seconds
        ],
        platforms=platforms or [PLAIN] * len(inputs),
        ranks=ranks,
        jobs={JobsetName(f"j{n}"): tuple(jobs[n::jobsets]) for n in range(jobsets)},
    )


def layered(size: int, *, seed: int, layers: int = 20) -> Workload:
    """Layers of equal width, each derivation with three of the layer below."""
    chance = random.Random(seed)
    width = size // layers
    inputs: list[tuple[int, ...]] = []
    for number in range(layers * width):
        below = number - width  # the one straight below, so that the top layer needs everything
        start = below - below % width
        others = (start + chance.randrange(width) for _ in range(2))
        inputs.append(tuple(sorted({below, *others})) if below >= 0 else ())
    return workload(inputs, [lognormal(chance) for _ in inputs], seed=seed)


def skewed(size: int, *, seed: int, slots: int, steps: int = 100) -> Workload:
    """A chain beside short ones that fill all other slots for just as long as it takes.

    Whoever makes the chain wait ends late, and so does who leaves a slot empty meanwhile.
    """
    chance = random.Random(seed)
    leaves = [lognormal(chance, spread=0.5) for _ in range(size - steps)]
    step = sum(leaves) / (slots - 1) / steps
    inputs = [
        *([()] * len(leaves)),
        *((n - 1,) if n > len(leaves) else () for n in range(len(leaves), size)),
    ]
    return workload(inputs, [*leaves, *([step] * steps)], seed=seed)


def packages(
    size: int, *, seed: int, jobsets: int = 3, features: bool = False, known: float = 0.95
) -> Workload:
    """Like a collection of packages: a deep toolchain that all need, then all sorts.

    Few are needed by very many, most by nobody; there are chains within an ecosystem, and a few
    packages that take hours. With `features` one in fifty wants many cores, above all the long
    ones, and one in two hundred a virtual machine.
    """
    chance = random.Random(seed)
    toolchain = 24
    inputs: list[tuple[int, ...]] = [(n - 1,) if n else () for n in range(toolchain)]
    seconds = [lognormal(chance, median=90, spread=0.5) for _ in inputs]
    popular = [toolchain - 1]  # each as often as it is needed: who is needed much is so more
    for number in range(toolchain, size):
        wanted = min(1 + int(lognormal(chance, median=3, spread=0.8)), 40)
        chosen = {toolchain - 1}
        for _ in range(min(wanted, number - toolchain)):
            if chance.random() < 0.7:
                chosen.add(chance.choice(popular))
            else:  # one of the same ecosystem
                chosen.add(max(toolchain, number - 1 - int(chance.expovariate(1 / 400))))
        inputs.append(tuple(sorted(chosen)))
        popular += chosen
        seconds.append(lognormal(chance))
    return workload(
        inputs,
        seconds,
        seed=seed,
        jobsets=jobsets,
        known=known,
        platforms=[_platform(each, chance) for each in seconds] if features else None,
    )


def _platform(seconds: float, chance: random.Random) -> Platform:
    if seconds > 10 * MEDIAN and chance.random() < 0.5:
        return PARALLEL
    return VIRTUAL if chance.random() < 1 / 200 else PLAIN


def separate(sizes: Sequence[int], *, seed: int, median: float = MEDIAN) -> Workload:
    """A jobset for each size, of so many derivations that need nothing and nobody shares."""
    chance = random.Random(seed)
    total = sum(sizes)
    made = workload(
        [()] * total, [lognormal(chance, median=median) for _ in range(total)], seed=seed
    )
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    jobs = {
        JobsetName(f"j{n}"): tuple(range(start, start + size))
        for n, (start, size) in enumerate(zip(starts, sizes, strict=True))
    }
    return Workload(
        inputs=made.inputs,
        seconds=made.seconds,
        expected=made.expected,
        platforms=made.platforms,
        ranks=made.ranks,
        jobs=jobs,
    )
