"""The source of a Debian package, as its authors released it; fetched once, with an apt of our own.

The machine's apt need not know of sources, and is not changed: only its mirror is taken from it,
and the archive's keys. Nothing is unpacked over what was fetched before.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measure import FailedError

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
CONFIGURATION = """
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
APT::Sandbox::User "root";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
"""


def fetched(package: str, cache: Path) -> Path:
    """The archive of a package's source, in a folder that keeps it."""
    cache.mkdir(parents=True, exist_ok=True)
    if not (found := sorted(cache.glob(f"{package}_*.orig.tar.*"))):
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _fetch(package, Path(folder))
            for each in Path(folder).glob(f"{package}_*.orig.tar.*"):
                each.rename(cache / each.name)
        found = sorted(cache.glob(f"{package}_*.orig.tar.*"))
    if not found:
        raise FailedError(f"Debian's source package {package} has no archive of its authors")
    return found[-1]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive whose files lie in a folder of theirs into one that is there."""
    _run(["tar", "-xf", archive, "-C", folder, "--strip-components=1"])


def _fetch(package: str, folder: Path) -> None:
    """Apt checks signatures and hashes."""
    for each in ("lists/partial", "archives/partial"):
        (folder / each).mkdir(parents=True)
    (folder / "status").touch()
    configuration = folder / "apt.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder))
    (folder / "sources.list").write_text(f"deb-src [signed-by={KEYS}] {_mirror()} main\n")
    variables = {"APT_CONFIG": str(configuration)}
    _run(["apt-get", "-qq", "update", "-o", "APT::Update::Error-Mode=any"], variables)
    _run(["apt-get", "-qq", "source", "--download-only", package], variables, folder)


def _mirror() -> str:
    """The first one that the machine's apt knows, and its suite; not one of updates to that."""
    wanted = ["Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main"]
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", *wanted]
    known = [line for line in _run(targets).splitlines() if "-" not in line.split()[-1]]
    if not known:
        raise FailedError("apt knows no Debian mirror: run apt-get update as root")
    return known[0]


def _run(
    argv: Sequence[str | Path],
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **(variables or {})},
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise FailedError(f"{argv[0]} is not there: this needs Debian") from None
    except subprocess.CalledProcessError as error:
        raise FailedError(f"{argv[0]} ended with {error.returncode}: {error.stderr}") from None
    return done.stdout
