"""The folder of an index: its names, its database's connection, and the errors of both as ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lateint.index.errors import IndexCorrupt, IndexWriteFailed, LateintIndexError
from lateint.index.witness import Witness

DATABASE, SEGMENTS, LOCK, WITNESS = "index.sqlite", "segments", "lock", "commit"
QUARANTINE = "quarantine"
OURS = {
    DATABASE,
    f"{DATABASE}-wal",
    f"{DATABASE}-shm",
    f"{DATABASE}-journal",
    SEGMENTS,
    LOCK,
    WITNESS,
    QUARANTINE,
}
PATIENCE = 30.0  # seconds to wait for another process inside SQLite; it holds its locks for moments


def connect(path: Path, write: bool) -> sqlite3.Connection:
    with guard(path):
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=PATIENCE,
            isolation_level=None,  # transactions are begun by hand
            check_same_thread=False,  # Index lets one thread in at a time
        )
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cell_size_check = ON")
        if not write:
            db.execute("PRAGMA query_only = ON")
        return db


def unfinished(path: Path) -> bool:
    """Whether no creation was ever acknowledged here (so there is nothing to lose)."""
    acknowledged: int | None = None
    with suppress(IndexCorrupt):  # a creation that was killed may leave an empty file
        acknowledged = Witness(path / WITNESS).read()
    database = path / DATABASE
    return not acknowledged and (not database.exists() or _empty_database(database))


def _empty_database(path: Path) -> bool:
    """Whether no transaction was ever committed to this database."""
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=PATIENCE)
        try:
            return not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        finally:
            db.close()
    except sqlite3.Error:
        return False


@contextmanager
def guard(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, with the file's name."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if any(word in text for word in ("full", "I/O", "readonly", "locked", "unable to open")):
            raise IndexWriteFailed(f"{path}: {text}; nothing of this was kept") from error
        raise IndexCorrupt(f"{path}: {text}") from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise IndexCorrupt(f"{path}: {error}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """The disk's refusals as ours."""
    try:
        yield
    except LateintIndexError:
        raise
    except OSError as error:
        reason = f"{error.filename or path}: {error.strerror or error}"
        raise IndexWriteFailed(f"{reason}; nothing of this write was kept") from error
