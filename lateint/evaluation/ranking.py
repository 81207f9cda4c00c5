"""Queries and documents to runs: by exact MaxSim as documents stream past, or through an index.

    rank            exact, no files, any device: what evaluators use between training steps
    candidates      exact scores of each query's own few documents: reranking, distillation
    index_benchmark, index_run, bm25_run     through `Index`: what users get, BM25 and the hybrid

Knows a model by `encode` alone; no metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lateint.evaluation.qrels_run import BenchmarkError, Run

if TYPE_CHECKING:
    from torch import Tensor

    from lateint.evaluation.benchmark import Benchmark
    from lateint.index import Index
    from lateint.model import LateInteractionModel
    from lateint.ragged import Ragged

QUERIES = 512  # scored together against a window of documents: bounds the table of maxima


@dataclass(frozen=True)
class Encoding:
    """How items become vectors.

    head: of the model. query_modality, document_modality: its encoders. batch_tokens: most padded
    tokens in a batch; larger: faster on a GPU, more memory. window: documents held at once; larger:
    less padding, more memory.
    """

    head: str = "multi"
    query_modality: str = "text"
    document_modality: str = "text"
    batch_tokens: int = 16_384
    window: int = 256

    def queries(self, model: LateInteractionModel, items: Sequence[Any]) -> Ragged:
        """Rows on the model's device, in its dtype."""
        return model.encode(
            items,
            "query",
            modality=self.query_modality,
            head=self.head,
            batch_tokens=self.batch_tokens,
            gather=False,
        ).tokens

    def documents(self, model: LateInteractionModel, items: Sequence[Any]) -> Ragged:
        """Rows on the model's device, in its dtype."""
        return model.encode(
            items,
            "document",
            modality=self.document_modality,
            head=self.head,
            batch_tokens=self.batch_tokens,
            gather=False,
        ).tokens


def rank(
    model: LateInteractionModel,
    queries: Mapping[str, Any],
    documents: Mapping[str, Any],
    encoding: Encoding | None = None,
    *,
    k: int = 100,
) -> Run:
    """The k best documents of each query by exact MaxSim.

    Documents are encoded a window at a time and forgotten, so memory is that of the queries' tokens
    and one window. A document without a token (a blank page) is in no answer.
    """
    import torch

    from lateint.maxsim import maxsim

    encoding = encoding or Encoding()
    if k < 1:
        raise ValueError(f"k: got {k}; wanted at least 1")
    asked = encoding.queries(model, list(queries.values()))
    best = torch.empty(len(asked), 0)
    places = torch.empty(len(asked), 0, dtype=torch.int64)
    names: list[str] = []
    with torch.inference_mode():
        for chunk in windows(documents, encoding.window):
            encoded = encoding.documents(model, [documents[name] for name in chunk])
            scores = torch.cat(
                [maxsim(part, encoded).float().cpu() for part in _parts(asked, QUERIES)]
                or [torch.empty(0, len(chunk))]
            )  # (Q, window)
            here = torch.arange(len(names), len(names) + len(chunk)).expand_as(scores)
            names += chunk
            joined = torch.cat([best, scores], 1), torch.cat([places, here], 1)
            best, kept = joined[0].topk(min(k, joined[0].shape[1]), dim=1)
            places = joined[1].gather(1, kept)
    return {
        query: {names[j]: s for s, j in zip(row, where, strict=True) if s > float("-inf")}
        for query, row, where in zip(queries, best.tolist(), places.tolist(), strict=True)
    }


def candidates(
    model: LateInteractionModel,
    queries: Sequence[Any],
    documents: Sequence[Sequence[Any]],
    encoding: Encoding | None = None,
) -> list[Tensor]:
    """Exact MaxSim of query i with each of its own `documents[i]`: (n_i,) float32 on the CPU each;
    -inf where a document has no token."""
    import torch

    from lateint.maxsim import maxsim

    encoding = encoding or Encoding()
    if len(queries) != len(documents):
        raise ValueError(f"got {len(queries)} queries and {len(documents)} lists of documents")
    asked = encoding.queries(model, queries)
    scores: list[Tensor] = []
    first = 0
    with torch.inference_mode():
        while first < len(queries):
            last, count = first + 1, len(documents[first])
            while last < len(queries) and count + len(documents[last]) <= encoding.window:
                count += len(documents[last])
                last += 1
            flat = [item for own in documents[first:last] for item in own]
            encoded = encoding.documents(model, flat)
            start = 0
            for i in range(first, last):
                own = range(start, start + len(documents[i]))
                start = own.stop
                scores.append(maxsim(asked.take([i]), encoded.take(own))[0].float().cpu())
            first = last
    return scores


def index_benchmark(
    model: LateInteractionModel,
    benchmark: Benchmark,
    folder: Path | str,
    encoding: Encoding,
    *,
    nbits: int = 16,
    progress: bool = False,
) -> Index:
    """An index of the benchmark's documents with their words, in a new folder; open for writing.

    nbits: 16 scores exactly, so that a table shows the model; 4, 2 or 1 show what a compressed
    index makes of it. Documents without a token, and so without anything to find, are left out.
    """
    from lateint.index import Index

    words = benchmark.words("document")
    names = list(benchmark.documents)
    encoded = model.encode_documents_iter(
        _Items(benchmark.documents),
        modality=encoding.document_modality,
        head=encoding.head,
        window=encoding.window,
        batch_tokens=encoding.batch_tokens,
        progress=progress,
    )

    def batches() -> Iterator[tuple[Any, ...]]:
        start = 0
        for part in encoded:
            chunk = names[start : start + len(part)]
            start += len(part)
            kept = [i for i, n in enumerate(part.tokens.lengths.tolist()) if n]
            texts = None if words is None else [words.get(chunk[i], "") for i in kept]
            yield [chunk[i] for i in kept], part.tokens.take(kept), None, texts

    return Index.build(folder, batches(), model.head_dim(encoding.head), nbits=nbits)


def index_run(
    index: Index,
    model: LateInteractionModel,
    benchmark: Benchmark,
    encoding: Encoding,
    *,
    k: int = 100,
    hybrid: bool = False,
) -> Run:
    """The k best documents of each query that counts, out of `index_benchmark`'s index; hybrid:
    fused with BM25 over the words by reciprocal ranks (`Index.search_hybrid`)."""
    queries = benchmark.asked()
    texts = _query_texts(benchmark, queries) if hybrid else []
    run: Run = {}
    for start in range(0, len(queries), QUERIES):
        names = list(queries)[start : start + QUERIES]
        asked = model.encode_queries(
            [queries[name] for name in names],
            modality=encoding.query_modality,
            head=encoding.head,
            batch_tokens=encoding.batch_tokens,
        )
        if hybrid:
            found: Sequence[Sequence[Any]] = index.search_hybrid(
                asked, texts[start : start + QUERIES], k, threads=0
            )
        else:
            found = index.search(asked, k, threads=0)
        run |= {
            n: {hit.id: hit.score for hit in hits} for n, hits in zip(names, found, strict=True)
        }
    return run


def bm25_run(benchmark: Benchmark, folder: Path | str, *, k: int = 100) -> Run:
    """The k best documents of each query that counts by BM25 over the words, no model: the index's
    own (SQLite FTS5, k1 1.2, b 0.75). `folder` is new. BenchmarkError: there are no words."""
    from lateint.index import Index

    words = benchmark.words("document")
    if words is None:
        raise BenchmarkError(f"{benchmark.name}: documents have no words for BM25")
    names = [name for name in benchmark.documents if words.get(name)]
    # an index wants tokens: one number each, which a search by words never looks at
    docs = np.ones((len(names), 1, 1), dtype=np.float16)
    queries = benchmark.asked()
    texts = _query_texts(benchmark, queries)
    with Index.create(folder, 1, nbits=16) as index:
        index.add(names, docs, texts=[words[name] for name in names])
        found = index.search_hybrid(None, texts, k, fusion="bm25")
    return {
        query: {hit.id: hit.score for hit in hits}
        for query, hits in zip(queries, found, strict=True)
    }


def windows(items: Mapping[str, Any], size: int) -> Iterator[list[str]]:
    """The ids of `items` in lists of at most `size`."""
    names = iter(items)
    while chunk := list(islice(names, size)):
        yield chunk


class _Items(Sequence[Any]):
    """A mapping's items in order, opened one at a time: a list of them would open all."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items, self._names = items, list(items)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, place: Any) -> Any:
        return self._items[self._names[place]]


def _query_texts(benchmark: Benchmark, queries: Mapping[str, Any]) -> list[str]:
    words = benchmark.words("query")
    if words is None:
        raise BenchmarkError(f"{benchmark.name}: queries have no words for BM25")
    return [words.get(name, "") for name in queries]


def _parts(queries: Ragged, size: int) -> Iterator[Ragged]:
    for start in range(0, len(queries), size):
        yield queries.take(range(start, min(start + size, len(queries))))
