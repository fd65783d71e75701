"""sccache with what compilers keep: each build has a server of its own, which ends with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.shown import install
from tests.support.trial import Trial
from tests.system.test_compiler_cache import STRATEGY
from tests.system.test_hidden import HIDDEN
from tests.system.test_incremental import UNITS, Project

ASKED = 'incremental.compilerCache { tool = "sccache"; maxSize = "100M"; }'
TELL = "sccache --show-stats --stats-format json"
ASKING = HIDDEN.replace('build = "make";', f'inherit ({ASKED}) env setup; build = "make; {TELL}";')


@pytest.fixture
def project(trial: Trial) -> Project:
    install(trial)
    made = Project(trial)
    made.commit("release.nix", ASKING)
    made.declare(**STRATEGY)
    return made


def counts(log: str, language: str = "C/C++") -> tuple[int, int]:
    """Hits and misses of a build."""
    (line,) = re.findall(r'^\{"stats":.*\}', log, re.MULTILINE)
    stats = json.loads(line)["stats"]
    assert stats["cache_write_errors"] == 0
    hits, misses = (
        stats[each]["counts"].get(language, 0) for each in ("cache_hits", "cache_misses")
    )
    return hits, misses


def servers(trial: Trial) -> list[str]:
    """The processes of sccache that see the sandbox of a build of this trial."""
    found = subprocess.run(["pgrep", "-x", "sccache"], capture_output=True, text=True, check=False)
    seen = [Path("/proc", each, "mountinfo") for each in found.stdout.split()]
    return [str(each) for each in seen if each.exists() and str(trial.root) in each.read_text()]


def test_what_was_compiled_before_is_not_compiled_again(project: Project) -> None:
    trial = project.trial
    log = project.run()
    assert "incremental: compilers' cache" in log
    assert counts(log) == (0, UNITS + 1)
    project.edit(1, 5)
    assert counts(project.run()) == (UNITS, 1)
    assert project.result() == "7"
    assert trial.conditions() == {}
    (cache,) = (trial.root / "compilers").iterdir()
    # sccache takes nothing from a file of another user's.
    kept = [each for each in (cache / f"sccache/{os.getuid()}").rglob("*") if each.is_file()]
    assert len(kept) == UNITS + 2
    # The next build user makes a folder beside, and the group removes them all.
    folders = [each for each in cache.rglob("*") if each.is_dir()]
    assert all(each.stat().st_mode & 0o2070 == 0o2070 for each in folders)


def test_the_result_is_the_one_of_a_build_without(project: Project) -> None:
    project.commit("release.nix", ASKING.replace(TELL, ":"))
    project.run()
    project.edit(1, 5)
    project.run()
    trial = project.trial
    drv = trial.value("SELECT d.path FROM derivation d WHERE d.name = 'app' ORDER BY d.id DESC")
    checked = trial.store.run("nix-store", "--realise", "--check", drv, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "incremental: no compilers' cache" in checked.stderr


MEETING = """
let
  inherit (import ./lib) incremental;
  cache = @asked@;
  job = name: script: derivation ({
    inherit name;
    system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    args = [ "-euc" "${cache.setup}\\n${script}\\n:" ];
  } // cache.env);
  compile = number: "echo 'int n = ${number};' > a.c; gcc -c a.c; @tell@; @tell@ > $out; ";
in
{
  # Each waits until the other one has its server.
  one = job "one" "echo > /meeting/one; read -r _ < /meeting/two; ${compile "1"}";
  two = job "two" "read -r _ < /meeting/one; echo > /meeting/two; ${compile "2"}";
}
"""


def test_builds_at_the_same_time_have_servers_of_their_own(project: Project) -> None:
    trial = project.trial
    meeting = trial.root / "meeting"
    meeting.mkdir()
    for each in ("one", "two"):
        os.mkfifo(meeting / each)
    with (trial.store.root / "conf/nix.conf").open("a") as file:
        file.write(f"extra-sandbox-paths = /meeting={meeting}\n")
    expression = MEETING.replace("@asked@", ASKED).replace("@tell@", TELL)
    project.commit("release.nix", expression)
    assert trial.once()
    outputs = trial.query("SELECT path FROM output WHERE path IS NOT NULL")
    assert [counts(Path(path).read_text()) for (path,) in outputs] == [(0, 1)] * 2
    assert servers(trial) == []


PLAIN = """
let
  inherit (import ./lib) incremental;
  cache = @asked@;
in
{
  app = derivation ({
    name = "app"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    args = [ "-euc" "${cache.setup}\\necho 'int n;' > a.c; gcc -c a.c; echo > $out\\n:" ];
    @more@
  } // cache.env);
}
"""
RUST = ASKING.replace(
    f'{TELL}"',
    "[ $CARGO_INCREMENTAL = 0 ]; cd ..; echo 'int n;' > n.c; $RUSTC_WRAPPER /usr/bin/gcc -c n.c; "
    f'{TELL}"',
)
FIXED = 'outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "@hash@";'
NEWLINE = "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b"


def test_cargo_is_told_of_it(project: Project) -> None:
    """What it calls in front of rustc asks the same server."""
    assert RUST != ASKING
    project.commit("release.nix", RUST)
    assert counts(project.run()) == (0, UNITS + 2)


def test_a_build_with_a_network_compiles_plainly(project: Project) -> None:
    """Whoever else has that network could ask its server, and answer in its stead."""
    more = FIXED.replace("@hash@", NEWLINE)
    project.commit("release.nix", PLAIN.replace("@asked@", ASKED).replace("@more@", more))
    told = "incremental: no compilers' cache: sccache is no use to a build with a network"
    assert told in project.run()
    assert project.trial.builds() == {"app": "succeeded"}


def test_without_a_sandbox_it_compiles_plainly(project: Project) -> None:
    """Nix runs no hook then."""
    with (project.trial.store.root / "conf/nix.conf").open("a") as file:
        file.write("sandbox = false\n")
    project.commit("release.nix", PLAIN.replace("@asked@", ASKED).replace("@more@", ""))
    assert "incremental: no compilers' cache\n" in project.run()
    assert project.trial.builds() == {"app": "succeeded"}


BROKEN = (
    "mkdir bin; printf '#!/bin/sh\\\\nexit 2\\\\n' > bin/sccache; chmod +x bin/sccache;"
    " PATH=$PWD/bin:$PATH; "
)


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (BROKEN, "sccache's server does not start"),
        ("PATH=/nowhere; ", "there is no sccache"),
    ],
    ids=["broken", "none"],
)
def test_what_does_not_start_is_told(project: Project, before: str, told: str) -> None:
    expression = PLAIN.replace("@asked@", ASKED).replace("@more@", "")
    broken = expression.replace('"-euc" "', f'"-euc" "real=$PATH\\n{before}').replace(
        "\\necho 'int", "\\nPATH=$real; echo 'int"
    )
    project.commit("release.nix", broken)
    assert f"incremental: no compilers' cache: {told}\n" in project.run()
    assert project.trial.builds() == {"app": "succeeded"}
