"""MaxSim, and the one rule about masks, for training and for exact search.

    score(q, d) = sum over the query's tokens i of  max over the document's tokens j of  q_i . d_j

(ColBERT, Khattab and Zaharia 2020, arXiv:2004.12832, section 3.3.) The rule:

* a masked document token is excluded before the max: its similarity is overwritten with the
  dtype's minimum (never multiplied by 0, which would let padding beat a negative match);
* a masked query token adds 0;
* a document with no token has no max: it scores -inf against every query that has a token, and
  sends no gradient. A query with no token scores 0 everywhere (the empty sum).

What stands under a mask is never read into a result, so NaN in the padding is harmless.

Memory. The similarities (Bq, Bd, Lq, Ld) never exist at once. They are made in tiles of at most
`budget` bytes, each one matmul of query tokens against a chunk of documents, masked in place and
reduced before the next tile overwrites it. What the backward pass keeps is the position of each
maximum, int32 (Bq, Bd, Lq), and it gathers and scatters rows instead of multiplying. Where several
document tokens share the maximum, the first takes the whole gradient (the dense formula through
`Tensor.max(dim)` does the same).

Precision. float16 and bfloat16 inputs are multiplied and summed in float32, under autocast too,
and the scores are float32; gradients are summed in float32 and returned in the dtype of their
input. float64 stays float64. Inputs may mix dtypes. On CUDA, float32 products obey
`torch.backends.cuda.matmul` (TF32 is off unless switched on), and gradients are summed in no fixed
order unless `torch.use_deterministic_algorithms` asks for one.

This module knows no model, no head and no normalisation: unit rows make MaxSim a sum of cosines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lateint.ragged import Ragged, check_mask

# A tile that stays in a core's second-level cache makes mask and max nearly free; a GPU wants
# fewer, larger launches.
CPU_BUDGET = 2 * 2**20
GPU_BUDGET = 256 * 2**20


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
    best = _best_matches(queries, documents, document_mask, budget)  # (B, Lq, n)
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


def working_memory(tensor: Tensor, budget: int | None) -> int:
    """Bytes for one tile where `tensor` lies: `budget`, or the default of its device for None.
    ValueError for a budget that is not positive."""
    if budget is None:
        return CPU_BUDGET if tensor.device.type == "cpu" else GPU_BUDGET
    if budget <= 0:
        raise ValueError(f"budget is bytes of working memory and must be positive, got {budget}")
    return budget


def _maxima(
    rows: Tensor, documents: Tensor | Ragged, mask: Tensor | None, budget: int | None
) -> Tensor:
    """Query tokens (Nq, D) against all documents: (Nq, Bd)."""
    _check_fit(rows, documents)
    if isinstance(documents, Ragged):
        _no_mask(mask, "document")
        if not _wants_gradient(rows, documents.values):
            return _reduce_ragged(rows, documents, budget, positions=False)[0]
        if rows.device.type == "cpu":
            values, offsets = documents.values, documents.offsets
            best: Tensor = _BestMatches.apply(rows[None], values, None, offsets, budget)
            empty = documents.lengths == 0
            # filled, so that an empty document sends no gradient
            return best[0].masked_fill(empty, -torch.inf) if empty.any() else best[0]
        # a launch for each document would cost a GPU more than padding them does
    tokens, mask = _padded(documents, mask, "document")
    mask = None if mask is None else mask[None]
    return _best_matches(rows[None], tokens[None], mask, budget)[0]


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


def _best_matches(
    queries: Tensor, documents: Tensor, mask: Tensor | None, budget: int | None
) -> Tensor:
    """Each query token's best similarity in each document of its group.

    queries (G, R, D), documents (G, n, L, D), mask (G, n, L) -> (G, R, n). One group whose rows are
    the tokens of all queries is "all pairs"; B groups of one query are "pairs". A document without
    a token gives -inf and no gradient."""
    if documents.shape[2] == 0:
        mask = torch.zeros(documents.shape[:3], dtype=torch.bool, device=documents.device)
    if _wants_gradient(queries, documents):
        best: Tensor = _BestMatches.apply(queries, documents, mask, None, budget)
    else:
        best, _ = _reduce(queries, documents, mask, budget, positions=False)
    if mask is None:
        return best
    return best.masked_fill(~mask.any(-1)[:, None], -torch.inf)


class _BestMatches(torch.autograd.Function):
    """`_reduce` with a gradient that needs only the positions of the maxima; with `offsets`, of
    one group whose documents (N, D) lie end to end, `_reduce_ragged`."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        documents: Tensor,
        mask: Tensor | None,
        offsets: Tensor | None,
        budget: int | None,
    ) -> Tensor:
        if offsets is None:
            best, position = _reduce(queries, documents, mask, budget, positions=True)
            empty = None if mask is None else ~mask.any(-1)  # (G, n)
            first = torch.arange(documents.shape[0] * documents.shape[1]) * documents.shape[2]
        else:
            ragged = Ragged(documents, offsets)
            best, position = _reduce_ragged(queries[0], ragged, budget, positions=True)
            best, position = best[None], None if position is None else position[None]
            empty = (ragged.lengths == 0)[None].to(best.device)
            # an empty document at the end begins after the last row
            first = offsets[:-1].clamp(max=max(0, len(documents) - 1))
        # the first row of each document, where all rows of `documents` lie end to end
        first = first.view(best.shape[0], 1, best.shape[2]).to(best.device)
        ctx.save_for_backward(queries, documents, position, empty, first)
        ctx.budget = budget
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, documents, position, empty, first = ctx.saved_tensors
        dtype = gradient.dtype
        groups, _, count = position.shape
        dim = queries.shape[2]
        rows = documents.reshape(-1, dim)
        for_queries = for_documents = None
        if ctx.needs_input_grad[0]:
            for_queries = torch.zeros_like(queries, dtype=dtype)
        if ctx.needs_input_grad[1]:
            for_documents = torch.zeros_like(rows, dtype=dtype)
        # found, share and their sums are alive together: an eighth of the budget for each
        size = working_memory(queries, ctx.budget) // dtype.itemsize // 8
        nothing = 0 in (*position.shape, len(rows))
        tiles = () if nothing else _tiles(groups, queries.shape[1], count, dim, size)
        for g, r, d in tiles:
            weight = gradient[g, r, d, None]  # (g, r, d, 1)
            matched = (first[g, :, d] + position[g, r, d]).flatten()
            if for_queries is not None:
                found = rows.index_select(0, matched).to(dtype).view(*weight.shape[:3], dim)
                if empty is not None:
                    found.masked_fill_(empty[g, None, d, None], 0)
                for_queries[g, r] += found.mul_(weight).sum(2)
            if for_documents is not None:
                share = queries[g, r, None].to(dtype) * weight  # (g, r, d, D)
                for_documents.index_add_(0, matched, share.flatten(0, 2))
        if for_queries is not None:
            for_queries = for_queries.to(queries.dtype)
        if for_documents is not None:
            for_documents = for_documents.to(documents.dtype).view(documents.shape)
        return for_queries, for_documents, None, None, None


def _reduce(
    queries: Tensor, documents: Tensor, mask: Tensor | None, budget: int | None, *, positions: bool
) -> tuple[Tensor, Tensor | None]:
    """Maxima over each document's tokens, tile by tile; with `positions`, where they stand.

    Returns (G, R, n) maxima and (G, R, n) int32 positions; a document without a token gives the
    dtype's minimum at some position."""
    groups, count, length, dim = documents.shape
    n_rows = queries.shape[1]
    dtype = _accumulator(queries, documents)
    best = queries.new_empty((groups, n_rows, count), dtype=dtype)
    position = torch.empty_like(best, dtype=torch.int32) if positions else None
    if 0 in (groups, n_rows, count, length):
        best.fill_(torch.finfo(dtype).min)
        return best, None if position is None else position.zero_()
    extents = None if mask is None else _extents(mask)
    size = working_memory(queries, budget) // dtype.itemsize
    buffer: Tensor | None = None
    # `floor`: a copy of a tile's documents (cast, or cut to the longest) stays in size too.
    for g, r, d in _tiles(groups, n_rows, count, length, size, floor=dim):
        longest, masked = length, False
        if extents is not None:
            extent, dense = extents[0][g, d], extents[1][g, d]
            longest = max(1, int(extent.max()))
            masked = not bool((dense & (extent == longest)).all())
        left = queries[g, r].to(dtype)  # (g, r, D)
        right = documents[g, d, :longest].to(dtype).flatten(1, 2)  # (g, d * l, D)
        shape = (len(left), left.shape[1], right.shape[1])
        need = shape[0] * shape[1] * shape[2]
        if buffer is None or buffer.numel() < need:
            buffer = left.new_empty(need)
        flat = buffer[:need].view(shape)
        torch.bmm(left, right.mT, out=flat)  # autocast leaves `out=` alone
        if masked and mask is not None:
            _mask_(flat, mask[g, d, :longest].flatten(1))
        similarity = flat.unflatten(2, (-1, longest))  # (g, r, d, l)
        if position is None:
            best[g, r, d] = similarity.amax(-1)
        else:
            best[g, r, d], position[g, r, d] = similarity.max(-1)
    return best, position


def _reduce_ragged(
    rows: Tensor, documents: Ragged, budget: int | None, *, positions: bool
) -> tuple[Tensor, Tensor | None]:
    """(Nq, D) query tokens against Ragged documents: (Nq, Bd) maxima, -inf for a document without
    a token; with `positions`, where in their document they stand, int32.

    One matmul takes the tokens of as many neighbouring documents as the budget allows, where they
    lie: nothing is padded, sorted or masked."""
    dtype = _accumulator(rows, documents.values)
    rows = rows.to(dtype)
    best = rows.new_full((len(rows), len(documents)), -torch.inf)
    position = torch.zeros_like(best, dtype=torch.int32) if positions else None
    if 0 in best.shape:
        return best, position
    size = working_memory(rows, budget) // dtype.itemsize
    offsets = documents.offsets.tolist()
    with torch.autocast(rows.device.type, enabled=False):
        for start, stop in _windows(offsets, max(1, size // max(rows.shape))):
            tokens = documents.values[offsets[start] : offsets[stop]].to(dtype)
            step = max(1, size // max(1, len(tokens)))  # rows; all unless one document is too long
            for k in range(0, len(rows), step):
                similarity = rows[k : k + step] @ tokens.T  # (r, window tokens)
                for i in range(start, stop):
                    first, last = offsets[i] - offsets[start], offsets[i + 1] - offsets[start]
                    if first == last:
                        continue
                    if position is None:
                        best[k : k + step, i] = similarity[:, first:last].amax(1)
                    else:
                        found = similarity[:, first:last].max(1)
                        best[k : k + step, i], position[k : k + step, i] = found
    return best, position


def _windows(offsets: list[int], tokens: int) -> Iterator[tuple[int, int]]:
    """Cuts documents into runs of at most `tokens` tokens, or of one document."""
    start = 0
    for i in range(1, len(offsets) - 1):
        if offsets[i + 1] - offsets[start] > tokens:
            yield start, i
            start = i
    yield start, len(offsets) - 1


def _tiles(
    groups: int, rows: int, count: int, width: int, size: int, floor: int = 1
) -> Iterator[tuple[slice, slice, slice]]:
    """Cuts (groups, rows, count) into blocks of at most `size` numbers, `width` of them for each
    row and document. Rows count as `floor` at least. Whole rows come first, then documents, then
    groups, because one matmul shares the rows."""
    r = min(rows, max(1, size // width))
    d = min(count, max(1, size // (max(r, floor) * width)))
    whole = r == rows and d == count
    g = min(groups, max(1, size // (max(r, floor) * d * width))) if whole else 1
    for i in range(0, groups, g):
        for j in range(0, count, d):
            for k in range(0, rows, r):
                yield slice(i, i + g), slice(k, k + r), slice(j, j + d)


def _extents(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(G, n) on the CPU: one past the last real token of each document, and whether all before it
    are real too (so that a tile cut there needs no mask)."""
    trailing = mask.flip(-1).view(torch.uint8).argmax(-1)
    extent = torch.where(mask.any(-1), mask.shape[-1] - trailing, 0)
    return extent.cpu(), (mask.sum(-1) == extent).cpu()


def _mask_(similarity: Tensor, mask: Tensor) -> None:
    """The mask rule, in place: similarity (G, R, N), mask (G, N), masked columns to the minimum."""
    lowest = torch.finfo(similarity.dtype).min
    if len(mask) == 1 and mask.device.type == "cpu":
        # touches the masked columns only: a broadcast masked_fill_ costs half a matmul here
        similarity[0].index_fill_(1, (~mask[0]).nonzero().squeeze(1), lowest)
    else:
        similarity.masked_fill_(~mask[:, None], lowest)


def _accumulator(*tensors: Tensor) -> torch.dtype:
    """The dtype that products are summed in: float64 where an input has it, else float32."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32


def _wants_gradient(queries: Tensor, documents: Tensor) -> bool:
    return torch.is_grad_enabled() and (queries.requires_grad or documents.requires_grad)


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
