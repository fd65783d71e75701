"""Intermediates in artifact stores and out of them again, between two states that share a store.

What is there of no use is told, is no fault of the store, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zstandard
from msgspec.structs import replace

from reconciler import sharing as effects
from reconciler.bases import Fingerprint, Trust
from reconciler.database import Database, artifacts, bases, incremental, open_memory
from reconciler.database.bases import StoredBase
from reconciler.database.branches import set_branches
from reconciler.database.incremental import NewBase, Slot
from reconciler.incremental.intermediates import Kept
from reconciler.incremental.policy import Policy
from reconciler.incremental.sharing import Need, Sharing
from reconciler.model import ArtifactStore, DrvPath, Incremental, JobsetName, StorePath
from reconciler.nix.endpoint import local_endpoint
from reconciler.store import Store
from tests.incremental.test_intermediates import Built
from tests.support.private_store import PrivateStore

MEANS = Fingerprint(digest="f" * 64, parts={"the builder": "1"})
SLOT = Slot(jobset=JobsetName("it"), job="app", system="x86_64-linux", branch=None, trust=Trust(""))
SETTINGS = Incremental(enable=True, max_depth=5, full_every=86400.0, max_size=10**6)
KEEP = {JobsetName("it"): 3}
CREATED = time.time() - 60


def state() -> Database:
    """That of a farm of its own."""
    database = open_memory(now=0.0)
    with database.transaction():
        database.execute("INSERT INTO generation VALUES (1, '', '{}', 0)")
        database.execute("INSERT INTO jobset(name, generation) VALUES ('it', 1)")
    return database


class Left:
    """What one farm has built and shared, of which nothing is in the local store any more."""

    def __init__(self, private: PrivateStore) -> None:
        self.built = Built(private)
        self.folder = private.root / "shared"
        self.kept = asyncio.run(self._leave())

    async def _leave(self) -> Kept:
        kept = await self.built.add()
        assert isinstance(kept, Kept)
        await self.built.store.close()
        farms = Farms(self, kept, self.folder)
        with farms.first.transaction():
            farms.first.execute("DELETE FROM artifact")
        await farms.share()
        await farms.close()
        return kept


@pytest.fixture(scope="module")
def left() -> Iterator[Left]:
    private = PrivateStore.create()
    yield Left(private)
    private.destroy()


class Farms:
    """One that has built something, and one that wants to."""

    def __init__(self, left: Left, kept: Kept, folder: Path) -> None:
        self.private = left.built.private
        self.built = left.built
        self.kept = kept
        environment = {**os.environ, **self.private.environment}
        self.local = Store(local_endpoint(environment), self.private.root / "roots")
        self.folder = folder
        self.store = ArtifactStore(name="builds", url=f"file://{folder}")
        self.first, self.second = state(), state()
        self.told: list[str | None] = []
        self.sharing = self.asking(self.second)
        self._have_shared()

    @property
    def path(self) -> Path:
        return Path(self.kept.path)

    @property
    def drv(self) -> DrvPath:
        return DrvPath(f"{self.private.store_dir}/{'a' * 32}-app.drv")

    def asking(self, database: Database) -> Sharing:
        def report(name: str, message: str | None) -> None:
            assert name == "builds"
            self.told.append(message)

        return Sharing(
            database=database,
            store=self.local,
            scratch=self.private.root / "home",
            report=report,
            stores={"builds": self.store},
        )

    def _have_shared(self) -> None:
        """As the first has recorded it."""
        new = NewBase(
            name=self.kept.name,
            path=self.kept.path,
            nar_hash=self.kept.nar_hash,
            size=self.kept.size,
            fingerprint=MEANS,
            canonical=self.drv,
            built=self.drv,
            revision="c0ffee",
            parent=None,
            shared_slot="main",
            bucket="builds",
        )
        with self.first.transaction():
            self.first.execute("UPDATE artifact_farm SET id = 'first'")
        number = incremental.add_base(self.first, SLOT, new, now=CREATED)
        (base,) = bases.stored(self.first, [number])
        artifacts.record(
            self.first,
            self.store.url,
            shared={effects.stem_of(base, farm="first"): base},
            gone={},
            withdrawn=(),
            now=CREATED,
        )

    async def build_again(self) -> None:
        """Have it in the local store."""
        kept = await self.built.add(store=self.local)
        assert kept == self.kept

    def due(self) -> artifacts.Due:
        return artifacts.due(self.first, "builds", self.store.url, KEEP)

    async def share(self) -> None:
        """Put there what is due, and record it."""
        told = await effects.share(self.store, self.due(), self.local, farm="first")
        assert told.unusable is None
        artifacts.record(
            self.first,
            told.store.url,
            shared=told.shared,
            gone=told.gone,
            withdrawn=told.withdrawn,
            now=time.time(),
        )

    def need(self, *, slot: str | None = "main", fallback: str | None = None) -> Need:
        policy = Policy(slot=slot, fallback=fallback, bucket="builds")
        return Need(
            slot=SLOT, canonical=self.drv, fingerprint=MEANS, policy=policy, bucket="builds"
        )

    async def bring(self, need: Need | None = None) -> str | None:
        """Have the second fetch a base; why there was none."""
        brought, reasons = await self.sharing.bring([need or self.need()], SETTINGS)
        assert brought == (not reasons)
        return reasons.get("app")

    def fetched(self) -> list[StoredBase]:
        return bases.of_jobset(self.second, JobsetName("it"))

    def objects(self, ending: str = "") -> list[Path]:
        return sorted(self.folder.glob(f"x86_64-linux-*/*{ending}"))

    async def close(self) -> None:
        """Nothing stays in the local store, nor of what was prepared."""
        await self.local.close()
        if self.path.exists():
            self.private.run("nix-store", "--delete", str(self.path))
        assert list((self.private.root / "home").iterdir()) == []


@pytest.fixture
async def farms(left: Left, tmp_path: Path) -> AsyncIterator[Farms]:
    shutil.copytree(left.folder, tmp_path / "shared")
    made = Farms(left, left.kept, tmp_path / "shared")
    yield made
    await made.close()


async def test_a_base_comes_as_it_was_left(farms: Farms) -> None:
    assert await farms.bring() is None
    (base,) = farms.fetched()
    assert base.path == farms.kept.path
    assert (farms.path / "sub/a.o").read_text() == "object of app\n"
    assert (base.base.fetched_from, base.base.kept_as, base.base.commit) == (
        "builds", "main", "c0ffee"
    )  # fmt: skip
    assert (base.base.depth, base.bucket, base.base.fingerprint) == (0, "builds", MEANS)
    assert base.base.full_at < base.base.created_at
    assert farms.told == [None]
    # It is not sent back.
    assert artifacts.due(farms.second, "builds", farms.store.url, KEEP) == artifacts.Due()


async def test_what_the_local_store_has_is_not_fetched(farms: Farms) -> None:
    assert await farms.bring() is None
    farms.objects(".nar.zst")[0].write_bytes(b"")
    again = farms.asking(state())
    assert await again.bring([farms.need()], SETTINGS) == (True, {})


async def test_the_fallback_serves_where_the_slot_has_nothing(farms: Farms) -> None:
    said = await farms.bring(farms.need(slot="feature"))
    assert said == "the artifact store builds: it has nothing built alike in feature"
    said = await farms.bring(farms.need(slot=None, fallback="other"))
    assert said == "the artifact store builds: it has nothing built alike in app or other"
    assert await farms.bring(farms.need(slot="feature", fallback="main")) is None


async def test_slots_with_alike_names_are_two(farms: Farms) -> None:
    assert await farms.bring(farms.need(slot="main/")) is not None
    assert await farms.bring(farms.need(slot="../main")) is not None
    assert len(list(farms.folder.glob("x86_64-linux-*"))) == 1


async def test_what_an_expression_calls_a_system_leads_nowhere_else(farms: Farms) -> None:
    need = replace(farms.need(), slot=replace(SLOT, system="../elsewhere/x86_64-linux"))
    (there,) = farms.folder.glob("x86_64-linux-*")
    elsewhere = farms.folder.parent / "elsewhere" / there.name
    shutil.copytree(there, elsewhere)
    for each in elsewhere.glob("*.json"):
        said = json.loads(each.read_text())
        each.write_text(json.dumps({**said, "system": need.slot.system}))
    assert "it has nothing built alike in main" in str(await farms.bring(need))


async def test_other_means_find_nothing(farms: Farms) -> None:
    other = replace(farms.need(), fingerprint=Fingerprint(digest="e" * 64))
    assert "it has nothing built alike in main" in str(await farms.bring(other))


async def test_what_is_known_to_be_wrong_is_not_taken_again(farms: Farms) -> None:
    assert await farms.bring() is None
    (base,) = farms.fetched()
    incremental.quarantine(farms.second, base.base.id, reason="wrong", now=time.time())
    assert "what it has is in quarantine here" in str(await farms.bring())
    # After a reset nothing is taken that was there before it.
    incremental.release(farms.second, [base.base.id], cause="reset", now=time.time())
    assert "it has nothing built alike" in str(await farms.bring())


@pytest.mark.parametrize(
    ("branch", "trust", "taken"), [("topic", "it", False), ("fork", "it@fork", True)]
)
async def test_what_a_trusted_branch_found_wrong_no_other_takes(
    farms: Farms, branch: str, trust: str, *, taken: bool
) -> None:
    names = {JobsetName(f"it@{each}"): each for each in ("main", "topic", "fork")}
    set_branches(farms.second, JobsetName("it"), names, now=1.0)

    def need(branch: str, trust: str) -> Need:
        slot = Slot(
            jobset=JobsetName(f"it@{branch}"), job="app", system=SLOT.system, branch=branch,
            trust=Trust(trust),
        )  # fmt: skip
        return replace(farms.need(), slot=slot)

    assert await farms.bring(need(branch, trust)) is None
    (base,) = bases.of_jobset(farms.second, JobsetName(f"it@{branch}"))
    incremental.quarantine(farms.second, base.base.id, reason="wrong", now=time.time())
    told = await farms.bring(need("main", "it"))
    assert told == (
        None if taken else "the artifact store builds: what it has is in quarantine here"
    )


async def test_another_farms_word_changes_nothing_of_ones_own(farms: Farms) -> None:
    """It says that its intermediates are of a build that was made here."""
    own = NewBase(
        name="own-base",
        path=StorePath("/own"),
        nar_hash="sha256-own",
        size=1,
        fingerprint=Fingerprint(digest="e" * 64),
        canonical=farms.drv,
        built=farms.drv,
        revision=None,
        parent=None,
    )
    incremental.add_base(farms.second, SLOT, own, now=time.time())
    await farms.bring()
    (base,) = farms.fetched()
    assert (base.path, base.base.fetched_from) == ("/own", None)


async def test_what_was_shared_is_not_sent_again(farms: Farms) -> None:
    assert farms.due() == artifacts.Due()


async def test_an_upload_that_was_cut_off_is_done_again(farms: Farms) -> None:
    """Killed after some of it, or after all of it and before its record."""
    await farms.build_again()
    with farms.first.transaction():
        farms.first.execute("DELETE FROM artifact")
    before = {each.name: each.read_bytes() for each in farms.objects()}
    for lost in ((), farms.objects(".json"), farms.objects()):
        for each in lost:
            each.unlink()
        with farms.first.transaction():
            farms.first.execute("DELETE FROM artifact")
        await farms.share()
        assert {each.name: each.read_bytes() for each in farms.objects()} == before
        assert farms.due() == artifacts.Due()


async def test_what_is_for_release_is_shared_after_its_audit(farms: Farms) -> None:
    with farms.first.transaction():
        farms.first.execute("DELETE FROM artifact")
    due = partial(artifacts.due, farms.first, "builds", farms.store.url, KEEP)
    audited = [JobsetName("it")]
    assert len(due(audited=audited).share) == 1
    with farms.first.transaction():
        farms.first.execute("UPDATE base SET depth = 1")
    assert due(audited=audited).share == ()
    assert len(due().share) == 1
    with farms.first.transaction():
        farms.first.execute("UPDATE base SET audited_at = 1.0")
    assert len(due(audited=audited).share) == 1


async def test_at_another_address_all_is_shared_anew(farms: Farms) -> None:
    await farms.build_again()
    farms.folder = farms.folder.with_name("new")
    farms.store = replace(farms.store, url=f"file://{farms.folder}")
    await farms.share()
    assert len(farms.objects()) == 2


async def test_what_is_not_to_stay_goes_and_nothing_of_others(farms: Farms) -> None:
    (described,) = farms.objects(".json")
    foreign = described.with_name("9999-other-1.json")
    foreign.write_text("{}")
    (base,) = bases.candidates(farms.first, JobsetName("it"))
    incremental.quarantine(farms.first, base.id, reason="wrong", now=time.time())
    await farms.share()
    assert farms.objects() == [foreign]
    await farms.share()
    assert [row[0] for row in farms.first.query("SELECT state FROM artifact")] == ["withdrawn"]


async def test_a_base_that_was_lost_meanwhile_is_left_out(farms: Farms) -> None:
    with farms.first.transaction():
        farms.first.execute("DELETE FROM artifact")
    shutil.rmtree(farms.folder)
    await farms.share()
    assert farms.objects() == []
    assert farms.due() == artifacts.Due()


# --- What is there is of no use ----------------------------------------------------------------


def described(**changes: Any) -> Callable[[Farms], None]:
    """The description says something else."""

    def change(farms: Farms) -> None:
        (file,) = farms.objects(".json")
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def packed(change: Callable[[bytes], bytes], *, told: bool = False) -> Callable[[Farms], None]:
    """The NAR is another one; `told`: and the description says so."""

    def apply(farms: Farms) -> None:
        (file,) = farms.objects(".nar.zst")
        nar = change(zstandard.ZstdDecompressor().decompressobj().decompress(file.read_bytes()))
        file.write_bytes(zstandard.ZstdCompressor().compress(nar))
        if told:
            digest = base64.b64encode(hashlib.sha256(nar).digest()).decode()
            described(narHash=f"sha256-{digest}", narSize=len(nar))(farms)

    return apply


def garbage(ending: str, content: bytes) -> Callable[[Farms], None]:
    def write(farms: Farms) -> None:
        (file,) = farms.objects(ending)
        file.write_bytes(content)

    return write


def lost(farms: Farms) -> None:
    farms.objects(".nar.zst")[0].unlink()


def cut(farms: Farms) -> None:
    (file,) = farms.objects(".nar.zst")
    file.write_bytes(file.read_bytes()[:-10])


BAD: dict[str, tuple[Callable[[Farms], None], str]] = {
    "missing": (lost, ".nar.zst is missing"),
    "cut": (cut, "bytes, not the"),
    "corrupt": (
        packed(lambda nar: nar.replace(b"object of", b"abject of")),
        "its NAR has another hash than its description says",
    ),
    "short": (packed(lambda nar: nar[:-8]), "bytes, not the"),
    "long": (packed(lambda nar: nar + b"more"), "its NAR is longer than the"),
    "bomb": (packed(lambda nar: nar + bytes(2**28)), "its NAR is longer than the"),
    "unpacked": (garbage(".nar.zst", b"what is this"), "its NAR is damaged: not zstd"),
    "no-nar": (packed(lambda _: b"of no use at all", told=True), "archive"),
    "no-description": (garbage(".json", b"{"), "is no description"),
    "empty-description": (garbage(".json", b"{}"), "is no description"),
    "no-text": (garbage(".json", b"\xff\xfe"), "is no description"),
    "endless-description": (garbage(".json", b" " * 100_000), "is too long for a description"),
    "format": (described(format=2), "its description has the format 2, and 1 is read here"),
    "fingerprint": (described(fingerprint="0" * 64), "its description is of the fingerprint 0000"),
    "system": (described(system="riscv64-linux"), "is of the system riscv64-linux, not x86_64"),
    "slot": (described(slot="other"), "its description is of the slot other, not main"),
    "huge": (described(narSize=2**40), "it has 1TiB, more than retention.maxSize allows"),
    "name": (described(name="../x"), "its description has a name that is none"),
    "hash": (described(narHash="sha256-x"), "its description has a narHash that is none"),
    "other-hash": (described(narHash=f"sha256-{'A' * 43}="), "has another hash than"),
    "size": (described(narSize=-1), "its description has a narSize that is none"),
    "depth": (described(depth=-1), "its description has a depth that is none"),
    "endless-time": (described(fullAt=float("inf")), "is no description"),
    "commit": (described(commit="a\x1b[31mb"), "its description has a commit that is none"),
    "deep": (described(depth=5), "what it has is 5 builds after a full one"),
    "old": (described(fullAt=0.0), "what it has goes back to a full one made"),
    "store": (
        described(canonical=f"/elsewhere/{'a' * 32}-app.drv"), "it is of a store in /elsewhere"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
async def test_what_is_of_no_use_is_told_and_not_taken(farms: Farms, case: str) -> None:
    harm, reason = BAD[case]
    harm(farms)
    said = str(await farms.bring())
    assert reason in said
    assert said.startswith("the artifact store builds: ")
    assert farms.fetched() == []
    assert farms.told == [None], "the store as such is well"
    assert not farms.path.exists()


async def test_a_good_one_is_found_beside_bad_ones(farms: Farms) -> None:
    (file,) = farms.objects(".json")
    for name, text in (("9-a", "{"), ("9-b", file.read_text())):
        file.with_name(f"{name}.json").write_text(text)
        file.with_name(f"{name}.nar.zst").write_bytes(b"")
    assert await farms.bring() is None


# --- The store itself --------------------------------------------------------------------------


async def test_a_store_that_does_not_answer_is_told_and_left_alone_for_a_while(
    farms: Farms,
) -> None:
    farms.folder.rename(farms.folder.with_name("away"))
    farms.folder.write_text("no folder")
    said = str(await farms.bring())
    assert "shared" in said
    assert farms.told == [said.removeprefix("the artifact store builds: ")]
    assert await farms.bring() == "the artifact store builds: it did not answer lately"
    assert len(farms.told) == 1
    await farms.sharing.look_again()
    assert len(farms.told) == 1
    farms.sharing.silent[farms.store.url] = 0.0
    await farms.sharing.look_again()
    assert farms.told[1] == farms.told[0]
    farms.folder.unlink()
    farms.folder.with_name("away").rename(farms.folder)
    farms.sharing.silent[farms.store.url] = 0.0
    await farms.sharing.look_again()
    assert farms.told[2:] == [None]
    assert await farms.bring() is None


async def test_a_store_that_is_not_declared(farms: Farms) -> None:
    farms.sharing.stores = {}
    assert await farms.bring() == "artifactStores.builds, which it names, is not declared"
