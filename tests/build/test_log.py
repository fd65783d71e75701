"""Logs of attempts: bounded, compressed, readable while they grow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reconciler.build import log as build_log
from reconciler.build.log import LogWriter


def stored(logs: Path, attempt: int) -> bytes:
    return b"".join(build_log.read(logs, attempt))


def test_a_log_is_read_while_it_grows_and_after(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, 1234)
    writer.write(b"first\n")
    assert stored(tmp_path, 1234) == b"first\n"
    writer.write(b"\xffsecond")
    writer.close()
    assert stored(tmp_path, 1234) == b"first\n\xffsecond"
    assert not build_log.live_path(tmp_path, 1234).exists()
    assert build_log.stored_path(tmp_path, 1234).exists()


def test_there_is_no_log_of_what_never_ran(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        stored(tmp_path, 7)
    build_log.remove(tmp_path, 7)


def test_a_removed_log_is_gone(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, 7)
    writer.write(b"x")
    writer.close()
    build_log.remove(tmp_path, 7)
    with pytest.raises(FileNotFoundError):
        stored(tmp_path, 7)


def test_of_a_long_log_head_and_tail_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_log, "HEAD_BYTES", 1000)
    monkeypatch.setattr(build_log, "TAIL_BYTES", 1000)
    lines = [f"line {number:05}\n".encode() for number in range(1000)]
    writer = LogWriter(tmp_path, 1)
    for line in lines:
        writer.write(line)
    assert writer.bytes == sum(map(len, lines))
    writer.close()
    kept = stored(tmp_path, 1)
    assert kept.startswith(b"".join(lines[:80]))
    assert kept.endswith(b"".join(lines[-80:]))
    assert len(kept) < 2300
    notes = re.findall(rb"\n\[\.\.\. (\d+) bytes of this log were not kept \.\.\.\]\n", kept)
    (missing,) = map(int, notes)
    note = len(b"\n[...  bytes of this log were not kept ...]\n") + len(notes[0])
    assert len(kept) - note + missing == writer.bytes


def test_what_a_killed_daemon_left_is_compressed(tmp_path: Path) -> None:
    live = build_log.live_path(tmp_path, 5)
    live.parent.mkdir()
    live.write_bytes(b"half a line")
    build_log.compress_orphans(tmp_path)
    assert stored(tmp_path, 5) == b"half a line"
    assert not build_log.live_path(tmp_path, 5).exists()
    build_log.compress_orphans(tmp_path / "nowhere")
