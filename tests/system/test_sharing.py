"""Intermediates shared through artifact stores: another machine starts from what one has left.

Both machines have the same store folder, as all that share have: they take turns in it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.binary_cache.servers import KEY_ID, SECRET, Server, s3_credentials, s3_server
from tests.support.private_store import PrivateStore
from tests.support.shown import install, mounted
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
        if "strategy" in incremental:
            document["jobsets"]["it"]["caches"] = []  # or there would be audits
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

    def sharers(self) -> list[str]:
        """Whose builds what is in the store is of."""
        return sorted(json.loads(each.read_text())["jobset"] for each in self.objects(".json"))

    def has_left(self, told: int) -> bool:
        """Whether a build has left something since."""
        newest = self.trial.value("SELECT max(id) FROM event WHERE kind = 'base'") or 0
        return int(newest) > told

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


def test_where_a_slot_has_nothing_the_fallback_serves(farms: Farms) -> None:
    farms.share()
    farms.run()
    farms.name(slot="app-feature", fallback="app-main", bucket="builds")
    farms.edit(1, 5)
    farms.move_to("second")
    assert farms.compiled() == ["unit1.c"]
    assert "build of the fallback slot app-main in the artifact store builds" in farms.reason()
    # What it leaves is in its own slot, which goes first from now on.
    farms.edit(2, 7)
    farms.move_to("third")
    assert farms.compiled() == ["unit2.c"]
    assert "build of slot app-feature in the artifact store builds" in farms.reason()


def test_slots_and_fallbacks_are_shared_without_any_store(farms: Farms) -> None:
    farms.stores = {}
    farms.name(slot="app-main")
    farms.share()
    farms.run()
    farms.name(slot="app-feature", fallback="app-main")
    farms.edit(1, 5)
    assert farms.compiled() == ["unit1.c"]
    assert "the newest build of the fallback slot app-main" in farms.reason()
    farms.name(slot="app-other")
    farms.edit(1, 6)
    assert len(farms.compiled()) == FULL
    assert farms.reason() == "built in full: no earlier build of this job has left intermediates"


def test_the_newest_of_each_slot_stay(farms: Farms) -> None:
    """And what another farm put there stays too."""
    farms.share(retention={"perSlot": 1})
    farms.run()
    farms.move_to("second")
    farms.edit(1, 2)
    farms.run()
    (others, own) = (each.name for each in farms.objects(".json"))
    farms.edit(1, 3)
    farms.run()
    left = [each.name for each in farms.objects(".json")]
    assert others in left
    assert own not in left
    assert len(left) == 2
    assert {each.name.removesuffix(".nar.zst") for each in farms.objects(".nar.zst")} == {
        each.removesuffix(".json") for each in left
    }


def test_what_is_in_quarantine_is_taken_out(farms: Farms) -> None:
    farms.share()
    farms.run()
    assert farms.objects()
    with farms.trial.running() as daemon:
        daemon.ask("quarantine", str(farms.trial.value("SELECT id FROM base")))
        state = partial(farms.trial.value, "SELECT state FROM artifact")
        daemon.eventually(lambda: state() == "withdrawn")
    assert not farms.objects()


def test_a_reset_means_a_full_build(farms: Farms) -> None:
    farms.share()
    farms.run()
    with farms.trial.running() as daemon:
        assert daemon.ask("reset", "it.app").startswith("1 base is let go")
    farms.edit(1, 5)
    assert len(farms.compiled()) == FULL
    assert farms.objects(".json")


def test_who_may_not_read_or_write_does_not(farms: Farms) -> None:
    farms.share(share={"write": False})
    farms.run()
    assert not farms.objects()
    farms.share()
    farms.run()
    assert len(farms.objects(".json")) == 1
    farms.move_to("second")
    farms.share(share={"read": False})
    farms.edit(1, 5)
    assert len(farms.compiled()) == FULL
    assert farms.reason() == "built in full: no earlier build of this job has left intermediates"


def test_an_untrusted_branch_reads_and_does_not_write(farms: Farms) -> None:
    """Its expressions could name the slot of another."""
    farms.share()
    farms.run()
    farms.repository.branch("fork")
    farms.edit(1, 5)
    git = {"url": farms.repository.url, "branches": ["fork"]}
    farms.source = {"git": git, "file": "release.nix"}
    farms.share(untrusted=["fork"])
    farms.move_to("second")
    assert farms.compiled() == ["unit1.c"]
    assert farms.sharers() == ["it"]
    farms.share()
    farms.run()
    assert farms.sharers() == ["it"], "what was not trusted when it was left never is"
    farms.edit(1, 6)
    farms.run()
    assert farms.sharers() == ["it", "it@fork"]
    farms.share(untrusted=["fork"])
    farms.run()
    assert farms.sharers() == ["it"]


def test_what_a_fork_asked_for_serves_nobody_else(farms: Farms) -> None:
    """Its expressions name a store that nobody else of its repository would ask."""
    farms.stores = {"public": {"url": f"file://{farms.folder_of_store}"}}
    farms.name(slot="app-main", bucket="public")
    farms.share()
    farms.run()
    farms.repository.git("branch", "fork")
    farms.name(slot="app-main")
    farms.move_to("second")
    for branches in (["fork"], ["fork", "main"]):
        farms.source["git"] = {"url": farms.repository.url, "branches": branches}
        farms.share(untrusted=["fork"])
        farms.edit(1, 5 + len(branches))
        farms.run()
    reasons = dict(
        farms.trial.query(
            "SELECT s.branch, c.reason FROM build_base c JOIN incremental_slot s ON s.id = c.slot"
            " WHERE s.job = 'app'"
        )
    )
    assert "in the artifact store public" in reasons["fork"]
    assert reasons["main"] == (
        "built in full: only branches that it must not trust have built this job"
    )


def test_hidden_bases_come_from_there_too(farms: Farms) -> None:
    named = release(slot="app-main", bucket="builds")
    hidden = named.replace("    base = incrementalBases.app or null;\n", "")
    farms.commit("release.nix", hidden.replace("{ incrementalBases ? { } }:\n", ""))
    farms.share(strategy="hidden")
    farms.run()
    farms.edit(1, 5)
    farms.move_to("second")
    view = install(farms.trial)
    with mounted(farms.trial.store.store_dir, view, options="bind,ro"):
        assert farms.compiled() == ["unit1.c"]
    assert "in the artifact store builds" in farms.reason()
    assert farms.trial.conditions() == {}


def test_a_bucket_that_is_not_declared_is_one_condition(farms: Farms) -> None:
    farms.stores = {}
    farms.share()
    farms.run()
    assert farms.trial.builds()["app"] == "succeeded"
    assert farms.trial.conditions() == {
        ("jobset", "it", "artifact-store-undeclared"): (
            "app names the artifact store builds, which is not declared: write artifactStores:"
            " {builds: {url: …}}, or share: {read: false, write: false}"
        )
    }
    assert "artifactStores.builds, which it names, is not declared" in farms.reason()
    farms.stores = {"builds": {"url": f"file://{farms.folder_of_store}"}}
    farms.share()
    farms.run()
    assert farms.trial.conditions() == {}
    assert len(farms.objects(".json")) == 1


def test_what_is_damaged_costs_a_full_build_and_nothing_else(farms: Farms) -> None:
    farms.share()
    farms.run()
    (nar,) = farms.objects(".nar.zst")
    nar.write_bytes(nar.read_bytes()[:-10])
    farms.edit(1, 5)
    farms.move_to("second")
    assert len(farms.compiled()) == FULL
    first, second = farms.reason().split("; ")
    assert first == "built in full: no earlier build of this job has left intermediates"
    assert second.startswith("the artifact store builds: its NAR has ")
    assert farms.trial.conditions() == {}
    assert set(farms.trial.builds().values()) == {"succeeded"}


def test_killed_while_it_shares_it_is_shared_in_the_end(farms: Farms) -> None:
    farms.share()
    chance = random.Random(11)  # noqa: S311 - not a secret
    for value in (2, 3):
        farms.edit(1, value)
        told = farms.trial.value("SELECT max(id) FROM event WHERE kind = 'base'") or 0
        with farms.trial.running(wait=False) as daemon:
            daemon.eventually(partial(farms.has_left, told))
            pause = chance.uniform(0, 0.03)
            threading.Event().wait(pause)  # where it is cut off is to be chance
            daemon.kill()
        farms.trial.until_nothing_runs()
    farms.run()
    kept = "SELECT id FROM base WHERE released_at IS NULL ORDER BY id"
    shared = "SELECT base FROM artifact WHERE state = 'shared' ORDER BY base"
    numbers = farms.trial.query(kept)
    assert farms.trial.query(shared) == numbers
    assert len(farms.objects(".json")) == len(farms.objects(".nar.zst")) == len(numbers)


# --- A bucket ----------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "bucket").mkdir()
    with s3_server(tmp_path) as running:
        yield running


def in_bucket(farms: Farms, address: str, *, bucket: str = "bucket", **keys: str) -> None:
    credentials = s3_credentials(farms.trial.root / "s3-keys", **keys)
    url = f"s3://{bucket}/of/ours?endpoint={address}&scheme=http"
    farms.stores = {"builds": {"url": url, "credentialsFile": str(credentials)}}


def test_a_bucket_of_s3_serves_as_well(farms: Farms, server: Server, tmp_path: Path) -> None:
    in_bucket(farms, server.address)
    farms.share()
    farms.run()
    assert len(list(tmp_path.glob("bucket/of/ours/x86_64-linux-*/*.json"))) == 1
    farms.edit(1, 5)
    farms.move_to("second")
    assert farms.compiled() == ["unit1.c"]
    assert farms.trial.conditions() == {}
    for path in (*farms.trial.state_dir.rglob("*"), farms.trial.log):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()
    for drv in farms.trial.store.store_dir.glob("*.drv"):
        assert KEY_ID.encode() not in drv.read_bytes()


@pytest.mark.parametrize(
    ("keys", "bucket", "expected"),
    [({"secret": "wrong"}, "bucket", "the secret is not this key's"),
     ({}, "elsewhere", "there is no bucket elsewhere")],
    ids=["credentials", "bucket"],
)  # fmt: skip
def test_a_store_that_does_not_work_is_a_condition_until_it_does(
    farms: Farms, server: Server, keys: dict[str, str], bucket: str, expected: str
) -> None:
    in_bucket(farms, server.address, bucket=bucket, **keys)
    farms.share()
    assert len(farms.compiled()) == FULL
    conditions = farms.trial.conditions()
    assert set(conditions) == {
        ("artifact-store", "builds", "not-read"),
        ("artifact-store", "builds", "not-written"),
    }
    for message in conditions.values():
        assert expected in message
        assert "wrong" not in message
    assert expected in farms.reason()
    in_bucket(farms, server.address)
    with farms.trial.running() as daemon:
        farms.share()
        daemon.wake()
        state = partial(farms.trial.value, "SELECT state FROM artifact")
        daemon.eventually(lambda: state() == "shared")
        daemon.eventually(lambda: not farms.trial.conditions())


def test_a_store_without_its_secret_waits_for_it(farms: Farms, server: Server) -> None:
    in_bucket(farms, server.address)
    keys = farms.trial.root / "s3-keys"
    text = keys.read_text()
    keys.unlink()
    farms.share()
    farms.run()
    assert farms.trial.builds()["app"] == "succeeded"
    conditions = farms.trial.conditions()
    assert f"{keys} cannot be read" in conditions["artifact-store", "builds", "secret-missing"]
    keys.write_text(text)
    farms.share()
    farms.run()
    assert farms.trial.value("SELECT count(*) FROM artifact WHERE state = 'shared'") == 1


def test_a_store_that_cannot_be_reached_is_told_and_stops_nothing(farms: Farms) -> None:
    in_bucket(farms, "127.0.0.1:1")
    farms.share()
    assert len(farms.compiled()) == FULL
    assert "http://127.0.0.1:1 cannot be reached" in farms.reason()
    farms.edit(1, 5)
    assert farms.compiled() == ["unit1.c"]
    with (farms.trial.root / "status").open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "reconciler", "status", "--config", str(farms.trial.config),
             "--state-dir", str(farms.trial.state_dir)],
            env=farms.trial.env, stdout=out, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    told = (farms.trial.root / "status").read_text()
    assert "artifact store builds: not written: s3://bucket/of/ours" in told
