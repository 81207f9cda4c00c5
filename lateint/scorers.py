"""Scorers: two Ragged -> similarities of queries and documents, for training.

    matrix = scorer(queries, documents)               # (Q, N), all pairs
    matrix = scorer.pairs(queries, documents, ids)    # (Q, C), each query's own candidates

`MaxSim` is the default and the only one that the index searches with; `SmoothMax` and `XTR` are
other ways to train towards it. All are differentiable and bounded in memory: nothing of the size
(Q, N, Lq, Ld) ever exists. A single vector is one token: each of them is then the dot product (XTR:
of the documents that are retrieved).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lateint.maxima import working_memory
from lateint.maxsim import maxsim, maxsim_pairs, sum_by_query, token_maxima
from lateint.ragged import Ragged


class Scorer(ABC):
    """Similarities from token matrices; higher is more alike."""

    @abstractmethod
    def __call__(self, queries: Ragged, documents: Ragged) -> Tensor:
        """(Q, N) float32 (float64 where an input is), every query against every document."""

    def pairs(self, queries: Ragged, documents: Ragged, candidates: Tensor) -> Tensor:
        """(Q, C): query q against the documents `candidates[q]` (int64, -1: none, scores -inf).

        Here through all pairs; a scorer that can do with less says so."""
        absent = candidates < 0
        matrix = self(queries, documents).gather(1, candidates.clamp(min=0))
        return matrix.masked_fill(absent, -torch.inf)


class MaxSim(Scorer):
    """Sum over the query's tokens of the largest similarity in the document (`lateint.maxsim`).

    Args:
        mean: divide by the number of query tokens, so that scores of long and of short queries
            have one scale (and a temperature means the same to both).
        budget: bytes of working memory of a tile, as in `maxsim`.
    """

    def __init__(self, *, mean: bool = False, budget: int | None = None) -> None:
        self.mean = mean
        self.budget = budget

    def __call__(self, queries: Ragged, documents: Ragged) -> Tensor:
        return self._scaled(maxsim(queries, documents, budget=self.budget), queries)

    def pairs(self, queries: Ragged, documents: Ragged, candidates: Tensor) -> Tensor:
        """As in `Scorer`; nothing but these pairs is computed."""
        count, width = candidates.shape
        absent = candidates < 0
        tokens, mask = documents.pad(candidates.clamp(min=0).flatten())
        tokens = tokens.view(count, width, *tokens.shape[1:])
        rows, real = queries.pad()
        matrix = maxsim_pairs(
            rows, tokens, real, mask.view(count, width, -1), budget=self.budget
        )  # (Q, C)
        return self._scaled(matrix, queries).masked_fill(absent, -torch.inf)

    def _scaled(self, matrix: Tensor, queries: Ragged) -> Tensor:
        if not self.mean:
            return matrix
        return matrix / queries.lengths.clamp(min=1).to(matrix)[:, None]

    def __repr__(self) -> str:
        return f"MaxSim(mean={self.mean})"


class SmoothMax(Scorer):
    """The maximum made smooth: sum over the query's tokens i of T logsumexp_j(q_i . d_j / T).

    Every document token then has a share of the gradient (softmax of its similarity / T), not the
    best alone. Never below MaxSim and at most T log(Ld) a query token above it; equal to it as T
    goes to 0. Search with MaxSim after it.

    Args:
        temperature: T. Larger: more tokens share the gradient, and long documents score higher for
            their length alone. Unit rows: 0.01 to 0.1.
        budget: bytes of the similarities of one tile; about four times as much is in use at once.
    """

    def __init__(self, temperature: float = 0.05, *, budget: int | None = None) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature
        self.budget = budget

    def __call__(self, queries: Ragged, documents: Ragged) -> Tensor:
        tokens, mask = documents.pad()  # (N, L, D), (N, L)
        rows = queries.values
        wide = torch.promote_types(torch.promote_types(rows.dtype, tokens.dtype), torch.float32)
        rows, tokens = rows.to(wide), tokens.to(wide)
        size = working_memory(rows, self.budget) // wide.itemsize
        # whole rows against as many documents as fit; one document against fewer rows
        length = max(1, tokens.shape[1])
        height = min(max(1, len(rows)), max(1, size // length))
        width = max(1, size // (height * length))
        parts = []
        for some, real in zip(tokens.split(width), mask.split(width), strict=True):
            tiles = [
                checkpoint(self._tile, block, some, real, use_reentrant=False)
                for block in rows.split(height)
            ]
            parts.append(torch.cat(tiles))
        best = torch.cat(parts, 1) if parts else rows.new_zeros(len(rows), 0)  # (Nq, N)
        return sum_by_query(best, queries)

    def _tile(self, rows: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """(R, D), (n, L, D), (n, L) -> (R, n). Its similarities are made again for the backward
        pass, so that a step keeps none of them."""
        with torch.autocast(rows.device.type, enabled=False):
            similarity = torch.einsum("rd,nld->rnl", rows, tokens) / self.temperature
        # the mask rule: out before the sum; a document without a token keeps the lowest number
        # there is (its gradient would be NaN at -inf) and is set to -inf after
        lowest = torch.finfo(similarity.dtype).min
        smooth = similarity.masked_fill(~mask, lowest).logsumexp(-1) * self.temperature
        return smooth.masked_fill(~mask.any(-1), -torch.inf)

    def __repr__(self) -> str:
        return f"SmoothMax({self.temperature})"


class XTR(Scorer):
    """MaxSim over retrieved tokens only (Lee et al. 2023, arXiv:2304.01982, section 3.1).

    Each query token retrieves the k document tokens of the step that are most like it; a document
    gets the query token's maximum only where one of its tokens was among them. Its score is the
    mean over the query tokens that retrieved it, and 0 where none did. So training sees what a
    search by single tokens would see, and learns to retrieve the tokens that matter.

    Args:
        k: tokens each query token retrieves out of all tokens of the step (k_train). Larger: nearer
            to MaxSim, more documents get a gradient. The paper trains with 32 to 320 for batches
            of 48 documents and more; k of all tokens and more is MaxSim's mean.
        budget: bytes of working memory of a tile, as in `maxsim`.
    """

    def __init__(self, k: int = 256, *, budget: int | None = None) -> None:
        if k < 1:
            raise ValueError(f"k is a number of tokens, at least 1, got {k}")
        self.k = k
        self.budget = budget

    def __call__(self, queries: Ragged, documents: Ragged) -> Tensor:
        best = token_maxima(queries, documents, budget=self.budget)  # (Nq, N)
        retrieved = self._retrieved(queries.values.detach(), documents)
        # what is not retrieved is filled, not multiplied: an empty document's maximum is -inf
        total = sum_by_query(best.masked_fill(~retrieved, 0), queries)
        return total / sum_by_query(retrieved.to(best.dtype), queries).clamp(min=1)

    @torch.no_grad()
    def _retrieved(self, rows: Tensor, documents: Ragged) -> Tensor:
        """(Nq, N) bool: whether the query token has retrieved a token of the document."""
        values = documents.values.detach()
        owner = torch.arange(len(documents)).repeat_interleave(documents.lengths).to(rows.device)
        k = min(self.k, len(values))
        retrieved = torch.zeros(len(rows), len(documents), dtype=torch.bool, device=rows.device)
        if k == 0:
            return retrieved
        wide = torch.promote_types(torch.promote_types(rows.dtype, values.dtype), torch.float32)
        size = working_memory(rows, self.budget) // wide.itemsize
        height = min(len(rows), max(1, size // (4 * k)))
        width = max(k, size // max(1, height))
        with torch.autocast(rows.device.type, enabled=False):
            for some, found in zip(rows.split(height), retrieved.split(height), strict=True):
                top = some.new_empty(len(some), 0, dtype=wide)
                places = torch.empty(len(some), 0, dtype=torch.int64, device=rows.device)
                for tokens, owners in zip(values.split(width), owner.split(width), strict=True):
                    similarity = some.to(wide) @ tokens.to(wide).T
                    near, place = similarity.topk(min(k, similarity.shape[1]))
                    top, places = torch.cat([top, near], 1), torch.cat([places, owners[place]], 1)
                    top, kept = top.topk(min(k, top.shape[1]))
                    places = places.gather(1, kept)
                found.scatter_(1, places, True)
        return retrieved

    def __repr__(self) -> str:
        return f"XTR({self.k})"
