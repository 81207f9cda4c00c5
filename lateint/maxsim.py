"""MaxSim, and the one rule about masks, for training and for exact search.

    score(q, d) = sum over the query's tokens i of  max over the document's tokens j of  q_i . d_j

(ColBERT, Khattab and Zaharia 2020, arXiv:2004.12832, section 3.3.) The rule:

* a masked document token is excluded before the max: its similarity is overwritten with the
  dtype's minimum (never multiplied by 0, which would let padding beat a negative match);
* a masked query token adds 0;
* a document with no token has no max: it scores -inf against every query that has a token, and
  sends no gradient. A query with no token scores 0 everywhere (the empty sum).

What stands under a mask is never read into a result, so NaN in the padding is harmless.

Memory: see `lateint.maxima`.

Precision. float16 and bfloat16 inputs are multiplied and summed in float32, under autocast too,
and the scores are float32; gradients are summed in float32 and returned in the dtype of their
input. float64 stays float64. Inputs may mix dtypes. On CUDA, float32 products obey
`torch.backends.cuda.matmul` (TF32 is off unless switched on), and gradients are summed in no fixed
order unless `torch.use_deterministic_algorithms` asks for one.

This module knows no model, no head and no normalisation: unit rows make MaxSim a sum of cosines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lateint.maxima import (
    BestMatches,
    best_matches,
    maxima_ragged,
    wants_gradient,
)
from lateint.ragged import Ragged, check_mask


def maxsim(
    queries: Tensor | Ragged,
    documents: Tensor | Ragged,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    *,
    budget: int | None = None,
) -> Tensor:
    """Scores of all pairs: every query against every document.

    Args:
        queries: (Bq, Lq, D) padded tokens, or Ragged (nothing is padded then).
        documents: (Bd, Ld, D) padded tokens, or Ragged: read where they lie, without padding;
            padded all at once where a gradient is wanted on a GPU.
        query_mask, document_mask: bool (Bq, Lq) and (Bd, Ld), True = a real token, anywhere in
            the row; None: all are real. Not for Ragged.
        budget: bytes of working memory for the similarities of one tile, and about as much again
            for a copy of its documents where one is needed. Larger: fewer, larger matmuls, more
            memory; results agree to rounding. None: 2 MiB on the CPU (stays in cache), 256 MiB
            elsewhere. A tile is never smaller than one query token against one document.

    Returns:
        (Bq, Bd) scores on the inputs' device; float64 if an input is, else float32.
        Differentiable once in both.

    Raises:
        ValueError: shapes, widths, dtypes or devices do not fit together.
    """
    queries = _query_rows(queries, query_mask)
    return sum_by_query(_maxima(queries.values, documents, document_mask, budget), queries)


def maxsim_pairs(
    queries: Tensor | Ragged,
    documents: Tensor | Ragged,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    *,
    budget: int | None = None,
) -> Tensor:
    """Scores of given pairs: query b against document b, or against its own n documents.

    Args:
        queries: (B, Lq, D) padded tokens, or Ragged of B items (padded here).
        documents: (B, Ld, D), or Ragged of B items: one document a query; or (B, n, Ld, D): n
            documents a query, as for distillation or mined negatives.
        query_mask: bool (B, Lq). document_mask: bool, the shape of `documents` without D.
        budget: as in `maxsim`.

    Returns:
        (B,) or (B, n); dtype, device, masks, gradients and errors as in `maxsim`.
    """
    queries, query_mask = _padded(queries, query_mask, "query")
    if queries.ndim != 3:
        raise ValueError(f"queries must be (B, Lq, D), got shape {tuple(queries.shape)}")
    _check_fit(queries, documents, grouped=True)
    documents, document_mask = _padded(documents, document_mask, "document")
    if len(queries) != len(documents):
        raise ValueError(
            f"pairs need as many documents as queries, got {len(queries)} queries and "
            f"{len(documents)} documents (maxsim scores all pairs)"
        )
    single = documents.ndim == 3
    if single:
        documents = documents[:, None]
        document_mask = None if document_mask is None else document_mask[:, None]
    if query_mask is not None:
        queries = queries.masked_fill(~query_mask[..., None], 0)
    best = best_matches(queries, documents, document_mask, budget)  # (B, Lq, n)
    if query_mask is not None:
        best = best.masked_fill(~query_mask[..., None], 0)
    scores = best.sum(1)
    return scores[:, 0] if single else scores


def token_maxima(queries: Ragged, documents: Ragged, *, budget: int | None = None) -> Tensor:
    """What `maxsim` adds up: (Nq, Bd), the largest similarity of each query token (a row of
    `queries.values`) in each document; -inf where a document has no token. Arguments, dtype,
    gradients and errors as in `maxsim`; `sum_by_query` gives the scores."""
    return _maxima(queries.values, documents, None, budget)


def sum_by_query(rows: Tensor, queries: Ragged) -> Tensor:
    """(Nq, Bd), a row for each token of `queries`, to (Bq, Bd): the sum over each query's tokens."""
    owner = torch.arange(len(queries)).repeat_interleave(queries.lengths).to(rows.device)
    return rows.new_zeros(len(queries), rows.shape[1]).index_add(0, owner, rows)


def _maxima(
    rows: Tensor, documents: Tensor | Ragged, mask: Tensor | None, budget: int | None
) -> Tensor:
    """Query tokens (Nq, D) against all documents: (Nq, Bd)."""
    _check_fit(rows, documents)
    if isinstance(documents, Ragged):
        _no_mask(mask, "document")
        if not wants_gradient(rows, documents.values):
            return maxima_ragged(rows, documents, budget, positions=False)[0]
        if rows.device.type == "cpu":
            values, offsets = documents.values, documents.offsets
            best: Tensor = BestMatches.apply(rows[None], values, None, offsets, budget)
            empty = documents.lengths == 0
            # filled, so that an empty document sends no gradient
            return best[0].masked_fill(empty, -torch.inf) if empty.any() else best[0]
        # a launch for each document would cost a GPU more than padding them does
    tokens, mask = _padded(documents, mask, "document")
    mask = None if mask is None else mask[None]
    return best_matches(rows[None], tokens[None], mask, budget)[0]


def _padded(
    tokens: Tensor | Ragged, mask: Tensor | None, side: str
) -> tuple[Tensor, Tensor | None]:
    if isinstance(tokens, Ragged):
        _no_mask(mask, side)
        return tokens.pad()
    if mask is not None:
        check_mask(mask, tokens)
    return tokens, mask


def _query_rows(queries: Tensor | Ragged, mask: Tensor | None) -> Ragged:
    """Masked tokens drop out here: they cost no multiplication and cannot add anything."""
    if isinstance(queries, Ragged):
        _no_mask(mask, "query")
        return queries
    if queries.ndim != 3:
        raise ValueError(f"queries must be (Bq, Lq, D), got shape {tuple(queries.shape)}")
    return Ragged.from_padded(queries, mask)


def _no_mask(mask: Tensor | None, side: str) -> None:
    if mask is not None:
        raise ValueError(f"Ragged tokens are all real: pass no {side}_mask with them")


def _check_fit(queries: Tensor, documents: Tensor | Ragged, *, grouped: bool = False) -> None:
    """Documents have a fitting number of axes, and both sides one width, one device, floats."""
    values = documents.values if isinstance(documents, Ragged) else documents
    if isinstance(documents, Tensor) and values.ndim not in ((3, 4) if grouped else (3,)):
        wanted = "(B, Ld, D) or (B, n, Ld, D)" if grouped else "(Bd, Ld, D)"
        raise ValueError(f"documents must be {wanted}, got shape {tuple(values.shape)}")
    if queries.shape[-1] != values.shape[-1]:
        raise ValueError(
            f"queries have width {queries.shape[-1]}, documents {values.shape[-1]}: "
            "both must come from one model and one head"
        )
    if queries.device != values.device:
        raise ValueError(f"queries are on {queries.device}, documents on {values.device}")
    for side, tensor in (("queries", queries), ("documents", values)):
        if not tensor.is_floating_point():
            raise ValueError(f"{side} must be floating point, got {tensor.dtype}")
