from __future__ import annotations

import asyncio
import gc
import os
import select
import socket
from pathlib import Path

import pytest

from reconciler.errors import ConnectionLostError, NixError, UsageError
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import CommandEndpoint, SocketEndpoint, local_endpoint
from tests.nix.connection_daemons import PATIENCE
from tests.support.private_store import PrivateStore
from tests.support.trial import DEADLINE, processes_with


def direct(environment: dict[str, str]) -> CommandEndpoint:
    return CommandEndpoint(("nix-daemon", "--stdio"), {**environment, "NIX_REMOTE": "local"})


def test_local_endpoint_is_where_nix_would_go(tmp_path: Path) -> None:
    listening = tmp_path / "listening"
    base = {"NIX_STATE_DIR": str(tmp_path), "PATH": "/bin"}
    heard = {**base, "NIX_DAEMON_SOCKET_PATH": str(listening)}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(listening))
        assert local_endpoint(heard) == direct(heard)  # a file that nobody listens on
        listener.listen(0)
        for _ in range(9):  # nobody accepts: its queue is full soon
            assert local_endpoint(heard) == SocketEndpoint(str(listening))
        for remote in ("", "local"):
            chosen = {**heard, "NIX_REMOTE": remote}
            assert local_endpoint(chosen) == direct(chosen)
    assert local_endpoint(base) == direct(base)
    assert local_endpoint({**base, "NIX_REMOTE": "daemon"}) == SocketEndpoint(
        f"{tmp_path}/daemon-socket/socket"
    )
    assert local_endpoint({"NIX_REMOTE": "daemon"}) == SocketEndpoint(
        "/nix/var/nix/daemon-socket/socket"
    )
    assert local_endpoint({"NIX_REMOTE": "unix:///run/x"}) == SocketEndpoint("/run/x")


def test_a_remote_store_is_no_local_one() -> None:
    with pytest.raises(UsageError, match=r"NIX_REMOTE is 'ssh-ng://host'.*write daemon, local or"):
        local_endpoint({"NIX_REMOTE": "ssh-ng://host"})


async def test_the_local_endpoint_of_a_store_works(store: PrivateStore) -> None:
    endpoint = local_endpoint({**os.environ, **store.environment})
    async with await Connection.open(endpoint, patience=PATIENCE) as connection:
        added = await connection.add_text("text", b"text")
    assert store.run("nix-store", "--query", "--size", added.path).stdout == f"{added.nar_size}\n"


async def test_a_missing_command_is_named() -> None:
    endpoint = CommandEndpoint(("nix-daemon", "--stdio"), {"PATH": "/nowhere"})
    with pytest.raises(NixError, match=r"cannot start `nix-daemon --stdio`: .*on PATH") as error:
        await Connection.open(endpoint, patience=PATIENCE)
    assert not isinstance(error.value, ConnectionLostError)


async def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    endpoint = SocketEndpoint(str(tmp_path / "socket"))
    with pytest.raises(ConnectionLostError, match=r"cannot reach the Nix daemon at .*: No such"):
        await Connection.open(endpoint, patience=PATIENCE)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'ssh: no such host' >&2; exit 255", "ssh: no such host"),
        ("echo 'Welcome to this host'; echo 'and this' >&2", "and this"),
        ("yes nonsense >&2 & exec sleep infinity", "nonsense"),
        ("exit 0", "closed the connection"),
    ],
)
async def test_a_command_has_its_last_words(script: str, said: str) -> None:
    endpoint = CommandEndpoint(("sh", "-c", script))
    with pytest.raises(ConnectionLostError, match=r"^`sh -c .*` (was lost|did not)") as error:
        await Connection.open(endpoint, patience=1)
    assert said in str(error.value)
    assert len(str(error.value)) < 10_000


async def test_a_command_that_ignores_the_end_is_killed(tmp_path: Path) -> None:
    # A reader of the FIFO is let go when the last writer is gone.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    script = f"exec 9>{fifo}; trap '' TERM; while :; do sleep 1000; done"
    with pytest.raises(ConnectionLostError):
        await Connection.open(CommandEndpoint(("sh", "-c", script)), patience=0.5)
    # The shell's own child dies a moment after it.
    await asyncio.to_thread(select.select, [reading], [], [], DEADLINE)
    assert os.read(reading, 1) == b""
    os.close(reading)


async def test_a_command_that_is_given_up_while_it_starts_is_gone(tmp_path: Path) -> None:
    """At any moment: asyncio tells of what is left by a warning, which is an error here."""
    script = f": {tmp_path}; while :; do sleep 1000; done"
    for turns in range(12):
        endpoint = CommandEndpoint(("sh", "-c", script))
        opening = asyncio.create_task(Connection.open(endpoint, patience=PATIENCE))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        gc.collect()
        assert processes_with(str(tmp_path)) == []
