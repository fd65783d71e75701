"""Sources in git that take part in incremental builds, and their evaluation in private stores."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

from reconciler.incremental import inputs
from reconciler.incremental.inputs import JobBase
from reconciler.model import DrvPath, EvaluatedJob, EvaluationFailure, Protocol, Source
from reconciler.nix import basic_derivation
from reconciler.nix.endpoint import local_endpoint
from reconciler.nix.evaluation import evaluate
from reconciler.nix.expression import Given
from reconciler.source import LockedSource, lock
from reconciler.store import Store
from tests.support import eval_jobs_stand_in
from tests.support.jobsets import jobset
from tests.support.private_store import PrivateStore

LIB = Path(__file__).parents[2] / "lib"
BASE = JobBase(job="", name="app-intermediates", nar_hash=f"sha256-{'A' * 43}=")
OTHER = JobBase(job="", name="app-intermediates", nar_hash=f"sha256-{'B' * 42}A=")

GARNIX_FLAKE = """
{
  outputs = { self }: {
    lib.withCaches = self.lib.withCachesFor { };
    lib.withCachesFor =
      before:
      builtins.mapAttrs (
        type: builtins.mapAttrs (
          system: builtins.mapAttrs (
            name: value:
            if builtins.isFunction value then
              value (before.${type}.${system}.${name}.intermediates or "${./none}")
            else
              value
          )
        )
      );
  };
}
"""
"""The documented interface of the flake that garnix users name as an input."""

FLAKE = """
{
  inputs.garnix-incrementalize.url = "git+file://@garnix@";
  inputs.tool = { url = "git+file://@garnix@"; flake = false; };
  outputs = { self, garnix-incrementalize, tool }@inputs:
    let
      job = name: more: derivation (
        { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; src = self; } // more
      );
    in
    garnix-incrementalize.lib.withCaches {
      packages.x86_64-linux = {
        app = before: job "app" {
          inherit before;
          outputs = [ "out" "intermediates" ];
          uses = self.packages.x86_64-linux.lib;
          version = self.shortRev;
          inherit (self) lastModifiedDate;
          tool = "${tool}/flake.nix";
          facts = builtins.attrNames self ++ builtins.attrNames inputs;
        };
        lib = before: job "lib" { inherit before; };
        plain = job "plain" { };
        "a.b" = before: job "dotted" { inherit before; };
      };
      checks.x86_64-linux.test = before: job "test" { inherit before; };
    };
}
"""

CACHE_FLAKE = """
{
  outputs = { self }: {
    packages.x86_64-linux.app = derivation {
      name = "app"; system = "x86_64-linux"; builder = "/bin/sh";
      base = let bases = import ./cache.nix; in
        if bases == null then "" else bases."packages.x86_64-linux.app";
      about = builtins.readFile ./commit.txt;
      revision = self.rev;
    };
  };
}
"""

CACHE_FILE = """
{
  app = derivation {
    name = "app"; system = "x86_64-linux"; builder = "/bin/sh";
    base = let bases = import ./cache.nix; in if bases == null then "" else bases.app;
    about = builtins.readFile ./commit.txt;
  };
}
"""

ARG_FILE = """
{ incrementalBases, system, flavour }:
let
  job = name: derivation {
    inherit name system flavour; builder = "/bin/sh"; base = incrementalBases.${name} or "";
  };
in
{
  app = job "app";
  other = job "other";
  deep = { incrementalBases, ... }: { app = job (incrementalBases."deep.app".name or "none"); };
}
"""


class Repository:
    """A git repository."""

    def __init__(self, folder: Path, **files: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit(**files)

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    def commit(self, **files: str) -> str:
        """Files by name, with _ for the dot; the new revision."""
        for name, text in files.items():
            (self.folder / name.replace("_", ".")).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=change")
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        who = {f"GIT_{who}_NAME": "me" for who in ("AUTHOR", "COMMITTER")}
        who |= {f"GIT_{who}_EMAIL": "me@example.org" for who in ("AUTHOR", "COMMITTER")}
        argv = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(
            argv, env={**os.environ, **who}, check=True, capture_output=True, text=True
        ).stdout.strip()


def garnix_source(folder: Path, private: PrivateStore) -> Repository:
    """A flake that is written for garnix, locked."""
    garnix = folder / "garnix"
    made = Repository(garnix, flake_nix=GARNIX_FLAKE)
    (garnix / "none").mkdir()
    (garnix / "none/.gitignore").write_text("")
    made.commit()
    source = Repository(folder / "source", flake_nix=FLAKE.replace("@garnix@", str(garnix)))
    private.run("nix", "flake", "lock", str(source.folder))
    source.commit()
    return source


class Evaluator:
    """Evaluates in a store: by the built-in evaluator of a version of Nix, or a stand-in."""

    def __init__(
        self, private: PrivateStore, *, nix: Path | None = None, stand_in: bool = False
    ) -> None:
        self.private = private
        path = os.environ["PATH"] if nix is None else f"{nix}:{os.environ['PATH']}"
        if stand_in:
            path = f"{self._stand_in()}:{path}"
        self.environment = {**os.environ, **private.environment, "PATH": path}
        self.store = Store(local_endpoint(self.environment), private.root / "roots")

    def _stand_in(self) -> Path:
        folder = self.private.root / "bin"
        folder.mkdir()
        command = folder / "nix-eval-jobs"
        script = Path(eval_jobs_stand_in.__file__)
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
        command.chmod(0o755)
        return folder

    async def lock(self, source: Source) -> LockedSource:
        return await lock(source, environment=self.environment, copy=self.store.add_folder)

    async def give(self, text: str | None, *protocols: Protocol) -> Given:
        tree = None
        if text is not None:
            tree = await inputs.publish(self.store, text, scratch=self.private.root / "home")
        return Given(protocols=protocols, bases=tree)

    async def jobs(self, locked: LockedSource, given: Given | None = None) -> dict[str, str]:
        """Derivations by job; what does not evaluate fails the test."""
        found = await self.rows(locked, given)
        return {name: str(job.drv_path) for name, job in found.items()}

    async def rows(
        self, locked: LockedSource, given: Given | None = None
    ) -> dict[str, EvaluatedJob]:
        """The jobs themselves."""
        rows = evaluate(
            locked,
            jobset(),
            environment=self.environment,
            work_dir=self.private.root / "home",
            given=given,
        )
        found = {}
        async with aclosing(rows):
            async for some in rows:
                for row in some:
                    assert not isinstance(row, EvaluationFailure), row
                    found[row.attr] = row
        return found

    async def failures(self, locked: LockedSource, given: Given) -> dict[str, str]:
        rows = evaluate(
            locked,
            jobset(),
            environment=self.environment,
            work_dir=self.private.root / "home",
            given=given,
        )
        async with aclosing(rows):
            return {
                row.attr: row.message
                async for some in rows
                for row in some
                if not isinstance(row, EvaluatedJob)
            }

    def below(self, drv: str) -> list[str]:
        """The names of a derivation's input derivations."""
        whole = basic_derivation.read(DrvPath(drv))
        return sorted(Path(each).name[33:] for each in whole.input_derivations)

    def variables(self, drv: str) -> dict[str, str]:
        return dict(basic_derivation.read(DrvPath(drv)).environment)

    def elsewhere(self, script: str) -> list[str]:
        """What a script prints in an empty store of the same name, its derivations."""
        root = self.private.root / "elsewhere"
        root.mkdir()
        environment = {
            **self.environment,
            "NIX_REMOTE": f"local?root={root}",
            "NIX_STATE_DIR": str(root / "var"),
            "XDG_CACHE_HOME": str(root / "cache"),
            "HOME": str(root),
            "TMPDIR": str(self.private.root / "home"),
        }
        done = subprocess.run(
            ["sh", "-c", script],
            env=environment,
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [line.partition("!")[0] for line in done.stdout.splitlines()]
