"""Real git repositories for tests."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Repository:
    """A repository with a work tree."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Repository:
        """Make an empty one, whose first branch is main."""
        folder.mkdir(parents=True)
        made = cls(folder)
        made.git("init", "-q")
        return made

    @property
    def url(self) -> str:
        """As git takes it."""
        return f"file://{self.folder}"

    def git(self, *argv: str, **variables: str) -> str:
        """Run git in it; what it prints."""
        environment = {
            **os.environ,
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "c",
            "GIT_COMMITTER_EMAIL": "c@example.org",
            **variables,
        }
        done = subprocess.run(
            ["git", "-c", "init.defaultBranch=main", *argv],
            cwd=self.folder,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self, name: str, text: str, *, at: int | None = None) -> str:
        """Write and commit a file on the present branch (`at`: seconds since the epoch); the
        revision.
        """
        (self.folder / name).write_text(text)
        self.git("add", name)
        when = {} if at is None else {"GIT_COMMITTER_DATE": f"@{at} +0000"}
        self.git("commit", "-q", "--allow-empty", "-m", f"change {name}", **when)
        return self.revision()

    def branch(self, name: str, start: str = "main") -> None:
        """Begin a branch, and go to it."""
        self.git("checkout", "-q", "-b", name, start)

    def revision(self, name: str = "HEAD") -> str:
        """The commit at which something is."""
        return self.git("rev-parse", name)
