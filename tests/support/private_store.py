"""A real Nix store of a test's own: store, state, logs, configuration and caches in one folder."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SANDBOX_PATHS = "/bin/sh={shell} /usr /lib /lib64 /etc/alternatives"


def stores_root() -> Path:
    """A folder that is not below a world-writable one: Nix refuses such stores."""
    root = Path(os.environ.get("RECONCILER_TEST_STORES", ""))
    if not root.is_absolute():
        root = Path("/var/lib") if os.geteuid() == 0 else Path.home() / ".cache"
        root = root / "nix-reconciler-tests"
    root.mkdir(parents=True, exist_ok=True, mode=0o755)
    return root


@dataclass(frozen=True)
class PrivateStore:
    """Where one private store lives, and the environment that makes Nix use it."""

    root: Path

    @classmethod
    def create(cls, *, settings: str = "", root: Path | None = None) -> PrivateStore:
        """Make an empty store; `settings` are further lines of its nix.conf."""
        folder = root or Path(tempfile.mkdtemp(prefix="store-", dir=stores_root()))
        folder.chmod(0o755)
        store = cls(folder)
        for name in ("store", "state", "log", "conf", "cache", "home"):
            (folder / name).mkdir(mode=0o755)
        shell = shutil.which("bash-static") or Path("/bin/sh").resolve()
        (folder / "conf" / "nix.conf").write_text(
            "experimental-features = nix-command flakes\n"
            "substituters =\n"
            "sandbox = true\n"
            "build-users-group =\n"
            "max-jobs = 2\n"
            f"sandbox-paths = {SANDBOX_PATHS.format(shell=shell)}\n" + settings
        )
        return store

    @property
    def store_dir(self) -> Path:
        """The store itself: every store path of it lies here."""
        return self.root / "store"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make any Nix command use this store and nothing of the machine's."""
        return {
            "NIX_STORE_DIR": str(self.store_dir),
            "NIX_STATE_DIR": str(self.root / "state"),
            "NIX_LOG_DIR": str(self.root / "log"),
            "NIX_CONF_DIR": str(self.root / "conf"),
            "NIX_REMOTE": "",
            "NIX_PATH": "",
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "HOME": str(self.root / "home"),
        }

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command with this store in force."""
        return subprocess.run(
            argv,
            env={**os.environ, **self.environment},
            check=check,
            capture_output=True,
            text=True,
        )

    def instantiate(self, expression: str) -> list[str]:
        """Instantiate an expression; the derivation paths."""
        return self.run("nix-instantiate", "-E", expression).stdout.split()

    def destroy(self) -> None:
        """Remove everything; store paths are read-only, so permissions are restored first."""
        for folder, _, _ in os.walk(self.root):
            Path(folder).chmod(stat.S_IRWXU)
        shutil.rmtree(self.root, ignore_errors=True)
