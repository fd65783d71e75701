"""The observed state in SQLite, and the only door to it.

`file` opens, locks, migrates and checks the database. `declared`, `evaluated`, `ingest`, `built`
and `pushed` write what their names say, each change checked against `transitions` and logged by
`events`; `recovery` closes what a killed daemon left open. `observe` reads what a tick needs,
`report` what the command line shows.
"""

from reconciler.database.file import (
    Database,
    StateLock,
    database_path,
    open_memory,
    open_reader,
    open_writer,
)

__all__ = [
    "Database",
    "StateLock",
    "database_path",
    "open_memory",
    "open_reader",
    "open_writer",
]
