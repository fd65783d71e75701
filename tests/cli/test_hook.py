"""`incremental hook` as its help says how to install it, and what `doctor` finds of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.private_store import PrivateStore
from tests.support.shown import mounted
from tests.test_architecture import PROJECT

UNTIL_THEN = "; until then such builds are full ones"


def reconciler(store: PrivateStore, *arguments: str | Path) -> str:
    environment = {**os.environ, **store.environment, "PYTHONPATH": str(PROJECT)}
    places = ("--config", store.root / "farm.json", "--state-dir", store.root / "farm")
    argv = [sys.executable, "-m", "reconciler", *places, *arguments]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def found(store: PrivateStore) -> dict[str, tuple[str, str]]:
    """What doctor finds of the hook, by strategy."""
    findings = json.loads(reconciler(store, "doctor", "--json"))["findings"]
    return {
        each["name"].removeprefix("hook for "): (each["verdict"], each["message"])
        for each in findings
        if each["name"].startswith("hook")
    }


@pytest.fixture
def farm(store: PrivateStore) -> PrivateStore:
    (store.root / "farm").mkdir()
    source = {"path": str(store.root), "file": "release.nix"}
    jobsets = {
        strategy: {"source": source, "incremental": {"enable": True, "strategy": strategy}}
        for strategy in ("hidden", "compiler-cache", "pure")
    }
    (store.root / "farm.json").write_text(json.dumps({"jobsets": jobsets, "builders": {}}))
    return store


def test_installed_step_by_step(farm: PrivateStore) -> None:
    before = found(farm)
    assert before.keys() == {"hidden builds", "compiler-cache builds"}
    for verdict, message in before.values():
        assert verdict == "warning"
        assert message.startswith("Nix ran no pre-build-hook of ours")
        assert message.endswith(UNTIL_THEN)
    view, caches = farm.root / "view", farm.root / "compilers"
    view.mkdir()
    options = ("--store-view", view, "--compiler-caches", caches)
    script = farm.root / "hook"
    script.write_text(reconciler(farm, "incremental", "hook", *options))
    script.chmod(0o755)
    with (farm.root / "conf/nix.conf").open("a") as file:
        file.write(f"pre-build-hook = {script}\n")
    half = found(farm)
    assert half["hidden builds"][1].startswith("the store's read-only view is not there")
    assert half["compiler-cache builds"] == ("warning", f"it is not there{UNTIL_THEN}")
    caches.mkdir()
    with mounted(farm.store_dir, view, options="bind,ro"):
        after = found(farm)
    told = ("good", "builds are shown what they start from")
    assert after == {"hidden builds": told, "compiler-cache builds": told}


def test_another_user_s_state_is_left_alone(farm: PrivateStore) -> None:
    os.chown(farm.root / "farm", 12345, -1)
    for verdict, message in found(farm).values():
        assert verdict == "warning"
        assert "is not this user's; run this as the daemon's" in message
    assert list((farm.root / "farm").iterdir()) == []
