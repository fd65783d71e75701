"""What compilers keep, by the whole reconciler: builds that ask for it are shown it, per source."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli import cli
from reconciler.errors import UsageError
from tests.cli.farm import check_schema
from tests.support.shown import install
from tests.support.trial import Trial
from tests.system.test_forks import push_fork
from tests.system.test_hidden import HIDDEN
from tests.system.test_incremental import UNITS, Project, unit_source

ASKING = HIDDEN.replace(
    'build = "make";',
    'inherit (incremental.compilerCache { maxSize = "100M"; }) env setup; build = "make";',
)
STRATEGY = {"strategy": "compiler-cache"}


@pytest.fixture
def project(trial: Trial) -> Project:
    install(trial)
    made = Project(trial)
    made.commit("release.nix", ASKING)
    return made


def caches(trial: Trial) -> dict[str, tuple[int, int]]:
    """Hits and misses of what is kept, by folder."""
    found = {}
    for folder in (trial.root / "compilers").iterdir():
        told = subprocess.run(
            ["ccache", "--dir", folder, "--print-stats"], check=True, capture_output=True, text=True
        )
        counts = dict(line.split("\t") for line in told.stdout.splitlines())
        hits = int(counts["direct_cache_hit"]) + int(counts["preprocessed_cache_hit"])
        found[folder.name.rpartition("-")[0]] = hits, int(counts["cache_miss"])
    return found


def test_what_was_compiled_before_is_not_compiled_again(project: Project) -> None:
    trial = project.trial
    project.declare(**STRATEGY)
    project.run()
    assert caches(trial) == {"it": (0, UNITS + 1)}
    project.edit(1, 5)
    log = project.run()
    assert "incremental: compilers' cache" in log
    assert caches(trial) == {"it": (UNITS, UNITS + 2)}
    assert project.result() == "7"
    assert trial.query("SELECT kind, refused FROM mount") == [("compiler-cache", None)] * 2
    assert trial.query("SELECT * FROM build_base") == []
    assert trial.conditions() == {}


def test_the_result_is_the_one_of_a_build_without(project: Project) -> None:
    trial = project.trial
    project.declare(**STRATEGY)
    project.run()
    project.edit(1, 5)
    project.run()
    drv = trial.value("SELECT d.path FROM derivation d WHERE d.name = 'app' ORDER BY d.id DESC")
    # Nobody says anything to the hook now.
    checked = trial.store.run("nix-store", "--realise", "--check", drv, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "incremental: no compilers' cache" in checked.stderr
    assert caches(trial) == {"it": (UNITS, UNITS + 2)}


def test_each_source_has_its_own_and_others_see_none(project: Project) -> None:
    trial = project.trial
    project.declare(**STRATEGY)
    document = json.loads(trial.config.read_text())
    jobset = document["jobsets"]["it"]
    other = Path(project.folder.parent / "copy")
    project.repository.git("clone", "-q", str(project.folder), str(other))
    git = {"url": f"file://{other}", "ref": "main"}
    document["jobsets"]["its"] = {**jobset, "source": {"git": git, "file": "release.nix"}}
    project.edit(1, 5)
    trial.document(document)
    assert trial.once()
    assert caches(trial) == {"it": (0, UNITS + 1), "its": (0, UNITS + 1)}


WRAPPED = """
let
  inherit (import ./lib) incremental;
  cache = incremental.compilerCache { tool = "@tool@"; maxSize = "100M"; };
  job = name: flags: after: derivation ({
    inherit name after;
    system = "x86_64-linux"; builder = "/bin/sh"; PATH = "${./wrappers}:/usr/bin:/bin";
    args = [ "-euc" "${cache.setup}\n
      export NIX_CFLAGS_COMPILE=${flags}; cp ${./src}/value.c .; gcc -c value.c; gcc -o app value.o
      ./app > $out || echo $? > $out\n:" ];
  } // cache.env);
in
rec {
  one = job "one" "-fsigned-char" "";
  two = job "two" "-funsigned-char" one;
  three = job "three" "-fsigned-char" two;
}
"""
DECEIVING = """#!/bin/sh
[ ! -e /unseen/wrong ] || set -- -funsigned-char "$@"
exec /usr/bin/gcc "$@"
"""
WRAPPER = '#!/bin/sh\nexec /usr/bin/gcc $NIX_CFLAGS_COMPILE "$@"\n'


@pytest.mark.parametrize("tool", ["ccache", "sccache"])
def test_flags_that_a_wrapper_takes_from_the_environment_count(project: Project, tool: str) -> None:
    """As nixpkgs' compilers do: the preprocessed source is the same, what is compiled is not."""
    (project.folder / "wrappers").mkdir()
    project.write("wrappers/gcc", WRAPPER)
    (project.folder / "wrappers/gcc").chmod(0o755)
    project.write("src/value.c", "int main(void) { return (char)-1 < 0 ? 1 : 2; }\n")
    project.commit("release.nix", WRAPPED.replace("@tool@", tool))
    project.declare(**STRATEGY)
    assert project.trial.once()
    rows = "SELECT d.name, o.path FROM output o JOIN derivation d ON d.id = o.derivation"
    results = {name: Path(path).read_text().strip() for name, path in project.trial.query(rows)}
    assert results == {"one": "1", "two": "2", "three": "1"}
    if tool == "ccache":
        assert caches(project.trial) == {"it": (1, 2)}


def test_what_an_audit_by_hand_finds_is_mended_by_hand(project: Project) -> None:
    """As docs/incremental.md tells: no audit of ours is made of these builds."""
    trial = project.trial
    unseen = trial.root / "unseen"
    unseen.mkdir()
    with (trial.store.root / "conf/nix.conf").open("a") as file:
        file.write(f"extra-sandbox-paths = /unseen={unseen}\n")
    (project.folder / "wrappers").mkdir()
    project.write("wrappers/gcc", DECEIVING)
    (project.folder / "wrappers/gcc").chmod(0o755)
    project.write("src/value.c", "int main(void) { return (char)-1 < 0 ? 1 : 2; }\n")
    one = WRAPPED.replace("@tool@", "ccache").partition("two =")[0].replace("-fsigned-char", "-g0")
    project.commit("release.nix", one + "}\n")
    project.declare(**STRATEGY)
    (unseen / "wrong").touch()
    assert trial.once()
    (unseen / "wrong").unlink()
    ((drv, out),) = trial.query(
        "SELECT d.path, o.path FROM derivation d JOIN output o ON o.derivation = d.id"
    )
    assert Path(out).read_text() == "2\n"
    checked = trial.store.run("nix-store", "--realise", "--check", drv, check=False)
    assert f"derivation '{drv}' may not be deterministic" in checked.stderr
    (cache,) = (trial.root / "compilers").iterdir()
    shutil.rmtree(cache)
    trial.store.run("nix-store", "--delete", "--ignore-liveness", out)
    assert trial.once()
    assert Path(out).read_text() == "1\n"
    assert caches(trial) == {"it": (0, 1)}


def test_an_audit_that_is_asked_for_is_refused(project: Project) -> None:
    trial = project.trial
    project.declare(**STRATEGY)
    project.run()
    places = ("--config", str(trial.config), "--state-dir", str(trial.state_dir))
    with pytest.raises(UsageError, match=r"enable` with the strategy pure or hidden in jobset it"):
        CliRunner().invoke(cli, [*places, "incremental", "audit", "it.app"], catch_exceptions=False)


def test_without_the_hook_it_is_compiled_plainly_and_said(trial: Trial) -> None:
    project = Project(trial)
    project.commit("release.nix", ASKING)
    project.declare(**STRATEGY)
    assert "incremental: no compilers' cache" in project.run()
    ((_, _, name),) = trial.conditions()
    assert name == "not-incremental"
    ((kind, refused),) = trial.query("SELECT kind, refused FROM mount")
    assert kind == "compiler-cache"
    assert refused.startswith("Nix ran no pre-build-hook of ours")


def test_an_untrusted_branch_is_shown_nothing(project: Project) -> None:
    """What it kept would be compiled into what is at the path of everybody's clean build."""
    git = {"url": project.repository.url, "branches": ["main", "refs/pull/*/head"]}
    project.source = {"git": git, "file": "release.nix"}
    project.declare(**STRATEGY)
    project.run()
    assert caches(project.trial) == {"it": (0, UNITS + 1)}
    push_fork(project, "src/unit1.c", unit_source(1, 5))
    assert "incremental: no compilers' cache" in project.run()
    assert caches(project.trial) == {"it": (0, UNITS + 1)}
    assert project.trial.conditions() == {}


def test_what_is_kept_for_a_source_goes_with_it(project: Project) -> None:
    trial = project.trial
    project.declare(**STRATEGY)
    project.run()
    (trial.root / "compilers" / "of-another-farm").mkdir()
    trial.declare({"other": "{ }"})
    trial.once()
    assert [each.name for each in (trial.root / "compilers").iterdir()] == ["of-another-farm"]
    project.declare(**STRATEGY)
    project.edit(1, 5)
    project.run()
    assert sorted(each.name[:3] for each in (trial.root / "compilers").iterdir()) == ["it-", "of-"]


def test_status_tells_how_large_it_is(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = project.trial
    project.declare(**STRATEGY)
    project.run()
    monkeypatch.setenv("RECONCILER_COMPILER_CACHES", str(trial.root / "compilers"))
    places = ("--config", str(trial.config), "--state-dir", str(trial.state_dir))
    run = CliRunner().invoke(cli, [*places, "incremental", "status", "--json"])
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout)
    check_schema(told, "incremental-status")
    (cache,) = told["compilerCaches"]
    assert cache["name"].startswith("it-")
    assert cache["size"] > 1000
    run = CliRunner().invoke(cli, [*places, "incremental", "status"])
    assert run.stdout.startswith(f"compilers' cache {cache['name']}: ")
