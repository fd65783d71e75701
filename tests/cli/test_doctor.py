"""`doctor` on real builders: one that works, and what can be wrong with the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.binary_cache.servers import s3_credentials, s3_server
from tests.cli.farm import check_schema
from tests.nix.connection_daemons import newer_nix
from tests.support.builders import TestBuilder, make_key
from tests.support.private_store import PrivateStore
from tests.support.shown import mounted
from tests.system.test_builders import declared
from tests.test_architecture import PROJECT


@pytest.fixture
def big(store: PrivateStore) -> Iterator[TestBuilder]:
    store.run("nix-store", "--init")
    with closing(TestBuilder(store, newer_nix())) as builder:
        yield builder


def doctor(
    store: PrivateStore,
    builders: dict[str, Any],
    *,
    stores: dict[str, Any] | None = None,
    status: int,
) -> dict[str, Any]:
    """What it finds of each builder and artifact store."""
    config = store.root / "farm.json"
    config.write_text(json.dumps({"builders": builders, "artifactStores": stores or {}}))
    argv = [sys.executable, "-m", "reconciler", "doctor", "--json", "--config", str(config)]
    argv += ["--state-dir", str(store.root / "farm")]
    environment = {**os.environ, **store.environment, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, (done.stdout, done.stderr)
    found = json.loads(done.stdout)
    check_schema(found, "doctor")
    return {
        each["name"]: (each["verdict"], each["message"])
        for each in found["findings"]
        if each["name"].startswith(("builder", "artifact store"))
    }


def test_builders_that_work(store: PrivateStore, big: TestBuilder) -> None:
    found = doctor(store, {"local": {}, "big": declared(big.declared())}, status=0)
    verdict, message = found["builder big"]
    assert verdict == "good"
    assert message.startswith(f"{big.declared().uri}: Nix 2.")
    assert "trusts us; connected in " in message
    assert "built for " in message
    assert "fetched in " in message
    verdict, message = found["builder local"]
    assert verdict == "good"
    assert "connected" not in message
    # It was really built there, and is really here.
    assert [each for each in big.store_dir.iterdir() if each.name.endswith("-reconciler-doctor")]
    made = [each for each in store.store_dir.iterdir() if each.name.endswith("-reconciler-doctor")]
    assert len(made) == 2 * len(message.split("built for ")[1].split(","))


def test_each_builder_that_does_not_work_has_its_reason_and_mend(
    store: PrivateStore, big: TestBuilder, tmp_path: Path
) -> None:
    good = declared(big.declared())
    port = big.sshd.port
    impostor = " ".join(make_key(tmp_path / "other").split()[:2])
    readable = tmp_path / "readable"
    readable.write_bytes(big.sshd.key_file.read_bytes())
    readable.chmod(0o644)
    builders = {
        "local": {"supportedFeatures": ["warp-drive"]},
        "dead": good | {"uri": "ssh-ng://nobody@127.0.0.1:1"},
        "impostor": good | {"uri": f"ssh-ng://root@localhost:{port}", "publicHostKey": impostor},
        "stranger": good | {"uri": f"ssh-ng://root@127.0.0.2:{port}", "sshKeyFile": "/no/such"},
        "careless": good | {"uri": f"ssh-ng://root@127.0.0.3:{port}", "sshKeyFile": str(readable)},
        "simple": good | {"supportedFeatures": ["kvm-2000"]},
    }
    found = doctor(store, builders, status=1)
    assert {verdict for verdict, _ in found.values()} == {"bad"}
    said = {name.removeprefix("builder "): message for name, (_, message) in found.items()}
    assert "it turns connections away: does sshd run there, at that port?" in said["dead"]
    assert "it shows another host key than the declared one" in said["impostor"]
    assert "/no/such cannot be read: No such file or directory" in said["stranger"]
    assert f"chmod 600 {readable}" in said["careless"]
    for name, feature in (("local", "warp-drive"), ("simple", "kvm-2000")):
        assert "it does not build something tiny for " in said[name]
        assert feature in said[name]
        assert "system-features" in said[name]


def test_a_builder_for_no_system_is_only_connected_to(
    store: PrivateStore, big: TestBuilder
) -> None:
    found = doctor(store, {"big": declared(big.declared(), systems=[])}, status=0)
    verdict, message = found["builder big"]
    assert verdict == "warning"
    assert message.endswith("declared for no system: it gets no builds")


def test_artifact_stores_are_tried(store: PrivateStore, tmp_path: Path) -> None:
    keys = s3_credentials(tmp_path / "keys")
    wrong = s3_credentials(tmp_path / "wrong", secret="of someone else")
    keys.chmod(0o600)
    wrong.chmod(0o600)
    (tmp_path / "served/bucket").mkdir(parents=True)
    with s3_server(tmp_path / "served") as server:
        url = f"s3://bucket?endpoint={server.address}&scheme=http"
        stores = {
            "folder": {"url": f"file://{tmp_path}/folder"},
            "right": {"url": url, "credentialsFile": str(keys)},
            "wrong": {
                "url": url.replace("bucket?", "bucket/wrong?"),
                "credentialsFile": str(wrong),
            },
        }
        found = doctor(store, {}, stores=stores, status=1)
    assert found["artifact store folder"][0] == "good"
    assert found["artifact store right"] == ("good", f"{url} answers")
    assert found["artifact store right, credentials"][0] == "good"
    verdict, message = found["artifact store wrong"]
    assert verdict == "bad"
    assert "denies access" in message or "the secret is not this key's" in message
    assert "of someone else" not in str(found)


def test_folders_that_cannot_be_made_are_found_before_the_first_push(
    store: PrivateStore, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "there").mkdir()
    view, of = tmp_path / "view", tmp_path / "of"
    view.mkdir()
    of.mkdir()
    folders = {
        "proc": "/proc/nobody/cache",
        "file": tmp_path / "file/below/cache",
        "link": tmp_path / "link/cache",
        "readonly": view / "cache",
        "new": tmp_path / "new/folder",
        "there": tmp_path / "there",
    }
    with mounted(of, view, options="bind,ro"):
        stores = {name: {"url": f"file://{folder}"} for name, folder in folders.items()}
        found = doctor(store, {}, stores=stores, status=1)
    said = {name: found[f"artifact store {name}"] for name in folders}
    assert {name for name, (verdict, _) in said.items() if verdict == "bad"} == {
        "proc", "file", "link", "readonly",
    }  # fmt: skip
    assert said["proc"][1] == (
        "/proc/nobody/cache cannot be made in /proc: No such file or directory; name another folder"
    )
    assert f"cannot be made in {tmp_path}/file: that is not a folder; name" in said["file"][1]
    assert f"cannot be made in {tmp_path}/link: that is a link to nothing" in said["link"][1]
    assert f"cannot be made in {view}: Read-only file system; mount it" in said["readonly"][1]
    assert said["new"] == ("good", f"{tmp_path}/new/folder is made with the first push")
    assert said["there"] == ("good", f"{tmp_path}/there is writable")
    assert not (tmp_path / "new").exists()
    assert [*(tmp_path / "there").iterdir()] == []


def test_the_state_of_another_user(store: PrivateStore) -> None:
    state = store.root / "farm"
    state.mkdir()
    config = store.root / "farm.json"
    config.write_text("{}")
    os.chown(state, 65534, 65534)
    argv = [sys.executable, "-m", "reconciler", "doctor"]
    done = subprocess.run(
        [*argv, "--config", config, "--state-dir", state],
        env={**os.environ, **store.environment, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    said = " ".join(done.stdout.split())
    assert f"! state directory: {state} is of another user" in said
    assert "sudo -u '#65534' reconciler doctor" in said
