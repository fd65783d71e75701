"""What jobsets were given of a farm, against what they were due. For jobsets that share nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.simulate import Build
from bench.workloads import Workload
from reconciler.model import JobsetName


def _by_jobset(workload: Workload, builds: Sequence[Build]) -> dict[JobsetName, list[Build]]:
    """What was built for each, in the order of the starts."""
    owner = {each: name for name, jobs in workload.jobs.items() for each in jobs}
    found: dict[JobsetName, list[Build]] = {name: [] for name in workload.jobs}
    for each in builds:
        found[owner[each.derivation]].append(each)
    return found


def share_error(
    workload: Workload, builds: Sequence[Build], shares: Mapping[JobsetName, int], *, windows: int
) -> float:
    """The worst difference of what a jobset was given from its share, in any window.

    Both are parts of all slot-seconds; while all jobsets have something to build.
    """
    by_jobset = _by_jobset(workload, builds)
    end = min(each[-1].start for each in by_jobset.values())
    worst = 0.0
    for number in range(windows):
        start, stop = end * number / windows, end * (number + 1) / windows
        given = {name: _given(each, start, stop) for name, each in by_jobset.items()}
        for name, seconds in given.items():
            due = shares[name] / sum(shares.values())
            worst = max(worst, abs(seconds / sum(given.values()) - due))
    return worst


def _given(builds: Sequence[Build], start: float, stop: float) -> float:
    return sum(max(0.0, min(each.end, stop) - max(each.start, start)) for each in builds)


def longest_wait(
    workload: Workload, builds: Sequence[Build], jobset: JobsetName, *, since: float
) -> float:
    """The longest time without any build of a jobset that has something to build `since` then."""
    longest, busy_until = 0.0, since
    for each in _by_jobset(workload, builds)[jobset]:
        longest = max(longest, each.start - busy_until)
        busy_until = max(busy_until, each.end)
    return longest
