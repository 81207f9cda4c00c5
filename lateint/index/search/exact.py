"""Exact MaxSim in numpy, in blocks that fit the processor's cache whatever the collection's size.

MaxSim(q, d) = sum over query tokens of the max over document tokens of their dot product
(Khattab and Zaharia 2020, ColBERT). This is the index's oracle: approximate engines are measured
against it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lateint.index.tokens import IntArray, Tokens

Scores = npt.NDArray[np.float32]

BUDGET = (
    8 << 20
)  # bytes of working memory per block; more is not faster: blocks should stay in cache
QUERY_TOKENS = 1024  # query tokens scored together: more shares the reading of documents
MATRIX = 16_000_000  # most scores held at once: queries x documents


def maxsim(queries: Tokens, documents: Tokens) -> Scores:
    """MaxSim of each query with each document, (Bq, Bd) float32.

    queries: float32 tokens; documents: tokens of any float type, computed in float32. Every item
    has at least one token. Beside the result it needs about BUDGET bytes, or 4 bytes per query
    token and document if that is more: call it for `blocks` of documents.
    """
    asked = np.ascontiguousarray(queries.values, np.float32)  # (Nq, D)
    best = np.full((len(asked), len(documents)), -np.inf, np.float32)
    offsets, total, step = documents.offsets, len(documents.values), rows(queries)
    for low in range(0, total, step):
        high = min(low + step, total)
        similar = asked @ documents.values[low:high].astype(np.float32).T  # (Nq, high - low)
        first = int(np.searchsorted(offsets, low, side="right")) - 1
        last = int(np.searchsorted(offsets, high, side="left"))
        starts = np.maximum(
            offsets[first:last] - low, 0
        )  # the first document may have begun before
        part = best[:, first:last]
        np.maximum(part, np.maximum.reduceat(similar, starts, axis=1), out=part)
    return np.add.reduceat(best, queries.offsets[:-1], axis=0)


def similarities(query: npt.NDArray[np.float32], document: npt.NDArray[np.float32]) -> Scores:
    """Dot product of each query token with each document token, (Lq, Ld)."""
    return np.asarray(query @ document.T, np.float32)


def rows(queries: Tokens) -> int:
    """Document tokens to take at once, so that they and their similarities fit in BUDGET."""
    return max(256, BUDGET // (4 * (queries.dim + len(queries.values))))


def blocks(lengths: IntArray, limit: int) -> Iterator[tuple[int, int]]:
    """Runs [first, last) of items of at most `limit` tokens together; a longer item is alone."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + limit, side="right")))
        yield first, last
        first = last


def query_groups(queries: Tokens, documents: int) -> Iterator[tuple[int, int]]:
    """Runs of queries that share one pass over the documents."""
    most = max(1, MATRIX // max(documents, 1))
    for first, last in blocks(queries.lengths, QUERY_TOKENS):
        for low in range(first, last, most):
            yield low, min(low + most, last)
