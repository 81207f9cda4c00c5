"""What a collection remembers beside its index: files, documents, what tokens stand for, problems.

One SQLite file. The ledger follows the index: a document is written here after the index has it, so
whatever the ledger calls done can be found. It knows no file formats, no model and no search.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from lateint.explain import Traces

FORMAT, VERSION = "lateint-collection", 1
_SCHEMA = """
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE roots (
    root INTEGER PRIMARY KEY, folder TEXT NOT NULL UNIQUE, prefix TEXT NOT NULL UNIQUE);
CREATE TABLE files (
    file INTEGER PRIMARY KEY,
    root INTEGER NOT NULL REFERENCES roots,
    path TEXT NOT NULL,          -- below its root, with forward slashes
    name TEXT NOT NULL UNIQUE,   -- root's prefix and path: what its documents' ids begin with
    size INTEGER NOT NULL, mtime INTEGER NOT NULL,  -- nanoseconds
    digest TEXT NOT NULL,        -- SHA-256 of the content
    version TEXT NOT NULL,       -- of content and caller's metadata: what its documents carry
    metadata TEXT NOT NULL,      -- the caller's
    done INTEGER NOT NULL,       -- 0 while its documents are being added
    UNIQUE (root, path));
CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE,
    number INTEGER NOT NULL,
    version TEXT NOT NULL,
    tokens INTEGER NOT NULL,     -- 0: nothing to find on it, so the index does not hold it
    traces BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX documents_of_file ON documents (file);
CREATE TABLE problems (
    path TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (path, reason)) WITHOUT ROWID;
"""


class CollectionError(ValueError):
    """A collection cannot do what was asked; the message says what came and what to do."""


@dataclass(frozen=True)
class Root:
    """A folder that files were added from; ids of its files begin with `prefix`."""

    root: int
    folder: Path
    prefix: str


@dataclass(frozen=True)
class FileRecord:
    """A file as it was when it was last read."""

    root: int
    path: str
    name: str
    size: int
    mtime: int
    digest: str
    version: str
    metadata: dict[str, Any]
    done: bool = False
    file: int = 0


@dataclass(frozen=True)
class DocumentRecord:
    id: str
    file: int
    number: int
    version: str
    tokens: int
    traces: Traces


class Ledger:
    """The collection's own SQLite file. One connection: not to be shared between threads."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        if not create and not path.is_file():
            raise CollectionError(f"{path.parent}: there is no collection here (no {path.name})")
        writable = create or os.access(path, os.W_OK)
        mode = "rwc" if create else "rw" if writable else "ro"
        try:
            self._db = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={mode}",
                uri=True,
                timeout=30,
                check_same_thread=False,  # the collection's caller lets one thread in at a time
            )
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("PRAGMA synchronous = FULL" if writable else "PRAGMA query_only = ON")
            if create:
                with self.transaction():
                    for line in _SCHEMA.split(";\n"):
                        self._db.execute(line)
                    self.set_facts(format=FORMAT, version=VERSION)
            self.facts = self._facts()
        except sqlite3.DatabaseError as error:
            raise CollectionError(f"{path}: not a collection, or damaged ({error})") from error
        if self.facts.get("format") != FORMAT:
            raise CollectionError(f"{path}: this database is not a lateint collection")
        if self.facts.get("version") != VERSION:
            raise CollectionError(
                f"{path}: the collection has format version {self.facts.get('version')}, this "
                f"lateint knows {VERSION}: upgrade lateint, or make the collection again"
            )

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together, or not at all."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def _facts(self) -> dict[str, Any]:
        return {key: json.loads(value) for key, value in self._db.execute("SELECT * FROM facts")}

    def set_facts(self, **facts: Any) -> None:
        rows = [(key, json.dumps(value)) for key, value in facts.items()]
        self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    # Roots: where files come from, and so what ids begin with.

    def roots(self) -> list[Root]:
        rows = self._db.execute("SELECT root, folder, prefix FROM roots ORDER BY root")
        return [Root(root, Path(folder), prefix) for root, folder, prefix in rows]

    def root_of(self, path: Path) -> Root | None:
        """The deepest root that `path` lies in or is."""
        holders = [
            root for root in self.roots() if path == root.folder or root.folder in path.parents
        ]
        return max(holders, key=lambda root: len(root.folder.parts), default=None)

    def root_for(self, folder: Path) -> Root:
        """The root of files in `folder`; a new one where there is none. The first has no prefix;
        later ones get their folder's name, so that two folders with a `report.pdf` each do not
        clash."""
        if known := self.root_of(folder):
            return known
        taken = {root.prefix for root in self.roots()}
        prefix, count = "", 1
        while prefix in taken or (prefix and self._names_below(prefix)):
            stem = folder.name or "root"
            prefix, count = f"{stem}/" if count == 1 else f"{stem}-{count}/", count + 1
        row = (str(folder), prefix)
        cursor = self._db.execute("INSERT INTO roots (folder, prefix) VALUES (?, ?)", row)
        return Root(int(cursor.lastrowid or 0), folder, prefix)

    def _names_below(self, prefix: str) -> bool:
        sql = "SELECT 1 FROM files WHERE substr(name, 1, ?) = ? LIMIT 1"
        return self._db.execute(sql, (len(prefix), prefix)).fetchone() is not None

    # Files.

    _FILE = "file, root, path, name, size, mtime, digest, version, metadata, done"

    def _files(self, where: str, *values: Any) -> Iterator[FileRecord]:
        for row in self._db.execute(f"SELECT {self._FILE} FROM files WHERE {where}", values):
            file, root, path, name, size, mtime, digest, version, metadata, done = row
            extra = json.loads(metadata)
            yield FileRecord(
                root, path, name, size, mtime, digest, version, extra, bool(done), file
            )

    def file(self, name: str) -> FileRecord | None:
        return next(self._files("name = ?", name), None)

    def files(self) -> list[FileRecord]:
        """All files, by name."""
        return list(self._files("1 ORDER BY name"))

    def path_of(self, record: FileRecord) -> Path:
        """Where a file lies, or lay."""
        (folder,) = self._db.execute(
            "SELECT folder FROM roots WHERE root = ?", (record.root,)
        ).fetchone()
        return Path(folder) / record.path

    def vanished(self, tops: Sequence[Path]) -> list[FileRecord]:
        """Files at or below one of `tops` that no longer exist."""
        held = [(record, self.path_of(record)) for record in self.files()]
        return [
            record
            for record, path in held
            if any(top == path or top in path.parents for top in tops) and not path.exists()
        ]

    def file_of(self, document: str) -> FileRecord | None:
        """The file that a document comes from."""
        return next(self._files("file = (SELECT file FROM documents WHERE id = ?)", document), None)

    def put_file(self, record: FileRecord) -> FileRecord:
        """Insert, or replace what is known under the same name. Returns it with its number."""
        sql = (
            "INSERT INTO files (root, path, name, size, mtime, digest, version, metadata, done) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
            "size = excluded.size, mtime = excluded.mtime, digest = excluded.digest, "
            "version = excluded.version, metadata = excluded.metadata, done = excluded.done RETURNING file"
        )
        r = record
        extra = json.dumps(r.metadata, ensure_ascii=False)
        values = (r.root, r.path, r.name, r.size, r.mtime, r.digest, r.version, extra, int(r.done))
        (number,) = self._db.execute(sql, values).fetchone()
        return replace(record, file=number)

    def drop_file(self, file: int) -> None:
        """Forget a file and its documents."""
        self._db.execute("DELETE FROM files WHERE file = ?", (file,))

    # Documents.

    def put_documents(self, records: Iterable[DocumentRecord]) -> None:
        rows = [(r.id, r.file, r.number, r.version, r.tokens, r.traces.to_bytes()) for r in records]
        self._db.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?)", rows)

    def drop_documents(self, ids: Sequence[str]) -> None:
        self._db.executemany("DELETE FROM documents WHERE id = ?", [(id,) for id in ids])

    def documents(self, file: int) -> list[tuple[str, int, str, int]]:
        """(id, number, version, tokens) of the documents of one file, in order."""
        sql = "SELECT id, number, version, tokens FROM documents WHERE file = ? ORDER BY number"
        return list(self._db.execute(sql, (file,)))

    def traces(self, document: str, version: str) -> Traces:
        """Empty where the ledger has none for just this version of the document."""
        sql = "SELECT traces FROM documents WHERE id = ? AND version = ?"
        row = self._db.execute(sql, (document, version)).fetchone()
        try:
            return Traces() if row is None else Traces.from_bytes(row[0])
        except (ValueError, zlib.error) as error:
            raise CollectionError(f"{self.path}: the record of {document!r} is damaged") from error

    def counts(self) -> tuple[int, int, int]:
        """Files, documents, and documents without any token (blank pages)."""
        (files,) = self._db.execute("SELECT count(*) FROM files").fetchone()
        sql = "SELECT count(*), count(CASE WHEN tokens = 0 THEN 1 END) FROM documents"
        documents, blank = self._db.execute(sql).fetchone()
        return files, documents, blank

    # Problems: what could not be read when it was last tried.

    def problems(self) -> list[tuple[str, str]]:
        return list(self._db.execute("SELECT path, reason FROM problems ORDER BY path, reason"))

    def set_problems(self, path: Path, reasons: Sequence[str]) -> None:
        """Replace what is known about a file; nothing to say clears it."""
        place = shown(path)
        self._db.execute("DELETE FROM problems WHERE path = ?", (place,))
        rows = [(place, reason) for reason in dict.fromkeys(reasons)]
        self._db.executemany("INSERT INTO problems VALUES (?, ?)", rows)


def shown(path: Path) -> str:
    """A path as text that can be stored and printed, whatever bytes are in its name."""
    return os.fsencode(path).decode("utf-8", "replace")


def file_name(root: Root, path: Path) -> tuple[str, str]:
    """(path below the root, name with the root's prefix), with forward slashes on every system."""
    below = PurePosixPath(*path.relative_to(root.folder).parts).as_posix()
    return below, root.prefix + below
