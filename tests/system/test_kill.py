"""SIGKILL at any moment: the next start goes on, and ends as an undisturbed run does."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.trial import PROJECT, Trial, processes_with
from tests.system.conftest import a_trial

QUICKSTART = PROJECT / "examples/quickstart"
ROUNDS = 10
KILLS = 2
"""In each round, from an empty store: the daemon is killed so often before it may finish."""


@dataclass(frozen=True)
class End:
    """What a run came to."""

    builds: dict[str, str]
    outputs: dict[str, str]
    jobs: list[tuple[Any, ...]]
    cache: list[str]
    events: int


def prepare(trial: Trial) -> None:
    """The quickstart with its document beside its sources."""
    shutil.copytree(QUICKSTART / "sources", trial.root / "sources")
    key = trial.store.run("nix", "key", "generate-secret", "--key-name", "test-1").stdout
    (trial.root / "secrets").mkdir()
    (trial.root / "secrets/signing-key").write_text(key)
    trial.document(yaml.safe_load((QUICKSTART / "reconciler.yaml").read_text()))


def cached_names(trial: Trial) -> list[str]:
    """The names of what the cache has, by its narinfo files."""
    found = []
    for narinfo in (trial.root / "cache").glob("*.narinfo"):
        fields = dict(
            line.split(": ", 1) for line in narinfo.read_text().splitlines() if ": " in line
        )
        assert (trial.root / "cache" / fields["URL"]).is_file()
        for reference in fields["References"].split():
            assert (trial.root / "cache" / f"{reference[:32]}.narinfo").is_file()
        found.append(Path(fields["StorePath"]).name.split("-", 1)[1])
    return sorted(found)


def events(trial: Trial) -> int:
    """How far the story is told."""
    return trial.value("SELECT max(id) FROM event") or 0


def end(trial: Trial) -> End:
    root = str(trial.root)
    return End(
        builds=trial.builds(),
        outputs={
            name: Path(path).name.split("-", 1)[1]
            for name, path in trial.query(
                "SELECT d.name, o.path FROM output o JOIN derivation d ON d.id = o.derivation"
            )
        },
        jobs=sorted(
            (row[0], row[1], row[2], str(row[3]).replace(root, ""))
            for row in trial.query(
                "SELECT s.name, j.attr, d.name, j.error FROM job j"
                " JOIN evaluation e ON e.id = j.evaluation AND e.state = 'succeeded'"
                " JOIN jobset s ON s.id = e.jobset LEFT JOIN derivation d ON d.id = j.derivation"
            )
        ),
        cache=cached_names(trial),
        events=events(trial),
    )


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[End]:
    with a_trial() as trial:
        prepare(trial)
        assert trial.once()
        yield end(trial)


def kill_after(trial: Trial, until: int) -> None:
    """Start the daemon, and kill it when so much is told."""
    with trial.running(wait=False) as daemon:
        daemon.eventually(lambda: events(trial) >= until)
        daemon.kill()


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killed_again_and_again_it_ends_as_if_nothing_had_been(
    trial: Trial, undisturbed: End, seed: int
) -> None:
    prepare(trial)
    chance = random.Random(seed)  # noqa: S311 - not a secret
    for kill in range(KILLS):
        reached = events(trial)
        until = reached + chance.randint(
            1, max(1, (undisturbed.events - reached) // (KILLS - kill))
        )
        kill_after(trial, until)
        if kill:  # else the next start meets what is not gone yet
            trial.until_nothing_runs()
    assert trial.once()
    came_to = end(trial)
    assert came_to.builds == undisturbed.builds
    assert came_to.outputs == undisturbed.outputs
    assert came_to.jobs == undisturbed.jobs
    assert came_to.cache == undisturbed.cache
    twice = trial.query(
        "SELECT d.name, count(*) FROM attempt a JOIN derivation d ON d.id = a.derivation"
        " WHERE a.outcome IN ('succeeded', 'failed') GROUP BY d.id HAVING count(*) > 1"
    )
    assert twice == []
    assert processes_with(str(trial.store.root)) == []
    assert list((trial.root / "state" / "tmp").iterdir()) == []
