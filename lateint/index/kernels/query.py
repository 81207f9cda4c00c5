"""A query made ready for the kernels: its integers, its steps and its scores with all centroids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lateint.index.kernels import check

QUERY_LIMIT = 63  # 7 bits: products then add up in 16 bits for longer, at 1.3 % more noise
BLOCK = 8  # query tokens a kernel takes together

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Query:
    """One query of T tokens against one set of centroids and scales. Made by `prepare`.

    q8: int8 (T, D), the query times the scale of each dimension, in steps.
    step: float32 (T,), so that q_t * scale ~ step_t * q8_t.
    scores: float32 (K, T padded to a multiple of 8), dot product of centroid and query token;
        0 in the padding.
    """

    q8: Array
    step: Array
    scores: Array

    def __post_init__(self) -> None:
        check.array("q8", self.q8, np.int8, None, None)
        tokens, dim = self.q8.shape
        check.width(dim)
        if not 1 <= tokens <= check.MAX_TOKENS:
            raise ValueError(f"query: {tokens} tokens; wanted 1 to {check.MAX_TOKENS}")
        if int(self.q8.min()) < -check.QUERY_SPAN:
            raise ValueError(f"q8: holds -128; wanted -{check.QUERY_SPAN} to {check.QUERY_SPAN}")
        check.array("step", self.step, np.float32, tokens)
        check.array("scores", self.scores, np.float32, None, -(-tokens // BLOCK) * BLOCK)

    def __len__(self) -> int:
        """Number of tokens, T."""
        return len(self.q8)

    @property
    def dim(self) -> int:
        return int(self.q8.shape[1])


def prepare(query: Array, centroids: Array, scale: Array, *, limit: int = QUERY_LIMIT) -> Query:
    """The query (T, D) float32, rotated, against centroids (K, D) and scale (D,), both float32.

    Costs one matrix product K x D x T. limit: largest integer of q8, up to 127; larger: less noise
    (63 adds 1.3 % to that of 4-bit residuals, 127 a quarter of it), slower where the processor has no 8-bit
    dot product. Raises ValueError for wrong types, shapes, and values that are not finite.
    """
    check.array("query", query, np.float32, None, None)
    tokens, dim = query.shape
    check.array("centroids", centroids, np.float32, None, dim)
    check.array("scale", scale, np.float32, dim)
    if not 1 <= limit <= check.QUERY_SPAN:
        raise ValueError(f"limit: got {limit}; wanted 1 to {check.QUERY_SPAN}")
    if not np.isfinite(query).all():
        raise ValueError("query: has NaN or infinite values")
    if not 1 <= tokens <= check.MAX_TOKENS:
        raise ValueError(f"query: {tokens} tokens; wanted 1 to {check.MAX_TOKENS}")
    scaled = query * scale
    step = np.abs(scaled).max(axis=1) / np.float32(limit)
    safe = np.where(step > 0, step, np.float32(1))
    q8 = np.rint(scaled / safe[:, None]).astype(np.int8)
    padded = np.zeros((-(-tokens // BLOCK) * BLOCK, dim), np.float32)
    padded[:tokens] = query
    return Query(q8, step.astype(np.float32), np.ascontiguousarray(centroids @ padded.T))
