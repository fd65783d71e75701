"""Real files, real notifications: what is heard of, and what is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.watch import Watcher

DEADLINE = 20.0


class Heard:
    """What a watcher said."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._news = threading.Condition()

    def __call__(self, key: str) -> None:
        with self._news:
            self.keys.append(key)
            self._news.notify_all()

    def wait_for(self, key: str) -> None:
        with self._news:
            heard = self._news.wait_for(lambda: key in self.keys, DEADLINE)
        assert heard, f"never heard of {key}, only of {self.keys}"
        self.keys.clear()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def watcher(heard: Heard) -> Iterator[Watcher]:
    made = Watcher(heard)
    yield made
    made.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    (made / "deep/er").mkdir(parents=True)
    (made / ".git").mkdir()
    (made / "release.nix").write_text("1")
    return made


def test_a_change_at_any_depth_is_heard_of(watcher: Watcher, heard: Heard, folder: Path) -> None:
    assert watcher.watch([("a", folder)]) == []
    (folder / "deep/er/new").write_text("x")
    heard.wait_for("a")


def test_a_new_folder_is_watched_as_well(watcher: Watcher, heard: Heard, folder: Path) -> None:
    watcher.watch([("a", folder)])
    (folder / "fresh").mkdir()
    heard.wait_for("a")
    (folder / "fresh/file").write_text("x")
    heard.wait_for("a")


def test_reading_and_git_are_not_heard_of(watcher: Watcher, heard: Heard, folder: Path) -> None:
    watcher.watch([("a", folder)])
    (folder / "release.nix").read_text()
    list((folder / "deep").iterdir())
    (folder / ".git/index").write_text("x")
    # Notifications come in order: with this one, all before it would be there.
    (folder / "release.nix").write_text("2")
    heard.wait_for("a")
    (folder / ".git/index").write_text("y")
    (folder.parent / "beside").write_text("x")
    watcher.watch([("a", folder), ("b", folder.parent / "beside")])
    (folder.parent / "beside").write_text("y")
    heard.wait_for("b")
    assert "a" not in heard.keys


def test_a_file_replaced_as_editors_do_is_heard_of(
    watcher: Watcher, heard: Heard, tmp_path: Path
) -> None:
    document = tmp_path / "farm.yaml"
    document.write_text("1")
    watcher.watch([("", document)])
    for text in ("2", "3"):
        fresh = tmp_path / ".farm.yaml.tmp"
        fresh.write_text(text)
        fresh.rename(document)
        heard.wait_for("")


def test_every_link_on_the_way_is_watched(watcher: Watcher, heard: Heard, tmp_path: Path) -> None:
    etc, first, second = tmp_path / "etc", tmp_path / "store/first", tmp_path / "store/second"
    for made in (etc / "reconciler", first / "reconciler", second / "reconciler"):
        made.mkdir(parents=True)
    for generation in (first, second):
        (generation / "reconciler/farm.json").write_text("{}")
    (etc / "static").symlink_to("../store/first")
    document = etc / "reconciler/farm.json"
    document.symlink_to("../static/reconciler/farm.json")
    watcher.watch([("", document)])
    fresh = etc / "static.tmp"
    fresh.symlink_to("../store/second")
    fresh.rename(etc / "static")
    heard.wait_for("")
    watcher.watch([("", document)])
    (second / "reconciler/farm.json").write_text('{"jobsets": {}}')
    heard.wait_for("")


def test_a_folder_that_comes_later_or_is_replaced_is_watched(
    watcher: Watcher, heard: Heard, folder: Path, tmp_path: Path
) -> None:
    later = tmp_path / "not/yet"
    watcher.watch([("a", later)])
    later.parent.mkdir()
    heard.wait_for("a")
    watcher.watch([("a", later)])
    folder.rename(later)
    heard.wait_for("a")
    watcher.watch([("a", later)])
    (later / "release.nix").write_text("2")
    heard.wait_for("a")
    later.rename(tmp_path / "old")
    other = tmp_path / "other"
    other.mkdir()
    other.rename(later)
    heard.wait_for("a")
    watcher.watch([("a", later)])
    (later / "release.nix").write_text("3")
    heard.wait_for("a")


def test_of_two_watches_of_one_folder_one_may_go(
    watcher: Watcher, heard: Heard, folder: Path
) -> None:
    watcher.watch([("a", folder), ("b", folder)])
    (folder / "release.nix").write_text("2")
    heard.wait_for("a")
    watcher.watch([("b", folder)])
    (folder / "release.nix").write_text("3")
    heard.wait_for("b")
    watcher.watch([("b", folder), ("c", folder)])
    (folder / "release.nix").write_text("4")
    heard.wait_for("c")


def test_links_in_a_circle_do_no_harm(watcher: Watcher, heard: Heard, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert watcher.watch([("loop", tmp_path / "a/release.nix")]) == []
    (tmp_path / "a").unlink()
    heard.wait_for("loop")
