"""The index's one row of facts, and the tables of `index.sqlite`.

The manifest row is the part that no format version may change: it says which format the rest is in.
Rows carry a checksum of their own, because SQLite has none.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lateint.index.errors import IndexCorrupt, IndexTooNew, IndexTooOld

APPLICATION = 0x4C415449  # "LATI" in the database's header: tells our files from other people's
FORMAT = 1  # what this version writes
OLDEST = 1  # the oldest it reads

SCHEMA = (
    """CREATE TABLE manifest (
        one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL, crc INTEGER NOT NULL)""",
    """CREATE TABLE segments (
        number INTEGER PRIMARY KEY, kind TEXT NOT NULL, documents INTEGER NOT NULL,
        tokens INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        bytes INTEGER NOT NULL, blocks BLOB NOT NULL, crc INTEGER NOT NULL)""",
    """CREATE TABLE documents (
        doc INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tokens INTEGER NOT NULL,
        metadata TEXT NOT NULL, crc INTEGER NOT NULL)""",
    "CREATE TABLE texts (doc INTEGER PRIMARY KEY, text TEXT NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE tombstones (doc INTEGER PRIMARY KEY)",
    "CREATE TABLE keys (key TEXT PRIMARY KEY) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION}",
)


def row_checksum(*columns: Any) -> int:
    """The checksum of a row: of its columns' values and types."""
    return zlib.crc32(repr(columns).encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Manifest:
    """The state of one commit. Document and segment numbers only grow and are never given twice."""

    dim: int
    model: str | None = None  # what encoded the tokens, in the caller's words
    format: int = FORMAT
    commit: int = 0
    documents: int = 0  # live ones
    tokens: int = 0  # theirs
    next_document: int = 1
    next_segment: int = 1

    def write(self, db: sqlite3.Connection) -> None:
        body = json.dumps(asdict(self))
        db.execute("INSERT OR REPLACE INTO manifest VALUES (1, ?, ?)", (body, row_checksum(body)))

    @classmethod
    def read(cls, db: sqlite3.Connection, path: Path) -> Manifest:
        """The manifest in `db`, the file `path`. Raises IndexTooNew, IndexTooOld, IndexCorrupt."""
        application = db.execute("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION:
            raise IndexCorrupt(f"{path}: is not the database of a lateint index")
        row = db.execute("SELECT body, crc FROM manifest").fetchone()
        if row is None or row[1] != row_checksum(row[0]):
            raise IndexCorrupt(f"{path}: its manifest is damaged")
        body = json.loads(row[0])
        found = body["format"]
        if found > FORMAT:
            raise IndexTooNew(
                f"{path}: is in format {found}, this lateint reads up to {FORMAT}; upgrade lateint"
            )
        if found < OLDEST:
            raise IndexTooOld(
                f"{path}: is in format {found}, this lateint reads from {OLDEST}; open it with an "
                "older lateint, or build it again"
            )
        return cls(**body)
