"""Rows 1 to 5 and 11: graphs built with two slots, beside Nix and beside a bare protocol loop.

Whoever is timed evaluates as well: `nix-store --realise` is given the time of its
`nix-instantiate`, as a reconcile has its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from bench import graphs
from bench.lab import Lab
from bench.measure import Row, Run, Took, compare, interleaved, python

Expression = Callable[[str], str]
"""From a salt to Nix's language."""
Contender = Callable[[Lab, Expression], Run]


SHORT_ROUNDS = 9
"""Of what takes two seconds: another process of the machine makes more difference to it."""


def _reconcile(lab: Lab, expression: Expression) -> Run:
    return lab.reconcile(lab.source(expression))


def _nix_build(lab: Lab, expression: Expression) -> Run:
    return lab.run("nix-build", "-j2", "--no-out-link", str(lab.source(expression)))


def _after_instantiation(
    lab: Lab, expression: Expression, build: Callable[[list[str]], Run]
) -> Run:
    evaluated = lab.run("nix-instantiate", str(lab.source(expression)))
    drvs = [line for line in evaluated.output.split() if line.endswith(".drv")]
    built = build(drvs)
    return Run(evaluated.seconds + built.seconds, built.peak)


def _realise(lab: Lab, expression: Expression) -> Run:
    return _after_instantiation(
        lab, expression, lambda drvs: lab.run("nix-store", "--realise", "-j2", *drvs)
    )


def _bare(lab: Lab, expression: Expression) -> Run:
    return _after_instantiation(
        lab, expression, lambda drvs: lab.run(*python("bench.bare_loop", "2", *drvs))
    )


def _took(
    lab: Lab, expression: Expression, *, rounds: int | None = None, **contenders: Contender
) -> dict[str, Took]:
    runs = interleaved(
        {name: functools.partial(each, lab, expression) for name, each in contenders.items()},
        rounds or lab.sizes.rounds,
    )
    return {name: (name, [run.seconds for run in each]) for name, each in runs.items()}


def layered(lab: Lab) -> Iterator[Row]:
    """Rows 1 and 2."""
    graph = functools.partial(graphs.layered, layers=lab.sizes.layers, width=50, inputs=3)
    took = _took(lab, graph, ours=_reconcile, nix=_nix_build, bare=_bare)
    name = f"layered-{lab.sizes.layers * 50}: whole reconcile"
    ours = took["ours"]
    yield compare(1, f"{name} / nix-build -j2", ours, took["nix"], target=0.35, stretch=0.22)
    yield compare(2, f"{name} / bare protocol loop", ours, took["bare"], target=1.5, stretch=1.2)


def chain(lab: Lab) -> Iterator[Row]:
    """Row 3."""
    graph = functools.partial(graphs.chain, length=lab.sizes.chain)
    took = _took(lab, graph, rounds=SHORT_ROUNDS, ours=_reconcile, nix=_realise)
    check = f"chain-{lab.sizes.chain}: whole reconcile / nix-store --realise -j2"
    yield compare(3, check, took["ours"], took["nix"], target=1.35, stretch=1.15)


def broad(lab: Lab) -> Iterator[Row]:
    """Row 4; beside the bare loop, too: what it takes of Nix's time is each machine's own."""
    width = lab.sizes.wide
    wide = functools.partial(graphs.wide, width=width)
    diamond = functools.partial(graphs.diamond, width=width - 2)
    for name, graph, target, stretch in (
        (f"wide-{width}: whole reconcile", wide, 0.60, 0.45),
        (f"diamond-{width}: whole reconcile", diamond, 0.55, 0.40),
    ):
        took = _took(lab, graph, rounds=SHORT_ROUNDS, ours=_reconcile, nix=_realise, bare=_bare)
        ours, check = took["ours"], f"{name} / nix-store --realise -j2"
        yield compare(4, check, ours, took["nix"], target=target, stretch=stretch)
        bare = took["bare"]
        yield compare(4, f"{name} / bare protocol loop", ours, bare, target=1.5, stretch=1.2)


def skewed(lab: Lab) -> Iterator[Row]:
    """Row 5."""
    steps, second = 12, lab.sizes.skew
    graph = functools.partial(graphs.skewed, steps=steps, leaves=3 * steps, second=second)
    took = _took(lab, graph, ours=_reconcile, nix=_nix_build)
    bound = ("bound", [steps * second] * lab.sizes.rounds)
    name = "skewed: whole reconcile"
    yield compare(5, f"{name} / lower bound", took["ours"], bound, target=1.08, stretch=1.05)
    yield compare(
        5, f"{name} / nix-build -j2", took["ours"], took["nix"], target=0.76, stretch=0.73
    )


def processes(lab: Lab) -> Iterator[Row]:
    """Row 11: what more builds start more of."""
    started = []
    builds = (10, 40)
    for length in builds:
        source = lab.source(functools.partial(graphs.chain, length=length))
        _, config, _, state = lab.places(source)
        run = lab.run(*python("bench.once", config, state, "--processes"))
        started.append(int(run.output.split()[-1]))
    per_build = (started[1] - started[0]) / (builds[1] - builds[0])
    yield Row(
        number=11,
        check="processes that we start per local build",
        target=0,
        stretch=0,
        ratio=per_build,
        rounds=[per_build],
        seconds={f"started for {builds[1]} builds": started[1]},
    )
