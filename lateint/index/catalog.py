"""The documents of an index as rows: ids, metadata, texts and tombstones in `index.sqlite`.

A document has a number, given once and never again, which segments use; the caller's id is the name
of it. Every row read is compared with its checksum. Knows neither tokens nor transactions.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lateint.index.errors import BadDocument, IndexCorrupt, UnknownId
from lateint.index.lexical import Lexical
from lateint.index.manifest import row_checksum
from lateint.index.tokens import IntArray

Value = TypeVar("Value", int, str)

ID_LIMIT = 4096  # characters
METADATA_LIMIT = 1 << 20  # characters of JSON per document


class Document(NamedTuple):
    """One row. A tuple, because a search makes one for every hit."""

    number: int
    id: str
    tokens: int
    metadata: str  # JSON

    def fields(self) -> dict[str, Any]:
        """The metadata as a new dictionary."""
        return {} if self.metadata == "{}" else dict(json.loads(self.metadata))


class Catalog:
    """Rows of documents through the connection `db`; `path` is its file, for errors."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self.path = path
        self.lexical = Lexical(db, path)

    def numbers(self, ids: Sequence[str]) -> dict[str, int]:
        """id -> number, for those of `ids` that exist."""
        rows = self._rows("WHERE id IN (SELECT value FROM json_each(?))", json.dumps(list(ids)))
        return {row.id: row.number for row in rows}

    def known(self, ids: Sequence[str]) -> list[int]:
        """The number of each of `ids`, in their order. Raises UnknownId."""
        numbers = self.numbers(ids)
        unknown = [i for i in ids if i not in numbers]
        if unknown:
            raise UnknownId(f"the index holds no {some(unknown)}; ids() lists what it holds")
        return [numbers[i] for i in ids]

    def documents(self, numbers: Iterable[int]) -> dict[int, Document]:
        """number -> row. A number from a segment that has no row is damage."""
        wanted = list(numbers)
        rows = self._rows("WHERE doc IN (SELECT value FROM json_each(?))", json.dumps(wanted))
        found = {row.number: row for row in rows}
        if len(found) < len(set(wanted)):
            missing = sorted(set(wanted) - found.keys())
            raise IndexCorrupt(
                f"{self.path}: has no row for document {missing[0]} ({len(missing)} such)"
            )
        return found

    def __iter__(self) -> Iterator[Document]:
        """All rows in the order in which they were added."""
        return self._rows("ORDER BY doc")

    def texts(self, numbers: Sequence[int]) -> dict[int, str]:
        """number -> text, for those that carry one."""
        rows = self._db.execute(
            "SELECT doc, text, crc FROM texts WHERE doc IN (SELECT value FROM json_each(?))",
            (json.dumps(list(numbers)),),
        )
        return dict(self._checked(rows, "texts"))

    def all_texts(self) -> Iterator[tuple[int, str]]:
        return self._checked(self._db.execute("SELECT doc, text, crc FROM texts"), "texts")

    def tombstones(self) -> IntArray:
        """Numbers of deleted documents that are still in segments, ascending."""
        return np.asarray(self._column("tombstones", "doc", int), np.int64)

    def keys(self) -> list[str]:
        """Metadata keys that `where` and `group_by` may name."""
        return self._column("keys", "key", str)

    def insert(self, documents: Sequence[Document], texts: Sequence[str | None]) -> None:
        rows = [(d.number, d.id, d.tokens, d.metadata) for d in documents]
        self._db.executemany(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?)",
            [(*row, row_checksum(*row)) for row in rows],
        )
        said = [
            (d.number, text) for d, text in zip(documents, texts, strict=True) if text is not None
        ]
        self.lexical.insert(said, earlier=self.all_texts())
        self._db.executemany(
            "INSERT INTO texts VALUES (?, ?, ?)", [(*row, row_checksum(*row)) for row in said]
        )
        keys = {key for d in documents for key in json.loads(d.metadata)}
        self._db.executemany(
            "INSERT OR IGNORE INTO keys VALUES (?)", [(key,) for key in sorted(keys)]
        )

    def remove(self, numbers: Sequence[int]) -> int:
        """Deletes rows and leaves tombstones; returns how many tokens the documents had."""
        tokens = sum(row.tokens for row in self.documents(numbers).values())
        self.lexical.remove(self.texts(numbers).items())
        each = [(number,) for number in numbers]
        self._db.executemany("DELETE FROM documents WHERE doc = ?", each)
        self._db.executemany("DELETE FROM texts WHERE doc = ?", each)
        self._db.executemany("INSERT INTO tombstones VALUES (?)", each)
        return tokens

    def _column(self, table: str, name: str, kind: type[Value]) -> list[Value]:
        """A column that has no checksum: its values are looked at. In their order."""
        found = [value for (value,) in self._db.execute(f"SELECT {name} FROM {table} ORDER BY 1")]
        if not all(isinstance(value, kind) for value in found):
            raise IndexCorrupt(f"{self.path}: table {table} is damaged")
        return found

    def _rows(self, where: str, *params: Any) -> Iterator[Document]:
        rows = self._db.execute(
            f"SELECT doc, id, tokens, metadata, crc FROM documents {where}", params
        )
        return starmap(Document, self._checked(rows, "documents"))

    def _checked(self, rows: Iterable[tuple[Any, ...]], table: str) -> Iterator[tuple[Any, ...]]:
        for *row, checksum in rows:
            if row_checksum(*row) != checksum:
                raise IndexCorrupt(f"{self.path}: row {row[0]} of table {table} is damaged")
            yield tuple(row)


def some(ids: Sequence[str]) -> str:
    """A few ids for an error message."""
    shown = ", ".join(repr(i) for i in ids[:5])
    return shown + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def check_ids(ids: Sequence[str]) -> list[str]:
    """`ids` as a list of usable ids. Raises BadDocument."""
    if isinstance(ids, (str, bytes)):
        raise BadDocument(f"ids: got one {type(ids).__name__}, wanted a list of strings")
    checked = list(ids)
    for place, name in enumerate(checked):
        if (
            not isinstance(name, str)
            or not name
            or len(name) > ID_LIMIT
            or "\0" in name
            or not _utf8(name)
        ):
            raise BadDocument(
                f"id {place} is {name!r:.100}; wanted a string of 1 to {ID_LIMIT} characters, "
                "valid Unicode"
            )
    return checked


def encode_metadata(metadata: Any, name: str) -> str:
    """A document's metadata as JSON. Raises BadDocument, naming the document."""
    if not isinstance(metadata, dict) or not all(isinstance(key, str) for key in metadata):
        raise BadDocument(
            f"metadata of {name!r}: got {metadata!r:.100}; wanted a dictionary with string keys"
        )
    try:
        body = json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadDocument(f"metadata of {name!r} cannot be written as JSON: {error}") from None
    if len(body) > METADATA_LIMIT or not _utf8(body) or "\0" in body:
        raise BadDocument(
            f"metadata of {name!r}: {len(body)} characters; wanted at most {METADATA_LIMIT}, "
            "valid Unicode"
        )
    return body


def check_text(text: Any, name: str) -> str | None:
    """A document's text, or None. Raises BadDocument."""
    if text is not None and (not isinstance(text, str) or not _utf8(text)):
        raise BadDocument(
            f"text of {name!r}: got {type(text).__name__}; wanted valid Unicode or None"
        )
    return text


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
