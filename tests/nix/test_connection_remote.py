"""Operations with which a builder elsewhere is given work, against both versions of Nix."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from reconciler.errors import NixError
from reconciler.model import DrvPath, PathInfo, StorePath
from reconciler.nix import basic_derivation
from reconciler.nix.connection import Connection
from reconciler.nix.endpoint import CommandEndpoint
from reconciler.nix.logs import LogRecord
from reconciler.nix.protocol import BuildStatus, GarbageAction, GarbageOptions
from tests.nix.connection_daemons import PATIENCE, Daemon, daemon, newer_nix
from tests.nix.test_connection import log_of, nar


async def test_a_derivation_is_built_without_its_file(any_daemon: Daemon) -> None:
    source = any_daemon.run("nix-store", "--add", str(Path(__file__)))
    drv = any_daemon.derivation(
        """
        echo "$raw" "$quoted"; cat $source > $out; echo $out > $dev
        """,
        attributes=(
            'outputs = [ "out" "dev" ]; quoted = "a \\"b\\" \\\\ c"; raw = "tab\\there";'
            f' source = builtins.storePath "{source}";'
        ),
    )
    derivation = basic_derivation.read(drv)
    assert derivation.input_sources == {source}
    assert derivation.input_derivations == {}
    assert not derivation.content_addressed
    records: list[LogRecord] = []
    async with await any_daemon.connect() as connection:
        await connection.collect_garbage(
            GarbageOptions(action=GarbageAction.DELETE_SPECIFIC, paths=frozenset((StorePath(drv),)))
        )
        result = await connection.build_derivation(
            derivation, derivation.input_sources, on_log=records.append
        )
        assert result.status is BuildStatus.BUILT, result.message
        paths = {name: StorePath(path) for name, (path, _, _) in derivation.outputs.items()}
        assert result.outputs in (paths, {})
        info = await connection.query_path_info(paths["dev"])
        assert info is not None
        assert info.references == (paths["out"],)
        assert info.deriver == drv
        again = await connection.build_derivation(derivation, derivation.input_sources)
        assert again.status is BuildStatus.ALREADY_VALID
    assert log_of(records) == b'tab\there a "b" \\ c\n'


async def test_a_build_without_its_file_fails_as_any(either_daemon: Daemon) -> None:
    drv = either_daemon.derivation("echo so what; exit 4")
    async with await either_daemon.connect() as connection:
        result = await connection.build_derivation(basic_derivation.read(drv), ())
        assert result.status is BuildStatus.PERMANENT_FAILURE
        assert "failed with exit code 4" in result.message
        assert connection.alive


async def test_without_trust_only_what_is_content_addressed_is_built_without_its_file() -> None:
    with daemon(newer_nix(), behind="socket", settings="trusted-users = nobody\n") as untrusting:
        plain = untrusting.derivation("echo > $out")
        digest = hashlib.sha256(b"contents\n").hexdigest()
        fixed = untrusting.derivation(
            "echo contents > $out",
            attributes=f'outputHashAlgo = "sha256"; outputHash = "{digest}";',
        )
        async with await untrusting.connect() as connection:
            with pytest.raises(NixError, match="not privileged to build input-addressed"):
                await connection.build_derivation(basic_derivation.read(plain), ())
            assert connection.alive
            derivation = basic_derivation.read(fixed)
            assert derivation.content_addressed
            result = await connection.build_derivation(derivation, ())
            assert result.status is BuildStatus.BUILT


async def test_many_paths_go_into_a_second_store_at_once(any_daemon: Daemon) -> None:
    base = await any_daemon.built("head -c 300000 /dev/zero > $out", name="base")
    user = await any_daemon.built(f"echo {base} > $out", name="user")
    second = CommandEndpoint(
        ("nix-daemon", "--stdio"),
        {**any_daemon.environment, "NIX_REMOTE": f"local?root={any_daemon.store.root}/second"},
    )
    async with (
        await any_daemon.connect() as source,
        await Connection.open(second, patience=PATIENCE) as target,
    ):
        infos = [await source.query_path_info(path) for path in (base, user)]
        known = [info for info in infos if info is not None]

        def contents(info: PathInfo) -> AsyncGenerator[bytes, None]:
            return source.nar_from_path(info.path)

        await target.add_multiple_to_store(known, contents, check_signatures=False)
        assert await target.query_valid_paths((base, user)) == {base, user}
        assert await nar(target, user) == await nar(source, user)
        assert target.alive
        await target.add_multiple_to_store([], contents)
        assert target.alive


async def test_many_paths_are_not_added_past_one_that_is_refused(either_daemon: Daemon) -> None:
    path = await either_daemon.built("echo contents > $out")
    second = CommandEndpoint(
        ("nix-daemon", "--stdio"),
        {**either_daemon.environment, "NIX_REMOTE": f"local?root={either_daemon.store.root}/2"},
    )
    async with (
        await either_daemon.connect() as source,
        await Connection.open(second, patience=PATIENCE) as target,
    ):
        info = await source.query_path_info(path)
        assert info is not None
        with pytest.raises(NixError, match="lacks a signature by a trusted key"):
            await target.add_multiple_to_store([info], lambda i: source.nar_from_path(i.path))
    async with await Connection.open(second, patience=PATIENCE) as target:
        assert await target.query_valid_paths((path,)) == frozenset()


async def test_many_temporary_roots_are_made_at_once(either_daemon: Daemon) -> None:
    paths = {await either_daemon.built("echo > $out", name=name) for name in ("a", "b", "c")}
    async with await either_daemon.connect() as holder:
        await holder.add_temp_roots(paths)
        await holder.add_temp_roots(())
        async with await either_daemon.connect() as collector:
            await collector.collect_garbage()
            assert await collector.query_valid_paths(paths) == paths
        with pytest.raises(NixError, match="is not in the"):
            await holder.add_temp_roots([*paths, StorePath("/elsewhere/x"), *paths])
        assert not holder.alive


def test_a_derivation_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / f"{'0' * 32}-x.drv"
    file.write_bytes(
        b'Derive([("out","/s/out","r:sha256","00")],[("/s/a.drv",["dev","out"])],["/s/src"],'
        b'"x86_64-linux","/bin/sh",["-c","echo \\"\xff\\""],[("empty",""),("lines","a\\nb")])'
    )
    read = basic_derivation.read(DrvPath(str(file)))
    assert read.outputs == {"out": ("/s/out", "r:sha256", "00")}
    assert read.content_addressed
    assert read.input_derivations == {"/s/a.drv": ("dev", "out")}
    assert read.input_sources == {"/s/src"}
    assert (read.system, read.builder) == ("x86_64-linux", "/bin/sh")
    assert [basic_derivation.encoded(each) for each in read.arguments] == [b"-c", b'echo "\xff"']
    assert read.environment == {"empty": "", "lines": "a\nb"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Derive([])",
        'DrvWithVersion("xp-dyn-drv",[],[],[],"s","b",[],[])',
        'Derive([("out")],[],[],"s","b",[],[])',
        'Derive([],["x"],[],"s","b",[],[])',
        'Derive([],[],[["x"]],"s","b",[],[])',
        'Derive([],[],[],"s","b",[],["x"])',
    ],
)
def test_what_is_no_derivation_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.drv"
    file.write_text(text)
    with pytest.raises(NixError, match=r"x\.drv is not a derivation that we can send: "):
        basic_derivation.read(DrvPath(str(file)))


def test_a_derivation_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NixError, match=r"absent\.drv: No such file"):
        basic_derivation.read(DrvPath(f"{tmp_path}/absent.drv"))
