"""Try a builder in earnest: reach it, have it build something tiny, and bring that here.

What an attempt does, on the same ways, step by step and timed. Whether the builder is fit for what
is declared of it is found out by its own Nix: what it is to build requires all the features.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path

from msgspec import Struct

from reconciler import process
from reconciler.build import failures
from reconciler.build.mounts import Mount, shown
from reconciler.build.place import Here, Place
from reconciler.build.pool import LOCAL_OPTIONS
from reconciler.build.remote import RemoteBuilder
from reconciler.errors import NixError
from reconciler.model import Builder, DrvPath
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import OPEN_TIMEOUT, local_endpoint
from reconciler.nix.expression import native_system, nix_string
from reconciler.nix.logs import ignore

PATIENCE = 120.0
"""Seconds within which a builder must have built something tiny, which may wait for a slot."""


class Probe(Struct, frozen=True, kw_only=True):
    """What a builder that works is like. Durations in seconds, the longest of several."""

    nix_version: str
    trusted: bool | None
    """Whether its daemon trusts us; None: it does not say."""
    systems: tuple[str, ...]
    """What it built for."""
    connecting: float
    building: float
    fetching: float


async def probe(
    builder: Builder, systems: Collection[str], folder: Path, environment: Mapping[str, str]
) -> Probe:
    """Try a builder for each of the systems; `folder` takes its pinned host key.

    Raises NixError with the reason where something does not work, UsageError for a declaration
    that makes no sense.
    """
    local = local_endpoint(environment)
    async with await Connection.open(local, options=LOCAL_OPTIONS, patience=OPEN_TIMEOUT) as here:
        if builder.uri is None:
            return await _try(builder, systems, Here(here), here, 0.0, environment)
        remote = RemoteBuilder(builder, folder, environment)
        began = time.monotonic()
        async with await remote.connect() as there:
            took = time.monotonic() - began
            place = remote.place(there, here)
            return await _try(builder, systems, place, there, took, environment)


async def probe_mount(mount: Mount, answers: Path, environment: Mapping[str, str]) -> str | None:
    """Have something tiny built here that is to be shown something; why it was not. NixError."""
    local = local_endpoint(environment)
    system = native_system()
    async with await Connection.open(local, options=LOCAL_OPTIONS, patience=OPEN_TIMEOUT) as here:
        drv = await _something_new(system, (), environment)
        with shown(answers, drv, mount) as found:
            async with asyncio.timeout(PATIENCE):
                await _build(Here(here), drv, system)
    return found.refused


async def _try(
    builder: Builder,
    systems: Collection[str],
    place: Place,
    peer: Connection,
    connecting: float,
    environment: Mapping[str, str],
) -> Probe:
    building = fetching = 0.0
    for system in sorted(systems):
        drv = await _something_new(system, builder.supported_features, environment)
        try:
            async with asyncio.timeout(PATIENCE):
                built, fetched = await _build(place, drv, system)
        except TimeoutError:
            raise NixError(
                f"{peer.endpoint} has not built something tiny for {system} in {PATIENCE:.0f}"
                " seconds: is it overloaded, or does a build there never end?"
            ) from None
        building, fetching = max(building, built), max(fetching, fetched)
    return Probe(
        nix_version=peer.nix_version,
        trusted=peer.trusted,
        systems=tuple(sorted(systems)),
        connecting=connecting,
        building=building,
        fetching=fetching,
    )


async def _build(place: Place, drv: DrvPath, system: str) -> tuple[float, float]:
    """Build and bring it here; the seconds that each of it took."""
    began = time.monotonic()
    await place.prepare(drv)
    result = await place.build(drv, on_log=ignore)
    failure = failures.of_result(result.status, result.message)
    if failure is not None:
        said = "; ".join(failures.told(failure, result.message).splitlines())
        raise NixError(
            f"it does not build something tiny for {system}: {said}. Are the declared systems and"
            " supportedFeatures those of its Nix (system, extra-platforms, system-features)?"
        )
    built = time.monotonic()
    await place.bring(await place.outputs(result))
    return built - began, time.monotonic() - built


async def _something_new(
    system: str, features: Collection[str], environment: Mapping[str, str]
) -> DrvPath:
    """A derivation that nobody has built yet."""
    required = " ".join(map(nix_string, features))
    expression = (
        f'derivation {{ name = "reconciler-doctor"; system = {nix_string(system)};'
        f' builder = "/bin/sh"; args = [ "-c" "echo {uuid.uuid4()} > $out" ];'
        f" requiredSystemFeatures = [ {required} ]; }}"
    )
    made = await process.run(
        ["nix-instantiate", "--expr", expression], env=environment, timeout=PATIENCE
    )
    if made.returncode != 0:
        raise NixError(f"nix-instantiate fails on this machine: {made.stderr.strip()}")
    return DrvPath(made.stdout.decode().strip())
