"""Where a Nix daemon is reached, and the byte channel to it: a socket, or a command's pipes.

A channel moves bytes and ends its peer; it knows nothing of what is said on it. A command runs in
a process group of its own, which is gone when the channel is closed, whatever it was doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Mapping

from msgspec import Struct

from reconciler.errors import ConnectionLostError, NixError, UsageError
from reconciler.nix.wire import CHUNK, PeerError, Reader

OPEN_TIMEOUT = 30.0
"""Seconds within which a local daemon must answer."""
_GRACE = 5.0
"""Seconds a command has to end by itself: Nix stops its builders when it is told to."""
_TAIL = 8 * 1024
"""Bytes kept of the end of what a command writes to its stderr."""


class SocketEndpoint(Struct, frozen=True):
    """A daemon that listens on a Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"the Nix daemon at {self.path}"


class CommandEndpoint(Struct, frozen=True):
    """A command that speaks the protocol on its stdin and stdout: `nix-daemon --stdio`, or ssh
    to one. `environment` None passes our own on; `name` is what messages call it.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] | None = None
    name: str | None = None

    def __str__(self) -> str:
        return self.name or f"`{' '.join(self.argv)}`"


Endpoint = SocketEndpoint | CommandEndpoint


def local_endpoint(environment: Mapping[str, str]) -> Endpoint:
    """The local store as Nix's own commands find it from these variables.

    A daemon that listens is preferred; without one, and where NIX_REMOTE is empty or `local`,
    the store is opened directly by a `nix-daemon --stdio` of ours.
    """
    state_dir = environment.get("NIX_STATE_DIR", "/nix/var/nix")
    path = environment.get("NIX_DAEMON_SOCKET_PATH", f"{state_dir}/daemon-socket/socket")
    direct = CommandEndpoint(("nix-daemon", "--stdio"), {**environment, "NIX_REMOTE": "local"})
    match environment.get("NIX_REMOTE", "auto"):
        case "daemon":
            return SocketEndpoint(path)
        case "" | "local":
            return direct
        case "auto":
            return SocketEndpoint(path) if _listens(path) else direct
        case remote if remote.startswith("unix://"):
            return SocketEndpoint(remote.removeprefix("unix://"))
        case remote:
            raise UsageError(
                f"NIX_REMOTE is {remote!r}, which is no local store: write daemon, local or"
                " unix://PATH, or unset it"
            )


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its queue is full: somebody is there
        except OSError:
            return False
        return True


class Channel:
    """Bytes to and from one peer. `reader` decodes; `send` writes, no faster than it is read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = Reader(reader)
        self.patience: float | None = None
        """Seconds for which `send` bears that nothing is read."""
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Write, and wait while the peer has much left to read."""
        self._writer.write(data)
        try:
            async with asyncio.timeout(self.patience):
                await self._writer.drain()
        except TimeoutError:
            raise PeerError(f"it has read nothing for {self.patience:g} s") from None
        except OSError:
            raise PeerError("it closed the connection") from None

    async def close(self) -> None:
        """End the connection, and with it what the peer does for us."""
        self._hang_up()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _hang_up(self) -> None:
        # To abort a pipe that is closed already is an AttributeError in asyncio.
        if not self._writer.transport.is_closing():
            self._writer.transport.abort()

    def last_words(self) -> str:
        """The end of what the peer wrote to its stderr, where it has one."""
        return ""


class _CommandChannel(Channel):
    """A channel to a child process, the leader of a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process, pipes: _Pipes) -> None:
        super().__init__(pipes.stdout, pipes.stdin)
        self._process = process
        self._pipes = pipes
        self._tail = b""
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while chunk := await self._pipes.stderr.read(CHUNK):
            self._tail = (self._tail + chunk)[-_TAIL:]

    def last_words(self) -> str:
        return self._tail.decode(errors="replace").strip()

    async def close(self) -> None:
        """Ask the group to end, upon which Nix stops its builders; kill what is left of it."""
        self._hang_up()
        try:
            self._signal(signal.SIGTERM)
            async with asyncio.timeout(_GRACE):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            # Also after a good end: what a leader leaves behind must not outlive its group.
            self._signal(signal.SIGKILL)
        await self._process.wait()
        await asyncio.wait((self._listening,), timeout=_GRACE)
        self._listening.cancel()
        self._pipes.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class _Pipes(Struct, frozen=True, kw_only=True):
    """Our ends of a child's standard streams.

    Our own rather than asyncio's, whose `wait` sees no exit while a pipe is left unread.
    """

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    transports: tuple[asyncio.BaseTransport, ...]

    @classmethod
    async def connect(cls, *, stdin: int, stdout: int, stderr: int) -> _Pipes:
        """Take these file descriptors over."""
        loop = asyncio.get_running_loop()
        out, err = (asyncio.StreamReader(limit=4 * CHUNK) for _ in range(2))
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
        write_transport, _ = await loop.connect_write_pipe(lambda: protocol, os.fdopen(stdin, "wb"))
        out_transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(out), os.fdopen(stdout, "rb")
        )
        err_transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(err), os.fdopen(stderr, "rb")
        )
        return cls(
            stdin=asyncio.StreamWriter(write_transport, protocol, None, loop),
            stdout=out,
            stderr=err,
            transports=(write_transport, out_transport, err_transport),
        )

    def close(self) -> None:
        for transport in self.transports:
            transport.close()


async def open_channel(endpoint: Endpoint) -> Channel:
    """Connect to a socket, or start a command.

    Raises ConnectionLostError where a daemon does not answer, NixError where a command is missing.
    """
    match endpoint:
        case SocketEndpoint():
            return await _open_socket(endpoint)
        case CommandEndpoint():
            return await _open_command(endpoint)


async def _open_socket(endpoint: SocketEndpoint) -> Channel:
    try:
        return Channel(*await asyncio.open_unix_connection(endpoint.path, limit=4 * CHUNK))
    except OSError as error:
        raise ConnectionLostError(
            f"cannot reach {endpoint}: {error.strerror or error}; is nix-daemon running?"
        ) from None


async def _open_command(endpoint: CommandEndpoint) -> Channel:
    """Start it; if nobody waits for that any more, to the end all the same.

    Asyncio complains of a child that is given up while it starts.
    """
    starting = asyncio.ensure_future(_start_command(endpoint))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(NixError):
            channel = await starting
            await channel.close()
        raise


async def _start_command(endpoint: CommandEndpoint) -> Channel:
    theirs, ours = _pipe_ends()
    try:
        process = await asyncio.create_subprocess_exec(
            *endpoint.argv,
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=theirs[2],
            env=endpoint.environment,
            start_new_session=True,
        )
    except BaseException as error:
        for descriptor in ours:
            os.close(descriptor)
        if not isinstance(error, OSError):
            raise
        raise NixError(
            f"cannot start {endpoint}: {error.strerror}; is Nix installed and on PATH?"
        ) from None
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    stdin, stdout, stderr = ours
    pipes = await _Pipes.connect(stdin=stdin, stdout=stdout, stderr=stderr)
    return _CommandChannel(process, pipes)


def _pipe_ends() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Stdin, stdout and stderr: the child's ends, and ours."""
    (in_read, in_write), (out_read, out_write), (err_read, err_write) = (
        os.pipe() for _ in range(3)
    )
    return (in_read, out_write, err_write), (in_write, out_read, err_read)
