from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest

from reconciler.errors import ConnectionLostError, NixError
from reconciler.model import DrvPath, StorePath
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import CommandEndpoint
from reconciler.nix.hashes import to_base32
from reconciler.nix.logs import (
    ActivityKind,
    ActivityStarted,
    BuildLog,
    LogHandler,
    LogRecord,
    Message,
    PhaseStarted,
    Progress,
)
from reconciler.nix.protocol import BuildStatus, ClientOptions, GarbageAction, GarbageOptions
from reconciler.nix.wire import CHUNK
from tests.nix.connection_daemons import OPTIONS, PATIENCE, Daemon, daemon, newer_nix, older_nix

NASTY_TREE = """
    mkdir -p "$out/empty" "$out/)" $out/contents
    printf x > $out/contents/type
    printf %s "nix-archive-1" > "$out/)/("
    : > $out/nothing
    echo '#!/bin/sh' > $out/executable
    chmod +x $out/executable
    ln -s /nowhere $out/target
    ln -s $out/nothing $out/self
    head -c 5000000 /dev/zero > $out/large
    """


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def nar(connection: Connection, path: StorePath) -> bytes:
    return b"".join([chunk async for chunk in connection.nar_from_path(path)])


def log_of(records: Iterable[LogRecord]) -> bytes:
    """The build log in these records, as a file would hold it."""
    return b"".join(
        record.data + b"\n" * record.line_ends for record in records if isinstance(record, BuildLog)
    )


# --- Opening and closing -------------------------------------------------------------------------


async def test_greeting_tells_who_the_daemon_is(any_daemon: Daemon) -> None:
    connection = await any_daemon.connect()
    assert any_daemon.run("nix", "--version").endswith(connection.nix_version)
    assert connection.protocol_version == (1, 38)
    assert connection.features == frozenset()
    assert connection.trusted is True
    assert connection.alive
    await connection.close()
    with pytest.raises(ConnectionLostError, match="no longer connected"):
        await connection.find_roots()


async def test_a_daemon_that_does_not_trust_us_says_so() -> None:
    with daemon(newer_nix(), behind="socket", settings="trusted-users = nobody\n") as untrusting:
        async with await untrusting.connect() as connection:
            assert connection.trusted is False
            text = await connection.add_text("text", b"some text")
            assert {name for name, _ in await connection.find_roots()} == {"{censored}"}
            records: list[LogRecord] = []
            await connection.ensure_path(text.path, on_log=records.append)
            contents = await nar(connection, text.path)
            path = StorePath(text.path.replace("-text", "-other"))
            unsigned = type(text)(path=path, deriver=None, nar_hash=text.nar_hash,
                                  nar_size=text.nar_size, references=())  # fmt: skip
            with pytest.raises(NixError, match="lacks a signature"):
                await connection.add_to_store_nar(
                    unsigned, stream(contents), check_signatures=False
                )
            # A refusal costs nothing but the operation.
            assert connection.alive
            assert await connection.query_valid_paths([path, text.path]) == {text.path}


async def test_closing_ends_the_whole_process_group(tmp_path: Path, either_daemon: Daemon) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    argv = ("sh", "-c", f"sleep infinity 2>{fifo} & exec nix-daemon --stdio")
    endpoint = CommandEndpoint(argv, either_daemon.environment)
    opening = asyncio.create_task(Connection.open(endpoint, patience=PATIENCE))
    end_of_fifo = asyncio.create_task(asyncio.to_thread(fifo.read_bytes))
    connection = await opening
    await connection.close()
    assert await end_of_fifo == b""


# --- Builds --------------------------------------------------------------------------------------


async def test_build_makes_all_outputs_and_streams_the_log(any_daemon: Daemon) -> None:
    drv = any_daemon.derivation(
        """
        echo first; printf 'raw \\033[31m\\377\\n'
        echo '@nix {"action":"setPhase","phase":"installPhase"}'
        echo $dev > $out; mkdir $dev; printf unfinished
        """,
        attributes='outputs = [ "out" "dev" ];',
    )
    records: list[LogRecord] = []
    async with await any_daemon.connect() as connection:
        before = await connection.query_derivation_output_map(drv)
        assert await connection.query_valid_paths([*before.values()]) == frozenset()  # type: ignore[list-item]
        missing = await connection.query_missing([f"{drv}!*"])
        assert missing.will_build == {drv}
        result = await connection.build(drv, on_log=records.append)
        assert result.status is BuildStatus.BUILT
        assert result.status.success
        assert result.message == ""
        assert result.outputs == before
        assert await connection.query_valid_paths(result.outputs.values()) == set(before.values())
        assert (await connection.query_missing([f"{drv}!*"])).will_build == frozenset()
        again = await connection.build(drv, outputs=["dev"])
        assert again.status is BuildStatus.ALREADY_VALID
        assert again.outputs == {"dev": before["dev"]}

    assert log_of(records) == b"first\nraw \x1b[31m\xff\nunfinished\n"
    (build,) = [
        record
        for record in records
        if isinstance(record, ActivityStarted) and record.kind is ActivityKind.BUILD
    ]
    assert build.fields[0] == drv
    assert PhaseStarted(build.activity, "installPhase") in records
    assert BuildLog(build.activity, b"first", line_ends=True) in records
    assert any(isinstance(record, Progress) and record.done for record in records)


async def test_a_long_line_comes_in_pieces(either_daemon: Daemon) -> None:
    drv = either_daemon.derivation("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo > $out")
    records: list[LogRecord] = []
    async with await either_daemon.connect() as connection:
        await connection.build(drv, on_log=records.append)
    assert log_of(records) == b"x" * 1_000_000 + b"\n"
    assert max(len(record.data) for record in records if isinstance(record, BuildLog)) <= CHUNK


async def test_a_failed_build_is_a_result(any_daemon: Daemon) -> None:
    failing = any_daemon.derivation("echo to no avail; exit 3", name="failing")
    records: list[LogRecord] = []
    async with await any_daemon.connect() as connection:
        result = await connection.build(failing, on_log=records.append)
        assert result.status is BuildStatus.PERMANENT_FAILURE
        assert not result.status.success
        assert "failed with exit code 3" in result.message
        assert "\x1b" not in result.message
        assert result.outputs == {}
        assert log_of(records) == b"to no avail\n"
        assert connection.alive


async def test_failures_are_told_apart(either_daemon: Daemon) -> None:
    failing = either_daemon.derivation("exit 1", name="failing")
    dependant = either_daemon.derivation(
        "echo > $out", attributes=f'dependency = "${{import {failing}}}";'
    )
    download = either_daemon.derivation(
        "echo other > $out",
        attributes=f'outputHashAlgo = "sha256"; outputHash = "{"0" * 64}";',
    )
    async with await either_daemon.connect() as connection:
        assert (await connection.build(dependant)).status is BuildStatus.DEPENDENCY_FAILED
        mismatch = await connection.build(download)
        assert mismatch.status is BuildStatus.OUTPUT_REJECTED
        assert "hash mismatch" in mismatch.message
        absent = await connection.build(DrvPath(failing.replace("-failing", "-missing")))
        # Which failure, differs: newer versions take it for a failed dependency.
        assert absent.status in (BuildStatus.MISC_FAILURE, BuildStatus.DEPENDENCY_FAILED)
        assert absent.message
        assert connection.alive


@pytest.mark.parametrize("nix", [newer_nix, older_nix])
async def test_content_addressed_outputs_are_known_when_built(nix: Callable[[], Path]) -> None:
    features = "extra-experimental-features = ca-derivations\n"
    with daemon(nix(), behind="command", settings=features) as made:
        drv = made.derivation(
            "echo contents > $out",
            attributes="__contentAddressed = true;"
            ' outputHashMode = "recursive"; outputHashAlgo = "sha256";',
        )
        async with await made.connect() as connection:
            assert await connection.query_derivation_output_map(drv) == {"out": None}
            result = await connection.build(drv)
            assert result.status is BuildStatus.BUILT
            assert await connection.query_derivation_output_map(drv) == result.outputs
            info = await connection.query_path_info(result.outputs["out"])
            assert info is not None
            assert info.content_address is not None
            again = await connection.build(drv)
            assert again.status.success
            assert again.outputs == result.outputs


@pytest.mark.parametrize("options", [ClientOptions(timeout=1), ClientOptions(max_silent=1)])
async def test_limits_end_a_build(either_daemon: Daemon, options: ClientOptions) -> None:
    drv = either_daemon.derivation("sleep infinity")
    async with await either_daemon.connect() as connection:
        await connection.set_options(options)
        result = await connection.build(drv)
        assert result.status is BuildStatus.TIMED_OUT
        assert "timed out" in result.message


async def test_settings_reach_the_build(either_daemon: Daemon) -> None:
    modest = either_daemon.derivation("echo cores: $NIX_BUILD_CORES; echo > $out")
    loud = either_daemon.derivation("seq 1000; echo > $out")
    options = ClientOptions(build_cores=7, settings={"build-hook": "", "max-build-log-size": "99"})
    records: list[LogRecord] = []
    async with await either_daemon.connect(options) as connection:
        assert (await connection.build(modest, on_log=records.append)).status.success
        assert (await connection.build(loud)).status is BuildStatus.LOG_LIMIT_EXCEEDED
    assert log_of(records) == b"cores: 7\n"


async def test_a_restricted_setting_is_reported_not_silently_dropped() -> None:
    with daemon(newer_nix(), behind="socket", settings="trusted-users = nobody\n") as untrusting:
        connection = await Connection.open(untrusting.endpoint, patience=PATIENCE)
        records: list[LogRecord] = []
        async with connection:
            await connection.set_options(OPTIONS, on_log=records.append)
        assert any(isinstance(r, Message) and "build-hook" in r.text for r in records)


# --- Cancelling ----------------------------------------------------------------------------------


async def cancelled_when(daemon_: Daemon, fifo: Path, on_log: LogHandler | None) -> Connection:
    """Start a build that never ends by itself and holds a FIFO open; cancel it, or let the log
    handler end it. The connection, when the builder is gone: only then the FIFO has an end.

    The builder goes on talking, because a hang-up that meets Nix just before it waits for output
    is noticed no sooner than that comes.
    """
    os.mkfifo(fifo)
    drv = daemon_.derivation(f"exec 9>{fifo}; while :; do echo again; sleep 1; done")
    started = asyncio.Event()

    def announce(record: LogRecord) -> None:
        if isinstance(record, BuildLog):
            started.set()

    sandbox = {"extra-sandbox-paths": str(fifo.parent)}
    connection = await daemon_.connect(ClientOptions(settings={"build-hook": ""} | sandbox))
    end_of_fifo = asyncio.create_task(asyncio.to_thread(fifo.read_bytes))
    build = asyncio.create_task(connection.build(drv, on_log=on_log or announce))
    if on_log is None:
        await started.wait()
        build.cancel()
    await asyncio.wait((build,))
    assert await end_of_fifo == b""
    with contextlib.suppress(asyncio.CancelledError):
        await build
    return connection


async def test_cancelling_kills_the_build(any_daemon: Daemon, tmp_path: Path) -> None:
    connection = await cancelled_when(any_daemon, tmp_path / "fifo", None)
    assert not connection.alive
    with pytest.raises(ConnectionLostError):
        await connection.find_roots()


async def test_an_exception_in_the_log_handler_kills_the_build(
    either_daemon: Daemon, tmp_path: Path
) -> None:
    def refuse(record: LogRecord) -> None:
        match record:
            case BuildLog():
                raise LookupError("enough")
            case _:
                pass

    with pytest.raises(LookupError, match="enough"):
        await cancelled_when(either_daemon, tmp_path / "fifo", refuse)


# --- Contents ------------------------------------------------------------------------------------


async def test_path_info_is_what_nix_says(any_daemon: Daemon) -> None:
    path = await any_daemon.built("mkdir $out; ln -s $out $out/self")
    async with await any_daemon.connect() as connection:
        info = await connection.query_path_info(path)
        assert await connection.query_path_info(StorePath(path[:-1] + "x")) is None
        contents = await nar(connection, path)
    assert info is not None
    assert info.path == path
    assert info.deriver is not None
    assert info.deriver.endswith("-test.drv")
    assert info.nar_hash == any_daemon.run("nix-store", "--query", "--hash", path)
    assert info.nar_hash == "sha256:" + to_base32(hashlib.sha256(contents).digest())
    assert info.nar_size == len(contents)
    assert info.references == (path,)
    assert info.ultimate
    assert info.signatures == ()
    assert info.content_address is None
    assert info.registered_at > 1.6e9


async def test_nar_goes_unchanged_into_a_second_store(any_daemon: Daemon) -> None:
    path = await any_daemon.built(NASTY_TREE)
    second_root = any_daemon.store.root / "second"
    # Another place for the same logical store, as a builder's is.
    second = CommandEndpoint(
        ("nix-daemon", "--stdio"),
        {**any_daemon.environment, "NIX_REMOTE": f"local?root={second_root}"},
    )
    async with (
        await any_daemon.connect() as source,
        await Connection.open(second, patience=PATIENCE) as target,
    ):
        info = await source.query_path_info(path)
        assert info is not None
        assert await target.query_path_info(path) is None
        await target.add_to_store_nar(info, source.nar_from_path(path), check_signatures=False)
        copied = await target.query_path_info(path)
        assert copied is not None
        assert copied.nar_hash == info.nar_hash
        assert copied.references == info.references == (path,)
        assert copied.deriver == info.deriver
        assert await nar(target, path) == await nar(source, path)
        chunks = [len(chunk) async for chunk in source.nar_from_path(path)]
        assert sum(chunks) == info.nar_size
        assert max(chunks) <= 4 * CHUNK


async def test_adding_by_content_names_as_nix_does(any_daemon: Daemon, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("contents\n")
    by_nix = any_daemon.run("nix-store", "--add", str(tree))
    text_by_nix = (
        any_daemon.run(
            "nix-instantiate", "--eval", "--raw", "-E", 'builtins.toFile "note" "a note"'
        )
        if "2.26" not in any_daemon.run("nix", "--version")
        else any_daemon.run("nix", "eval", "--raw", "--expr", 'builtins.toFile "note" "a note"')
    )
    async with await any_daemon.connect() as connection:
        contents = await nar(connection, StorePath(by_nix))
        added = await connection.add_nar("tree", stream(contents[:7], b"", contents[7:]))
        assert added.path == by_nix
        assert (await connection.add_text("note", b"a note")).path == text_by_nix
        other = await connection.add_nar("other", stream(contents), references=(added.path,))
        assert other.references == (added.path,)
        assert other.path != added.path
        assert await nar(connection, other.path) == contents


async def test_nar_of_what_is_not_there(either_daemon: Daemon) -> None:
    absent = StorePath(f"{either_daemon.store.store_dir}/{'0' * 32}-absent")
    async with await either_daemon.connect() as connection:
        with pytest.raises(NixError, match=r"is not a valid|does not exist") as refusal:
            await nar(connection, absent)
        assert not isinstance(refusal.value, ConnectionLostError)


async def test_a_nar_left_early_closes_the_connection(either_daemon: Daemon) -> None:
    path = await either_daemon.built("head -c 3000000 /dev/zero > $out")
    async with await either_daemon.connect() as connection:
        async with contextlib.aclosing(connection.nar_from_path(path)) as chunks:
            async for _ in chunks:
                break
        assert not connection.alive


async def test_a_source_that_fails_adds_nothing(either_daemon: Daemon) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"\r\0\0\0\0\0\0\0nix-archive-1\0\0\0"
        raise LookupError("the disk is gone")

    connection = await either_daemon.connect()
    with pytest.raises(LookupError, match="the disk is gone"):
        await connection.add_nar("half", failing())
    assert not connection.alive
    assert not list(either_daemon.store.store_dir.glob("*-half"))


async def test_garbage_for_a_nar_is_refused(either_daemon: Daemon) -> None:
    async with await either_daemon.connect() as connection:
        with pytest.raises(NixError, match="archive"):
            await connection.add_nar("garbage", stream(b"not an archive at all" * 1000))
        assert connection.alive
        assert (await connection.add_text("text", b"text")).path


# --- Substitution --------------------------------------------------------------------------------


async def test_substitution(either_daemon: Daemon) -> None:
    drv = either_daemon.derivation("echo contents > $out")
    async with await either_daemon.connect() as connection:
        path = (await connection.build(drv)).outputs["out"]
    cache = f"file://{either_daemon.store.root}/binary-cache"
    either_daemon.run("nix", "copy", "--to", cache, path)
    delete = GarbageOptions(action=GarbageAction.DELETE_SPECIFIC, paths=frozenset((path,)))
    # Without want-mass-query, Nix says of no path of it that it can be substituted; require-sigs
    # is a setting of the daemon's store, which no client changes.
    substituter = f"{cache}?want-mass-query=true&trusted=true"
    options = ClientOptions(settings={"build-hook": "", "substituters": substituter})
    absent = StorePath(f"{either_daemon.store.store_dir}/{'0' * 32}-absent")

    async def gone() -> Connection:
        async with await either_daemon.connect() as connection:
            await connection.collect_garbage(delete)
        return await either_daemon.connect(options)

    async with await gone() as connection:
        assert await connection.query_substitutable_paths((path, absent)) == {path}
        missing = await connection.query_missing((path, absent))
        assert missing.will_substitute == {path}
        assert missing.unknown == {absent}
        assert missing.nar_size > 0
        assert await connection.query_valid_paths((path, absent)) == frozenset()
        assert await connection.query_valid_paths((path, absent), substitute=True) == {path}
    async with await gone() as connection:
        result = await connection.build(drv)
        assert result.status is BuildStatus.SUBSTITUTED
        assert result.outputs == {"out": path}
    async with await gone() as connection:
        await connection.ensure_path(path)
        assert await connection.query_valid_paths((path,)) == {path}
        with pytest.raises(NixError, match=r"no substituter|cannot be created"):
            await connection.ensure_path(absent)
        assert connection.alive


# --- Roots and garbage ---------------------------------------------------------------------------


async def test_a_temporary_root_lasts_as_long_as_its_connection(any_daemon: Daemon) -> None:
    path = await any_daemon.built("echo kept > $out")
    other = await any_daemon.built("echo dropped > $out", name="other")
    holder = await any_daemon.connect()
    await holder.add_temp_roots([path])
    async with await any_daemon.connect() as collector:
        listed = await collector.collect_garbage(GarbageOptions(action=GarbageAction.RETURN_DEAD))
        assert other in listed.paths
        assert path not in listed.paths
        assert listed.freed == 0
        assert await collector.query_valid_paths((path, other)) == {path, other}
        with pytest.raises(NixError, match=r"still alive|is a GC root|in use"):
            await collector.collect_garbage(
                GarbageOptions(action=GarbageAction.DELETE_SPECIFIC, paths=frozenset((path,)))
            )
        deleted = await collector.collect_garbage()
        assert other in deleted.paths
        assert deleted.freed > 0
        assert await collector.query_valid_paths((path, other)) == {path}
        await holder.close()
        # Its daemon drops the root when it notices; an ended command has dropped it already.
        while path in {target for _, target in await collector.find_roots()}:
            pass
        await collector.collect_garbage()
        assert await collector.query_valid_paths((path,)) == frozenset()


async def test_an_indirect_root_lasts_as_long_as_its_link(
    any_daemon: Daemon, tmp_path: Path
) -> None:
    path = await any_daemon.built("echo kept > $out")
    link = tmp_path / "result"
    link.symlink_to(path)
    async with await any_daemon.connect() as connection:
        await connection.add_indirect_roots([str(link)])
        assert (str(link), path) in await connection.find_roots()
        await connection.collect_garbage()
        assert await connection.query_valid_paths((path,)) == {path}
        link.unlink()
        await connection.collect_garbage()
        assert await connection.query_valid_paths((path,)) == frozenset()


async def test_a_collection_may_stop_early(either_daemon: Daemon) -> None:
    paths = {await either_daemon.built("head -c 99999 /dev/zero > $out", name=n) for n in "abc"}
    async with await either_daemon.connect() as connection:
        garbage = await connection.collect_garbage(GarbageOptions(max_freed=1))
        assert garbage.freed > 0
        assert len(await connection.query_valid_paths(paths)) >= 2


# --- Sharing -------------------------------------------------------------------------------------


async def test_tasks_that_share_a_connection_take_turns(either_daemon: Daemon) -> None:
    paths = [await either_daemon.built(f"echo {n} > $out", name=n) for n in ("one", "two")]
    async with await either_daemon.connect() as connection:
        answers = await asyncio.gather(
            *(connection.query_valid_paths((path,)) for path in paths * 10),
            *(nar(connection, path) for path in paths),
        )
    assert answers[:20] == [{path} for path in paths * 10]
    assert [b"one\n" in answers[20], b"two\n" in answers[21]] == [True, True]


async def test_an_operation_within_another_is_refused_rather_than_waited_for(
    either_daemon: Daemon,
) -> None:
    path = await either_daemon.built("echo > $out")
    async with await either_daemon.connect() as connection:
        async for _ in connection.nar_from_path(path):
            with pytest.raises(RuntimeError, match="in the middle of another operation"):
                await connection.find_roots()
