"""Rows 13 to 15: the scheduler on simulated farms, beside first-come and `nix build`.

Nothing is built: see `simulate`. What the rows compare are simulated seconds, which are the same
on every machine; only row 14 is about processor time, as a ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bench import workloads
from bench.contenders import Contender, FirstCome, NixBuild, Reconciler
from bench.fairness import longest_wait, share_error
from bench.lab import Lab
from bench.measure import Row
from bench.simulate import Build, Machines, Simulation, declared, lower_bound, makespan
from bench.workloads import Workload
from reconciler.model import Desired, JobsetName

SEED = 1

EQUAL: Mapping[int, Machines] = {
    1: {f"m{n}": {"maxJobs": 4} for n in range(2)},
    20: {f"m{n}": {"maxJobs": 8} for n in range(3)},
    250: {f"m{n}": {"maxJobs": 16} for n in range(10)},
}
"""By thousands of derivations: as large a farm as would be had for so many."""
UNEQUAL: Mapping[int, Machines] = {
    thousands: {
        "fast": {
            "maxJobs": slots,
            "speedFactor": 2,
            "supportedFeatures": ["big-parallel", "kvm"],
        },
        "plain": {"maxJobs": slots, "supportedFeatures": ["big-parallel"]},
        "slow": {"maxJobs": 3 * slots, "speedFactor": 0.5, "supportedFeatures": []},
    }
    for thousands, slots in ((1, 2), (20, 8), (250, 48))
}


@dataclass(frozen=True, slots=True)
class Farm:
    """One workload on one farm."""

    workload: Workload
    desired: Desired

    def builds(
        self, contender: Contender, arrivals: Mapping[JobsetName, float] | None = None
    ) -> list[Build]:
        return Simulation(self.workload, self.desired, contender, arrivals=arrivals).run()


def _farm(workload: Workload, machines: Machines, *shares: int) -> Farm:
    """Jobsets have equal shares unless they are given."""
    given = shares or (100,) * len(workload.jobs)
    return Farm(workload, declared(machines, dict(zip(workload.jobs, given, strict=True))))


def _slots(machines: Machines) -> int:
    return sum(int(str(each["maxJobs"])) for each in machines.values())


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of graph, and what is asked of the order of its builds."""

    name: str
    machines: Mapping[int, Machines]
    graph: Callable[[int, Machines], Workload]
    target: float
    stretch: float


SHAPES = (
    Shape("layered", EQUAL, lambda size, _: workloads.layered(size, seed=SEED), 1.02, 1.005),
    Shape(
        "skewed",
        EQUAL,
        lambda size, machines: workloads.skewed(size, seed=SEED, slots=_slots(machines)),
        1.05,
        1.01,
    ),
    Shape("packages", EQUAL, lambda size, _: workloads.packages(size, seed=SEED), 1.05, 1.02),
    Shape(
        "packages, unequal builders",
        UNEQUAL,
        lambda size, _: workloads.packages(size, seed=SEED, features=True),
        1.10,
        1.05,
    ),
)


def orders(lab: Lab) -> Iterator[Row]:
    """Row 13: how close to what no order can beat."""
    for thousands in lab.sizes.simulated:
        for shape in SHAPES:
            machines = shape.machines[thousands]
            farm = _farm(shape.graph(thousands * 1000, machines), machines)
            yield _beside_bound(farm, shape, f"{shape.name}-{thousands}k")


def _beside_bound(farm: Farm, shape: Shape, name: str) -> Row:
    bound = lower_bound(farm.workload, farm.desired)
    contenders: dict[str, Contender] = {
        "ours": Reconciler(farm.workload, farm.desired),
        "first-come": FirstCome(farm.workload, farm.desired),
        "nix build": NixBuild(farm.workload, farm.desired),
    }
    ratios = {
        each: makespan(farm.builds(contender)) / bound.sharp
        for each, contender in contenders.items()
    }
    return Row(
        number=13,
        check=f"simulated {name}: makespan / lower bound",
        target=shape.target,
        stretch=shape.stretch,
        ratio=ratios["ours"],
        seconds={
            **ratios,
            "ours to work or path alone": ratios["ours"] * bound.sharp / bound.plain,
        },
    )


def cost(lab: Lab) -> Iterator[Row]:
    """Row 14: the scheduler's own time, for each build that it starts and ends."""
    per_build = {}
    for thousands in sorted({20, lab.sizes.simulated[-1]}):
        workload = workloads.packages(thousands * 1000, seed=SEED)
        farm = _farm(workload, EQUAL[250])
        contender = Reconciler(farm.workload, farm.desired)
        farm.builds(contender)
        per_build[thousands] = contender.deciding / len(workload)
        loading = contender.loading / len(workload)
    yield Row(
        number=14,
        check=f"deciding on a build of {thousands}k, 160 slots / loading a derivation",
        target=12,
        stretch=8,
        ratio=per_build[thousands] / loading,
        seconds={"deciding": per_build[thousands], "loading": loading},
    )
    if len(per_build) > 1:
        yield Row(
            number=14,
            check=f"deciding on a build of {thousands}k / of 20k, 160 slots",
            target=1.5,
            stretch=1.2,
            ratio=per_build[thousands] / per_build[20],
            seconds={f"{each}k": seconds for each, seconds in per_build.items()},
        )


def fairness(lab: Lab) -> Iterator[Row]:
    """Row 15: what jobsets are given against their shares, and how long a newcomer waits."""
    del lab
    machines = EQUAL[20]
    shares = (100, 200, 500)
    farm = _farm(workloads.separate([20 * each for each in shares], seed=SEED), machines, *shares)
    given = {name: jobset.shares for name, jobset in farm.desired.jobsets.items()}
    error = share_error(
        farm.workload,
        farm.builds(Reconciler(farm.workload, farm.desired)),
        given,
        windows=20,
    )
    yield Row(
        number=15,
        check="shares 1 : 2 : 5, given against due: worst of 20 windows",
        target=0.05,
        stretch=0.02,
        ratio=error,
    )
    yield from _newcomer(machines)


def _newcomer(machines: Machines) -> Iterator[Row]:
    """One jobset has thousands of builds; another comes later with some hundred."""
    farm = _farm(workloads.separate([10_000, 300], seed=SEED), machines)
    crowd, newcomer = farm.workload.jobs
    arrival = 1000.0
    contenders: dict[str, Contender] = {
        "ours": Reconciler(farm.workload, farm.desired),
        "first-come": FirstCome(farm.workload, farm.desired),
        "nix build": NixBuild(farm.workload, farm.desired),
    }
    theirs = {*farm.workload.jobs[newcomer]}
    seconds = [farm.workload.seconds[each] for each in theirs]
    ideal = max(sum(seconds) / (_slots(machines) / 2), *seconds)
    took, waits = {}, {}
    for name, contender in contenders.items():
        builds = farm.builds(contender, {newcomer: arrival})
        took[name] = max(each.end for each in builds if each.derivation in theirs) - arrival
        waits[name] = max(
            longest_wait(farm.workload, builds, crowd, since=0),
            longest_wait(farm.workload, builds, newcomer, since=arrival),
        )
    yield Row(
        number=15,
        check="a newcomer beside 10,000 builds: done / with its half of the slots",
        target=1.2,
        stretch=1.1,
        ratio=took["ours"] / ideal,
        seconds={name: each / ideal for name, each in took.items()},
    )
    yield Row(
        number=15,
        check="the longest that either has nothing running / a build's median",
        target=1,
        stretch=0.5,
        ratio=waits["ours"] / workloads.MEDIAN,
        seconds={name: each / workloads.MEDIAN for name, each in waits.items()},
    )
