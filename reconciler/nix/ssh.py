"""The way to another machine's store: ssh to its Nix daemon, and what went wrong where that fails.

Makes the command line and the endpoint, and turns ssh's words into one class and one sentence. The
protocol that is spoken then is `connection`'s. Nothing of the user's own ssh configuration has a
say, and nothing is ever asked: a builder or a cache is exactly what the document declares.

Sources: ssh(1), ssh_config(5); the texts were recorded from OpenSSH 9.2 and Nix 2.26 and 2.34.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from reconciler.config.host_keys import canonical
from reconciler.errors import ConnectionLostError, NixError, UsageError
from reconciler.model import Builder, Cache
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import CommandEndpoint
from reconciler.nix.protocol import ClientOptions

CONNECT_TIMEOUT = 10
"""Seconds for a connection and the server's greeting."""
ALIVE_INTERVAL = 5
ALIVE_COUNT = 3
"""A peer that leaves so many questions at such intervals, in seconds, unanswered is lost."""
OPEN_TIMEOUT = 40.0
"""Seconds until the daemon must have greeted us: longer than ssh takes to say why it does not."""

_COMMAND = "nix-daemon --stdio"
_ALIAS = "peer"
"""What a pinned key is filed under: each peer has a file of its own."""


class Fault(StrEnum):
    """What kept us from a peer."""

    UNRESOLVED = "unknown host"
    UNREACHABLE = "unreachable"
    REFUSED = "connection refused"
    HOST_KEY_UNKNOWN = "host key unknown"
    HOST_KEY_WRONG = "host key wrong"
    KEY_FILE = "ssh key unusable"
    DENIED = "permission denied"
    NO_NIX = "no Nix"
    NOT_ALLOWED = "Nix not allowed"
    TOO_OLD = "Nix too old"
    NOISE = "not a Nix daemon"
    BROKEN = "Nix does not start"
    LOST = "lost"

    @property
    def passing(self) -> bool:
        """Whether it may pass by itself; the others last until somebody mends something."""
        return self in (Fault.UNRESOLVED, Fault.UNREACHABLE, Fault.REFUSED, Fault.LOST)


class SshError(ConnectionLostError):
    """A peer cannot be used: its class, and a sentence with the mend."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault

    @property
    def passing(self) -> bool:
        """As of its class."""
        return self.fault.passing


# --- Who it is -----------------------------------------------------------------------------------


class Peer(Struct, frozen=True, kw_only=True):
    """A machine that the document declares, as a builder or as a cache."""

    kind: str
    name: str
    """Of the object that declares it."""
    uri: str
    user: str | None
    host: str
    port: int | None
    key_file: str | None
    """None: what ssh finds by itself."""
    host_key: str | None
    """As the document has it. None: what ssh knows of it already."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


_URI = re.compile(
    r"ssh-ng://(?:(?P<user>[A-Za-z0-9._][A-Za-z0-9._-]*)@)?"
    r"(?:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)|\[(?P<number>[0-9A-Fa-f:.]+)\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
"""No part begins with a hyphen, and so none is taken for an option of ssh."""


def peer_of(declared: Builder | Cache) -> Peer:
    """The machine that a builder or a cache is; UsageError where its uri names none."""
    kind = "builder" if isinstance(declared, Builder) else "cache"
    found = _URI.fullmatch(declared.uri or "")
    port = int(found["port"]) if found and found["port"] else None
    if found is None or declared.uri is None or (port is not None and not 0 < port < 2**16):
        raise UsageError(
            f"{kind} {declared.name}: {declared.uri!r} is no address of a {kind}; write"
            " ssh-ng://USER@HOST or ssh-ng://USER@HOST:PORT"
        )
    return Peer(
        kind=kind,
        name=declared.name,
        uri=declared.uri,
        user=found["user"],
        host=found["name"] or found["number"],
        port=port,
        key_file=declared.ssh_key_file,
        host_key=declared.public_host_key,
    )


# --- The command line ----------------------------------------------------------------------------


def host_key(text: str) -> str:
    """A public host key as known_hosts has it, without the comment.

    Given as in a `.pub` file, or that in base64 as in `nix.buildMachines`. UsageError otherwise.
    """
    known = canonical(text)
    if known is None:
        raise UsageError(
            f"{text!r} is no public host key: write the type and the key as in"
            ' /etc/ssh/ssh_host_ed25519_key.pub, such as "ssh-ed25519 AAAA…"'
        )
    return known


def endpoint(
    peer: Peer, folder: Path, environment: Mapping[str, str] | None = None
) -> CommandEndpoint:
    """How a peer is reached. Its pinned host key is written to a file in `folder`.

    UsageError where that is none.
    """
    options = {
        # Nothing is asked, and no agent, forwarding, or file of a user adds to what is declared.
        "BatchMode": "yes",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PermitLocalCommand": "no",
        "PreferredAuthentications": "publickey",
        "RequestTTY": "no",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        # A peer that is gone without a word is noticed, while Nix may be silent for hours.
        "ConnectTimeout": str(CONNECT_TIMEOUT),
        "ServerAliveInterval": str(ALIVE_INTERVAL),
        "ServerAliveCountMax": str(ALIVE_COUNT),
    }
    if peer.key_file is not None:
        options["IdentityFile"] = _quoted(peer.key_file)
    if peer.host_key is not None:
        file = _pin(peer, peer.host_key, folder)
        options["GlobalKnownHostsFile"] = "none"
        options["HostKeyAlias"] = _ALIAS
        options["UserKnownHostsFile"] = _quoted(str(file))
    argv = ["ssh", "-F", "none", *(f"-o{name}={value}" for name, value in options.items())]
    if peer.port is not None:
        argv += ["-p", str(peer.port)]
    if peer.user is not None:
        argv += ["-l", peer.user]
    argv += ["--", peer.host, _COMMAND]
    return CommandEndpoint(tuple(argv), environment, name=f"{peer} ({peer.uri})")


def _quoted(path: str) -> str:
    """A path as a value of ssh's configuration, where percent signs and quotes mean something."""
    return '"' + path.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"') + '"'


def _pin(peer: Peer, key: str, folder: Path) -> Path:
    """Write the file that knows the peer's host key and no other."""
    try:
        line = f"{_ALIAS} {host_key(key)}\n"
    except UsageError as error:
        raise UsageError(f"{peer}, publicHostKey: {error}") from None
    file = folder / f"{peer.name}.known_hosts"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text() != line:
            temporary = file.with_suffix(".tmp")
            temporary.write_text(line)
            temporary.rename(file)
    except OSError as error:
        raise NixError(f"cannot write the host key of {peer}: {error}") from None
    return file


# --- Connecting ----------------------------------------------------------------------------------


async def connect(
    peer: Peer,
    folder: Path,
    *,
    options: ClientOptions,
    environment: Mapping[str, str] | None = None,
    patience: float = OPEN_TIMEOUT,
) -> Connection:
    """Open a connection to a peer. Raises SshError, of the peer's condition, or UsageError."""
    way = endpoint(peer, folder, environment)
    if peer.key_file is not None:
        _check_key(way, peer.key_file)
    with explained(way):
        return await Connection.open(way, options=options, patience=patience)


def _check_key(way: CommandEndpoint, file: str) -> None:
    """Refuse a key that ssh would pass over: it then says only that permission is denied."""
    try:
        with Path(file).open("rb") as opened:
            status = os.fstat(opened.fileno())
            start = opened.read(64)
    except OSError as error:
        trouble = f"cannot be read: {error.strerror}"
    else:
        # As ssh has it: of a file that belongs to another it asks no questions.
        if status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) & 0o077:
            trouble = f"can be read by others, so ssh does not use it: chmod 600 {file}"
        elif not start.startswith(b"-----BEGIN"):
            trouble = "is no private key"
        else:
            return
    raise SshError(Fault.KEY_FILE, f"{way}: its ssh key {file} {trouble}")


@contextmanager
def explained(way: object) -> Iterator[None]:
    """Raise the loss of this peer as SshError; what another did is left as it is."""
    try:
        yield
    except SshError:
        raise
    except NixError as error:
        text = str(error)
        lost = Fault.LOST if isinstance(error, ConnectionLostError) else None
        fault = fault_of(text) or lost
        if fault is None or not text.startswith(str(way)):
            raise
        raise SshError(fault, _sentence(way, fault, text)) from None


_WORDS: tuple[tuple[Fault, re.Pattern[str]], ...] = tuple(
    (fault, re.compile(pattern, re.MULTILINE))
    for fault, pattern in (
        (Fault.TOO_OLD, r"supported are Nix \S+ and later"),
        (Fault.NOISE, r"it is no Nix daemon"),
        (Fault.HOST_KEY_WRONG, r"HOST IDENTIFICATION HAS CHANGED"),
        (Fault.HOST_KEY_UNKNOWN, r"^No \S+ host key is known|^Host key verification failed"),
        (Fault.HOST_KEY_UNKNOWN, r"no matching host key type found"),
        # Ssh goes on without a key that it cannot use, and is denied for want of one.
        (Fault.KEY_FILE, r"^Load key |^Warning: Identity file .* not accessible|^no such identity"),
        (Fault.DENIED, r"Permission denied \(|Too many authentication failures"),
        (Fault.UNRESOLVED, r"Could not resolve hostname"),
        (Fault.REFUSED, r"^ssh: connect to host .*: Connection refused"),
        (Fault.REFUSED, r"^kex_exchange_identification: "),
        (Fault.UNREACHABLE, r"^ssh: connect to host |timed out during banner exchange"),
        (Fault.NO_NIX, r"nix-daemon: (?:command )?not found|nix-daemon: No such file"),
        (Fault.NO_NIX, r"Unknown command:? .*nix-daemon"),
        # A daemon that refuses its user says so to its own log only; `nix-daemon --stdio`, which
        # hands us on to it, ends without a word, also where there is no daemon at all.
        (Fault.NOT_ALLOWED, r"asked to speak with us: it closed the connection\Z"),
        (Fault.BROKEN, r"asked to speak with us: it closed the connection; it last wrote:"),
    )
)


def fault_of(text: str) -> Fault | None:
    """The class of a failure with these words; None where they say nothing of ssh or the daemon."""
    return next((fault for fault, pattern in _WORDS if pattern.search(text)), None)


_MENDS: Mapping[Fault, str] = {
    Fault.UNRESOLVED: "its name is unknown: is it spelt right, does DNS answer?",
    Fault.UNREACHABLE: "it does not answer: is it up, and the network?",
    Fault.REFUSED: "it turns connections away: does sshd run there, at that port?",
    Fault.HOST_KEY_UNKNOWN: "its host key is not known: declare it as publicHostKey",
    Fault.HOST_KEY_WRONG: (
        "it shows another host key than the declared one: was it installed anew (then declare its"
        " new publicHostKey), or is it another machine?"
    ),
    Fault.KEY_FILE: "ssh cannot use the key",
    Fault.DENIED: (
        "it does not let us in: is the public half of sshKeyFile in the user's authorized_keys?"
    ),
    Fault.NO_NIX: "its login shell finds no nix-daemon: install Nix there, on the user's PATH",
    Fault.NOT_ALLOWED: (
        "its Nix daemon turns the user away: does it run, and is the user among its allowed-users?"
    ),
    Fault.TOO_OLD: "its Nix is too old",
    Fault.NOISE: "something else than Nix answers: does its login shell print a greeting?",
    Fault.BROKEN: "its nix-daemon ends at once",
    Fault.LOST: "the connection was lost",
}


def _sentence(way: object, fault: Fault, text: str) -> str:
    """What is wrong, with those of the other side's own words that say more."""
    words = _own_words(fault, text.removeprefix(f"{way} "))
    return f"{way}: {_MENDS[fault]} ({words})"


def _own_words(fault: Fault, text: str) -> str:
    """The line that decided; where none did, all of the story."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if fault not in (Fault.BROKEN, Fault.LOST):
        patterns = [pattern for each, pattern in _WORDS if each is fault]
        lines = [line for line in lines if any(pattern.search(line) for pattern in patterns)][:1]
    return "; ".join(lines)
