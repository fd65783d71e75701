"""Tells when a file or a folder changed: the configuration, and sources that are local paths.

Watching only wakes; whether something really changed is found by looking. A symbolic link is
resolved and watched at both ends, since a swapped link (`/etc/static` of NixOS) changes no file
that it pointed to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

_QUIET = ("opened", "closed_no_write")
"""Events of somebody reading, evaluation among them: they would wake us for ever."""


class _Handler(FileSystemEventHandler):
    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Pass on what writes."""
        parts = Path(str(event.src_path)).parts
        if event.event_type not in _QUIET and ".git" not in parts:
            self._notify()


class Watcher:
    """Calls `notify(key)`, in a thread of its own, when something below a watched path changes."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._observer = Observer()
        self._observer.daemon = True
        self._observer.start()
        self._watches: dict[tuple[str, Path], ObservedWatch] = {}

    def watch(self, wanted: Iterable[tuple[str, Path]]) -> list[str]:
        """Watch exactly these (key, path); the problems of those that cannot be watched."""
        places = {
            (key, place): recursive
            for key, path in wanted
            for place, recursive in _places(path).items()
        }
        for gone in self._watches.keys() - places.keys():
            self._observer.unschedule(self._watches.pop(gone))
        problems = []
        for key, place in places.keys() - self._watches.keys():
            handler = _Handler(lambda key=key: self._notify(key))  # type: ignore[misc]
            try:
                self._watches[key, place] = self._observer.schedule(
                    handler, str(place), recursive=places[key, place]
                )
            except OSError as error:
                problems.append(f"cannot watch {place}: {error.strerror or error}")
        return problems

    def stop(self) -> None:
        """Watch nothing any more."""
        self._observer.stop()
        self._observer.join()


def _places(path: Path) -> dict[Path, bool]:
    """What to watch for a path, and whether with all below.

    A file is watched through its folder: editors replace files. A link is watched through the
    folder it lies in, and its target as well.
    """
    if path.is_dir() and not path.is_symlink():
        return {path: True}
    places = {path.parent: False}
    target = path.resolve()
    if target.is_dir():
        places[target] = True
    elif target.parent.is_dir():
        places.setdefault(target.parent, False)
    return {place: recursive for place, recursive in places.items() if place.is_dir()}
