from __future__ import annotations

import sqlite_utils

from reconciler.database.file import MIGRATIONS
from reconciler.database.migrations import migrations


def test_the_list_of_names_is_the_list_of_migrations() -> None:
    empty = sqlite_utils.Database(memory=True)
    assert tuple(each.name for each in migrations.pending(empty)) == MIGRATIONS
    empty.close()
