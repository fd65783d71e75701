"""Where a reconciler keeps things, and the environment that Nix and git are run with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct


class Places(Struct, frozen=True):
    """The folders below one state directory."""

    state_dir: Path
    environment: Mapping[str, str]

    @property
    def logs(self) -> Path:
        """Build logs."""
        return self.state_dir / "logs"

    @property
    def roots(self) -> Path:
        """GC roots."""
        return self.state_dir / "gcroots"

    @property
    def host_keys(self) -> Path:
        """The pinned host keys of builders, as ssh reads them."""
        return self.state_dir / "ssh"

    @property
    def mirrors(self) -> Path:
        """The commits of repositories whose branches are listed, by jobset."""
        return self.state_dir / "mirrors"

    @property
    def overlays(self) -> Path:
        """Commits of ours on top of those of sources, by jobset."""
        return self.state_dir / "overlays"

    @property
    def mounts(self) -> Path:
        """What builds are to be shown, for Nix's pre-build-hook."""
        return self.state_dir / "mounts"

    @property
    def scratch(self) -> Path:
        """What evaluations write while they run."""
        return self.state_dir / "tmp"

    def clear(self) -> None:
        """Remove what a killed daemon left of evaluations and builds; the state must be locked."""
        shutil.rmtree(self.mounts, ignore_errors=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(mode=0o700)
