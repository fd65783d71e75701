"""The greeting that opens a worker-protocol connection, and which peers are refused.

Says what version and features both sides speak; sends no operation.
"""

from __future__ import annotations

import re

from msgspec import Struct

from reconciler.nix import protocol
from reconciler.nix.endpoint import Channel
from reconciler.nix.logs import RefusedError
from reconciler.nix.protocol import Version
from reconciler.nix.wire import PeerError, strings, word

_ALLOWANCE = 64 * 1024
_NAMES_ITSELF_SINCE: Version = (1, 33)


class Greeting(Struct, frozen=True, kw_only=True):
    """What a daemon said of itself."""

    version: Version
    """Of the protocol spoken: the older of both sides'."""
    features: frozenset[str]
    nix_version: str
    trusted: bool | None


async def greet(channel: Channel) -> Greeting:
    """Exchange greetings. Raises RefusedError for a daemon that is too old or too new for us."""
    reader = channel.reader
    reader.allow(_ALLOWANCE)
    await channel.send(word(protocol.CLIENT_MAGIC) + word(_number(protocol.NEWEST)))
    if (magic := await reader.word()) != protocol.DAEMON_MAGIC:
        raise PeerError(f"it is no Nix daemon: it greeted with {magic.to_bytes(8, 'little')!r}")
    theirs = divmod(await reader.word() & 0xFFFF, 256)
    if theirs[0] != protocol.NEWEST[0] or theirs < _NAMES_ITSELF_SINCE:
        raise _refusal("it", theirs)
    version = min(theirs, protocol.NEWEST)
    features: frozenset[str] = frozenset()
    if version >= protocol.FEATURES_SINCE:
        await channel.send(strings(sorted(protocol.OFFERED_FEATURES)))
        features = frozenset(await reader.texts()) & protocol.OFFERED_FEATURES
    await channel.send(bytes(16))  # processor affinity, reserved space: both obsolete
    nix_version = await reader.text()
    if version < protocol.OLDEST or not _recent(nix_version):
        raise _refusal(f"Nix {nix_version}", theirs)
    trusted = {1: True, 2: False}.get(await reader.word())
    return Greeting(version=version, features=features, nix_version=nix_version, trusted=trusted)


def _number(version: Version) -> int:
    return version[0] << 8 | version[1]


def _recent(nix_version: str) -> bool:
    """Whether a release is one we speak to; a name that tells no number is given the chance."""
    found = re.match(r"(\d+)\.(\d+)", nix_version)
    return found is None or (int(found[1]), int(found[2])) >= protocol.OLDEST_NIX


def _refusal(who: str, version: Version) -> RefusedError:
    return RefusedError(
        f"{who} speaks version {version[0]}.{version[1]} of the worker protocol; supported are"
        " Nix 2.24 and later, and Lix"
    )
