"""The module on a whole NixOS system, with the real module system. Not part of the ordinary suite.

RECONCILER_TEST_NIXPKGS names a tree with nixpkgs' `lib` and `nixos`; where it has no packages,
stand_in_packages.nix gives their names. Run by `make test-nixos NIXPKGS=DIR`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reconciler import config
from tests.nixos.support import HERE

NIXPKGS = os.environ["RECONCILER_TEST_NIXPKGS"]


def evaluated(*, change: str = "{ }", attribute: str) -> subprocess.CompletedProcess[str]:
    """Evaluate an attribute of system.nix for the farm with a change of services.reconciler."""
    module = f"{{ lib, ... }}: {{ imports = [ {HERE}/farm.nix ]; services.reconciler = {change}; }}"
    return subprocess.run(
        [
            "nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode",
            HERE / "system.nix", "-A", attribute,
            "--argstr", "nixpkgs", NIXPKGS, "--arg", "configuration", module,
        ],
        check=False,
        capture_output=True,
        text=True,
    )  # fmt: skip


def held(attribute: str, *, change: str = "{ }") -> Any:
    made = evaluated(change=change, attribute=attribute)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@pytest.fixture(scope="module")
def farm() -> dict[str, Any]:
    """Everything of the farm as it stands."""
    found: dict[str, Any] = held("all")
    return found


def unit_of(text: str) -> dict[str, list[str]]:
    """The keys of a unit's [Service]; several values of a key are several lines."""
    _, section = text.split("[Service]\n")
    section, _ = section.split("\n[Install]")
    keys: dict[str, list[str]] = {}
    for line in section.splitlines():
        if line:
            key, _, value = line.partition("=")
            keys.setdefault(key, []).append(value)
    return keys


def test_the_whole_system_evaluates(farm: dict[str, Any]) -> None:
    assert farm["toplevel"].endswith(".drv")
    assert (farm["failed"], farm["warnings"]) == ([], [])


def test_the_document_is_valid_and_names_no_secret(farm: dict[str, Any]) -> None:
    desired = config.parse(json.dumps(farm["document"]).encode(), name="rendered")
    assert (len(desired.jobsets), len(desired.builders), len(desired.caches)) == (3, 2, 2)
    assert "/run/secrets" not in json.dumps(farm["document"])


def test_the_unit_tells_systemd_how_to_treat_the_daemon(farm: dict[str, Any]) -> None:
    unit = unit_of(farm["unit"])
    assert unit["Type"] == ["notify"]
    assert unit["KillMode"] == ["mixed"]
    assert unit["OOMPolicy"] == ["continue"]
    assert unit["Restart"] == ["on-failure"]
    assert unit["RefreshOnReload"] == ["credentials"]
    assert len(unit["ExecReload"]) == 2
    assert unit["LoadCredential"] == [
        "builders.big.sshKeyFile:/run/secrets/big",
        "caches.local.signingKeyFile:/run/secrets/key",
        "caches.main.credentialsFile:/run/secrets/s3",
        "caches.main.signingKeyFile:/run/secrets/key",
    ]
    assert unit["ReadWritePaths"] == ["/srv/cache"]
    assert {"WatchdogSec", "ExecStartPost", "TimeoutStopSec", "StateDirectory"} <= set(unit)


def test_the_unit_is_hardened(farm: dict[str, Any], tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    assert analyze, "this test needs systemd-analyze"
    file = tmp_path / "reconciler.service"
    file.write_text(farm["unit"])
    asked = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", file],
        check=False,
        capture_output=True,
        text=True,
    )
    (exposure,) = re.findall(r"Overall exposure level for .*: ([0-9.]+)", asked.stdout)
    assert float(exposure) <= 2.0, asked.stdout


def test_a_changed_jobset_changes_the_document_and_not_the_unit(farm: dict[str, Any]) -> None:
    """Then a switch reloads and restarts nothing."""
    unit = held("unit", change="{ settings.jobsets.website.shares = 7; }")
    reloads = re.compile("^X-Reload-Triggers=.*", re.MULTILINE)
    assert unit != farm["unit"]
    assert reloads.sub("", unit) == reloads.sub("", farm["unit"])


def test_a_rotated_secret_is_watched(farm: dict[str, Any]) -> None:
    assert re.findall("^PathChanged=(.*)", farm["path"], re.MULTILINE) == [
        "/run/secrets/big",
        "/run/secrets/key",
        "/run/secrets/s3",
    ]
    assert "try-reload-or-restart reconciler.service" in farm["bring"]
    assert "caches.main.signingKeyFile /run/secrets/key\n" in farm["bring"]


def test_nix_knows_the_user_and_what_others_set_stays(farm: dict[str, Any]) -> None:
    nix = farm["nix"]
    assert nix["extra-allowed-users"] == ["reconciler"]
    assert nix["extra-trusted-users"] == ["reconciler"]
    assert nix["extra-substituters"] == ["https://cache.nixos.org"]
    assert nix["build-hook"] == ""


def test_a_farm_without_other_machines_needs_no_trust() -> None:
    nix = held("nix", change="{ settings.builders = lib.mkForce { local = { }; }; }")
    assert nix["extra-allowed-users"] == ["reconciler"]
    assert "extra-trusted-users" not in nix


def test_build_machines_become_builders_and_builders_build_machines() -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJhPb0xqvbcAWJv2MvYwwVBsYNlMCrEyRuTRnNvQ4J8Y"
    (machine,) = held("machines", change='{ buildMachines = "export"; }')
    assert machine["hostName"] == "big.example.org"
    assert machine["sshUser"] == "nix"
    assert (
        machine["publicHostKey"]
        == subprocess.run(
            ["base64", "-w0"], input=key.encode(), check=True, capture_output=True
        ).stdout.decode()
    )
    given = f"(builtins.fromJSON {json.dumps(json.dumps([machine]))})"
    change = f'{{ buildMachines = "import"; }}; nix.buildMachines = {given}'
    imported = held("builders", change=change)["big.example.org"]
    assert imported["publicHostKey"] == machine["publicHostKey"]
    assert imported["uri"] == "ssh-ng://nix@big.example.org"


REFUSED = {
    "a type": ('settings.jobsets.website.shares = "many";', "website.shares' is not of type"),
    "a bound": ("settings.builders.local.maxJobs = lib.mkForce 0;", "integer between 1 and 10000"),
    "a duration": ('settings.jobsets.website.interval = "5 minutes";', 'write it like "5m"'),
    "a path that would be copied": (
        "settings.caches.main.signingKeyFile = lib.mkForce ./key;",
        "caches.main.signingKeyFile' is not of type",
    ),
    "two sources": (
        'settings.jobsets.website.source.path = "/srv/x";',
        "jobsets.website.source' needs exactly one of flake, git, path, and has flake and path",
    ),
    "no kind of source": (
        'settings.jobsets.website.source = lib.mkForce { file = "x.nix"; };',
        "jobsets.website.source' needs exactly one of flake, git, path, and has none",
    ),
    "no source": ("settings.jobsets.new = { };", "jobsets.new.source' was accessed but"),
    "a dangling name": (
        'settings.jobsets.docs.caches = [ "mian" ];',
        'jobsets.docs.caches: there is no cache "mian"; declare services.reconciler.settings.',
    ),
    "a secret in the store": (
        'settings.caches.main.signingKeyFile = lib.mkForce "${builtins.toFile "key" "x"}";',
        "caches.main.signingKeyFile: the secret is in the Nix store",
    ),
    "an unsigned cache": (
        "settings.caches.main.signingKeyFile = lib.mkForce null;",
        "caches.main.signingKeyFile: jobsets push to this cache",
    ),
    "a builder without a key": (
        "settings.builders.big.sshKeyFile = lib.mkForce null;",
        "builders.big.sshKeyFile: ssh-ng://nix@big.example.org cannot be reached without a key",
    ),
    "one machine twice": (
        'settings.builders.two = { uri = "ssh-ng://nix@big.example.org"; sshKeyFile = "/k"; };',
        "builders.two.uri: services.reconciler.settings.builders.big is the same machine",
    ),
    "a document besides settings": (
        'configFile = "/srv/farm.yaml";',
        "services.reconciler.configFile: there are services.reconciler.settings as well",
    ),
    "a cache by ssh without a key": (
        'settings.caches.local.uri = lib.mkForce "ssh-ng://nix@c";',
        "caches.local.sshKeyFile: ssh-ng://nix@c cannot be reached without a key",
    ),
    "a client that trusts no key": (
        "client.enable = true;",
        "caches.local.publicKeys: without a key that it trusts, no client takes anything",
    ),
    "a public key that is none": (
        'settings.caches.main.publicKeys = [ "main-1:short=" ];',
        "write NAME:KEY with the 44 characters of the key",
    ),
    "serving what is not here": (
        'cache = { enable = true; hostName = "cache.example.org"; };',
        'services.reconciler.cache.name: there is no cache "main" in a local folder',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_a_bad_system_is_refused_with_option_and_mend(change: str, said: str) -> None:
    refused = evaluated(change=f"{{ {change} }}", attribute="toplevel")
    assert refused.returncode != 0
    assert said in refused.stderr


def test_what_nothing_uses_is_warned_of() -> None:
    change = '{ settings.caches.spare.uri = "file:///srv/spare"; }'
    (warning,) = held("warnings", change=change)
    assert warning.startswith(
        "services.reconciler.settings.caches.spare is declared, but no jobset"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{ }", "is valid: 3 jobsets, 2 builders, 2 caches"),
        (
            '{ settings.jobsets.website.intervall = "5m"; }',
            "jobsets.website.intervall: there is no such key",
        ),
    ],
)
def test_the_document_is_checked_when_the_system_is_built(
    change: str, said: str, tmp_path: Path
) -> None:
    """The build's own script, with this checkout's program for the packaged one."""
    document = tmp_path / "config.json"
    document.write_text(json.dumps(held("document", change=change)))
    script = re.sub(r"\S+-reconciler-unchecked\.json", str(document), held("check", change=change))
    script = re.sub(r"\S+/bin/reconciler ", f"{sys.executable} -m reconciler ", script)
    out = tmp_path / "out"
    built = subprocess.run(
        ["bash", "-euc", script],
        env={**os.environ, "out": str(out)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert said in built.stdout + built.stderr
    good = change == "{ }"
    assert (built.returncode == 0) is good
    assert out.exists() is good
    assert ("below services.reconciler.settings" in built.stderr) is not good


KEY = "main-1:lvP0skMQ5wbzC5VzgLqjHIAWNEJ2ABfMhtmIkVbBhNo="


def test_a_client_trusts_the_declared_caches_and_runs_no_farm() -> None:
    change = f"""{{
        enable = lib.mkForce false;
        client.enable = true;
        settings.caches.main.publicKeys = [ "{KEY}" ];
        settings.caches.local.publicKeys = [ "{KEY}" ];
    }}"""
    found = held("client", change=change)
    assert found == {
        "substituters": ["s3://nix-cache?region=eu-central-1"],
        "keys": [KEY, KEY],
        "failed": [],
        "daemon": False,
    }
    named = change.replace("client.enable = true;", """
        client = { enable = true; substituters = [ "https://cache.example.org" ]; };
    """)  # fmt: skip
    assert held("client", change=named)["substituters"] == ["https://cache.example.org"]


def test_a_cache_is_served_by_nginx() -> None:
    change = '{ cache = { enable = true; name = "local"; hostName = "c"; openFirewall = true; }; }'
    served = held("served", change=change)
    assert served == {"root": "/srv/cache", "ports": [80, 443], "groups": ["reconciler"]}


def test_a_document_written_by_hand_is_linked() -> None:
    change = '{ settings = lib.mkForce { }; configFile = "/srv/farm.yaml"; }'
    assert held("source", change=change) == "/srv/farm.yaml"
    assert "LoadCredential" not in held("unit", change=change)


def test_what_systemd_or_a_shell_would_replace_is_kept() -> None:
    unit = unit_of(held("unit", change='{ stateDir = "/srv/50% done"; }'))
    assert '"--state-dir" "/srv/50%% done" "run"' in unit["ExecStart"][0]
    assert "StateDirectory" not in unit


def test_the_options_have_docs_without_a_gap() -> None:
    undescribed = [option["name"] for option in held("docs") if not option.get("description")]
    assert undescribed == []


def test_builds_are_shown_things_where_a_jobset_asks_for_it() -> None:
    plain = held("shown")
    assert (plain["hook"], plain["mounts"], plain["compilers"]) == (None, [], None)
    change = """{
      settings.jobsets.website.incremental = { enable = true; strategy = "hidden"; };
    }"""
    shown = held("shown", change=change)
    assert shown["failed"] == []
    assert "reconciler-pre-build-hook" in shown["hook"]
    (mount,) = shown["mounts"]
    assert (mount["what"], mount["options"]) == ("/nix/store", "bind,ro")
    assert mount["before"] == mount["wantedBy"] == ["nix-daemon.service"]
    assert (shown["compilers"]["group"], shown["compilers"]["mode"]) == ("nixbld", "2755")
    by_hand = held("shown", change="{ preBuildHook = true; }")
    assert by_hand["mounts"] == shown["mounts"]
