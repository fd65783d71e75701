"""Row 21: a farm of machines with their own networks, beside what no order of builds can beat.

Its builds sleep for seconds, so that the processors of the one machine below are enough.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing

import pytest

from bench import graphs
from bench.lab import Lab
from bench.measure import FailedError, Row, Run, compare, python, timed
from tests.nix.connection_daemons import newer_nix
from tests.support.hosts import Host, Network

SLOTS: Mapping[str, int] = {"a": 2, "b": 1, "c": 1}
STEPS, SECOND = 5, 4.0
LEAVES = 4 * STEPS * (sum(SLOTS.values()) - 1)
"""Each takes a quarter of a step: they fill the other slots for just as long as the chain takes."""


def makespan(lab: Lab) -> Iterator[Row]:
    """Row 21."""
    graph = functools.partial(graphs.skewed, steps=STEPS, leaves=LEAVES, second=SECOND)
    path = STEPS * SECOND
    work = path + LEAVES * SECOND / 4
    bound = max(path, work / sum(SLOTS.values()))
    try:
        runs = [_reconcile(lab, graph) for _ in range(lab.sizes.rounds)]
    except pytest.fail.Exception as error:  # no root, or no tools
        raise FailedError(str(error)) from None
    yield compare(
        21,
        f"farm of {len(SLOTS)}, builds of seconds: whole reconcile / lower bound",
        ("ours", [run.seconds for run in runs]),
        ("bound", [bound] * len(runs)),
        target=1.15,
        stretch=1.08,
    )


def _reconcile(lab: Lab, graph: functools.partial[str]) -> Run:
    """The whole reconciler, from nothing, with machines that were just switched on."""
    with ExitStack() as stack:
        network = stack.enter_context(closing(Network()))
        builders: dict[str, Mapping[str, object]] = {}
        for number, (name, slots) in enumerate(SLOTS.items(), start=1):
            host = Host(network, lab.store, newer_nix(), number=number)
            stack.enter_context(closing(host))
            facts = host.declared(name)
            builders[name] = {
                "uri": facts.uri,
                "sshKeyFile": facts.ssh_key_file,
                "publicHostKey": facts.public_host_key,
                "maxJobs": slots,
            }
        options = lab.places(lab.source(graph), builders)
        command = python("reconciler", *options, "run", "--once")
        return timed((*network.within, *command), lab.environment)
