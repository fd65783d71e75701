"""The table of failure classes against real failures: each is staged for both versions of Nix."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import resource
import signal
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec.structs import replace

from reconciler.build import attempt, failures
from reconciler.build.failures import Failure
from reconciler.build.place import Here
from reconciler.errors import ConnectionLostError, NixError
from reconciler.model import AttemptResult, DrvPath, Limits, Outcome
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import CommandEndpoint
from reconciler.nix.protocol import BuildResult, ClientOptions, Operation, read_build_result
from reconciler.nix.wire import Reader, strings, word
from tests.nix.connection_daemons import Daemon, daemon, newer_nix, older_nix
from tests.support.trial import processes_with

VERSIONS = {"newer": newer_nix, "older": older_nix}
SETTINGS = {"build-hook": ""}
OPTIONS = ClientOptions(settings=SETTINGS)
HASH = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
FIXED = f'outputHash = "{HASH}"; outputHashMode = "flat";'
SHELL = 'system = builtins.currentSystem; builder = "/bin/sh";'
MEASURED = f'{SHELL} args = [ "-c" "echo > $out" ];'
FAILING = f'{SHELL} args = [ "-c" "exit 1" ];'


@pytest.fixture(params=VERSIONS)
def nix(request: pytest.FixtureRequest) -> Path:
    """The folder of each version of Nix."""
    return VERSIONS[request.param]()


async def end(build: Awaitable[BuildResult]) -> tuple[Failure | None, str]:
    """The class of a failure, and Nix's own words."""
    try:
        result = await build
    except ConnectionLostError as error:
        return Failure.UNREACHABLE, str(error)
    except NixError as error:
        return failures.of_refusal(str(error)), str(error)
    return failures.of_result(result.status, result.message), result.message


async def build(staged: Daemon, drv: DrvPath, options: ClientOptions = OPTIONS) -> BuildResult:
    async with await staged.connect(options) as connection:
        return await connection.build(drv)


def instantiate(staged: Daemon, attributes: str, *features: str) -> DrvPath:
    """A derivation with these attributes; `features` are switched on for its making alone."""
    return DrvPath(
        staged.run(
            "nix-instantiate",
            "--extra-experimental-features",
            " ".join(features),
            "-E",
            f'derivation {{ name = "staged"; {attributes} }}',
        )
    )


# --- What one derivation shows ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A derivation that fails, the class, and what Nix says."""

    failure: Failure | None
    said: str
    script: str = "echo > $out"
    attributes: str = ""
    options: ClientOptions = OPTIONS
    settings: str = ""


CASES = {
    "it ends well": Case(None, ""),
    "its builder fails": Case(Failure.BUILD, "failed with exit code 3", "exit 3"),
    "its log speaks of the machine": Case(
        Failure.BUILD,
        "unable to download 'x'",
        "echo No space left on device; echo unable to download \\'x\\'; exit 3",
    ),
    "it dies by its own fault": Case(
        Failure.BUILD, "signal 11", "kill -11 $$", settings="sandbox = false\n"
    ),
    "it makes no output": Case(Failure.OUTPUT_REJECTED, "failed to produce output path", ":"),
    "its outputs refer to each other": Case(
        Failure.OUTPUT_REJECTED,
        "cycle detected in build of",
        "echo $b > $out; echo $out > $b",
        'outputs = [ "out" "b" ];',
    ),
    "its output is no file": Case(
        Failure.OUTPUT_REJECTED, "has an unsupported type", "mkfifo $out"
    ),
    "its output is a folder and fixed": Case(
        Failure.OUTPUT_REJECTED, "should be a non-executable regular file", "mkdir $out", FIXED
    ),
    "a reference is disallowed": Case(
        Failure.OUTPUT_REJECTED,
        "is not allowed to refer to",
        "echo $dep > $out",
        'dep = builtins.toFile "a" "a"; disallowedReferences = [ (builtins.toFile "a" "a") ];',
    ),
    "a reference is not among the allowed": Case(
        Failure.OUTPUT_REJECTED,
        "is not allowed to refer to",
        "echo $dep > $out",
        'dep = builtins.toFile "a" "a"; allowedReferences = [ ];',
    ),
    "its output is too large for itself": Case(
        Failure.OUTPUT_REJECTED,
        "is too large at",
        ". $NIX_ATTRS_SH_FILE; for each in ${outputs[out]}; do echo more than ten > $each; done",
        "__structuredAttrs = true; outputChecks.out.maxSize = 10;",
    ),
    "its hash is another": Case(Failure.HASH_MISMATCH, "hash mismatch in", attributes=FIXED),
    "it takes too long": Case(
        Failure.TIMED_OUT,
        "timed out after 1 seconds",
        "while :; do echo; sleep 0.1; done",
        options=replace(OPTIONS, timeout=1),
    ),
    "it writes too much log": Case(
        Failure.LOG_LIMIT,
        "writing more than 1000 bytes",
        "while :; do echo 0123456789; done",
        options=replace(OPTIONS, settings={**SETTINGS, "max-build-log-size": "1000"}),
    ),
    "it wants a feature": Case(
        Failure.REFUSED, "features", attributes='requiredSystemFeatures = [ "moonlight" ];'
    ),
    "it wants to leave the sandbox": Case(
        Failure.REFUSED, "has '__noChroot' set", attributes="__noChroot = true;"
    ),
    "it wants a file of the machine": Case(
        Failure.REFUSED,
        "requested impure path '/etc/hostname'",
        attributes='__impureHostDeps = [ "/etc/hostname" ];',
    ),
    "it wants users that nobody allots": Case(
        Failure.REFUSED, "'uid-range'", attributes='requiredSystemFeatures = [ "uid-range" ];'
    ),
    "its exports come in odd numbers": Case(
        Failure.REFUSED,
        "odd number of tokens in 'exportReferencesGraph'",
        attributes='exportReferencesGraph = [ "a" ];',
    ),
    "its exports are no store paths": Case(
        Failure.REFUSED,
        "/nowhere'",
        attributes='exportReferencesGraph = [ "a" "/nowhere" ];',
    ),
    "there are no slots": Case(
        Failure.MACHINE, "max-jobs", options=replace(OPTIONS, max_build_jobs=0)
    ),
    "a hook fails": Case(
        Failure.MACHINE, "failed with exit code 1", settings="pre-build-hook = /bin/false\n"
    ),
    "the sandbox lacks a path": Case(
        Failure.MACHINE, "/nowhere", settings="extra-sandbox-paths = /nowhere\n"
    ),
    "there are no build users": Case(
        Failure.MACHINE, "'nobodies'", settings="build-users-group = nobodies\n"
    ),
    "a download's builder fails": Case(
        Failure.DOWNLOAD, "failed with exit code 1", "exit 1", attributes=FIXED
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_derivation_that_fails(nix: Path, name: str) -> None:
    case = CASES[name]
    with daemon(nix, behind="command", settings=case.settings) as staged:
        drv = staged.derivation(case.script, attributes=case.attributes)
        failure, words = await end(build(staged, drv, case.options))
    assert failure is case.failure, words
    assert case.said in words


async def test_silence_is_told_apart_where_nix_does(nix: Path) -> None:
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation("sleep 60")
        failure, words = await end(build(staged, drv, replace(OPTIONS, max_silent=1)))
    assert failure is (Failure.SILENT if "of silence" in words else Failure.TIMED_OUT)
    assert failure.outcome is Outcome.TIMED_OUT


# --- Derivations of their own kind --------------------------------------------------------------

KINDS = {
    "for another system": (
        Failure.REFUSED,
        "riscv64-linux",
        'system = "riscv64-linux"; builder = "/bin/sh";',
    ),
    "without a program": (
        Failure.BUILD,
        "executing '/nowhere'",
        'system = builtins.currentSystem; builder = "/nowhere";',
    ),
    "with a builtin that is none": (
        Failure.BUILD,
        "unsupported builtin builder",
        'system = "builtin"; builder = "builtin:nothing";',
    ),
    "content-addressed, which is switched off": (
        Failure.REFUSED,
        "'ca-derivations' is disabled",
        f"{MEASURED} __contentAddressed = true;",
    ),
    "impure, which is switched off": (
        Failure.REFUSED,
        "'impure-derivations' is disabled",
        f"{MEASURED} __impure = true;",
    ),
    "whose input fails": (
        Failure.DEPENDENCY,
        "dependenc",
        f'{MEASURED} dep = derivation {{ name = "i"; {FAILING} }};',
    ),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_derivation(nix: Path, kind: str) -> None:
    expected, said, attributes = KINDS[kind]
    with daemon(nix, behind="command") as staged:
        drv = instantiate(staged, attributes, "ca-derivations", "impure-derivations")
        failure, words = await end(build(staged, drv))
    assert failure is expected, words
    assert said in words


async def test_a_pure_derivation_of_an_impure_one(nix: Path) -> None:
    settings = "extra-experimental-features = ca-derivations impure-derivations\n"
    with daemon(nix, behind="command", settings=settings) as staged:
        drv = instantiate(
            staged,
            f'{MEASURED} dep = derivation {{ name = "i"; {MEASURED} __impure = true; }};',
        )
        failure, words = await end(build(staged, drv))
    assert failure is Failure.REFUSED
    assert "depends on impure derivation" in words


async def test_an_output_that_is_not_there_to_be_wanted(nix: Path) -> None:
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation("echo > $out")
        async with await staged.connect() as connection:
            failure, words = await end(connection.build(drv, outputs=["lost"]))
    assert failure is Failure.REFUSED
    assert "'lost'" in words


async def test_a_build_whose_second_result_differs(nix: Path) -> None:
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation("cat /proc/sys/kernel/random/uuid > $out")
        async with await staged.connect() as connection:
            assert (await connection.build(drv)).status.success
            failure, words = await end(check(connection, drv))
    assert failure is Failure.NOT_DETERMINISTIC
    assert "may not be deterministic" in words


async def check(connection: Connection, drv: DrvPath) -> BuildResult:
    """Build once more and compare: the protocol's build mode that the reconciler has no use for."""

    async def read(reader: Reader) -> BuildResult:
        assert await reader.word() == 1
        await reader.text()
        return await read_build_result(reader, connection.protocol_version, str(Path(drv).parent))

    return await connection._call(
        f"check {drv}",
        Operation.BUILD_PATHS_WITH_RESULTS,
        strings((f"{drv}!*",)) + word(2),
        read,
        unhurried=True,
    )


# --- What is missing ----------------------------------------------------------------------------


async def test_a_derivation_that_was_collected(nix: Path) -> None:
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation("echo > $out")
        staged.run("nix-store", "--delete", drv)
        failure, _ = await end(build(staged, drv))
    assert failure is Failure.DEPENDENCY


def damaged(file: Path, *, garbled: bool) -> None:
    file.unlink()
    if garbled:
        file.write_text("Derive(")


@pytest.mark.parametrize(
    ("garbled", "kind"),
    [(False, Failure.MACHINE), (True, Failure.REFUSED)],
    ids=["lost", "garbled"],
)
async def test_a_derivation_whose_file_is_damaged(nix: Path, garbled: bool, kind: Failure) -> None:
    """What cannot be parsed costs itself: the words are those of an output that is to be one."""
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation("echo > $out")
        damaged(Path(drv), garbled=garbled)
        failure, _ = await end(build(staged, drv))
    assert failure is kind


@pytest.mark.parametrize("substitute", [True, False], ids=["asked for elsewhere", "not asked for"])
async def test_an_input_that_was_collected(nix: Path, substitute: bool) -> None:
    with daemon(nix, behind="command") as staged:
        drv = instantiate(staged, f'{MEASURED} dep = builtins.toFile "dep" "dep";')
        (dep,) = staged.store.store_dir.glob("*-dep")
        # Nix deletes nothing that something refers to: damage does.
        with closing(sqlite3.connect(staged.store.root / "state/db/db.sqlite")) as database:
            valid = "(SELECT id FROM ValidPaths WHERE path = ?)"
            database.execute(f"DELETE FROM Refs WHERE reference = {valid}", (str(dep),))
            database.execute("DELETE FROM ValidPaths WHERE path = ?", (str(dep),))
            database.commit()
        failure, _ = await end(build(staged, drv, replace(OPTIONS, use_substitutes=substitute)))
    assert failure is Failure.DEPENDENCY


# --- What cannot be fetched ---------------------------------------------------------------------


@contextmanager
def web(answers: Callable[[str], tuple[int, bytes]]) -> Iterator[str]:
    """An HTTP server; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ONE_TRY = "download-attempts = 1\n"


def fetch(url: str) -> str:
    return f'system = "builtin"; builder = "builtin:fetchurl"; url = "{url}"; {FIXED}'


@pytest.mark.parametrize("status", [403, 404, 500, 503])
async def test_a_download_that_is_answered_so(nix: Path, status: int) -> None:
    with (
        web(lambda _: (status, b"")) as url,
        daemon(nix, behind="command", settings=ONE_TRY) as staged,
    ):
        failure, words = await end(build(staged, instantiate(staged, fetch(f"{url}/source"))))
    assert failure is Failure.DOWNLOAD
    assert f"HTTP error {status}" in words


async def test_a_download_of_something_else(nix: Path) -> None:
    with (
        web(lambda _: (200, b"something else")) as url,
        daemon(nix, behind="command", settings=ONE_TRY) as staged,
    ):
        failure, _ = await end(build(staged, instantiate(staged, fetch(f"{url}/source"))))
    assert failure is Failure.HASH_MISMATCH


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/source", "http://nowhere.invalid/source"])
async def test_a_download_from_nobody(nix: Path, url: str) -> None:
    with daemon(nix, behind="command", settings=ONE_TRY) as staged:
        failure, words = await end(build(staged, instantiate(staged, fetch(url))))
    assert failure is Failure.DOWNLOAD
    assert "unable to download" in words


@pytest.mark.parametrize("trouble", ["no narinfo", "no archive"])
async def test_a_substituter_that_fails(nix: Path, trouble: str) -> None:
    infos: dict[str, bytes] = {}

    def answers(path: str) -> tuple[int, bytes]:
        if path == "/nix-cache-info":
            return 200, infos["cache"]
        return (200, infos[path]) if path in infos else (500, b"")

    with web(answers) as url:
        settings = f"{ONE_TRY}substituters = {url}\nrequire-sigs = false\n"
        with daemon(nix, behind="command", settings=settings) as staged:
            infos["cache"] = f"StoreDir: {staged.store.store_dir}\nWantMassQuery: 1\n".encode()
            drv = staged.derivation("echo > $out")
            if trouble == "no archive":
                output = staged.run("nix-store", "--query", "--outputs", drv)
                infos[f"/{Path(output).name[:32]}.narinfo"] = (
                    f"StorePath: {output}\nURL: x.nar\nCompression: none\n"
                    f"NarHash: sha256:{'0' * 52}\nNarSize: 100\nReferences: \n"
                ).encode()
            failure, _ = await end(build(staged, drv))
    assert failure is Failure.DOWNLOAD


# --- A machine in need --------------------------------------------------------------------------


def within(staged: Daemon, preparation: str) -> Daemon:
    """The same store, served by a daemon in a mount namespace of its own."""
    assert isinstance(staged.endpoint, CommandEndpoint)
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "-r"]
    argv = (*unshare, "sh", "-euc", f'{preparation}; exec "$@"', "sh", *staged.endpoint.argv)
    return dataclasses.replace(staged, endpoint=CommandEndpoint(argv, staged.environment))


def small(folder: Path, options: str) -> str:
    """Put a small file system over a folder, with what was in it."""
    return (
        f"cp -a {folder} {folder}.was; mount -t tmpfs -o {options} none {folder};"
        f" cp -a {folder}.was/. {folder}/"
    )


BIG = '(builtins.concatStringsSep "" (builtins.genList (_: "0123456789") 30000))'


@pytest.mark.parametrize(
    ("folder", "options", "script", "attributes"),
    [
        pytest.param("store", "size=10m", "head -c 30m /dev/zero > $out || exit 7", "", id="build"),
        pytest.param("build", "size=10m", "head -c 30m /dev/zero > x || exit 7", "", id="scratch"),
        pytest.param(
            "build", "size=100k", "", f'passAsFile = [ "big" ]; big = {BIG};', id="setting up"
        ),
        pytest.param("build", "nr_inodes=2", "", "", id="inodes"),
    ],
)
async def test_a_disk_that_is_full(
    nix: Path, folder: str, options: str, script: str, attributes: str
) -> None:
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation(script, attributes=attributes)
        scratch = staged.store.root / "build"
        scratch.mkdir(mode=0o755)
        settings = {**SETTINGS, "build-dir": str(scratch)}
        full = within(staged, small(staged.store.root / folder, options))
        failure, words = await end(build(full, drv, replace(OPTIONS, settings=settings)))
    assert failure is Failure.NO_SPACE, words


async def test_a_database_without_room(nix: Path) -> None:
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation("echo > $out")
        state = staged.store.root / "state"
        filled = f"{small(state, 'size=10m')}; ! cat /dev/zero > {state}/filler 2> /dev/null"
        failure, words = await end(build(within(staged, filled), drv))
    assert failure is Failure.NO_SPACE, words


async def test_a_daemon_without_memory(nix: Path) -> None:
    with daemon(nix, behind="command") as staged:
        big = "".join(f"v{i} = {BIG}; " for i in range(40))
        drv = staged.derivation("", attributes=f"__structuredAttrs = true; {big}")
        async with await staged.connect() as connection:
            confine(served_by(connection), room=10_000_000)
            failure, words = await end(connection.build(drv))
    assert failure is Failure.NO_MEMORY, words


def confine(pid: int, *, room: int) -> None:
    """Let a process have no more memory than it has now, and so many bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + room
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))


def served_by(connection: Connection) -> int:
    """The process of a daemon that is a command."""
    process = connection._session._channel._process  # type: ignore[attr-defined]
    assert isinstance(process, asyncio.subprocess.Process)
    return process.pid


async def until(found: Callable[[], Sequence[str]]) -> list[int]:
    """The processes that something finds, as soon as there are some."""
    async with asyncio.timeout(30):
        # Nobody tells of another's process.
        while not (pids := [int(each.split(":")[0]) for each in found()]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return pids


def builders(seconds: str) -> list[str]:
    """The processes that sleep so long, without the daemon that knows of them."""
    return [each for each in processes_with(seconds) if f"sleep\\x00{seconds}" in each]


async def test_a_builder_that_is_killed(nix: Path) -> None:
    seconds = f"36{os.getpid()}"
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation(f"exec sleep {seconds}")
        task = asyncio.create_task(end(build(staged, drv)))
        for pid in await until(lambda: builders(seconds)):
            os.kill(pid, signal.SIGKILL)
        failure, words = await task
    assert failure is Failure.KILLED, words


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_daemon_that_is_ended(nix: Path, number: signal.Signals) -> None:
    seconds = f"36{os.getpid()}"
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation(f"exec sleep {seconds}")
        async with await staged.connect() as connection:
            task = asyncio.create_task(end(connection.build(drv)))
            left = await until(lambda: builders(seconds))
            os.kill(served_by(connection), number)
            failure, words = await task
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    # Told to end, some say so before they go.
    assert failure in (Failure.UNREACHABLE, Failure.MACHINE), words


# --- Attempts -----------------------------------------------------------------------------------


async def attempted(
    staged: Daemon, drv: DrvPath, logs: Path, limits: Limits | None = None
) -> AttemptResult:
    order = attempt.Order(attempt=1, derivation=1, path=drv, limits=lambda: limits or Limits())
    async with await staged.connect() as connection:
        return await attempt.run(order, Here(connection), logs)


async def test_an_attempt_that_is_refused_is_the_last(nix: Path, tmp_path: Path) -> None:
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation("", attributes='requiredSystemFeatures = [ "moonlight" ];')
        result = await attempted(staged, drv, tmp_path)
    assert result.outcome is Outcome.FAILED
    assert "moonlight" in result.message


async def test_an_attempt_that_the_machine_broke_says_how(nix: Path, tmp_path: Path) -> None:
    with daemon(nix, behind="command", settings=ONE_TRY) as staged:
        drv = instantiate(staged, fetch("http://127.0.0.1:1/source"))
        result = await attempted(staged, drv, tmp_path)
    assert result.outcome is Outcome.INFRASTRUCTURE
    assert result.message.startswith("download failed: builder failed with exit code 1")


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        (Limits(timeout=0.3), Outcome.TIMED_OUT),
        (Limits(max_silent=0.3), Outcome.TIMED_OUT),
        (Limits(max_log=10), Outcome.LOG_LIMIT),
        (Limits(max_output=10), Outcome.OUTPUT_LIMIT),
    ],
)
async def test_an_attempt_within_limits(
    nix: Path, tmp_path: Path, limits: Limits, outcome: Outcome
) -> None:
    script = "echo 12345678901234567890; echo > $out"
    if outcome is Outcome.TIMED_OUT:
        script = "exec sleep 3600"
    with daemon(nix, behind="command") as staged:
        result = await attempted(staged, staged.derivation(script), tmp_path, limits)
    assert result.outcome is outcome


async def test_an_attempt_over_a_connection_that_is_gone(nix: Path, tmp_path: Path) -> None:
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation("echo > $out")
        connection = await staged.connect()
        await connection.close()
        order = attempt.Order(attempt=1, derivation=1, path=drv, limits=Limits)
        result = await attempt.run(order, Here(connection), tmp_path)
    assert result.outcome is Outcome.INFRASTRUCTURE


async def test_an_attempt_without_room_for_its_log(nix: Path, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder belongs")
    with daemon(nix, behind="command") as staged:
        result = await attempted(
            staged, staged.derivation("echo said; echo > $out"), tmp_path / "logs"
        )
    assert result.outcome is Outcome.INFRASTRUCTURE
    assert "cannot write the build's log" in result.message


async def test_a_cancelled_attempt_is_no_failure(nix: Path, tmp_path: Path) -> None:
    seconds = f"36{os.getpid()}"
    with daemon(nix, behind="command") as staged:
        drv = staged.derivation(f"exec sleep {seconds}")
        task = asyncio.create_task(attempted(staged, drv, tmp_path))
        await until(lambda: builders(seconds))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert builders(seconds) == []
