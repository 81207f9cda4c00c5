"""The index's one row of facts, and the tables of `index.sqlite`.

The manifest row is the part that no format version may change: it says which format the rest is in.
Rows carry a checksum of their own, because SQLite has none.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lateint.index.errors import IndexCorrupt, IndexTooNew, IndexTooOld
from lateint.index.options import Options

APPLICATION = 0x4C415449  # "LATI" in the database's header: tells our files from other people's
FORMAT = 3  # what this version writes; 2 brought codecs, 3 trellis codes
OLDEST = 1  # the oldest it reads, and brings to FORMAT with the first commit

SEGMENTS_TABLE = """CREATE TABLE segments (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, codec INTEGER, documents INTEGER NOT NULL,
    tokens INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, bytes INTEGER NOT NULL,
    block INTEGER NOT NULL, blocks BLOB NOT NULL, crc INTEGER NOT NULL)"""
CODECS_TABLE = """CREATE TABLE codecs (
    number INTEGER PRIMARY KEY, nbits INTEGER NOT NULL, centroids INTEGER NOT NULL,
    tokens INTEGER NOT NULL, energy REAL NOT NULL, bytes INTEGER NOT NULL,
    block INTEGER NOT NULL, blocks BLOB NOT NULL, crc INTEGER NOT NULL)"""
SCHEMA = (
    """CREATE TABLE manifest (
        one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL, crc INTEGER NOT NULL)""",
    SEGMENTS_TABLE,
    CODECS_TABLE,
    """CREATE TABLE documents (
        doc INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tokens INTEGER NOT NULL,
        metadata TEXT NOT NULL, crc INTEGER NOT NULL)""",
    "CREATE TABLE texts (doc INTEGER PRIMARY KEY, text TEXT NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE tombstones (doc INTEGER PRIMARY KEY)",
    "CREATE TABLE keys (key TEXT PRIMARY KEY) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION}",
)
FIRST_BLOCK = 256 * 1024  # bytes under one checksum in format 1


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
    options: Options = Options(nbits=16)  # noqa: RUF009 frozen; what format 1 kept
    codec: int = 0  # of documents to come; 0: they are kept as float16
    next_codec: int = 1
    fresh_tokens: int = 0  # looked at since the codec was trained, for drift
    fresh_energy: float = 0.0  # sum of their residuals' energy

    @property
    def width(self) -> int:
        """Of the tokens that are kept."""
        return self.options.width(self.dim)

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
        if "options" in body:
            body["options"] = Options(**body["options"])
        return cls(**body)


def segment_rows(db: sqlite3.Connection, format: int, path: Path) -> list[tuple[Any, ...]]:
    """Rows of the table segments as FORMAT has them (without checksum), in order of documents."""
    rows = db.execute("SELECT * FROM segments ORDER BY first")
    return [segment_row(row, format, path) for row in rows]


def segment_row(row: tuple[Any, ...], format: int, path: Path) -> tuple[Any, ...]:
    """One row, as for `segment_rows`. Raises IndexCorrupt."""
    if row_checksum(*row[:-1]) != row[-1]:
        raise IndexCorrupt(f"{path}: row {row[0]} of table segments is damaged")
    row = row[:-1]
    return (*row[:2], None, *row[2:7], FIRST_BLOCK, row[7]) if format == 1 else row


def insert_row(db: sqlite3.Connection, table: str, row: tuple[Any, ...]) -> None:
    """One row with its checksum; `table` is a name of ours."""
    marks = ", ".join("?" * (len(row) + 1))
    db.execute(f"INSERT INTO {table} VALUES ({marks})", (*row, row_checksum(*row)))


def upgrade(db: sqlite3.Connection, manifest: Manifest, path: Path) -> Manifest:
    """Brings tables of an older format to FORMAT, inside the caller's transaction."""
    if manifest.format == FORMAT:
        return manifest
    if manifest.format == 1:  # 2 differs from 3 in what its codecs hold
        rows = segment_rows(db, manifest.format, path)
        db.execute("DROP TABLE segments")
        db.execute(SEGMENTS_TABLE)
        db.execute(CODECS_TABLE)
        for row in rows:
            insert_row(db, "segments", row)
    return replace(manifest, format=FORMAT)
