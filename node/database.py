"""One SQLite file, opened, checked and brought up to date, with errors that are sentences.

WAL and synchronous=FULL: what a `transaction` block wrote is on the disk when the block has ended, through
`kill -9` and power loss alike; a block that raised has written nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from node.errors import DiskFull, NotWritable, StateDamaged, StorageFailed
from node.files import make_private_file

_BUSY_SECONDS: Final = 5.0


class Database:
    """An open file; not for two threads at once. Every method may raise StorageFailed."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, migrations: Sequence[Sequence[str]]) -> Database:
        """Open or create (0600) `path` and run the migrations that it lacks.

        Entry n of `migrations` holds the statements that bring a file from user_version n to n + 1; entries
        are only ever added. A file that is damaged, or of a version above the last, is refused as it stands.
        """
        make_private_file(path)
        with _sentences(path):
            connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        return cls.over(connection, path, migrations)

    @classmethod
    def over(
        cls, connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]
    ) -> Database:
        """The same over an open connection, which is closed where it fails: a simulation's disk is memory.
        `path`: what errors call it."""
        connection.row_factory = sqlite3.Row
        database = cls(path, connection)
        try:
            database._migrate(database._checked_version(len(migrations)), migrations)
        except BaseException:
            connection.close()
            raise
        return database

    def close(self) -> None:
        """Close; the write-ahead log is folded into the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing."""
        with _sentences(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                # SQLite has rolled back by itself after some errors (a full disk), not after others.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with _sentences(self._path):
            return self._connection.execute(query, values).fetchall()

    def execute(self, statement: str, *values: object) -> int:
        """Run a statement inside a `transaction`; the number of rows that it touched."""
        with _sentences(self._path):
            return self._connection.execute(statement, values).rowcount

    def _checked_version(self, newest: int) -> int:
        self.rows("PRAGMA journal_mode = WAL")
        self.rows("PRAGMA synchronous = FULL")
        if self.rows("PRAGMA quick_check(1)")[0][0] != "ok":
            raise _damaged(self._path)
        version = int(self.rows("PRAGMA user_version")[0][0])
        if version > newest:
            raise StorageFailed(
                f"{self._path} was written by a newer zeqnode (format {version}, this one knows {newest}); "
                f"update zeqnode, nothing was changed"
            )
        return version

    def _migrate(self, version: int, migrations: Sequence[Sequence[str]]) -> None:
        for number in range(version, len(migrations)):
            with self.transaction():
                for statement in migrations[number]:
                    self.execute(statement)
                self.execute(f"PRAGMA user_version = {number + 1}")


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _storage_failed(error, path) from error


def _storage_failed(error: sqlite3.Error, path: Path) -> StorageFailed:
    # The low byte of SQLite's extended result code is the kind; the Python module's own errors have no code.
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return DiskFull(f"no space is left for {path}; free some and try again, nothing was changed")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
            return NotWritable(f"{path} cannot be written; see to its owner, its mode and its file system")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return _damaged(path)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StorageFailed(f"another program holds {path}; close it and try again")
        case _:
            return StorageFailed(
                f"{path} cannot be used ({error}); see that its disk is not full or failing, and try again"
            )


def _damaged(path: Path) -> StateDamaged:
    return StateDamaged(
        f"{path} is damaged; put back a backup of it, or move it away and begin with an empty one"
    )
