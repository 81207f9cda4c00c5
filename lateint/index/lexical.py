"""BM25 over the texts that documents carry: an FTS5 table in `index.sqlite`, written with the rows.

A query is plain words: SQLite's own tokenizer takes it apart, and each word becomes a quoted term of
an OR, so no operator, quote or wildcard in it means anything. Words are runs of letters and digits,
case and accents folded ("unicode61 remove_diacritics 2"); scripts written without blanks between
words (Chinese, Japanese, Thai) are not split. Knows numbers of documents and texts, no tokens.

The table is made with the first text that has a word in it: an index without texts pays nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lateint.index.errors import IndexCorrupt, NoTextSearch
from lateint.index.tokens import IntArray

QUERY_TERMS = 64  # distinct words of a query that count, the rarest ones: bounds what one can cost
QUERY_LENGTH = 100_000  # characters of a query that are looked at
ROWS = 4096  # rows compared at once by check()

_BLANK = " \t\n\v\f\r"
_TOKENIZER = "tokenize = 'unicode61 remove_diacritics 2'"
_TABLES = (
    # The words of texts that stand in the table `texts`: nothing is kept twice.
    f"CREATE VIRTUAL TABLE lexical USING fts5(text, content = 'texts', content_rowid = 'doc', {_TOKENIZER})",
    # Views of it: how many texts have a term; where each term stands.
    "CREATE VIRTUAL TABLE lexical_terms USING fts5vocab(lexical, row)",
    "CREATE VIRTUAL TABLE lexical_places USING fts5vocab(lexical, instance)",
)
_INSERT = "INSERT INTO lexical(rowid, text) VALUES (?, ?)"
_PLACES = "SELECT term, doc, offset FROM {}"
_LENGTHS = "SELECT id, sz FROM {}lexical_docsize ORDER BY id"
_TOTALS = "SELECT ltrim(hex(block), '0') FROM {}lexical_data WHERE id = 1"  # none yet: no row, or 0


class Lexical:
    """The texts' words through the connection `db`; `path` is its file, for errors."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self.path = path
        self._tokenizer: sqlite3.Connection | None = None

    @property
    def made(self) -> bool:
        """Whether the index has the table."""
        sql = "SELECT count(*) FROM sqlite_master WHERE name = 'lexical'"
        return bool(self._db.execute(sql).fetchone()[0])

    def insert(self, texts: Iterable[tuple[int, str]], earlier: Iterable[tuple[int, str]]) -> None:
        """Adds the texts of new documents, (number, text).

        earlier: the texts that the index holds already; read only where the table is missing (an
        index of format 1, or one written by a Python without FTS5), to make it whole. Raises
        NoTextSearch where the table exists and this Python's SQLite cannot write it.
        """
        worded = [row for row in texts if self._has_words(row[1])]
        if not self.made:
            if not (worded and available()):
                return  # without FTS5 the texts are kept, and wait for a Python that has it
            self.make(earlier)
        self._execute_many(_INSERT, worded)

    def make(self, texts: Iterable[tuple[int, str]]) -> None:
        """Makes the table out of all texts, (number, text). Raises NoTextSearch without FTS5."""
        _require()
        for table in _TABLES:
            self._db.execute(table)
        rows = (row for row in texts if self._has_words(row[1]))
        self._execute_many(_INSERT, rows)

    def remove(self, texts: Iterable[tuple[int, str]]) -> None:
        """Takes out documents, (number, text as it was added); call it before the rows go."""
        if self.made:
            rows = [row for row in texts if self._has_words(row[1])]
            sql = "INSERT INTO lexical(lexical, rowid, text) VALUES ('delete', ?, ?)"
            self._execute_many(sql, rows)

    def clear(self) -> None:
        """Forgets all texts."""
        if self.made:
            _require()
            self._db.execute("INSERT INTO lexical(lexical) VALUES ('delete-all')")

    def rebuild(self, texts: Iterable[tuple[int, str]]) -> None:
        """Makes the table again out of all `texts`, whatever is in it."""
        if self.made:
            self.clear()
            self._execute_many(_INSERT, (row for row in texts if self._has_words(row[1])))

    @property
    def waiting(self) -> bool:
        """Whether there are texts of which the words are not indexed, and could be."""
        return not self.made and self._any_text() and available()

    def tidy(self, texts: Iterable[tuple[int, str]]) -> None:
        """Merges what additions and deletions left in pieces, or makes a table that is missing out
        of all `texts`; costs O(index)."""
        if self.waiting:
            self.make(texts)
        elif self.made and available():
            self._db.execute("INSERT INTO lexical(lexical) VALUES ('optimize')")

    def search(self, query: str, count: int) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """All documents with a word of `query`: numbers (ascending) and BM25 scores, higher better.

        BM25 is SQLite's (k1 1.2, b 0.75; Robertson and Zaragoza 2009): a word in more than half of
        the texts weighs next to nothing, so such words are left out where there are rarer ones.
        Each distinct word counts once. count: documents in the index. Raises NoTextSearch where
        texts are there and their words were never indexed.
        """
        empty = np.zeros(0, np.int64), np.zeros(0, np.float32)
        if not self.made:
            if self._any_text():
                _require()
                raise NoTextSearch(
                    f"{self.path}: its texts have no word index yet (they were added by an older "
                    "lateint, or by a Python without FTS5); open it with write=True and call "
                    "compact()"
                )
            return empty
        _require()
        terms = self._terms(query, count)
        if not terms:
            return empty
        match = " OR ".join(f'"{term}"' for term in terms)  # terms are letters and digits only
        sql = "SELECT rowid, -bm25(lexical) FROM lexical WHERE lexical MATCH ? ORDER BY rowid"
        rows = self._db.execute(sql, (match,)).fetchall()
        found = np.asarray(rows, np.float64).reshape(-1, 2)
        return found[:, 0].astype(np.int64), found[:, 1].astype(np.float32)

    def check(self, texts: Iterable[tuple[int, str]]) -> Iterator[str]:
        """What is wrong: compares every place of every word with the texts, (number, text).

        The words of the texts are indexed again beside, in SQLite's temporary storage.
        """
        if not self.made:
            return
        _require()
        db = self._db
        (query_only,) = db.execute("PRAGMA query_only").fetchone()
        db.execute("PRAGMA query_only = OFF")  # writes only to temporary tables
        try:
            # Not `temp.lexical`: within a statement, that name would hide the index's own table.
            db.execute(
                f"CREATE VIRTUAL TABLE temp.again_lexical USING fts5(text, content = '', {_TOKENIZER})"
            )
            db.execute(
                "CREATE VIRTUAL TABLE temp.again_places USING fts5vocab(again_lexical, instance)"
            )
            rows = (row for row in texts if self._has_words(row[1]))
            db.executemany("INSERT INTO temp.again_lexical(rowid, text) VALUES (?, ?)", rows)
            for sql, ours, again, what in (
                (_PLACES, "main.lexical_places", "temp.again_places", "words"),
                (_LENGTHS, "main.", "temp.again_", "lengths"),
                (_TOTALS, "main.", "temp.again_", "totals"),
            ):
                if not _same(db.execute(sql.format(ours)), db.execute(sql.format(again))):
                    yield f"{self.path}: table lexical has other {what} than the texts"
        except sqlite3.DatabaseError as error:
            raise IndexCorrupt(f"{self.path}: table lexical is damaged ({error})") from error
        finally:
            for table in ("again_places", "again_lexical"):
                db.execute(f"DROP TABLE IF EXISTS temp.{table}")
            db.execute(f"PRAGMA query_only = {query_only}")

    def _terms(self, query: str, count: int) -> list[str]:
        """The terms of a query that are worth asking for: in some text, the rarest first."""
        found: list[tuple[int, str]] = []
        for term in self._split(query[:QUERY_LENGTH]):
            sql = "SELECT doc FROM lexical_terms WHERE term = ?"
            for (texts,) in self._db.execute(sql, (term,)):
                found.append((texts, term))
        found.sort()
        rare = [term for texts, term in found if 2 * texts <= count]
        return (rare or [term for _, term in found])[:QUERY_TERMS]

    def _split(self, text: str) -> list[str]:
        """The distinct terms of a text, exactly as SQLite's tokenizer sees them."""
        if self._tokenizer is None:
            db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            db.execute(f"CREATE VIRTUAL TABLE t USING fts5(text, content = '', {_TOKENIZER})")
            db.execute("CREATE VIRTUAL TABLE v USING fts5vocab(t, row)")
            self._tokenizer = db
        db = self._tokenizer
        db.execute("BEGIN")
        try:
            db.execute("INSERT INTO t(rowid, text) VALUES (1, ?)", (text,))
            return [term for (term,) in db.execute("SELECT term FROM v")]
        finally:
            db.execute("ROLLBACK")

    def _any_text(self) -> bool:
        sql = "SELECT EXISTS (SELECT 1 FROM texts WHERE trim(text, ?) <> '')"
        return bool(self._db.execute(sql, (_BLANK,)).fetchone()[0])

    @staticmethod
    def _has_words(text: str) -> bool:
        """Whether a text is worth a row: an empty one would only blur the mean length."""
        return bool(text.strip(_BLANK))

    def _execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        _require()
        self._db.executemany(sql, rows)


@cache
def available() -> bool:
    """Whether this Python's SQLite has FTS5."""
    db = sqlite3.connect(":memory:")
    try:
        db.execute("CREATE VIRTUAL TABLE t USING fts5(text)")
    except sqlite3.OperationalError:
        return False
    finally:
        db.close()
    return True


def _require() -> None:
    if not available():
        raise NoTextSearch(
            f"this Python's SQLite ({sqlite3.sqlite_version}) was built without FTS5, which search "
            "by words needs; use a Python whose sqlite3 has it, or search without texts="
        )


def _same(left: sqlite3.Cursor, right: sqlite3.Cursor) -> bool:
    """Whether two statements give the same rows."""
    while True:
        a, b = left.fetchmany(ROWS), right.fetchmany(ROWS)
        if a != b:
            return False
        if not a:
            return True
