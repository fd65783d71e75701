"""Reaching a builder by ssh: a real server, and every way in which it can refuse."""

from __future__ import annotations

import base64
import json
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from reconciler import config
from reconciler.errors import ConnectionLostError, NixError, UsageError
from reconciler.model import Builder, BuilderName
from reconciler.nix import ssh
from reconciler.nix.connection import Connection
from reconciler.nix.protocol import ClientOptions
from reconciler.nix.ssh import Fault, SshError
from tests.nix.connection_daemons import newer_nix, older_nix
from tests.support.builders import TestBuilder, make_key
from tests.support.private_store import PrivateStore

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJhPb0xqvbcAWJv2MvYwwVBsYNlMCrEyRuTRnNvQ4J8Y"


@pytest.fixture
def builder(store: PrivateStore) -> Iterator[TestBuilder]:
    made = TestBuilder(store, newer_nix())
    yield made
    made.close()


async def connect(declared: Builder, folder: Path) -> Connection:
    return await ssh.connect(ssh.peer_of(declared), folder, options=ClientOptions())


async def refusal(declared: Builder, folder: Path) -> SshError:
    with pytest.raises(SshError) as raised:
        await connect(declared, folder)
    message = str(raised.value)
    assert message.startswith(f"builder big ({declared.uri}): ")
    assert "\n" not in message
    return raised.value


# --- What works ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["newer", "older"])
async def test_a_builder_is_spoken_to(store: PrivateStore, tmp_path: Path, version: str) -> None:
    builder = TestBuilder(store, newer_nix() if version == "newer" else older_nix())
    try:
        async with await connect(builder.declared(), tmp_path / "ssh") as connection:
            assert builder.run("nix", "--version").endswith(connection.nix_version)
            assert connection.trusted is True
            text = await connection.add_text("note", b"a note")
            assert builder.holds(text.path)
            assert not list(store.store_dir.glob("*-note"))
    finally:
        builder.close()


async def test_a_key_in_base64_is_the_same_key(builder: TestBuilder, tmp_path: Path) -> None:
    encoded = base64.b64encode(builder.sshd.host_key.encode()).decode()
    declared = replace(builder.declared(), public_host_key=encoded)
    await (await connect(declared, tmp_path)).close()
    await (await connect(builder.declared(), tmp_path)).close()


async def test_files_with_odd_names_are_found(builder: TestBuilder, tmp_path: Path) -> None:
    folder = tmp_path / 'with "quotes" 100%d and \\'
    folder.mkdir()
    key = folder / "key"
    key.write_bytes(builder.sshd.key_file.read_bytes())
    key.chmod(0o600)
    declared = replace(builder.declared(), ssh_key_file=str(key))
    await (await connect(declared, folder)).close()


async def test_a_daemon_behind_it_may_not_trust_us(builder: TestBuilder, tmp_path: Path) -> None:
    with builder.behind_a_daemon(trusted_users="nobody"):
        async with await connect(builder.declared(), tmp_path) as connection:
            assert connection.trusted is False


# --- What does not -------------------------------------------------------------------------------


async def test_another_host_key(builder: TestBuilder, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    declared = replace(builder.declared(), public_host_key=other)
    error = await refusal(declared, tmp_path)
    assert error.fault is Fault.HOST_KEY_WRONG
    assert "HOST IDENTIFICATION HAS CHANGED" in str(error)
    assert not error.fault.passing
    assert (tmp_path / "big.known_hosts").read_text().split()[1:] == other.split()[:2]


async def test_a_host_key_that_nobody_knows(builder: TestBuilder, tmp_path: Path) -> None:
    # The user's own list of hosts knows the port of none of our servers.
    error = await refusal(replace(builder.declared(), public_host_key=None), tmp_path)
    assert error.fault is Fault.HOST_KEY_UNKNOWN
    assert "No ED25519 host key is known" in str(error)
    assert "publicHostKey" in str(error)


async def test_nobody_listens(builder: TestBuilder, tmp_path: Path) -> None:
    builder.sshd.shut()
    error = await refusal(builder.declared(), tmp_path)
    assert error.fault is Fault.REFUSED
    assert error.fault.passing
    assert "Connection refused" in str(error)


async def test_a_host_without_an_address(builder: TestBuilder, tmp_path: Path) -> None:
    declared = replace(builder.declared(), uri="ssh-ng://nix@no-such-host.invalid")
    assert (await refusal(declared, tmp_path)).fault is Fault.UNRESOLVED


async def test_a_server_that_never_greets(
    builder: TestBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "CONNECT_TIMEOUT", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"ssh-ng://nix@127.0.0.1:{silent.getsockname()[1]}"
        error = await refusal(replace(builder.declared(), uri=uri), tmp_path)
    assert error.fault is Fault.UNREACHABLE
    assert "timed out during banner exchange" in str(error)


async def test_another_key(builder: TestBuilder, tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    declared = replace(builder.declared(), ssh_key_file=str(tmp_path / "key"))
    error = await refusal(declared, tmp_path)
    assert error.fault is Fault.DENIED
    assert "Permission denied (publickey)" in str(error)


async def test_keys_that_ssh_would_pass_over(builder: TestBuilder, tmp_path: Path) -> None:
    file = tmp_path / "key"
    declared = replace(builder.declared(), ssh_key_file=str(file))

    async def words() -> str:
        error = await refusal(declared, tmp_path)
        assert error.fault is Fault.KEY_FILE
        assert str(file) in str(error)
        return str(error)

    assert "No such file" in await words()
    file.mkdir()
    assert "Is a directory" in await words()
    file.rmdir()
    file.write_text("garbage\n")
    file.chmod(0o600)
    assert "is no private key" in await words()
    file.write_bytes(builder.sshd.key_file.read_bytes())
    file.chmod(0o640)
    assert f"chmod 600 {file}" in await words()
    file.chmod(stat.S_IRUSR)
    await (await connect(declared, tmp_path)).close()
    assert builder.sshd.connections == 1


async def test_a_key_that_is_damaged(builder: TestBuilder, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(builder.sshd.key_file.read_bytes()[:100])
    file.chmod(0o600)
    error = await refusal(replace(builder.declared(), ssh_key_file=str(file)), tmp_path)
    assert error.fault is Fault.KEY_FILE
    assert "Load key" in str(error)


async def test_a_machine_without_nix(builder: TestBuilder, tmp_path: Path) -> None:
    builder.sshd.set_environment({**builder.environment, "PATH": "/bin"})
    error = await refusal(builder.declared(), tmp_path)
    assert error.fault is Fault.NO_NIX
    assert "not found" in str(error)


@pytest.mark.parametrize("version", ["newer", "older"])
async def test_a_daemon_that_allows_others_only(
    store: PrivateStore, tmp_path: Path, version: str
) -> None:
    builder = TestBuilder(store, newer_nix() if version == "newer" else older_nix())
    try:
        with builder.behind_a_daemon(trusted_users="nobody", allowed_users="nobody"):
            error = await refusal(builder.declared(), tmp_path)
        assert error.fault is Fault.NOT_ALLOWED
        assert "allowed-users" in str(error)
        nowhere = {**builder.environment, "NIX_REMOTE": f"unix://{tmp_path}/absent"}
        builder.sshd.set_environment(nowhere)
        assert (await refusal(builder.declared(), tmp_path)).fault is Fault.NOT_ALLOWED
    finally:
        builder.close()


async def test_a_nix_that_does_not_start(builder: TestBuilder, tmp_path: Path) -> None:
    (builder.store.root / "conf/nix.conf").write_text("sandbox = maybe\n")
    error = await refusal(builder.declared(), tmp_path)
    assert error.fault is Fault.BROKEN
    assert "option 'sandbox' has invalid value 'maybe'" in str(error)


async def test_a_shell_that_greets(builder: TestBuilder, tmp_path: Path) -> None:
    program = tmp_path / "nix-daemon"
    program.write_text("#!/bin/sh\necho Welcome to our builder\nread line\n")
    program.chmod(0o755)
    builder.sshd.set_environment({**builder.environment, "PATH": f"{tmp_path}:/bin"})
    error = await refusal(builder.declared(), tmp_path)
    assert error.fault is Fault.NOISE
    assert "Welcome" in str(error)


async def test_an_old_nix(builder: TestBuilder, tmp_path: Path) -> None:
    program = tmp_path / "nix-daemon"
    # What Nix 2.18 greets with: protocol 1.35, and its name.
    program.write_text(
        "#!/bin/sh\n"
        r"printf 'oixd\0\0\0\0\43\1\0\0\0\0\0\0'" "\n"
        r"printf '\6\0\0\0\0\0\0\0002.18.1\0\0'" "\n"
        "read line\n"
    )  # fmt: skip
    program.chmod(0o755)
    builder.sshd.set_environment({**builder.environment, "PATH": f"{tmp_path}:/bin"})
    error = await refusal(builder.declared(), tmp_path)
    assert error.fault is Fault.TOO_OLD
    assert "Nix 2.18.1" in str(error)
    assert "2.24 and later" in str(error)


# --- Loss ----------------------------------------------------------------------------------------


async def test_a_server_that_is_killed(builder: TestBuilder, tmp_path: Path) -> None:
    connection = await connect(builder.declared(), tmp_path)
    builder.sshd.hang_up()
    with pytest.raises(SshError) as raised, ssh.explained(connection.endpoint):
        await connection.find_roots()
    assert raised.value.fault is Fault.LOST
    assert raised.value.fault.passing
    assert not connection.alive


async def test_a_peer_that_stops_is_noticed(
    builder: TestBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "ALIVE_INTERVAL", 1)
    monkeypatch.setattr(ssh, "ALIVE_COUNT", 1)
    connection = await connect(builder.declared(), tmp_path)
    builder.sshd.signal_sessions(signal.SIGSTOP)
    try:
        with (
            pytest.raises(SshError, match="not responding") as raised,
            ssh.explained(connection.endpoint),
        ):
            await connection.collect_garbage()  # an operation that may be silent for ever
        assert raised.value.fault is Fault.LOST
    finally:
        builder.sshd.signal_sessions(signal.SIGCONT)


async def test_what_another_peer_did_is_not_put_down_to_the_builder() -> None:
    with pytest.raises(NixError, match="the local daemon") as raised, ssh.explained("builder big"):
        raise ConnectionLostError("the local daemon was lost when asked to build x")
    assert not isinstance(raised.value, SshError)
    with pytest.raises(NixError) as refused, ssh.explained("builder big"):
        raise NixError("builder big cannot build x: no such thing")
    assert not isinstance(refused.value, ConnectionLostError)


# --- The command line ----------------------------------------------------------------------------


def declared(**changes: object) -> Builder:
    base = {
        "name": "big",
        "uri": "ssh-ng://nix@big.example.org",
        "systems": None,
        "max_jobs": 1,
        "speed_factor": 1,
        "supported_features": (),
        "mandatory_features": (),
        "drain": False,
    }
    return Builder(**{**base, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ssh-ng://big.example.org", ("--", "big.example.org")),
        ("ssh-ng://nix@big:2222", ("-p", "2222", "-l", "nix", "--", "big")),
        ("ssh-ng://[2001:db8::1]:22", ("-p", "22", "--", "2001:db8::1")),
    ],
)
def test_an_address_becomes_words(uri: str, words: tuple[str, ...], tmp_path: Path) -> None:
    argv = ssh.endpoint(ssh.peer_of(declared(uri=uri)), tmp_path).argv
    assert argv[:3] == ("ssh", "-F", "none")
    assert argv[-len(words) - 1 :] == (*words, "nix-daemon --stdio")
    assert all(word.startswith("-o") for word in argv[3 : -len(words) - 1])


@pytest.mark.parametrize(
    "uri",
    [
        "ssh://nix@big",
        "big",
        "ssh-ng://",
        "ssh-ng://-oProxyCommand=true",
        "ssh-ng://-l@big",
        "ssh-ng://big:port",
        "ssh-ng://big:99999",
        "ssh-ng://big/path",
        "ssh-ng://big?remote-store=x",
        "ssh-ng://[::1",
        "ssh-ng://two words",
        "ssh-ng://big\n",
    ],
)
def test_other_addresses_are_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="write ssh-ng://USER@HOST"):
        ssh.endpoint(ssh.peer_of(declared(uri=uri)), tmp_path)


def test_host_keys_in_either_form() -> None:
    commented = f"{KEY} root@big"
    assert ssh.host_key(KEY) == KEY
    assert ssh.host_key(commented) == KEY
    assert ssh.host_key(f"{commented}\n") == KEY
    assert ssh.host_key(base64.b64encode(commented.encode()).decode()) == KEY


def test_a_document_may_give_a_host_key_in_either_form(tmp_path: Path) -> None:
    for kind in ("ed25519", "rsa", "ecdsa"):
        file = tmp_path / kind
        argv = ("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "root@big", "-f", str(file))
        subprocess.run(argv, check=True)
        plain = file.with_name(f"{kind}.pub").read_text().strip()
        for text in (plain, base64.b64encode(plain.encode()).decode()):
            document = {"builders": {"big": {"uri": "ssh-ng://big", "publicHostKey": text}}}
            desired = config.parse(json.dumps(document).encode(), name="test.json")
            given = desired.builders[BuilderName("big")].public_host_key
            assert given is not None
            assert ssh.host_key(given) == " ".join(plain.split()[:2])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        KEY.split()[1],
        KEY.replace("ed", "rs"),
        "!!!",
        KEY[:-9],
    ],
)
def test_what_is_no_host_key_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"builder big, publicHostKey: .* is no public host key"):
        ssh.endpoint(ssh.peer_of(declared(public_host_key=text)), tmp_path)


def test_a_host_key_is_pinned_anew_where_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "ssh" / "big.known_hosts"
    ssh.endpoint(ssh.peer_of(declared(public_host_key=KEY)), file.parent)
    assert file.read_text() == f"peer {KEY}\n"
    written = file.stat().st_ino
    ssh.endpoint(ssh.peer_of(declared(public_host_key=KEY)), file.parent)
    assert file.stat().st_ino == written
    other = make_key(tmp_path / "other")
    ssh.endpoint(ssh.peer_of(declared(public_host_key=other)), file.parent)
    assert file.read_text().split()[2] == other.split()[1]
    assert list(file.parent.iterdir()) == [file]
