"""Intermediates shared through artifact stores: another machine starts from what one has left.

Both machines have the same store folder, as all that share have: they take turns in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.private_store import PrivateStore
from tests.support.trial import Trial
from tests.system.test_incremental import RELEASE, UNITS, Project

FULL = UNITS + 1
"""Files that a full build compiles."""


def release(**policy: str) -> str:
    """The expression, with slot, fallback and bucket."""
    lines = "".join(f'    {name} = "{value}";\n' for name, value in policy.items())
    return RELEASE.replace('    build = "make";\n', f'    build = "make";\n{lines}')


class Farms(Project):
    """The project, and machines that build it: one at a time."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        self.machine = "first"
        self.settings: dict[str, Any] = {}
        self.stores: dict[str, Any] = {"builds": {"url": f"file://{self.folder_of_store}"}}
        self.name(slot="app-main", bucket="builds")

    @property
    def folder_of_store(self) -> Path:
        return self.trial.root / "intermediates"

    def name(self, **policy: str) -> None:
        """Have the job's expression name these."""
        self.commit("release.nix", release(**policy))

    def share(self, **incremental: Any) -> None:
        """Declare the jobset and its stores."""
        self.declare(**incremental)
        document = json.loads(self.trial.config.read_text())
        document["artifactStores"] = self.stores
        self.trial.document(document)

    def move_to(self, machine: str) -> None:
        """Go on, on another machine: new, or as it was left."""
        root = self.trial.root
        for name in ("nix", "state"):
            (root / "machines" / self.machine).mkdir(parents=True, exist_ok=True)
            (root / name).rename(root / "machines" / self.machine / name)
            there = root / "machines" / machine / name
            if there.exists():
                there.rename(root / name)
        if not (root / "nix").exists():
            (root / "nix").mkdir()
            PrivateStore.create(root=root / "nix")
        self.machine = machine
        self.trial.settled = False

    def objects(self, ending: str = "") -> list[Path]:
        """What is in the store, the oldest first."""
        found = [
            each
            for each in self.folder_of_store.glob("x86_64-linux-*/*")
            if each.name.endswith(ending)
        ]
        return sorted(found, key=lambda each: each.name)

    def reason(self) -> str:
        """Why the newest build of the program started from what it did."""
        needing = "needs what starts from a base"
        return [reason for _, reason in self.reasons() if reason != needing][-1]


@pytest.fixture
def farms(trial: Trial) -> Farms:
    return Farms(trial)


def test_a_new_machine_starts_from_what_another_has_left(farms: Farms) -> None:
    farms.share()
    assert len(farms.compiled()) == FULL
    assert len(farms.objects(".json")) == len(farms.objects(".nar.zst")) == 1
    farms.edit(1, 5)
    farms.move_to("second")
    assert farms.compiled() == ["unit1.c"]
    assert farms.result() == "7"
    assert farms.reason().startswith(
        "starts from the newest build of slot app-main in the artifact store builds (commit "
    )
    assert farms.trial.conditions() == {}
    assert len(farms.objects(".json")) == 2
    farms.edit(2, 7)
    farms.move_to("first")
    farms.edit(0, 2)
    assert farms.compiled() == ["unit0.c", "unit1.c", "unit2.c"], "its own base goes first"
