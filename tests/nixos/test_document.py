"""The document that the module renders, and what it refuses before."""

from __future__ import annotations

import copy
import functools
import json
import re
from typing import Any

import pytest

from reconciler import config
from reconciler.config.json_schema import schema
from reconciler.model import JobsetName, PushRule, PushScope
from tests.config.test_json_schema import examples_of
from tests.nixos.support import PROJECT, document, evaluate

FARM: dict[str, Any] = {
    "jobsets": {
        "website": {
            "source": {"flake": "git+https://git.example.org/website?ref=main"},
            "caches": ["main"],
            "incremental": {"enable": True},
        },
        "tools": {"source": {"path": "/srv/tools", "file": "release.nix"}, "caches": ["local"]},
        "docs": {"source": {"git": {"url": "https://git.example.org/docs"}}, "interval": None},
    },
    "builders": {
        "local": {"maxJobs": 2},
        "big": {"uri": "ssh-ng://nix@big.example.org", "sshKeyFile": "/run/secrets/big"},
    },
    "caches": {
        "main": {
            "uri": "s3://nix-cache?region=eu-central-1",
            "signingKeyFile": "/run/secrets/key",
            "credentialsFile": "/run/secrets/s3",
        },
        "local": {
            "uri": "file:///srv/cache",
            "signingKeyFile": "/run/secrets/key",
            "signingKeyFiles": ["/run/secrets/next-key"],
        },
    },
    "artifactStores": {
        "builds": {"url": "s3://intermediates", "credentialsFile": "/run/secrets/builds"},
    },
}
CREDENTIALS = "/run/credentials/reconciler.service"


def farm(**changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The farm with some objects changed or added: `farm(caches={"main": {"uri": …}})`."""
    return {
        kind: {
            name: {**objects.get(name, {}), **changes.get(kind, {}).get(name, {})}
            for name in {**objects, **changes.get(kind, {})}
        }
        for kind, objects in FARM.items()
    }


def examples() -> list[dict[str, Any]]:
    """Every example of every key, each in a whole document."""
    found = [FARM, *schema()["examples"]]
    main = {"uri": "file:///srv/cache"}
    for kind in ("jobset", "builder", "cache", "artifactStore"):
        part = schema()["$defs"][kind]
        needed = {key: part["properties"][key]["examples"][0] for key in part.get("required", ())}
        for value in examples_of(part, needed):
            declared = {
                "caches": {"main": main},
                "builders": {"big": {"resources": {"memory": "32GiB"}}},
            }
            found.append(declared | {f"{kind}s": {"main": value}})
    return found


def test_every_example_renders_to_the_document_that_a_person_would_write() -> None:
    given = copy.deepcopy(examples())
    assert len(given) > 30
    for settings, made in zip(given, evaluate("rendered", settings=given), strict=True):
        for secret in made["secrets"]:
            *above, last = secret["path"]
            held: Any = functools.reduce(lambda inner, name: inner[name], above, settings)
            place = int(last) if isinstance(held, list) else last
            assert held[place] == secret["file"]
            held[place] = f"{CREDENTIALS}/{secret['id']}"
        wanted = config.parse(json.dumps(settings).encode(), name="settings")
        assert config.parse(json.dumps(made["document"]).encode(), name="rendered") == wanted


def test_the_document_names_no_secret_file() -> None:
    made = document(FARM)
    assert "/run/secrets" not in json.dumps(made["document"])
    assert {secret["id"]: secret["file"] for secret in made["secrets"]} == {
        "artifactStores.builds.credentialsFile": "/run/secrets/builds",
        "builders.big.sshKeyFile": "/run/secrets/big",
        "caches.local.signingKeyFile": "/run/secrets/key",
        "caches.local.signingKeyFiles.0": "/run/secrets/next-key",
        "caches.main.credentialsFile": "/run/secrets/s3",
        "caches.main.signingKeyFile": "/run/secrets/key",
    }


def test_a_credential_is_left_as_it_is() -> None:
    loaded = "/run/credentials/reconciler.service/mine"
    made = document(farm(caches={"main": {"signingKeyFile": loaded}}))
    assert made["document"]["caches"]["main"]["signingKeyFile"] == loaded
    assert "caches.main.signingKeyFile" not in [secret["id"] for secret in made["secrets"]]
    made = document(farm(caches={"main": {"signingKeyFiles": [loaded, "/run/secrets/next"]}}))
    files = [loaded, f"{CREDENTIALS}/caches.main.signingKeyFiles.1"]
    assert made["document"]["caches"]["main"]["signingKeyFiles"] == files


def test_what_of_a_jobset_goes_to_a_cache_is_in_the_document() -> None:
    less = {"name": "main", "push": "jobs", "exclude": ["*-vm-test"]}
    told = farm(jobsets={"website": {"caches": [less]}, "docs": {"caches": [{"name": "local"}]}})
    made = document(told)
    assert (made["refusals"], made["warnings"]) == ([], [])
    jobsets = made["document"]["jobsets"]
    assert jobsets["website"]["caches"] == [less]
    assert jobsets["docs"]["caches"] == [{"name": "local", "push": None, "exclude": []}]
    desired = config.parse(json.dumps(made["document"]).encode(), name="module")
    assert desired.jobsets[JobsetName("website")].caches == {
        "main": PushRule(scope=PushScope.JOBS, exclude=("*-vm-test",))
    }


def test_a_farm_without_fault_is_neither_refused_nor_warned_of() -> None:
    made = document(FARM)
    assert (made["refusals"], made["warnings"]) == ([], [])


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        (
            {"jobsets": {"docs": {"caches": ["mian"]}}},
            "jobsets.docs.caches",
            ['there is no cache "mian"', "settings.caches.mian", "local, main"],
        ),
        (
            {"jobsets": {"docs": {"caches": [{"name": "mian", "push": "jobs"}]}}},
            "jobsets.docs.caches",
            ['there is no cache "mian"', "settings.caches.mian", "local, main"],
        ),
        (
            {"caches": {"main": {"signingKeyFile": "/nix/store/0000-key"}}},
            "caches.main.signingKeyFile",
            ["in the Nix store", "/run/secrets/main"],
        ),
        (
            {"caches": {"main": {"signingKeyFile": None}}},
            "caches.main.signingKeyFile",
            ["jobsets push to this cache", "--key-name main-1"],
        ),
        (
            {"builders": {"big": {"sshKeyFile": None}}},
            "builders.big.sshKeyFile",
            ["ssh-ng://nix@big.example.org", "name the file of a private key"],
        ),
        (
            {"caches": {"main": {"uri": "ssh-ng://nix@cache.example.org"}}},
            "caches.main.sshKeyFile",
            ["ssh-ng://nix@cache.example.org cannot be reached", "name the file of a private key"],
        ),
        (
            {"builders": {"two": FARM["builders"]["big"]}},
            "builders.two.uri",
            ["settings.builders.big is the same machine", "keep one"],
        ),
        (
            {"caches": {"local": {"uri": "file:./cache"}}},
            "caches.local.uri",
            ["file:./cache is relative", "write file:///PATH"],
        ),
        (
            {"caches": {"two": FARM["caches"]["main"]}},
            "caches.two.uri",
            ["settings.caches.main is at the same place", "keep one"],
        ),
        (
            {"artifactStores": {"builds": {"url": "file:///srv/cache/"}}},
            "artifactStores.builds.url",
            ["settings.caches.local is at the same place", "keep one"],
        ),
        (
            {"caches": {"local": {"uri": "file:/nix/store/cache"}}},
            "caches.local.uri",
            ["in the Nix store", "name a folder outside"],
        ),
        (
            {"artifactStores": {"builds": {"url": "file:./builds"}}},
            "artifactStores.builds.url",
            ["file:./builds is relative", "write file:///PATH"],
        ),
        (
            {"artifactStores": {"builds": {"credentialsFile": "/nix/store/0000-key"}}},
            "artifactStores.builds.credentialsFile",
            ["in the Nix store", "/run/secrets/builds"],
        ),
    ],
)
def test_a_contradiction_is_refused_by_path_with_its_mend(
    changes: dict[str, Any], path: str, said: list[str]
) -> None:
    (refusal,) = document(farm(**changes))["refusals"]
    assert refusal.startswith(f"services.reconciler.settings.{path}: ")
    assert not [words for words in said if words not in refusal]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"caches": {"spare": {"uri": "file:///srv/spare"}}}, "caches.spare"),
        ({"jobsets": {"website": {"incremental": {}}}}, "artifactStores.builds"),
        (
            {
                "jobsets": {
                    name: {"systems": ["x86_64-linux"]} for name in ("website", "tools", "docs")
                },
                "builders": {"big": {"systems": ["aarch64-linux"]}},
            },
            "builders.big",
        ),
    ],
)
def test_what_nothing_uses_is_warned_of(changes: dict[str, Any], path: str) -> None:
    made = document(farm(**changes))
    assert made["refusals"] == []
    (warning,) = made["warnings"]
    assert warning.startswith(f"services.reconciler.settings.{path} is declared, but ")
    assert warning.endswith("or remove it.")


def test_a_strategy_that_is_not_enabled_is_warned_of() -> None:
    made = document(farm(jobsets={"tools": {"incremental": {"strategy": "hidden"}}}))
    (warning,) = made["warnings"]
    assert warning == (
        "services.reconciler.settings.jobsets.tools.incremental.strategy has no effect without"
        " incremental.enable; set that, or remove it."
    )


def test_a_cache_reached_by_ssh_needs_no_signing_key() -> None:
    cache = {"uri": "ssh-ng://nix@cache.example.org", "sshKeyFile": "/k", "signingKeyFile": None}
    assert document(farm(caches={"main": cache}))["refusals"] == []


def test_the_readme_shows_a_configuration_that_is_right() -> None:
    section = (PROJECT / "README.md").read_text().split("\n## NixOS\n")[1].split("\n## ")[0]
    (shown,) = re.findall(r"^```nix\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    body = shown.split("services.reconciler = ", 1)[1].rsplit(";", 1)[0]
    made = evaluate("readme", expression=body)
    assert made["unknown"] == []
    (rendered,) = evaluate("rendered", settings=[made["settings"]])
    assert (rendered["refusals"], rendered["warnings"]) == ([], [])
    config.parse(json.dumps(rendered["document"]).encode(), name="rendered")
