"""Watches the document and local sources; says which changed.

Reads nothing and decides nothing: a change is only a wake-up. What is watched is named by path, so
each link on the way to it is watched too (`/etc/static` of NixOS is swapped without any file
changing), and a folder that is replaced by another one, or does not exist yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

_QUIET = ("opened", "closed_no_write")
"""Events of somebody reading, evaluation among them: they would wake us for ever."""
_MAX_LINKS = 40
"""Links followed for one path, as many as Linux follows."""


class _Place(Struct, frozen=True, kw_only=True):
    """A folder to watch. It is another place when the folder at its path is replaced."""

    key: str
    folder: Path
    name: str | None
    """The only name of interest in it; None: everything in it and below."""
    identity: tuple[int, int]
    """Device and inode."""


class _Handler(FileSystemEventHandler):
    def __init__(self, place: _Place, notify: Callable[[str], None]) -> None:
        self._place = place
        self._notify = notify

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Pass on what writes."""
        if event.event_type in _QUIET:
            return
        touched = [Path(os.fsdecode(each)) for each in (event.src_path, event.dest_path) if each]
        if any(map(self._concerns, touched)):
            self._notify(self._place.key)

    def _concerns(self, path: Path) -> bool:
        if self._place.name is not None:
            return path == self._place.folder / self._place.name
        return ".git" not in path.parts[len(self._place.folder.parts) :]


class Watcher:
    """Calls `notify(key)`, in a thread of its own, when something at a watched path changes."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._observer = Observer()
        self._observer.daemon = True
        self._observer.start()
        self._watches: dict[_Place, tuple[ObservedWatch, _Handler]] = {}

    def watch(self, wanted: Iterable[tuple[str, Path]]) -> list[str]:
        """Watch exactly these (key, path), as they are now; the problems of those that cannot be.

        To be called again after each change: it may have been one of what is to be watched.
        """
        places = {place for key, path in wanted for place in _places(key, path)}
        for gone in self._watches.keys() - places:
            self._forget(gone)
        problems = []
        for place in places - self._watches.keys():
            handler = _Handler(place, self._notify)
            try:
                watch = self._observer.schedule(
                    handler, str(place.folder), recursive=place.name is None
                )
            except OSError as error:
                problems.append(f"cannot watch {place.folder}: {error.strerror or error}")
            else:
                self._watches[place] = (watch, handler)
        return problems

    def _forget(self, place: _Place) -> None:
        """Two of ours may be one watch of the observer's, which ends with the last of them."""
        watch, handler = self._watches.pop(place)
        if any(watch == other for other, _ in self._watches.values()):
            self._observer.remove_handler_for_watch(handler, watch)
        else:
            self._observer.unschedule(watch)

    def stop(self) -> None:
        """Watch nothing any more."""
        self._observer.stop()
        self._observer.join()


def _places(key: str, path: Path) -> Iterator[_Place]:
    """What to watch for a path: each link on the way, and the end, or the first that is missing."""
    for folder, name in _steps(path):
        try:
            status = folder.stat()
        except OSError:  # gone just now
            continue
        yield _Place(key=key, folder=folder, name=name, identity=(status.st_dev, status.st_ino))


def _steps(path: Path) -> Iterator[tuple[Path, str | None]]:
    for _ in range(_MAX_LINKS):
        last = _first_special(path)
        yield last.parent, last.name
        try:
            target = last.readlink()
        except OSError:  # no link: missing, or the end
            if last == path and last.is_dir():
                yield path, None
            return
        rest = path.relative_to(last)
        path = Path(os.path.normpath(last.parent / target / rest))


def _first_special(path: Path) -> Path:
    """The first on the way to a path that is a link or does not exist; else the path."""
    for prefix in [*reversed(path.parents)][1:]:
        try:
            if prefix.is_symlink() or not prefix.exists():
                return prefix
        except OSError:  # not ours to look into
            return prefix
    return path
