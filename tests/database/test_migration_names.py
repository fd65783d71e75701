from __future__ import annotations

from importlib.resources import files

from reconciler.database.file import MIGRATIONS


def test_each_name_has_its_file_and_each_file_its_name() -> None:
    names = [each.name for each in files("reconciler.database.migrations").iterdir()]
    scripts = sorted(name.removesuffix(".sql") for name in names if name.endswith(".sql"))
    assert tuple(scripts) == MIGRATIONS
