"""`Index`: token matrices under the caller's ids, searched with MaxSim, safe on the disk.

Knows ids and arrays. It knows nothing of models, files of documents, or how text becomes tokens.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lateint.index import compaction
from lateint.index.answers import Hit, IndexInfo
from lateint.index.batch import check_batch
from lateint.index.catalog import Catalog, Document, check_ids, some
from lateint.index.errors import (
    BadTokens,
    DuplicateId,
    IndexClosed,
    IndexMismatch,
    IndexWriteFailed,
)
from lateint.index.filters import check_key
from lateint.index.manifest import FORMAT, Manifest
from lateint.index.search.exact import Scores, blocks, query_groups, similarities
from lateint.index.search.rank import top, top_groups
from lateint.index.snapshot import Part, score_parts
from lateint.index.storage import Storage
from lateint.index.tokens import IntArray, Tokens, as_tokens
from lateint.index.verify import verify

WIDEST = 4096


class Index:
    """An index in a folder. Make one with `Index.create` or `Index.open`; it is a context manager.

    A reader sees the state it opened until `refresh()`; a writer sees its own commits. One object
    serves one call at a time, whatever the threads: open the index once per thread to search in
    parallel (the memory is shared by the system). After a fork, open it again in the child.
    """

    def __init__(self, storage: Storage) -> None:
        """Use `create` or `open`."""
        self._storage = storage
        self._thread = threading.RLock()
        self._closed = False
        self._kind = "fp16"
        self._snapshot = storage.snapshot(None)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        dim: int,
        *,
        model: str | None = None,
        overwrite: bool = False,
    ) -> Index:
        """A new index in the folder `path`, open for writing.

        dim: width of the tokens. model: a name of what encodes them; `open(model=...)` compares it.
        overwrite: empty the index that is there. Raises IndexExists, IndexLocked, IndexWriteFailed.
        """
        if not isinstance(dim, int) or not 1 <= dim <= WIDEST:
            raise IndexMismatch(f"dim: got {dim!r}; wanted a width from 1 to {WIDEST}")
        return cls._opened(Storage.create(Path(path), Manifest(dim, model), overwrite))

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        write: bool = False,
        dim: int | None = None,
        model: str | None = None,
    ) -> Index:
        """The index in the folder `path`, for reading, or as its one writer.

        dim, model: what the caller's tokens are; IndexMismatch where the index holds others.
        Raises IndexMissing, IndexLocked (write), IndexTooNew, IndexTooOld, IndexCorrupt.
        """
        index = cls._opened(Storage.open(Path(path), write))
        manifest = index._snapshot.manifest
        for name, wanted, found in (("width", dim, manifest.dim), ("model", model, manifest.model)):
            if wanted is not None and found is not None and wanted != found:
                index.close()
                raise IndexMismatch(
                    f"{path}: holds tokens of {name} {found!r}, wanted {wanted!r}; use the "
                    "model it was built with, or build it again"
                )
        return index

    @classmethod
    def _opened(cls, storage: Storage) -> Index:
        try:
            return cls(storage)
        except BaseException:
            storage.close()
            raise

    def close(self) -> None:
        """Lets the files go, and the lock; may be called twice."""
        with self._thread:
            if not self._closed:
                self._closed = True
                self._storage.close()

    def __enter__(self) -> Index:
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

    # Writing: each call is one commit, wholly there when it returns, wholly absent when it raises.

    def add(
        self,
        ids: Sequence[str],
        docs: Any,
        *,
        metadata: Sequence[dict[str, Any]] | None = None,
        texts: Sequence[str | None] | None = None,
    ) -> None:
        """Adds documents, whose token matrices `docs` are (see `as_tokens`): unit rows.

        metadata: a JSON dictionary each, for `where`, `group_by` and hits; texts: what they say.
        Raises DuplicateId (twice in `ids`, or in the index already), BadTokens, BadDocument,
        IndexMismatch (another width), IndexWriteFailed.
        """
        self._put(ids, docs, metadata, texts, replacing=False)

    def upsert(
        self,
        ids: Sequence[str],
        docs: Any,
        *,
        metadata: Sequence[dict[str, Any]] | None = None,
        texts: Sequence[str | None] | None = None,
    ) -> None:
        """Like `add`, but a document whose id exists is replaced, metadata and text included."""
        self._put(ids, docs, metadata, texts, replacing=True)

    def delete(self, ids: Sequence[str]) -> int:
        """Removes the documents of these ids; returns how many there were. Unknown ids are fine."""
        with self._use() as catalog:
            self._storage.must_write()
            numbers = sorted(catalog.numbers(check_ids(ids)).values())
            if not numbers:
                return 0
            with self._storage.transaction() as change:
                change.count(-len(numbers), -catalog.remove(numbers))
            self._snapshot = self._storage.snapshot(self._snapshot)
            return len(numbers)

    def compact(self) -> None:
        """Merges small segments and drops deleted documents, in one commit, beside any readers."""
        with self._use():
            self._merge(purge=True)

    # Reading.

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

    def _put(
        self, ids: Sequence[str], docs: Any, metadata: Any, texts: Any, *, replacing: bool
    ) -> None:
        with self._use() as catalog:
            self._storage.must_write()
            batch = check_batch(ids, docs, metadata, texts, self.dim)
            old = catalog.numbers(batch.ids)
            if old and not replacing:
                raise DuplicateId(
                    f"the index already holds {some(sorted(old))}; upsert() replaces documents"
                )
            if not batch.ids:
                return
            tokens, limit = batch.tokens, self._segment_tokens
            with self._storage.transaction() as change:
                if old:
                    change.count(-len(old), -catalog.remove(sorted(old.values())))
                numbers = change.new_numbers(len(batch.ids))
                for first, last in blocks(tokens.lengths, limit):
                    change.add_segment(self._kind, numbers[first:last], tokens.slice(first, last))
                columns = numbers.tolist(), batch.ids, tokens.lengths.tolist(), batch.metadata
                catalog.insert([Document(*row) for row in zip(*columns, strict=True)], batch.texts)
                change.count(len(batch.ids), len(tokens.values))
            self._snapshot = self._storage.snapshot(self._snapshot)
            if compaction.crowded(self._snapshot, limit):
                with suppress(
                    IndexWriteFailed
                ):  # the documents are in; the next addition tries again
                    self._merge(purge=False)

    @property
    def _segment_tokens(self) -> int:
        return compaction.segment_tokens(self._kind, self.dim)

    def _merge(self, purge: bool) -> None:
        self._storage.must_write()
        self._snapshot = self._storage.snapshot(self._snapshot)
        limit = self._segment_tokens
        runs = compaction.runs(self._snapshot, limit, purge)
        if not runs:
            return
        with self._storage.transaction() as change:
            for run in runs:
                compaction.rewrite(change, self._snapshot, run, self._kind, limit)
        self._snapshot = self._storage.snapshot(self._snapshot)

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
