"""How what is sent is counted and held back; and that what is sent goes through it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.binary_cache.http_store import HttpStore
from reconciler.binary_cache.interface import ObjectStore
from reconciler.binary_cache.s3_store import S3Store
from reconciler.binary_cache.traffic import Traffic
from tests.binary_cache.servers import dav_server, netrc, s3_credentials, s3_server

MIB = 1024 * 1024


def test_without_a_limit_it_only_counts() -> None:
    traffic = Traffic()
    assert traffic.admit(MIB, now=1.0) == 0
    assert traffic.admit(MIB, now=1.0) == 0
    assert traffic.sent == 2 * MIB


def test_all_transfers_share_the_limit_and_pauses_save_nothing_up() -> None:
    traffic = Traffic(1000)
    assert traffic.admit(500, now=10.0) == pytest.approx(0.5)
    assert traffic.admit(500, now=10.0) == pytest.approx(1.0)
    assert traffic.admit(250, now=10.5) == pytest.approx(0.75)
    assert traffic.admit(500, now=1000.0) == pytest.approx(0.5)


@given(
    limit=st.integers(1024, 10**9),
    sends=st.lists(st.tuples(st.integers(1, MIB), st.floats(0, 5)), min_size=1, max_size=50),
)
def test_never_is_more_sent_than_the_limit_allows(
    limit: int, sends: list[tuple[int, float]]
) -> None:
    traffic, now, allowed_at = Traffic(limit), 100.0, 100.0
    for amount, later in sends:
        now += later
        allowed_at = max(allowed_at, now + traffic.admit(amount, now=now))
    assert traffic.sent <= (allowed_at - 100.0) * limit * (1 + 1e-6) + 1


def test_pieces_are_small_where_the_limit_is_low() -> None:
    assert Traffic().piece == 256 * 1024
    assert Traffic(10**9).piece == 256 * 1024
    assert Traffic(800_000).piece == 100_000
    assert Traffic(1024).piece == 4096


@pytest.mark.parametrize("kind", ["s3", "http"])
@pytest.mark.parametrize("limit", [None, 10**9])
async def test_every_byte_that_is_sent_is_counted(
    kind: str, limit: int | None, tmp_path: Path
) -> None:
    (tmp_path / "served/bucket").mkdir(parents=True)
    traffic = Traffic(limit)
    server = s3_server if kind == "s3" else dav_server
    with server(tmp_path / "served") as running:
        opened: ObjectStore
        if kind == "s3":
            opened = await S3Store.open(
                f"s3://bucket/in?scheme=http&endpoint={running.address}",
                credentials_file=s3_credentials(tmp_path / "keys"),
                traffic=traffic,
            )
        else:
            opened = await HttpStore.open(
                f"http://{running.address}/bucket/in",
                credentials_file=netrc(tmp_path / "keys"),
                traffic=traffic,
            )
        large = opened.staging / "large"
        content = os.urandom(9 * MIB)  # more than one part of S3's
        large.write_bytes(content)
        assert await opened.put({"nar/large.nar": large, "small.narinfo": b"small"}) == {}
        assert traffic.sent == len(content) + len(b"small")
        assert await opened.read("nar/large.nar") == content
        await opened.close()
