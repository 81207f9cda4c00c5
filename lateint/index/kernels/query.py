"""A query as the kernels take it: its integers, its steps and its scores with all centroids."""

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
    """One query of T tokens against one set of centroids and scales. Made by `kernels.prepare`.

    q8: int8 (T, D), the query times the scale of each dimension, in steps.
    step: float32 (T,), so that q_t * scale ~ step_t * q8_t.
    scores: float32 (K, T padded to a multiple of 8), dot product of centroid and query token;
        0 in the padding.
    low, high: float32 (T padded), the smallest and largest score of each query token.
    """

    q8: Array
    step: Array
    scores: Array
    low: Array
    high: Array

    def __post_init__(self) -> None:
        check.array("q8", self.q8, np.int8, None, None)
        tokens, dim = self.q8.shape
        check.width(dim)
        if not 1 <= tokens <= check.MAX_TOKENS:
            raise ValueError(f"query: {tokens} tokens; wanted 1 to {check.MAX_TOKENS}")
        if int(self.q8.min()) < -check.QUERY_SPAN:
            raise ValueError(f"q8: holds -128; wanted -{check.QUERY_SPAN} to {check.QUERY_SPAN}")
        check.array("step", self.step, np.float32, tokens)
        padded = -(-tokens // BLOCK) * BLOCK
        check.array("scores", self.scores, np.float32, None, padded)
        check.array("low", self.low, np.float32, padded)
        check.array("high", self.high, np.float32, padded)

    def __len__(self) -> int:
        """Number of tokens, T."""
        return len(self.q8)

    @property
    def dim(self) -> int:
        return int(self.q8.shape[1])


def integers(query: Array, scale: Array, limit: int) -> tuple[Array, Array]:
    """(q8, step) of `Query` for tokens (T, D) and the scale of each dimension (D,), float32.

    Raises ValueError for wrong types, shapes, and values that are not finite."""
    check.array("query", query, np.float32, None, None)
    tokens, dim = query.shape
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
    return np.rint(scaled / safe[:, None]).astype(np.int8), step.astype(np.float32)
