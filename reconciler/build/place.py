"""Where an attempt is made: what it asks of any place, and the local store as one.

The limits of an attempt count for `build` only: bringing what it needs there, and what it made
here, takes its own time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from reconciler.model import DrvPath, PathInfo
from reconciler.nix.connection import Connection
from reconciler.nix.logs import LogHandler
from reconciler.nix.protocol import BuildResult


class Place(Protocol):
    """Called in this order, once. Everything raises NixError where it cannot be done."""

    async def prepare(self, drv: DrvPath) -> None:
        """Have all that the build needs be there."""

    async def build(self, drv: DrvPath, *, on_log: LogHandler) -> BuildResult:
        """Build all outputs; what fails of the build's own is a result."""

    async def outputs(self, result: BuildResult) -> Mapping[str, PathInfo]:
        """What a good build made, there, by the outputs' names."""

    async def bring(self, outputs: Mapping[str, PathInfo]) -> None:
        """Have the outputs be valid in the local store."""


class Here:
    """The local store: nothing has far to go."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def prepare(self, drv: DrvPath) -> None:
        """Nix sees to it when it builds."""

    async def build(self, drv: DrvPath, *, on_log: LogHandler) -> BuildResult:
        """Build all outputs."""
        return await self._connection.build(drv, on_log=on_log)

    async def outputs(self, result: BuildResult) -> Mapping[str, PathInfo]:
        """What a good build made."""
        asked = {
            name: await self._connection.query_path_info(path)
            for name, path in result.outputs.items()
        }
        return {name: info for name, info in asked.items() if info is not None}

    async def bring(self, outputs: Mapping[str, PathInfo]) -> None:
        """They are here."""
