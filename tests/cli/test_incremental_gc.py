"""`reconciler incremental gc`: what it finds, and what it does with and without a daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reconciler.build.mounts import CACHES_VARIABLE, domain_folder
from reconciler.database import bases, mounts
from reconciler.database.file import StateLock
from reconciler.model import JobsetName, Outcome
from reconciler.places import Places
from tests.cli.farm import DOCUMENT, Farm
from tests.cli.test_incremental import leave

KEPT = {"enable": True, "retention": {"perSlot": 1}}


@pytest.fixture
def littered(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Farm:
    """Three bases of which one is to be kept, folders of a jobset that is gone, scratch."""
    monkeypatch.setenv(CACHES_VARIABLE, str(farm.root / "compilers"))
    farm.declare({**DOCUMENT, "jobsets": {**DOCUMENT["jobsets"], "old": jobset({})}})
    farm.declare({**DOCUMENT, "jobsets": {**DOCUMENT["jobsets"], "web": jobset(KEPT)}})
    farm.derivations({"site-1.0": [], "site-1.1": [], "site-1.2": []})
    for number, name in enumerate(("site-1.0", "site-1.1", "site-1.2")):
        farm.now += 1
        leave(farm, name, parent=None, commit=str(number))
    places = Places(farm.state_dir, {})
    roots = places.roots / "bases"
    roots.mkdir(parents=True)
    for each in bases.of_jobset(farm.database, JobsetName("web")):
        (roots / Path(each.path).name).symlink_to(each.path)
    for folder in (places.overlays / "old", compilers(farm), places.scratch):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x" * 2048)
    return farm


def jobset(incremental: dict[str, Any]) -> dict[str, Any]:
    return {**DOCUMENT["jobsets"]["web"], "incremental": incremental}


def compilers(farm: Farm) -> Path:
    return farm.root / "compilers" / domain_folder("old")


def gone(farm: Farm, *arguments: str) -> list[tuple[str, str, bool]]:
    told = farm.json("incremental", "gc", *arguments, schema="incremental-gc")
    return [(each["kind"], each["name"], each["removed"]) for each in told["leftovers"]]


def released(farm: Farm) -> list[int]:
    found = bases.of_jobset(farm.database, JobsetName("web"))
    return sorted(each.base.id for each in found if each.released_at is not None)


def test_it_tells_and_lets_go_of_what_serves_nothing(littered: Farm) -> None:
    found = [
        ("base", "web.site", False),
        ("base", "web.site", False),
        ("overlay", "old", False),
        ("compiler-cache", "old", False),
        ("scratch", "tmp", False),
    ]
    assert gone(littered, "--dry-run") == found
    assert released(littered) == []
    dry = littered.run("incremental", "gc", "--dry-run").output.splitlines()
    assert dry[0].split("  ")[0].strip().startswith("base ")
    assert dry[0].endswith("newer ones are kept")
    assert "compilers' cache of old" in dry[3]
    assert dry[-1] == "Would let go of 6MiB."
    assert gone(littered) == [(kind, name, True) for kind, name, _ in found]
    assert released(littered) == [1, 2]
    places = Places(littered.state_dir, {})
    (kept,) = (places.roots / "bases").iterdir()
    assert str(kept.readlink()) == bases.stored(littered.database, [3])[0].path
    assert not (places.overlays / "old").exists()
    assert not compilers(littered).exists()
    assert not places.scratch.exists()
    assert littered.run("incremental", "gc").output == "Nothing to let go of.\n"


def test_of_a_jobset_without_incremental_builds_nothing_is_kept(littered: Farm) -> None:
    littered.declare()
    told = littered.json("incremental", "gc", "--dry-run", schema="incremental-gc")
    reasons = [each["reason"] for each in told["leftovers"] if each["kind"] == "base"]
    assert reasons == ["its jobset has incremental.enable no longer"] * 3


def test_beside_a_daemon_only_what_compilers_keep_is_removed(littered: Farm) -> None:
    attempt = littered.start("site-1.0")
    mounts.begin(littered.database, attempt, kind="compiler-cache")
    with StateLock(littered.state_dir):
        told = littered.json("incremental", "gc", schema="incremental-gc")
        assert told["daemonRunning"]
        assert {each["kind"]: each["error"] for each in told["leftovers"]} == {
            "base": "the daemon lets go of it by itself",
            "overlay": "the daemon lets go of it by itself",
            "compiler-cache": "builds go on that may be shown it: try again later",
        }
        littered.end(attempt, "site-1.0", Outcome.SUCCEEDED)
        removed = [(kind, done) for kind, _, done in gone(littered)]
    assert removed == [
        ("base", False),
        ("base", False),
        ("overlay", False),
        ("compiler-cache", True),
    ]
    assert released(littered) == []
    assert not compilers(littered).exists()


def test_what_cannot_be_removed_is_told(littered: Farm) -> None:
    compilers(littered).with_name(f".going-{domain_folder('old')}").write_text("in the way")
    lines = littered.run("incremental", "gc").output.splitlines()
    (told,) = (each for each in lines if "compilers' cache of old" in each)
    assert "Not a directory" in told
    assert lines[-2:] == ["Let go of 6MiB.", "What bases were, nix-collect-garbage deletes."]


def test_what_is_of_no_known_jobset_is_told_and_left_alone(littered: Farm) -> None:
    """`reconciler gc` forgets jobsets; and the folder may be of another farm."""
    strange = compilers(littered).with_name(domain_folder("forgotten"))
    strange.mkdir()
    lines = littered.run("incremental", "gc").output.splitlines()
    (told,) = (each for each in lines if strange.name in each)
    assert told.endswith(
        "of no jobset that is known here: remove it by hand, unless another farm needs it"
    )
    assert gone(littered) == [("compiler-cache", strange.name, False)]
    assert strange.exists()
