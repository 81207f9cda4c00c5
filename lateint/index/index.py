"""`Index`: token matrices under the caller's ids, searched with MaxSim, safe on the disk.

Its life and its writing; what it answers is in reading.py. Knows ids and arrays. It knows nothing of
models, files of documents, or how text becomes tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lateint.index import compaction
from lateint.index.batch import check_batch
from lateint.index.catalog import Document, check_ids, some
from lateint.index.errors import DuplicateId, IndexMismatch, IndexWriteFailed
from lateint.index.manifest import Manifest
from lateint.index.reading import Reading
from lateint.index.search.exact import blocks
from lateint.index.storage import Storage

WIDEST = 4096


class Index(Reading):
    """An index in a folder. Make one with `Index.create` or `Index.open`; it is a context manager.

    A reader sees the state it opened until `refresh()`; a writer sees its own commits. One object
    serves one call at a time, whatever the threads: open the index once per thread to search in
    parallel (the memory is shared by the system). After a fork, open it again in the child.
    """

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
