"""Builds on a real builder: behind sshd, with a store of its own, of either version of Nix."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.build import attempt, failures, log
from reconciler.build.failures import Failure
from reconciler.build.remote import RemoteBuilder, There, Uploads
from reconciler.build.sending import inputs
from reconciler.errors import NixError
from reconciler.model import AttemptResult, DrvPath, Limits, Outcome, PathInfo, StorePath
from reconciler.nix.basic_derivation import BasicDerivation
from reconciler.nix.logs import BuildLog, LogRecord
from reconciler.nix.protocol import BuildResult, BuildStatus
from reconciler.nix.ssh import Fault, SshError
from tests.nix.connection_daemons import Daemon, daemon, newer_nix, older_nix
from tests.support.builders import TestBuilder


@dataclass
class Pair:
    """This machine, and a builder."""

    here: Daemon
    builder: TestBuilder
    remote: RemoteBuilder

    def derivation(self, script: str, *, name: str = "test", **references: str) -> DrvPath:
        """A derivation that mentions derivations, each by a variable."""
        variables = "".join(f'{key} = "${{import {drv}}}"; ' for key, drv in references.items())
        return self.here.derivation(script, name=name, attributes=variables)

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[There]:
        async with (
            await self.remote.connect() as connection,
            await self.here.connect() as local,
        ):
            yield self.remote.place(connection, local)

    async def make(self, drv: DrvPath) -> tuple[BuildResult, bytes]:
        """Make an attempt; what came of it, and its log."""
        async with self.place() as place:
            return await make(place, drv)


async def make(place: There, drv: DrvPath) -> tuple[BuildResult, bytes]:
    said = []

    def hear(record: LogRecord) -> None:
        if isinstance(record, BuildLog):
            said.append(record.data + b"\n" * record.line_ends)

    await place.prepare(drv)
    result = await place.build(drv, on_log=hear)
    if result.status.success:
        await place.bring(await place.outputs(result))
    return result, b"".join(said)


@contextlib.contextmanager
def a_pair(
    nix: Path, *, behind: str = "command", settings: str = "", theirs: str = ""
) -> Iterator[Pair]:
    with daemon(newer_nix(), behind=behind, settings=settings) as here:
        builder = TestBuilder(here.store, nix, settings=theirs)
        try:
            remote = RemoteBuilder(builder.declared(), here.store.root / "ssh")
            yield Pair(here, builder, remote)
        finally:
            builder.close()


@pytest.fixture(params=[newer_nix, older_nix], ids=["newer", "older"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    nix: Callable[[], Path] = request.param
    with a_pair(nix()) as made:
        yield made


@pytest.fixture
def newer_pair() -> Iterator[Pair]:
    with a_pair(newer_nix()) as made:
        yield made


async def path_info(here: Daemon, path: StorePath) -> PathInfo:
    async with await here.connect() as connection:
        info = await connection.query_path_info(path)
    assert info is not None
    return info


def forget_contents(here: Daemon, path: StorePath) -> None:
    """Leave a file of the store registered, but let nobody read it any more."""
    (here.store.store_dir / Path(path).name).unlink()


# --- What goes well ------------------------------------------------------------------------------


async def test_a_build_elsewhere_is_as_one_made_here(pair: Pair) -> None:
    base = await pair.here.built("echo base > $out; : an input of the input", name="base")
    source = pair.here.run("nix-store", "--add", str(Path(__file__)))
    middle = pair.derivation(f"echo {base} > $out", name="middle")
    async with await pair.here.connect() as connection:
        assert (await connection.build(middle)).status is BuildStatus.BUILT
    drv = pair.here.derivation(
        "echo on the builder; cat $middle; ln -s $middle $out; echo $out $source > $dev",
        attributes=(
            f'outputs = [ "out" "dev" ]; middle = import {middle};'
            f' source = builtins.storePath "{source}";'
        ),
    )
    result, said = await pair.make(drv)

    assert result.status is BuildStatus.BUILT, result.message
    assert said.startswith(b"on the builder\n")
    out, dev = result.outputs["out"], result.outputs["dev"]
    assert pair.builder.holds(out)
    assert pair.here.run("nix-store", "--verify-path", out, dev) == ""
    assert pair.here.run("nix-store", "--query", "--references", out) == (
        pair.here.run("nix-store", "--query", "--outputs", middle)
    )
    assert set((await path_info(pair.here, dev)).references) == {out, source}
    assert (await path_info(pair.here, out)).deriver == drv
    assert not (await path_info(pair.here, out)).ultimate
    # The derivation's file stays here: it is not what is built there.
    assert not pair.builder.holds(drv)
    assert (await pair.make(drv))[0].status is BuildStatus.ALREADY_VALID


async def test_inputs_are_copied_once(pair: Pair) -> None:
    base = pair.derivation("head -c 3000000 /dev/zero > $out", name="base")
    async with await pair.here.connect() as connection:
        (path,) = (await connection.build(base)).outputs.values()
    first, second = (
        pair.derivation(f"wc -c < $base > $out; : {n}", name=f"user-{n}", base=base) for n in "ab"
    )
    async with pair.place() as place:
        assert (await make(place, first))[0].status is BuildStatus.BUILT
    forget_contents(pair.here, path)
    result, _ = await pair.make(second)
    assert result.status is BuildStatus.BUILT
    assert pair.here.run("cat", result.outputs["out"]) == "3000000"


async def test_two_attempts_at_once_share_what_they_need(newer_pair: Pair) -> None:
    pair = newer_pair
    base = pair.derivation("head -c 3000000 /dev/zero > $out", name="base")
    async with await pair.here.connect() as connection:
        await connection.build(base)
    drvs = [
        pair.derivation(f"wc -c < $base > $out; : {n}", name=f"user-{n}", base=base) for n in "abc"
    ]
    results = await asyncio.gather(*map(pair.make, drvs))
    assert [result.status for result, _ in results] == [BuildStatus.BUILT] * 3
    assert pair.builder.sshd.connections == 3


async def test_a_kept_connection_makes_one_build_after_another(newer_pair: Pair) -> None:
    pair = newer_pair
    drvs = [pair.derivation(f"echo {n} > $out; exit {n}") for n in range(3)]
    async with await pair.remote.connect() as connection, await pair.here.connect() as local:
        results = [(await make(pair.remote.place(connection, local), drv))[0] for drv in drvs]
    assert [result.status.success for result in results] == [True, False, False]
    assert pair.builder.sshd.connections == 1


async def test_what_the_builder_can_substitute_is_not_copied(newer_pair: Pair) -> None:
    pair = newer_pair
    base = pair.derivation("head -c 100000 /dev/zero > $out", name="base")
    async with await pair.here.connect() as connection:
        (path,) = (await connection.build(base)).outputs.values()
    cache = f"file://{pair.here.store.root}/cache"
    pair.here.run("nix", "copy", "--to", cache, path)
    forget_contents(pair.here, path)
    drv = pair.derivation("wc -c < $base > $out", name="user", base=base)
    with pytest.raises(NixError, match=r"cannot read .*-base: No such file"):
        await pair.make(drv)
    conf = pair.builder.store.root / "conf/nix.conf"
    conf.write_text(f"{conf.read_text()}substituters = {cache}?trusted=true\n")
    assert (await pair.make(drv))[0].status is BuildStatus.BUILT


@pytest.mark.parametrize("which", ["builder", "here"])
async def test_what_only_a_substituter_has_is_fetched(which: str) -> None:
    with a_pair(newer_nix()) as pair:
        base = pair.derivation("echo base > $out", name="base")
        async with await pair.here.connect() as connection:
            (path,) = (await connection.build(base)).outputs.values()
        cache = f"file://{pair.here.store.root}/cache"
        pair.here.run("nix", "copy", "--to", cache, path)
        pair.here.run("nix-store", "--delete", path)
        drv = pair.derivation("cat $base > $out", name="user", base=base)
        store = pair.builder.store if which == "builder" else pair.here.store
        conf = store.root / "conf/nix.conf"
        conf.write_text(f"{conf.read_text()}substituters = {cache}?trusted=true\n")
        assert (await pair.make(drv))[0].status is BuildStatus.BUILT
        here = pair.here.store.store_dir / Path(path).name
        assert here.exists() == (which == "here"), "the builder fetches by itself what it can"


async def test_a_failed_build_is_a_result_with_its_log(pair: Pair) -> None:
    drv = pair.derivation("echo to no avail; exit 3")
    result, said = await pair.make(drv)
    assert result.status is BuildStatus.PERMANENT_FAILURE
    assert failures.of_result(result.status, result.message) is Failure.BUILD
    assert "failed with exit code 3" in result.message
    assert said == b"to no avail\n"


# --- The end of a build that nobody waits for ----------------------------------------------------


@dataclass
class Running:
    """A build that says that it runs and then never ends; the FIFO it holds open has an end only
    when its processes are gone.
    """

    pair: Pair
    build: asyncio.Task[tuple[BuildResult, bytes]]
    gone: asyncio.Task[bytes]


@contextlib.asynccontextmanager
async def running(nix: Path, folder: Path, *, behind_a_daemon: bool) -> AsyncIterator[Running]:
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    with contextlib.ExitStack() as stack:
        settings = f"extra-sandbox-paths = {folder}\n"
        pair = stack.enter_context(a_pair(nix, theirs=settings))
        if behind_a_daemon:
            stack.enter_context(pair.builder.behind_a_daemon(trusted_users="*"))
        drv = pair.derivation(f"exec 9>{fifo}; while :; do echo again; sleep 1; done")
        started = asyncio.Event()

        def announce(record: LogRecord) -> None:
            if isinstance(record, BuildLog):
                started.set()

        async def attempt() -> tuple[BuildResult, bytes]:
            async with pair.place() as place:
                await place.prepare(drv)
                return await place.build(drv, on_log=announce), b""

        gone = asyncio.create_task(asyncio.to_thread(fifo.read_bytes))
        build = asyncio.create_task(attempt())
        announced = asyncio.create_task(started.wait())
        await asyncio.wait((build, announced), return_when=asyncio.FIRST_COMPLETED)
        assert not build.done(), await build
        yield Running(pair, build, gone)


ENDS = pytest.mark.parametrize(
    ("nix", "behind_a_daemon"),
    [(newer_nix, False), (newer_nix, True), (older_nix, False), (older_nix, True)],
    ids=["newer", "newer-daemon", "older", "older-daemon"],
)


@ENDS
async def test_a_cancelled_build_is_gone_from_the_builder(
    tmp_path: Path, nix: Callable[[], Path], behind_a_daemon: bool
) -> None:
    async with running(nix(), tmp_path, behind_a_daemon=behind_a_daemon) as under_way:
        under_way.build.cancel()
        with pytest.raises(asyncio.CancelledError):
            await under_way.build
        assert await under_way.gone == b""


@ENDS
async def test_a_lost_connection_ends_the_build_on_both_sides(
    tmp_path: Path, nix: Callable[[], Path], behind_a_daemon: bool
) -> None:
    async with running(nix(), tmp_path, behind_a_daemon=behind_a_daemon) as under_way:
        under_way.pair.builder.sshd.hang_up()
        with pytest.raises(SshError, match=r"builder big .*the connection was lost") as raised:
            await under_way.build
        assert raised.value.fault is Fault.LOST
        assert await under_way.gone == b""
        # And the builder is as good as before.
        drv = under_way.pair.derivation("echo > $out")
        assert (await under_way.pair.make(drv))[0].status is BuildStatus.BUILT


# --- Attempts ------------------------------------------------------------------------------------


async def attempted(pair: Pair, script: str, logs: Path, limits: Limits) -> AttemptResult:
    drv = pair.derivation(script)
    order = attempt.Order(attempt=1, derivation=1, path=drv, limits=lambda: limits)
    async with pair.place() as place:
        return await attempt.run(order, place, logs)


async def test_an_attempt_elsewhere_reads_what_came_back(newer_pair: Pair, tmp_path: Path) -> None:
    script = """
        mkdir -p $out/nix-support; echo printed
        echo "file zip $out/a.zip" > $out/nix-support/hydra-build-products; echo > $out/a.zip
        """
    result = await attempted(newer_pair, script, tmp_path, Limits(timeout=3600))
    assert result.outcome is Outcome.SUCCEEDED, result.message
    (product,) = result.products
    assert product.kind == "file"
    assert result.outputs["out"].size > 0
    assert b"".join(log.read(tmp_path, 1)) == b"printed\n"
    assert not result.substituted


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        (Limits(timeout=0.3), Outcome.TIMED_OUT),
        (Limits(max_silent=0.3), Outcome.TIMED_OUT),
        (Limits(max_log=10), Outcome.LOG_LIMIT),
    ],
)
async def test_limits_end_a_build_elsewhere(
    newer_pair: Pair, tmp_path: Path, limits: Limits, outcome: Outcome
) -> None:
    script = "echo 12345678901234567890; exec sleep 3600"
    assert (await attempted(newer_pair, script, tmp_path, limits)).outcome is outcome


async def test_outputs_that_are_too_large_stay_there(newer_pair: Pair, tmp_path: Path) -> None:
    script = "head -c 100000 /dev/zero > $out"
    result = await attempted(newer_pair, script, tmp_path, Limits(max_output=1000))
    assert result.outcome is Outcome.OUTPUT_LIMIT
    path = result.outputs["out"].path
    assert newer_pair.builder.holds(path)
    assert not list(newer_pair.here.store.store_dir.glob(Path(path).name))


async def test_a_lost_builder_is_no_fault_of_the_derivation(
    newer_pair: Pair, tmp_path: Path
) -> None:
    drv = newer_pair.derivation("echo > $out")
    order = attempt.Order(attempt=1, derivation=1, path=drv, limits=Limits)
    async with newer_pair.place() as place:
        newer_pair.builder.sshd.hang_up()
        result = await attempt.run(order, place, tmp_path)
    assert result.outcome is Outcome.INFRASTRUCTURE
    assert result.message.startswith("builder big (ssh-ng://")


# --- Trust ---------------------------------------------------------------------------------------


@pytest.fixture
def signing_key(tmp_path: Path) -> tuple[Path, str]:
    """A key to sign store paths with, in a file, and its public half."""
    key = tmp_path / "key"
    argv = ("nix-store", "--generate-binary-cache-key", "test", key, f"{key}.pub")
    subprocess.run(argv, check=True)
    return key, key.with_name("key.pub").read_text()


async def test_a_builder_that_does_not_trust_us(pair: Pair, signing_key: tuple[Path, str]) -> None:
    base = pair.derivation("echo base > $out", name="base")
    async with await pair.here.connect() as connection:
        (path,) = (await connection.build(base)).outputs.values()
    alone = pair.derivation("echo alone > $out")
    user = pair.derivation("cat $base > $out", name="user", base=base)
    digest = hashlib.sha256(b"contents\n").hexdigest()
    fixed = pair.here.derivation(
        "echo contents > $out",
        name="fixed",
        attributes=f'outputHashAlgo = "sha256"; outputHash = "{digest}";',
    )
    key, public = signing_key
    with pair.builder.behind_a_daemon(trusted_users="nobody", trusted_public_keys=public):
        assert (await pair.make(fixed))[0].status is BuildStatus.BUILT
        assert (await pair.make(alone))[0].status is BuildStatus.BUILT
        assert pair.builder.holds(alone)
        with pytest.raises(NixError, match=r"lacks a signature .*trusted-users"):
            await pair.make(user)
        pair.here.run("nix", "store", "sign", "--key-file", str(key), path)
        assert (await pair.make(user))[0].status is BuildStatus.BUILT


async def test_a_local_store_that_does_not_trust_us(signing_key: tuple[Path, str]) -> None:
    key, public = signing_key
    untrusting = f"trusted-users = nobody\ntrusted-public-keys = {public}\n"
    with a_pair(newer_nix(), behind="socket", settings=untrusting) as pair:
        unsigned, signed = pair.derivation("echo 1 > $out"), pair.derivation("echo 2 > $out")
        with pytest.raises(NixError, match=r"lacks a signature .*secret-key-files") as raised:
            await pair.make(unsigned)
        assert not isinstance(raised.value, SshError)
        conf = pair.builder.store.root / "conf/nix.conf"
        conf.write_text(f"{conf.read_text()}secret-key-files = {key}\n")
        result, _ = await pair.make(signed)
        assert result.status is BuildStatus.BUILT
        assert (await path_info(pair.here, result.outputs["out"])).signatures


# --- What cannot go elsewhere --------------------------------------------------------------------


def test_a_derivation_of_unknown_paths_stays_here() -> None:
    whole = BasicDerivation(
        path=DrvPath("/s/x.drv"),
        outputs={"out": ("", "r:sha256", "")},
        input_derivations={},
        input_sources=frozenset(),
        system="x86_64-linux",
        builder="/bin/sh",
        arguments=(),
        environment={},
    )
    with pytest.raises(NixError, match=r"/s/x\.drv can be built on this machine only: .*\(out\)"):
        inputs(whole)


async def test_an_input_that_is_gone_is_named(newer_pair: Pair) -> None:
    base = newer_pair.derivation("echo > $out", name="base")
    user = newer_pair.derivation("echo > $out", name="user", base=base)
    with pytest.raises(NixError, match=r"-base is needed by a build elsewhere, and is not in the"):
        await newer_pair.make(user)


# --- Uploads -------------------------------------------------------------------------------------


async def test_nothing_is_sent_twice_at_a_time() -> None:
    uploads = Uploads()
    there: set[StorePath] = set()
    sent: list[StorePath] = []
    entered, apart, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def send(*needed: str, fails: bool = False) -> None:
        async def missing() -> set[StorePath]:
            return set(map(StorePath, needed)) - there

        async with uploads.claim(missing) as paths:
            sent.extend(sorted(paths))
            (apart if needed == ("d",) else entered).set()
            await go.wait()
            if fails:
                raise LookupError("lost")
            there.update(paths)

    first = asyncio.create_task(send("a", "b", fails=True))
    await entered.wait()
    others = [asyncio.create_task(send(*paths)) for paths in ("ab", "bc")]
    others.append(asyncio.create_task(send("d")))
    await apart.wait()
    assert sent == ["a", "b", "d"]
    go.set()
    with pytest.raises(LookupError):
        await first
    await asyncio.gather(*others)
    # What failed was sent by who came next, and by one of them only.
    assert sent == ["a", "b", "d", "a", "b", "c"]
    assert there == {"a", "b", "c", "d"}
