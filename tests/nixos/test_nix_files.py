"""Every Nix file parses; package and flake give what they should."""

from __future__ import annotations

import subprocess
import tomllib

from tests.nixos.support import PROJECT, evaluate


def nix_files() -> list[str]:
    folders = ["flake.nix", "module.nix", "nix", "reconciler", "tests", "examples"]
    listed = subprocess.run(
        ["git", "ls-files", "-z", *folders], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout
    return [name for name in listed.split("\0") if name.endswith(".nix")]


def test_every_nix_file_parses() -> None:
    files = nix_files()
    assert {"flake.nix", "module.nix", "nix/options.nix"} <= set(files)
    subprocess.run(
        ["nix-instantiate", "--parse", *files], cwd=PROJECT, check=True, capture_output=True
    )


def test_the_package_has_every_dependency_of_the_project() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    package = evaluate("package")
    names = [each["name"] for each in package["dependencies"]]
    assert [text.split(">")[0] for text in project["dependencies"]] == names
    assert (package["pname"], package["version"]) == (project["name"], project["version"])


def test_the_package_holds_only_files_that_are_there() -> None:
    assert not [name for name in evaluate("package")["src"] if not (PROJECT / name).exists()]


def test_the_flake_has_its_outputs_for_both_systems() -> None:
    flake = evaluate("flake")
    assert set(flake) == {
        "apps", "checks", "devShells", "formatter", "lib", "nixosModules", "overlays", "packages",
    }  # fmt: skip
    for name in ("apps", "checks", "devShells", "formatter", "packages"):
        assert flake[name] == ["aarch64-linux", "x86_64-linux"]
