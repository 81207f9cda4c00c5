"""What an open index answers: `Index` without its writing.

Ranks and explains under the caller's ids; knows nothing of commits, models or text.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from lateint.index import hybrid, kernels
from lateint.index.answers import Hit, IndexInfo, Recall
from lateint.index.building import drift
from lateint.index.catalog import Catalog, check_ids
from lateint.index.errors import BadTokens, IndexClosed
from lateint.index.export import export
from lateint.index.filters import check_key
from lateint.index.hybrid import HybridHit
from lateint.index.kinds import tokens_at
from lateint.index.residual import ResidualSegment
from lateint.index.search import engine
from lateint.index.search.engine import Found, Settings
from lateint.index.search.exact import Scores, similarities
from lateint.index.search.rank import top, top_groups
from lateint.index.search.recall import exact_top
from lateint.index.snapshot import Selection
from lateint.index.storage import Storage
from lateint.index.tokens import IntArray, Tokens, as_tokens, shortened
from lateint.index.verify import verify

Self = TypeVar("Self", bound="Reading")


class Reading:
    """The reading half of `Index`."""

    def __init__(self, storage: Storage) -> None:
        """Use `create` or `open`."""
        self._storage = storage
        self._thread = threading.RLock()
        self._closed = False
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
        ncandidates: int | None = None,
        nprobe: int | None = None,
        mode: str = "auto",
        rescore: int | None = None,
        threads: int | None = None,
    ) -> list[list[Hit]]:
        """The k best documents for each query by MaxSim, best first; ties in order of addition.

        queries: token matrices, like `docs`; rows may have any length (weights of query tokens).
        where, params: search only documents for which this SQL expression over metadata keys holds,
        with one value per `?`: `where="year >= ? and lang = 'en'", params=[2024]`. A document
        without a key has NULL there. ids: search only these. group_by: a metadata key; only the
        best document for each of its values is a hit (documents without it each count alone).

        Of compressed documents: ncandidates are scored in full, larger: better recall, slower;
        mode: "scan" finds them by looking at every document, "lists" by nprobe centroids for each
        query token (larger: better recall, slower), "fde" by their vectors where the index was
        created with fde, "exact" scores all in full, "auto" chooses;
        rescore: so many of the best are scored again from originals where they are kept. threads:
        0 is all cores, None one for a single query and all for several. Defaults: see
        search/engine.py. Raises BadTokens, IndexMismatch, BadFilter, UnknownId, ValueError.
        """
        fde = self._snapshot.manifest.options.fde
        settings = Settings(ncandidates, nprobe, mode, rescore, threads, fde)
        settings.check()
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k: got {k!r}; wanted a whole number from 1")
        with self._use() as catalog:
            asked = self._queries(queries)
            if group_by is not None:
                check_key(group_by, catalog.keys())
            chosen = self._chosen(catalog, where, params, ids)
            settings = settings.resolved(k, len(asked))
            best = [
                self._best(catalog, chosen, asked.slice(i, i + 1), found, k, group_by, settings)
                for i, found in enumerate(engine.search(chosen, asked, settings))
            ]
            return _hits(catalog, chosen.numbers, best)

    def search_hybrid(
        self,
        queries: Any,
        texts: Sequence[str],
        k: int = 10,
        *,
        fusion: str = "rrf",
        weight: float = 0.5,
        depth: int | None = None,
        where: str | None = None,
        params: Sequence[Any] = (),
        ids: Sequence[str] | None = None,
        group_by: str | None = None,
        **options: Any,
    ) -> list[list[HybridHit]]:
        """The k best documents for each query by MaxSim and by BM25 over their texts, fused.

        queries, k, where, params, ids, group_by and further options: as for `search`. texts: one a
        query, plain words (see lexical.py). fusion: "rrf", by ranks; "weighted", by scores, where
        `weight` is MaxSim's share (1: only its order, 0: only BM25's); "bm25", by words alone
        (`queries` may be None). depth: documents taken from either ranking, by default 100 or 4 k
        if that is more; larger finds what both rank low. Hits carry both scores.
        Raises NoTextSearch, ValueError, and what `search` raises.
        """
        one, chosen = (
            hybrid.Fusion(fusion, weight, depth),
            hybrid.Filter(where, params, ids, group_by),
        )
        return hybrid.search(self, queries, texts, k, one, chosen, options)

    def score(self, queries: Any, ids: Sequence[str], *, threads: int | None = None) -> Scores:
        """MaxSim of each query with each of the documents `ids`, (queries, ids) float32: exact where
        the index holds float16 tokens, else from the compressed ones."""
        with self._use() as catalog:
            asked = self._queries(queries)
            unique, inverse = np.unique(
                np.asarray(catalog.known(check_ids(ids)), np.int64), return_inverse=True
            )
            chosen = self._snapshot.live.select(unique)
            threads = Settings(threads=threads).resolved(1, len(asked)).threads or 0
            return engine.score(chosen, asked, threads)[:, inverse]

    def reconstruct(self, ids: Sequence[str]) -> Tokens:
        """The token matrices of the documents `ids` as the index keeps them, float32: of compressed
        documents an approximation, unless originals are kept."""
        with self._use() as catalog:
            numbers = catalog.known(check_ids(ids))
            unique = np.unique(np.asarray(numbers, np.int64))
            chosen = self._snapshot.live.select(unique)
            held: list[Any] = []
            for part in chosen.parts:
                held += tokens_at(part.segment, part.all_positions)
            places = np.searchsorted(unique, numbers)
            return as_tokens(
                [held[place] for place in places], self._snapshot.manifest.width, "document"
            )

    def token_scores(self, query: Any, id: str) -> Scores:
        """Dot product of each token of one query with each token of a document, (Lq, Ld).

        query: one matrix (Lq, D), or queries of which there is one. MaxSim: `.max(1).sum()`.
        """
        with self._use() as catalog:
            one = [query] if getattr(query, "ndim", 0) == 2 else query
            asked = self._queries(one)
            if len(asked) != 1:
                raise BadTokens(f"query: got {len(asked)} queries; wanted one")
            (number,) = catalog.known(check_ids([id]))
            chosen = self._snapshot.live.select(np.asarray([number], np.int64))
            segment, positions = chosen.parts[0].segment, chosen.parts[0].all_positions
            if isinstance(segment, ResidualSegment) and not segment.exact:
                (query,) = engine.prepare(chosen.groups[0], asked)
                return segment.score_tokens(query, int(positions[0]))
            return similarities(asked.values, tokens_at(segment, positions).values)

    def recall(self, queries: Any, k: int = 10, **settings: Any) -> Recall:
        """How many of the k best documents by exact float32 MaxSim a search finds, on average.

        settings: as for `search` (ncandidates, nprobe, mode, rescore, threads). Exact means against
        the float16 tokens where the index keeps them, else against the tokens as they were
        compressed: then it shows what the search loses, not what the compression did; the answer
        says which. Costs a pass over all tokens.
        """
        with self._use():
            asked = self._queries(queries)
            found = self.search(asked, k, **settings)
            live = self._snapshot.live
            best = exact_top(live, asked, k)
            numbers = [[self._storage.catalog.numbers([h.id])[h.id] for h in row] for row in found]
            shares = [
                len(set(row) & set(live.numbers[wanted].tolist())) / max(1, len(wanted))
                for row, wanted in zip(numbers, best, strict=True)
            ]
            kept = all(part.segment.exact for part in live.parts)
            return Recall(
                value=float(np.mean(shares)) if shares else 1.0,
                k=k,
                queries=len(asked),
                against="originals" if kept else "reconstructed tokens",
            )

    def ids(self, where: str | None = None, params: Sequence[Any] = ()) -> list[str]:
        """The ids of all documents, or of those for which `where` holds (as in `search`), in the order
        in which they were added. Raises BadFilter."""
        with self._use() as catalog:
            if where is None and not params:
                return [row.id for row in catalog]
            numbers = self._chosen(catalog, where, params, None).numbers.tolist()
            rows = catalog.documents(numbers)
            return [rows[number].id for number in sorted(numbers)]

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
        """Counts, sizes, options, and how the codec fits."""
        with self._use() as catalog:
            manifest, codec = self._snapshot.manifest, self._snapshot.codec
            options = manifest.options
            kinds = {segment.kind for segment in self._snapshot.segments.values()}
            return IndexInfo(
                path=str(self.path),
                format=manifest.format,
                kind=" and ".join(sorted(kinds)) or ("residual" if codec else "fp16"),
                dim=manifest.dim,
                model=manifest.model,
                commit=manifest.commit,
                documents=manifest.documents,
                tokens=manifest.tokens,
                deleted=len(self._snapshot.tombstones),
                segments=len(self._snapshot.segments),
                bytes=self._storage.size(),
                keys=tuple(catalog.keys()),
                parts=self._storage.sizes(self._snapshot),
                nbits=options.nbits,
                keep_originals=options.keep_originals,
                prefix=options.prefix,
                pool_factor=options.pool_factor,
                seed=options.seed,
                codecs=len(self._snapshot.codecs),
                centroids=codec.centroids if codec else 0,
                energy=codec.energy if codec else None,
                drift=drift(self._snapshot),
                kernels=kernels.native() or "numpy",
            )

    def export(self, target: str | os.PathLike[str]) -> None:
        """Writes everything to a new folder, or tar file (".tar"), that needs no lateint to be read
        (see export.py); `Index.from_export` reads it. Raises IndexExists, IndexWriteFailed."""
        export(self, target)

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
        tokens = shortened(tokens, self._snapshot.manifest.width)
        long = tokens.lengths > kernels.check.MAX_TOKENS
        if long.any():
            at = int(long.argmax())
            raise BadTokens(
                f"query {at} has {tokens.lengths[at]} tokens; wanted at most "
                f"{kernels.check.MAX_TOKENS}: pool them, or ask in parts"
            )
        return Tokens(tokens.values.astype(np.float32, copy=False), tokens.offsets)

    def _chosen(
        self, catalog: Catalog, where: str | None, params: Sequence[Any], ids: Sequence[str] | None
    ) -> Selection:
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
        return self._snapshot.live.select(chosen)

    def _best(
        self,
        catalog: Catalog,
        chosen: Selection,
        query: Tokens,
        found: Found,
        k: int,
        group_by: str | None,
        settings: Settings,
    ) -> Found:
        """The k best, best first."""
        if group_by is None:
            best = top(found.scores, k)
            return Found(found.places[best], found.scores[best])

        def groups(positions: IntArray) -> list[str | None]:
            wanted = chosen.numbers[found.places[positions]].tolist()
            rows = catalog.documents(wanted)
            values = [rows[number].fields().get(group_by) for number in wanted]
            return [
                None if value is None else json.dumps(value, sort_keys=True) for value in values
            ]

        while True:
            best = top_groups(found.scores, k, groups)
            if len(best) == k or len(found.places) == chosen.count:
                return Found(found.places[best], found.scores[best])
            # Too few groups among the candidates: look at more of them.
            settings = replace(settings, ncandidates=4 * (settings.ncandidates or k))
            (found,) = engine.search(chosen, query, settings)


def _hits(catalog: Catalog, numbers: IntArray, best: list[Found]) -> list[list[Hit]]:
    """Hits for what was found, in one statement."""
    found = [numbers[one.places].tolist() for one in best]
    rows = catalog.documents({number for row in found for number in row})
    return [
        [
            Hit(rows[number].id, score, rows[number].fields())
            for number, score in zip(row, one.scores.tolist(), strict=True)
        ]
        for row, one in zip(found, best, strict=True)
    ]
