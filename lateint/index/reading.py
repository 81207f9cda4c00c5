"""What an open index answers: `Index` without its writing.

Ranks and explains under the caller's ids; knows nothing of commits, models or text.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from lateint.index.answers import Hit, IndexInfo
from lateint.index.catalog import Catalog, check_ids
from lateint.index.errors import BadTokens, IndexClosed
from lateint.index.filters import check_key
from lateint.index.manifest import FORMAT
from lateint.index.search.exact import Scores, query_groups, similarities
from lateint.index.search.rank import top, top_groups
from lateint.index.snapshot import Part, score_parts
from lateint.index.storage import Storage
from lateint.index.tokens import IntArray, Tokens, as_tokens
from lateint.index.verify import verify

Self = TypeVar("Self", bound="Reading")


class Reading:
    """The reading half of `Index`."""

    def __init__(self, storage: Storage) -> None:
        """Use `create` or `open`."""
        self._storage = storage
        self._thread = threading.RLock()
        self._closed = False
        self._kind = "fp16"
        self._snapshot = storage.snapshot(None)

    def close(self) -> None:
        """Lets the files go, and the lock; may be called twice."""
        with self._thread:
            if not self._closed:
                self._closed = True
                self._storage.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self)} documents, dim {self.dim}"
        return f"Index({str(self._storage.path)!r}, {state})"

    @property
    def path(self) -> Path:
        return self._storage.path

    @property
    def dim(self) -> int:
        """Width of the tokens."""
        return self._snapshot.manifest.dim

    def __len__(self) -> int:
        """Live documents."""
        return self._snapshot.manifest.documents

    def __contains__(self, name: object) -> bool:
        with self._use() as catalog:
            return isinstance(name, str) and bool(catalog.numbers([name]))

    def refresh(self) -> None:
        """Moves to the newest commit.

        A long-lived reader should, now and then: the database's log grows while it stays.
        """
        with self._use():
            self._snapshot = self._storage.snapshot(self._snapshot)

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        where: str | None = None,
        params: Sequence[Any] = (),
        ids: Sequence[str] | None = None,
        group_by: str | None = None,
    ) -> list[list[Hit]]:
        """The k best documents for each query by MaxSim, best first; ties in order of addition.

        queries: token matrices, like `docs`; rows may have any length (weights of query tokens).
        where, params: search only documents for which this SQL expression over metadata keys holds,
        with one value per `?`: `where="year >= ? and lang = 'en'", params=[2024]`. A document
        without a key has NULL there. ids: search only these. group_by: a metadata key; only the
        best document for each of its values is a hit (documents without it each count alone).
        Raises BadTokens, IndexMismatch, BadFilter, UnknownId.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k: got {k!r}; wanted a whole number from 1")
        with self._use() as catalog:
            asked = self._queries(queries)
            if group_by is not None:
                check_key(group_by, catalog.keys())
            parts = self._chosen(catalog, where, params, ids)
            numbers = _numbers(parts)
            found: list[list[Hit]] = []
            for first, last in query_groups(asked, len(numbers)):
                scores = score_parts(parts, asked.slice(first, last))
                best = [self._best(catalog, row, k, numbers, group_by) for row in scores]
                found += _hits(catalog, scores, best, numbers)
            return found

    def score(self, queries: Any, ids: Sequence[str]) -> Scores:
        """MaxSim of each query with each of the documents `ids`, (queries, ids) float32."""
        with self._use() as catalog:
            asked = self._queries(queries)
            unique, inverse = np.unique(
                np.asarray(catalog.known(check_ids(ids)), np.int64), return_inverse=True
            )
            parts = self._snapshot.select(unique)
            groups = query_groups(asked, len(unique))
            scores = [score_parts(parts, asked.slice(first, last)) for first, last in groups]
            return np.concatenate([np.zeros((0, len(unique)), np.float32), *scores])[:, inverse]

    def reconstruct(self, ids: Sequence[str]) -> Tokens:
        """The token matrices of the documents `ids` as the index keeps them, float32."""
        with self._use() as catalog:
            numbers = catalog.known(check_ids(ids))
            unique = np.unique(np.asarray(numbers, np.int64))
            held = {number: tokens.values for number, tokens in self._snapshot.tokens(unique)}
            return as_tokens([held[number] for number in numbers], self.dim, "document")

    def token_scores(self, query: Any, id: str) -> Scores:
        """Dot product of each token of one query with each token of a document, (Lq, Ld).

        query: one matrix (Lq, D), or queries of which there is one. MaxSim: `.max(1).sum()`.
        """
        with self._use():
            one = [query] if getattr(query, "ndim", 0) == 2 else query
            asked = self._queries(one)
            if len(asked) != 1:
                raise BadTokens(f"query: got {len(asked)} queries; wanted one")
            return similarities(asked.values, self.reconstruct([id]).values)

    def ids(self) -> list[str]:
        """The ids of all documents, in the order in which they were added."""
        with self._use() as catalog:
            return [row.id for row in catalog]

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The metadata of the documents `ids`."""
        with self._use() as catalog:
            numbers = catalog.known(check_ids(ids))
            rows = catalog.documents(numbers)
            return [rows[number].fields() for number in numbers]

    def texts(self, ids: Sequence[str]) -> list[str | None]:
        """The texts of the documents `ids`; None where one was added without."""
        with self._use() as catalog:
            numbers = catalog.known(check_ids(ids))
            held = catalog.texts(numbers)
            return [held.get(number) for number in numbers]

    def info(self) -> IndexInfo:
        """Counts and sizes."""
        with self._use() as catalog:
            manifest = self._snapshot.manifest
            return IndexInfo(
                path=str(self.path),
                format=FORMAT,
                kind=self._kind,
                dim=manifest.dim,
                model=manifest.model,
                commit=manifest.commit,
                documents=manifest.documents,
                tokens=manifest.tokens,
                deleted=len(self._snapshot.tombstones),
                segments=len(self._snapshot.segments),
                bytes=self._storage.size(),
                keys=tuple(catalog.keys()),
            )

    def verify(self) -> None:
        """Compares everything with its checksums; IndexCorrupt lists all that is wrong."""
        with self._use():
            verify(self._storage, self._snapshot)

    @contextmanager
    def _use(self) -> Iterator[Catalog]:
        """Entry of every call: one thread, this process, still open."""
        with self._thread:
            if self._closed:
                raise IndexClosed(f"{self.path}: was closed; open it again")
            if os.getpid() != self._storage.pid:
                raise IndexClosed(
                    f"{self.path}: was opened by process {self._storage.pid}; "
                    "open it again after a fork"
                )
            with self._storage.reading() as catalog:
                yield catalog

    def _queries(self, queries: Any) -> Tokens:
        tokens = as_tokens(queries, self.dim, "query")
        return Tokens(tokens.values.astype(np.float32, copy=False), tokens.offsets)

    def _chosen(
        self, catalog: Catalog, where: str | None, params: Sequence[Any], ids: Sequence[str] | None
    ) -> list[Part]:
        """What to search."""
        if where is None and params:
            raise ValueError("params: given without a where expression")
        if where is None and ids is None:
            return self._snapshot.live
        chosen: IntArray | None = None
        if ids is not None:
            chosen = np.unique(np.asarray(catalog.known(check_ids(ids)), np.int64))
        if where is not None:
            held = self._storage.filters.documents(where, params, catalog.keys(), len(self))
            chosen = held if chosen is None else np.intersect1d(chosen, held, assume_unique=True)
        assert chosen is not None
        return self._snapshot.select(chosen)

    def _best(
        self, catalog: Catalog, scores: Scores, k: int, numbers: IntArray, group_by: str | None
    ) -> IntArray:
        if group_by is None:
            return top(scores, k)

        def groups(positions: IntArray) -> list[str | None]:
            wanted = numbers[positions].tolist()
            rows = catalog.documents(wanted)
            values = [rows[number].fields().get(group_by) for number in wanted]
            return [
                None if value is None else json.dumps(value, sort_keys=True) for value in values
            ]

        return top_groups(scores, k, groups)


def _hits(
    catalog: Catalog, scores: Scores, best: list[IntArray], numbers: IntArray
) -> list[list[Hit]]:
    """Hits for the best positions of each row of scores."""
    wanted = {number for positions in best for number in numbers[positions].tolist()}
    rows = catalog.documents(sorted(wanted))
    return [
        [
            Hit(rows[n].id, float(score), rows[n].fields())
            for n, score in zip(numbers[p].tolist(), row[p], strict=True)
        ]
        for row, p in zip(scores, best, strict=True)
    ]


def _numbers(parts: list[Part]) -> IntArray:
    return np.concatenate([np.zeros(0, np.int64), *(part.documents for part in parts)])
