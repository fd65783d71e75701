"""Where an attempt is made: what it asks of any place, and the local store as one.

The limits of an attempt count for `build` only: bringing what it needs there, and what it made
here, takes its own time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from reconciler.build import sending
from reconciler.errors import NixError
from reconciler.model import DrvPath, PathInfo, StorePath
from reconciler.nix import basic_derivation
from reconciler.nix.basic_derivation import BasicDerivation
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
        self._sent: BasicDerivation | None = None
        self._inputs: Collection[StorePath] = ()

    async def prepare(self, drv: DrvPath) -> None:
        """Nix sees to it when it builds, but not of what is sent to it."""
        if not basic_derivation.asks_for_resources(drv):
            return
        self._sent = basic_derivation.read(drv)
        if sending.is_sent(self._connection, self._sent):
            try:
                self._inputs = sending.inputs(self._sent)
            except NixError:  # of unknown paths Nix makes another derivation, and sends that
                self._sent = None
                return
            await self._connection.add_temp_roots(self._inputs)
            await self._connection.query_valid_paths(self._inputs, substitute=True)

    async def build(self, drv: DrvPath, *, on_log: LogHandler) -> BuildResult:
        """Build all outputs."""
        if self._sent is None:
            return await self._connection.build(drv, on_log=on_log)
        return await sending.build(self._connection, self._sent, self._inputs, on_log=on_log)

    async def outputs(self, result: BuildResult) -> Mapping[str, PathInfo]:
        """What a good build made."""
        infos = await self._connection.query_path_infos(tuple(result.outputs.values()))
        return {name: infos[path] for name, path in result.outputs.items() if path in infos}

    async def bring(self, outputs: Mapping[str, PathInfo]) -> None:
        """They are here."""
