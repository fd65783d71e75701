"""Peers that lie, stall, cut off or send garbage: each costs one clear error and no memory."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest

from reconciler.errors import ConnectionLostError, NixError
from reconciler.model import DrvPath, PathInfo, StorePath
from reconciler.nix.connection import Connection
from reconciler.nix.logs import BuildLog, LogRecord, StderrTag
from reconciler.nix.protocol import BuildStatus, Operation
from reconciler.nix.wire import CHUNK, Reader, string, strings, word
from tests.nix.hostile_peers import (
    LAST,
    UNLIMITED,
    Behaviour,
    greeting,
    open_to,
    peer,
    read_opening,
    says,
    stalls_after,
)

PATH = StorePath(f"/nix/store/{'0' * 32}-name")
DRV = DrvPath(f"{PATH}.drv")
INFO = PathInfo(path=PATH, deriver=None, nar_hash="sha256:" + "0" * 52, nar_size=120, references=())
HUGE = word(2**62)
ENDLESS_LINE = word(StderrTag.RESULT) + word(1) + word(101) + word(1) + word(1) + HUGE

Question: TypeAlias = Callable[[Connection], Awaitable[object]]


def valid_paths(connection: Connection) -> Awaitable[object]:
    return connection.query_valid_paths((PATH,))


def path_info(connection: Connection) -> Awaitable[object]:
    return connection.query_path_info(PATH)


def build(connection: Connection) -> Awaitable[object]:
    return connection.build(DRV)


def outputs(connection: Connection) -> Awaitable[object]:
    return connection.query_derivation_output_map(DRV)


async def nar(connection: Connection) -> object:
    return [chunk async for chunk in connection.nar_from_path(PATH)]


def build_answer(
    *,
    status: int = 0,
    identity: str = "sha256:00!out",
    realisation: str = f'{{"outPath": "{"0" * 32}-name"}}',
    times: bytes = word(0) + word(1) + word(2_500_000),
) -> bytes:
    """An honest answer to `build` but for what is named."""
    return b"".join(
        (
            LAST,
            word(1),
            string(f"{DRV}!*"),
            word(status),
            string("message"),
            word(1) + word(0) + word(5) + word(7),
            times,
            word(1) + string(identity) + string(realisation),
        )
    )


# --- Honest, but of another age ------------------------------------------------------------------


async def test_lix_speaks_an_older_version() -> None:
    async def lix(reader: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting(version=(1, 35), nix="2.93.3"))
        await read_opening(reader, version=(1, 35))
        assert await reader.word() == Operation.BUILD_PATHS_WITH_RESULTS
        writer.write(build_answer(times=b""))

    async with peer(lix) as endpoint:
        connection = await open_to(endpoint)
        assert connection.nix_version == "2.93.3"
        assert connection.protocol_version == (1, 35)
        result = await connection.build(DRV)
        assert result.status is BuildStatus.BUILT
        assert (result.started_at, result.stopped_at) == (5, 7)
        assert (result.cpu_user, result.cpu_system) == (None, None)
        assert result.outputs == {"out": PATH}
        await connection.close()


async def test_a_newer_nix_is_spoken_to_as_an_older_one() -> None:
    async def newer(reader: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting(version=(1, 51), nix="2.99.1", features=("time-travel",)))
        await read_opening(reader)
        assert await reader.word() == Operation.BUILD_PATHS_WITH_RESULTS
        writer.write(build_answer())

    async with peer(newer) as endpoint:
        connection = await open_to(endpoint)
        assert connection.protocol_version == (1, 38)
        assert connection.features == frozenset()
        result = await connection.build(DRV)
        assert (result.cpu_user, result.cpu_system) == (None, 2.5)
        await connection.close()


@pytest.mark.parametrize(
    ("opening", "named"),
    [
        (greeting(version=(1, 37), nix="2.18.9"), r"Nix 2\.18\.9 speaks version 1\.37"),
        (greeting(version=(1, 34), nix="2.11.1"), r"Nix 2\.11\.1 speaks version 1\.34"),
        (greeting(version=(1, 21)), r"version 1\.21"),
        (greeting(version=(2, 0)), r"version 2\.0"),
    ],
)
async def test_unsupported_versions_are_refused_by_name(opening: bytes, named: str) -> None:
    async with peer(stalls_after(opening)) as endpoint:
        with pytest.raises(NixError, match=named + r".*Nix 2\.24 and later") as refusal:
            await open_to(endpoint)
        assert not isinstance(refusal.value, ConnectionLostError)


# --- Lies ----------------------------------------------------------------------------------------

NO_GREETINGS = {
    "nothing": says(),
    "other magic": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "cut in the magic": says(greeting()[:5]),
    "cut in the version": says(greeting()[:12]),
    "features without end": says(greeting()[:16], HUGE, string("feature") * 20_000),
    "a version of huge length": says(greeting()[:24], HUGE),
    "a version that is no text": says(greeting()[:24], string(b"\xff\xfe")),
    "an unknown tag": says(greeting()[:-16], word(0x1234)),
    "a log record without end": says(greeting()[:-16], word(StderrTag.NEXT), HUGE),
}


@pytest.mark.parametrize("behave", NO_GREETINGS.values(), ids=NO_GREETINGS.keys())
async def test_no_greeting(behave: Behaviour) -> None:
    async with peer(behave) as endpoint:
        with pytest.raises(ConnectionLostError, match="was lost when asked to speak with us: it "):
            await open_to(endpoint)


ACTIVITY = word(StderrTag.START_ACTIVITY) + word(1) + word(3) + word(105) + string("building")
INFO_HEAD = LAST + word(1) + string("")
LIES: dict[str, tuple[Question, bytes]] = {
    "an unknown tag": (valid_paths, word(0xDEAD)),
    "a set of huge size": (valid_paths, LAST + HUGE + string(PATH) * 1000),
    "a path of huge length": (valid_paths, LAST + word(1) + HUGE),
    "more paths than asked for": (valid_paths, LAST + strings([PATH] * 100)),
    "no store path": (valid_paths, LAST + strings(["/etc/passwd"])),
    "a path that climbs": (outputs, LAST + word(1) + string("out") + string("/nix/store/../../x")),
    "a path with a newline": (outputs, LAST + word(1) + string("out") + string(f"{PATH}\n")),
    "padding that is not zero": (valid_paths, LAST + word(1) + word(1) + b"abcdefgh"),
    "text that is not UTF-8": (valid_paths, LAST + word(1) + string(b"\xff")),
    "a log message of huge length": (valid_paths, word(StderrTag.NEXT) + HUGE),
    "fields without end": (valid_paths, ACTIVITY + HUGE + (word(0) + word(7)) * 1_050_000),
    "a field of an unknown type": (valid_paths, ACTIVITY + word(1) + word(9)),
    "a build log that is a number": (
        build,
        word(StderrTag.RESULT) + word(1) + word(101) + word(1) + word(0) + word(5),
    ),
    "an error of an unknown kind": (valid_paths, word(StderrTag.ERROR) + string("Panic")),
    "an error with a position": (
        valid_paths,
        word(StderrTag.ERROR) + string("Error") + word(0) + string("") + string("no") + word(1),
    ),
    "a hash that is none": (path_info, INFO_HEAD + string("zz")),
    "a hash that is too short": (path_info, INFO_HEAD + string("00")),
    "references without end": (
        path_info,
        INFO_HEAD + string("0" * 64) + HUGE + string(PATH) * 320_000,
    ),
    "no result": (build, LAST + word(0)),
    "two results": (build, LAST + word(2)),
    "an unknown status": (build, build_answer(status=99)),
    "a time that is and is not": (build, build_answer(times=word(2))),
    "an output without a name": (build, build_answer(identity="out")),
    "a realisation that is no JSON": (build, build_answer(realisation="{")),
    "a realisation that is a list": (build, build_answer(realisation="[]")),
    "a realisation that nests": (build, build_answer(realisation="[" * 100_000)),
    "a realisation elsewhere": (build, build_answer(realisation='{"outPath": "../../etc"}')),
    "a NAR that is none": (nar, LAST + string("tar") + bytes(99)),
    "a NAR with a long keyword": (nar, LAST + string("nix-archive-1") + word(10**6) + bytes(99)),
    "a NAR with another keyword": (nar, LAST + string("nix-archive-1") + string("(") + string("?")),
    "a NAR that begins in its middle": (nar, LAST + string("nix-archive-1") + string("type")),
}


@pytest.mark.parametrize(("question", "answer"), LIES.values(), ids=LIES.keys())
async def test_lies(question: Question, answer: bytes) -> None:
    async with peer(says(greeting(), answer)) as endpoint:
        connection = await open_to(endpoint)
        with pytest.raises(ConnectionLostError, match=r"was lost when asked to .*: it sent|padded"):
            await question(connection)
        assert not connection.alive


NAR = b"".join(map(string, ("nix-archive-1", "(", "type", "regular", "contents", "x" * 50, ")")))
HONEST: dict[str, tuple[Question, bytes]] = {
    "paths": (valid_paths, LAST + strings([PATH])),
    "information": (
        path_info,
        INFO_HEAD + string("0" * 64) + strings([PATH]) + word(1) + word(2) + word(1)
        + strings(["key:signature"]) + string("fixed:r:sha256:0"),
    ),
    "a build": (build, ACTIVITY + word(1) + word(1) + string("x") + word(0) + build_answer()),
    "outputs": (outputs, LAST + word(2) + string("a") + string(PATH) + string("b") + string("")),
    "a NAR": (nar, LAST + NAR),
    "a refusal": (
        path_info,
        word(StderrTag.ERROR) + string("Error") + word(0) + string("Error") + string("no")
        + word(0) + word(1) + word(0) + string("while asked"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("question", "answer"), HONEST.values(), ids=HONEST.keys())
async def test_answers_cut_at_any_byte(question: Question, answer: bytes) -> None:
    cuts = iter(range(0, len(answer), 3))

    async def behave(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await says(greeting(), answer[: next(cuts)])(reader, writer)

    async with peer(behave) as endpoint:
        for _ in range(0, len(answer), 3):
            connection = await open_to(endpoint)
            with pytest.raises(ConnectionLostError, match="it closed the connection"):
                await question(connection)
            assert not connection.alive


async def test_a_peer_that_hangs_up_at_once() -> None:
    async def hang_up(_: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting())

    async with peer(hang_up) as endpoint:
        with pytest.raises(ConnectionLostError, match="was lost when asked to"):
            await valid_paths(await open_to(endpoint))


@pytest.mark.parametrize("kind", [kind for kind in HONEST if kind != "a build"])
async def test_answers_that_stall(kind: str) -> None:
    question, answer = HONEST[kind]
    async with peer(stalls_after(greeting(), answer[:-8])) as endpoint:
        connection = await open_to(endpoint, patience=0.1)
        with pytest.raises(ConnectionLostError, match=r"it has said nothing for 0\.1 s"):
            await question(connection)
        assert not connection.alive


async def test_a_greeting_that_stalls() -> None:
    async with peer(stalls_after(greeting()[:20])) as endpoint:
        with pytest.raises(ConnectionLostError, match=r"0\.1 s"):
            await open_to(endpoint, patience=0.1)


async def test_a_greeting_that_trickles() -> None:
    async def trickle(_: Reader, writer: asyncio.StreamWriter) -> None:
        record = word(StderrTag.STOP_ACTIVITY) + word(1)
        writer.write(greeting()[:-16])
        while True:
            writer.write(record)
            await writer.drain()

    async with peer(trickle) as endpoint:
        with pytest.raises(ConnectionLostError, match=r"did not greet us in 0\.3 s"):
            await open_to(endpoint, patience=0.3)


async def test_garbage_of_any_kind() -> None:
    seeds = iter(range(60))

    async def behave(reader: Reader, writer: asyncio.StreamWriter) -> None:
        garbage = random.Random(next(seeds)).randbytes(5000)  # noqa: S311
        await says(greeting(), LAST, garbage)(reader, writer)

    async with peer(behave) as endpoint:
        for seed in range(60):
            question = (valid_paths, path_info, build, outputs, nar)[seed % 5]
            connection = await open_to(endpoint)
            with pytest.raises(ConnectionLostError):
                await question(connection)


async def test_a_refusal_keeps_the_connection() -> None:
    _, refusal = HONEST["a refusal"]
    answers = refusal + LAST + strings([PATH])
    async with peer(stalls_after(greeting(), answers)) as endpoint:
        connection = await open_to(endpoint)
        with pytest.raises(NixError, match=r"cannot describe /nix/store/.*: no\n… while asked"):
            await connection.query_path_info(PATH)
        assert await connection.query_valid_paths((PATH,)) == {PATH}
        await connection.close()


# --- Floods --------------------------------------------------------------------------------------


async def test_an_endless_line_takes_no_memory() -> None:
    async def flood(_: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting() + ENDLESS_LINE)
        while True:
            writer.write(bytes(CHUNK))
            await writer.drain()

    received = 0

    def count(record: LogRecord) -> None:
        nonlocal received
        assert isinstance(record, BuildLog)
        assert not record.line_ends
        assert len(record.data) <= CHUNK
        received += len(record.data)
        if received > 100_000_000:
            raise OverflowError("enough")

    async with peer(flood) as endpoint:
        connection = await open_to(endpoint)
        tracemalloc.start()
        try:
            with pytest.raises(OverflowError):
                await connection.build(DRV, on_log=count)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert not connection.alive
    assert peak < 10_000_000


@pytest.mark.parametrize("question", [valid_paths, path_info, outputs, build])
async def test_an_endless_answer_takes_little_memory(question: Question) -> None:
    async def flood(_: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting() + LAST + word(1))
        while True:
            writer.write(word(100_000_000) + bytes(100_000_000))
            await writer.drain()

    async with peer(flood) as endpoint:
        connection = await open_to(endpoint)
        with pytest.raises(ConnectionLostError, match="more than is sensible"):
            await question(connection)


async def archive(size: int) -> AsyncIterator[bytes]:
    while size > 0:
        yield bytes(CHUNK)
        size -= CHUNK


async def test_a_daemon_that_talks_before_it_reads_is_heard() -> None:
    async def talkative(reader: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting())
        await read_opening(reader)
        for _ in range(200):  # more than any socket's buffers hold
            writer.write(word(StderrTag.NEXT) + string(bytes(CHUNK)))
            await writer.drain()
        assert await reader.word() == Operation.ADD_TO_STORE
        assert await reader.text() == "name"
        assert await reader.text() == "fixed:r:sha256"
        assert await reader.texts() == [PATH]
        assert await reader.word() == 0
        digest = hashlib.sha256()
        while length := await reader.word():
            left = length
            while left:
                data = (await reader.peek())[:left]
                reader.advance(len(data))
                digest.update(data)
                left -= len(data)
            reader.allow(UNLIMITED)
        assert digest.digest() == hashlib.sha256(bytes(160 * CHUNK)).digest()
        _, answer = HONEST["information"]
        writer.write(LAST + string(PATH) + answer[len(LAST) + 8 :])

    async with peer(talkative) as endpoint:
        connection = await open_to(endpoint)
        info = await connection.add_nar("name", archive(160 * CHUNK), references=(PATH,))
        assert info.path == PATH
        assert info.content_address == "fixed:r:sha256:0"
        await connection.close()


async def test_a_daemon_that_reads_nothing() -> None:
    async def deaf(reader: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting())
        await read_opening(reader)
        await asyncio.Event().wait()

    async with peer(deaf) as endpoint:
        connection = await open_to(endpoint, patience=0.2)
        with pytest.raises(ConnectionLostError, match=r"it has read nothing for 0\.2 s"):
            await connection.add_to_store_nar(INFO, archive(10**12))
        assert not connection.alive


async def test_a_daemon_that_refuses_in_the_middle_and_hangs_up() -> None:
    _, refusal = HONEST["a refusal"]

    async def refuse(reader: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting())
        await read_opening(reader)
        assert await reader.word() == Operation.ADD_TO_STORE_NAR
        await says(refusal)(reader, writer)

    async with peer(refuse) as endpoint:
        connection = await open_to(endpoint)
        with pytest.raises(NixError, match=r"cannot add .*: no\n") as error:
            await connection.add_to_store_nar(INFO, archive(10**12))
        assert not isinstance(error.value, ConnectionLostError)
        assert not connection.alive


async def test_a_refusal_amid_a_nar() -> None:
    _, refusal = HONEST["a refusal"]
    async with peer(says(greeting(), LAST, NAR[:24], refusal)) as endpoint:
        connection = await open_to(endpoint)
        with pytest.raises(NixError, match=r"cannot send .*: no\n"):
            await nar(connection)
        assert not connection.alive
