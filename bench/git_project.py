"""Git, the program, in a repository of a benchmark's own, and a reconciler that builds it.

Whoever is timed does the whole of it: asks the repository for its newest commit, evaluates, builds,
and keeps what the build left. The builds of one salt are of one compiler, flags and dependencies.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench import debian_source
from bench.measure import FailedError, python, timed
from reconciler.build import log as build_log
from reconciler.build.mounts import hook
from reconciler.database import database_path
from reconciler.places import Places
from tests.incremental.support import LIB
from tests.support.private_store import PrivateStore
from tests.support.repositories import Repository

UNITS = 300
"""Git has more; a full build that compiled fewer was none."""
FLAGS = " CFLAGS=-O2 TEST_PROGRAMS=" + "".join(
    f" {name}=1"
    for name in (
        "NO_OPENSSL",
        "NO_CURL",
        "NO_EXPAT",
        "NO_GETTEXT",
        "NO_TCLTK",
        "NO_PERL",
        "NO_PYTHON",
        "SKIP_DASHED_BUILT_INS",
        "NO_INSTALL_HARDLINKS",
    )
)
RELEASE = """
{{ incrementalBases ? {{ }} }}:
let
  inherit (import {lib}) incremental;
  cache = incremental.compilerCache {{ }};
  make = "make -j2{flags} prefix=$out";
  system = builtins.currentSystem;
  src = ./.;
  build = "${{make}} all";
  install = "${{make}} install";
in
{{
  plain = derivation {{
    name = "git";
    inherit system src;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    salt = "{salt}";
    args = [
      "-euc"
      ''
        cp -R $src source
        chmod -R u+w source
        cd source
        ${{build}}
        ${{install}}
        :
      ''
    ];
  }};
  incremental = incremental.derivation {{
    name = "git";
    inherit system src build install;
    env.salt = "{salt}";
    base = incrementalBases.incremental or null;
  }};
  cached = incremental.derivation {{
    name = "git";
    inherit system src build install;
    inherit (cache) setup;
    env = cache.env // {{ salt = "{salt}"; }};
  }};
}}
"""


@dataclass(frozen=True, slots=True)
class Took:
    """A reconcile, and the build in it."""

    seconds: float
    build: float
    units: int
    """Compiled."""


class GitProject:
    """See the module's text."""

    def __init__(
        self,
        folder: Path,
        store: PrivateStore,
        environment: Mapping[str, str],
        *,
        archive: Path,
        job: str,
        incremental: Mapping[str, object],
    ) -> None:
        self.store = store
        self._folder = folder
        self._environment = environment
        self._state = folder / "state"
        self._config = folder / "config.json"
        self.repository = Repository.create(folder / "repository")
        debian_source.unpack(archive, self.repository.folder)
        self.repository.git("add", "--all", "--force")
        salt = str(time.time_ns())
        release = RELEASE.format(flags=FLAGS, salt=salt, lib=LIB)
        self.repository.commit("release.nix", release)
        git = {"url": self.repository.url, "ref": "main"}
        jobset = {
            "source": {"git": git, "file": "release.nix"},
            "attributes": [job],
            "evaluation": {"pure": False},
            "incremental": incremental,
        }
        document = {"jobsets": {"git": jobset}, "builders": {"local": {"maxJobs": 1}}}
        self._config.write_text(json.dumps(document))

    def install_hook(self, *, store_view: Path, compiler_caches: Path) -> None:
        """Have Nix ask the reconciler what to show builds, as an administrator does."""
        script = self._folder / "hook"
        answers = Places(self._state, self._environment).mounts
        script.write_text(hook(answers, store_view=store_view, compiler_caches=compiler_caches))
        script.chmod(0o755)
        self._environment = {**self._environment, "NIX_CONFIG": f"pre-build-hook = {script}"}

    def change(self, name: str, text: str) -> None:
        """Commit a file with something at its end."""
        self.repository.commit(name, (self.repository.folder / name).read_text() + text)

    def reconcile(self) -> Took:
        """`run --once`; FailedError where it built nothing."""
        attempts = self._newest()[0]
        options = ["--config", str(self._config), "--state-dir", str(self._state)]
        run = timed(python("reconciler", *options, "run", "--once"), self._environment)
        number, build = self._newest()
        if number != attempts + 1:
            raise FailedError(f"{number - attempts} builds were made instead of one:\n{run.output}")
        log = b"".join(build_log.read(self._state / "logs", number)).decode()
        units = len(re.findall(r"^ +CC \S+\.o$", log, re.MULTILINE))
        return Took(run.seconds, build, units)

    def bases(self) -> list[str]:
        """Where those are that are kept, oldest first."""
        rows = self.query("SELECT path FROM base WHERE released_at IS NULL ORDER BY id")
        return [str(path) for (path,) in rows]

    def keeping(self) -> list[float]:
        """How long after each build its base was there, in seconds."""
        return [
            float(seconds)
            for (seconds,) in self.query(
                "SELECT kept.at - (SELECT max(built.at) FROM event built WHERE built.id < kept.id"
                " AND built.kind = 'build' AND built.after = 'succeeded')"
                " FROM event kept WHERE kept.kind = 'base' AND kept.after = 'kept' ORDER BY kept.id"
            )
        ]

    def _newest(self) -> tuple[int, float]:
        """The number of the newest attempt, and how long it took."""
        if not database_path(self._state).exists():
            return 0, 0.0
        rows = self.query("SELECT id, finished_at - started_at FROM attempt ORDER BY id DESC")
        return (int(rows[0][0]), float(rows[0][1])) if rows else (0, 0.0)

    def query(self, sql: str) -> list[tuple[str | float, ...]]:
        """Rows of the state's database."""
        uri = f"file:{database_path(self._state)}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(sql).fetchall()
