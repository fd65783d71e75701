"""Words and strings, hashes, and the ends of archives: the parts below any conversation."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from reconciler.nix.hashes import from_base32, to_base32
from reconciler.nix.logs import plain
from reconciler.nix.nar import NarScanner, NotNarError
from reconciler.nix.wire import CHUNK, LONGEST_QUOTED, PeerError, Reader, string, strings, word


def reader_of(*chunks: bytes, allowance: int = 10**9) -> Reader:
    """A reader to whom the peer has said these bytes, and no more will come."""
    stream = asyncio.StreamReader()
    for chunk in chunks:
        stream.feed_data(chunk)
    stream.feed_eof()
    reader = Reader(stream)
    reader.allow(allowance)
    return reader


# --- Words and strings ---------------------------------------------------------------------------


def test_encoding_is_what_the_manual_says() -> None:
    assert word(0x0102) == b"\x02\x01\0\0\0\0\0\0"
    assert string("") == bytes(8)
    assert string("abc") == b"\3\0\0\0\0\0\0\0abc\0\0\0\0\0"
    assert string(b"12345678") == b"\x08\0\0\0\0\0\0\x0012345678"
    assert strings(["a"]) == word(1) + string("a")


@given(some.lists(some.integers(0, 2**64 - 1) | some.text(max_size=300)))
def test_what_is_written_is_read(values: list[int | str]) -> None:
    async def read() -> list[int | str]:
        reader = reader_of(b"".join(word(v) if isinstance(v, int) else string(v) for v in values))
        return [
            await reader.word() if isinstance(value, int) else await reader.text()
            for value in values
        ]

    assert asyncio.run(read()) == values


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, CHUNK - 1, CHUNK, 3 * CHUNK + 5])
async def test_long_strings_come_whole_or_in_pieces(size: int) -> None:
    value = bytes(index % 251 for index in range(size))
    whole = reader_of(string(value), word(5))
    assert (await whole.string(), await whole.word()) == (value, 5)
    parts = reader_of(string(value), word(5))
    pieces = [piece async for piece in parts.pieces()]
    assert (b"".join(pieces), await parts.word()) == (value, 5)
    assert all(0 < len(piece) <= CHUNK for piece in pieces)


@pytest.mark.parametrize("size", [0, 9, 2 * CHUNK, 2 * CHUNK + 1, 3 * CHUNK, 5 * CHUNK + 3])
async def test_of_what_is_too_long_the_beginning_and_the_end_are_kept(size: int) -> None:
    value = bytes(index % 251 for index in range(size))
    reader = reader_of(string(value), word(5), allowance=2 * CHUNK + 16 + 8)
    kept = await reader.excerpt()
    assert await reader.word() == 5
    if size <= 2 * CHUNK:
        assert kept == value
    else:
        assert kept == value[:CHUNK] + b"\n[...]\n" + value[-CHUNK:]


async def test_a_peeked_byte_is_not_taken() -> None:
    reader = reader_of(word(1), b"abc", word(2))
    assert await reader.word() == 1
    assert (await reader.peek())[:3] == b"abc"
    reader.advance(3)
    assert await reader.word() == 2
    with pytest.raises(PeerError, match="it closed the connection"):
        await reader.peek()


async def test_no_more_is_read_than_was_allowed() -> None:
    with pytest.raises(PeerError, match="more than is sensible"):
        await reader_of(string("x" * 100), allowance=100).string()
    reader = reader_of(word(10**6), *[string("")] * 100, allowance=80)
    with pytest.raises(PeerError, match="more than is sensible"):
        await reader.texts()
    with pytest.raises(PeerError, match="more than is sensible"):
        await reader_of(word(LONGEST_QUOTED + 1), bytes(CHUNK)).excerpt()
    reader = reader_of(string("x" * 5000), allowance=8)
    assert sum([len(piece) async for piece in reader.pieces()]) == 5000


# --- Archives ------------------------------------------------------------------------------------


def archive_of(tree: Path) -> bytes:
    return subprocess.run(["nix-store", "--dump", tree], check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real archive of a tree whose names and contents look like the archive's own words."""
    tree = tmp_path_factory.mktemp("tree")
    (tree / "empty").mkdir()
    (tree / ")").mkdir()
    (tree / ")" / "contents").write_bytes(string(")") * 3)
    (tree / "(").write_bytes(b"")
    (tree / "type").symlink_to("entry")
    (tree / "executable").write_text("#!/bin/sh\n")
    (tree / "executable").chmod(0o755)
    return archive_of(tree)


@pytest.mark.parametrize("step", [1, 7, 8, 13, 64, 10**6])
def test_the_end_of_an_archive_is_found_however_it_is_cut(archive: bytes, step: int) -> None:
    stream = archive + b"what follows" * 3
    scanner = NarScanner()
    taken = 0
    while not scanner.finished:
        used = scanner.feed(stream[taken : taken + step])
        taken += used
    assert taken == len(archive)


def test_archives_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1001)
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        archive = archive_of(tmp_path / name)
        scanner = NarScanner()
        assert scanner.feed(archive + b"more") == len(archive)
        assert scanner.finished


def test_an_unfinished_archive_is_not_finished(archive: bytes) -> None:
    for length in range(0, len(archive), 5):
        scanner = NarScanner()
        assert scanner.feed(archive[:length]) == length
        assert not scanner.finished


@pytest.mark.parametrize("step", [1, 8, 1000])
def test_the_place_of_a_stray_word_is_told(step: int) -> None:
    stream = string("nix-archive-1") + string("(") + word(0x63787470) + b"the rest"
    scanner = NarScanner()
    at = 0

    def feed_all() -> None:
        nonlocal at
        while True:
            at += scanner.feed(stream[at : at + step])

    with pytest.raises(NotNarError, match="a keyword of 1668838512 bytes") as found:
        feed_all()
    assert found.value.word == 0x63787470
    assert stream[at + found.value.end :] == b"the rest"


# --- Spellings -----------------------------------------------------------------------------------


@given(some.binary(max_size=64))
def test_base32_goes_there_and_back(digest: bytes) -> None:
    assert from_base32(to_base32(digest)) == digest


def test_base32_is_nixs() -> None:
    digest = hashlib.sha256(b"").digest()
    assert to_base32(digest) == "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"


@pytest.mark.parametrize("text", ["e", "0" * 51 + "u", "zz" * 26, " " * 52])
def test_what_is_no_base32_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"base 32|substring"):
        from_base32(text)


def test_messages_lose_their_terminal_escapes() -> None:
    text = "\x1b[31;1merror:\x1b[0m \x1b]8;;file:///x\x1b\\a link\x1b]8;;\x07 [1m] é\n"
    assert plain(text) == "error: a link [1m] é"
