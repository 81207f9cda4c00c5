"""`Index`: token matrices under the caller's ids, searched with MaxSim, safe on the disk.

Its life and its writing; what it answers is in reading.py. Knows ids and arrays. It knows nothing of
models, files of documents, or how text becomes tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lateint.index import building, compaction
from lateint.index.batch import Batch, check_batch, join_batches
from lateint.index.catalog import Document, check_ids, some
from lateint.index.errors import BadDocument, DuplicateId, IndexMismatch, IndexWriteFailed
from lateint.index.imported import load
from lateint.index.manifest import Manifest
from lateint.index.options import check_options
from lateint.index.reading import Reading
from lateint.index.repair import Repaired, repair
from lateint.index.storage import Storage


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
        nbits: int | None = None,
        keep_originals: bool = False,
        centroids: int | None = None,
        prefix: int | None = None,
        pool_factor: int = 1,
        seed: int = 0,
        memory: int = 1 << 30,
        fde: bool | dict[str, Any] = False,
        model: str | None = None,
        overwrite: bool = False,
    ) -> Index:
        """A new index in the folder `path`, open for writing.

        dim: width of the tokens. nbits: 4, 2 or 1 bits per dimension beside a centroid's number, or
        16: float16, exact. None is 4 where tokens are 32 to 1024 wide, else 16. More bits: better
        scores, more bytes. Collections below 65,536 tokens are kept as float16 whatever nbits says.
        keep_originals: keep the float16 tokens too, for exact scores of the best hits: better
        order, 2 bytes per dimension more. centroids: None fits them to the collection; more: better
        candidates, slower queries. prefix: keep only the first so many dimensions; fewer: smaller,
        worse. pool_factor: keep about one token in so many; larger: smaller, worse. seed: the same
        seed and documents give the same files. memory: bytes that building may take; more: better
        centroids. fde: keep a vector of each compressed document for mode="fde" in `search`, True or
        settings of fde.Fde (longer: better candidates, more bytes). All these stay as they are for
        the life of the index (see options.py). model: a name of what encodes the tokens;
        `open(model=...)` compares it. overwrite: empty the index that is there. Raises IndexExists,
        IndexLocked, IndexWriteFailed, IndexMismatch (a width that cannot be kept so), ValueError.
        """
        options = check_options(
            dim,
            nbits,
            keep_originals=keep_originals,
            centroids=centroids,
            prefix=prefix,
            pool_factor=pool_factor,
            seed=seed,
            memory=memory,
            fde=fde,
        )
        return cls._opened(
            Storage.create(Path(path), Manifest(dim, model, options=options), overwrite)
        )

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str],
        batches: Iterable[tuple[Any, ...]],
        dim: int,
        **options: Any,
    ) -> Index:
        """A new index of all documents in `batches` (see `extend`), open for writing.

        options: as for `create`. Where it raises, what was committed until then stays.
        """
        index = cls.create(path, dim, **options)
        try:
            index.extend(batches)
        except BaseException:
            index.close()
            raise
        return index

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
    def from_export(cls, source: str | os.PathLike[str], path: str | os.PathLike[str]) -> Index:
        """A new index in the folder `path` out of what `export` wrote, open for writing; it answers
        as the exported one did. Raises IndexExists, IndexCorrupt (the export is), IndexTooNew,
        IndexWriteFailed; then nothing is made."""
        return load(source, path)

    @staticmethod
    def repair(path: str | os.PathLike[str]) -> Repaired:
        """Makes a damaged index usable again: what is damaged goes into `quarantine/` in its folder,
        and the answer lists the ids that are lost. Deletes nothing. Raises IndexMissing,
        IndexLocked, IndexTooNew, IndexWriteFailed, IndexCorrupt where that cannot be done."""
        return repair(path)

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
        """Adds documents, whose token matrices `docs` are: unit rows.

        docs: a `Ragged`, a list of 2-D arrays (tokens, width), or one 3-D array; of numpy, or tensors.
        What sentence-transformers' `encode_document`, PyLate's `encode` and colpali-engine's models
        return goes in as it is: rows of zeros at either end of a matrix are padding and left out.

        metadata: a JSON dictionary each, for `where`, `group_by` and hits; texts: what they say.
        Raises DuplicateId (twice in `ids`, or in the index already), BadTokens, BadDocument,
        IndexMismatch (another width), IndexWriteFailed.
        """
        batch = check_batch(ids, docs, metadata, texts, self._snapshot.manifest)
        self._put(batch, replacing=False)

    def upsert(
        self,
        ids: Sequence[str],
        docs: Any,
        *,
        metadata: Sequence[dict[str, Any]] | None = None,
        texts: Sequence[str | None] | None = None,
    ) -> None:
        """Like `add`, but a document whose id exists is replaced, metadata and text included."""
        batch = check_batch(ids, docs, metadata, texts, self._snapshot.manifest)
        self._put(batch, replacing=True)

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

    def extend(self, batches: Iterable[tuple[Any, ...]]) -> int:
        """Adds documents from an iterator of batches, each (ids, docs), (ids, docs, metadata) or
        (ids, docs, metadata, texts) as for `add`; returns how many.

        Batches are gathered up to an eighth of the option `memory` and committed together, so any
        number of documents passes through; the centroids come from the first million tokens or so.
        Where it raises, whole commits before that stay: `ids()` says what is there.
        """
        with self._use():
            self._storage.must_write()
        room = self._snapshot.manifest.options.memory // 8
        held: list[Batch] = []
        size = count = 0
        for given in batches:
            if not isinstance(given, (tuple, list)) or not 2 <= len(given) <= 4:
                raise BadDocument(
                    f"batch: got {type(given).__name__}; wanted (ids, docs[, metadata[, texts]])"
                )
            ids, docs, metadata, texts = (*given, None, None)[:4]
            batch = check_batch(ids, docs, metadata, texts, self._snapshot.manifest)
            count += len(batch.ids)
            size += batch.tokens.values.nbytes
            held.append(batch)
            if size >= room:
                self._put(join_batches(held), replacing=False, more=True)
                held, size = [], 0
        if held:
            self._put(join_batches(held), replacing=False)
        manifest = self._snapshot.manifest
        if (
            manifest.options.coded
            and not manifest.codec
            and manifest.tokens >= building.TRAIN_TOKENS
        ):
            self.train()
        return count

    def train(self) -> None:
        """Trains a codec on the documents that are there and compresses all of them with it, in one
        commit, beside readers: before there are enough for `add` to do it, or after they have
        drifted (`info().drift`).

        Documents that were compressed are encoded again from their originals, if these are kept,
        else from their compressed tokens, which loses a little more; and space is freed only when
        readers have moved on. Raises IndexMismatch where the index keeps float16 (nbits 16) or is
        empty.
        """
        with self._use():
            self._storage.must_write()
            self._snapshot = snapshot = self._storage.snapshot(self._snapshot)
            manifest = snapshot.manifest
            if not manifest.options.coded or not manifest.documents:
                why = "is empty" if manifest.options.coded else "keeps float16 tokens (nbits=16)"
                raise IndexMismatch(f"{self.path}: {why}; there is nothing to train a codec for")
            with self._storage.transaction() as change:
                codec = building.train(change, snapshot.live, None, manifest.tokens)
                building.rewrite(change, snapshot, snapshot.live, codec)
            self._snapshot = self._storage.snapshot(snapshot)

    def compact(self) -> None:
        """Merges small segments and drops deleted documents, in one commit, beside any readers."""
        with self._use():
            self._merge(purge=True)

    def _put(self, batch: Batch, *, replacing: bool, more: bool = False) -> None:
        """One commit of documents; more: in the middle of a build, which waits longer to train."""
        with self._use() as catalog:
            self._storage.must_write()
            old = catalog.numbers(batch.ids)
            if old and not replacing:
                raise DuplicateId(
                    f"the index already holds {some(sorted(old))}; upsert() replaces documents"
                )
            if not batch.ids:
                return
            tokens = batch.tokens
            with self._storage.transaction() as change:
                live = self._snapshot.live
                if old:
                    gone = sorted(old.values())
                    change.count(-len(old), -catalog.remove(gone))
                    live = live.select(np.setdiff1d(live.numbers, gone, assume_unique=True))
                numbers = change.new_numbers(len(batch.ids))
                least = building.BUILD_TOKENS if more else building.TRAIN_TOKENS
                building.write_documents(
                    change, self._snapshot, live, numbers, tokens, least=least, more=more
                )
                columns = numbers.tolist(), batch.ids, tokens.lengths.tolist(), batch.metadata
                catalog.insert([Document(*row) for row in zip(*columns, strict=True)], batch.texts)
                change.count(len(batch.ids), len(tokens.values))
            self._snapshot = self._storage.snapshot(self._snapshot)
            if compaction.crowded(self._snapshot):
                with suppress(
                    IndexWriteFailed
                ):  # the documents are in; the next addition tries again
                    self._merge(purge=False)

    def _merge(self, purge: bool) -> None:
        self._storage.must_write()
        self._snapshot = self._storage.snapshot(self._snapshot)
        runs = compaction.runs(self._snapshot, purge)
        if not runs and not (purge and self._storage.catalog.lexical.waiting):
            return
        with self._storage.transaction() as change:
            if purge:
                change.catalog.lexical.tidy(change.catalog.all_texts())
            for run in runs:
                compaction.rewrite(change, self._snapshot, run)
        self._snapshot = self._storage.snapshot(self._snapshot)
